#!/usr/bin/env python3
"""How jobs are spread over workers of different speed, over real sockets: what is slow at one is given to another as
well, and the first answer counts."""
import os
import sys
import time

import common

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "faults"))

import cluster  # noqa: E402


def stragglers(bench):
    """A worker that has nothing to do takes over what a slow one has not finished; each line has one answer."""
    c = cluster.Cluster(bench, heartbeat_ms=2000, name="straggle")
    lines = cluster.fake_lines(40)
    c.client("submit", bench.write("straggle.jsonl", lines), "--batch", "b")
    c.fake("slow", think_ms=4000)
    bench.wait_for("leases", lambda: c.batch("b").get("leased", 0) > 0)
    began = time.monotonic()
    c.fake("fast", think_ms=5)
    out = bench.path("straggle-out.jsonl")
    c.client("results", "b", "-o", out, "--wait")
    took = time.monotonic() - began
    c.check_output(out, lines)
    by = {w["worker"]: w.get("done", 0) for w in c.call("STATUS")["workers"]}
    print(f"       {by['fast']} of 40 lines by the fast worker, {by['slow']} by the slow one, {took:.1f} s")
    bench.check(took < 40, f"with a second worker 40 lines took {took:.1f} s; the slow one alone takes 160")
    bench.check(by["fast"] > 25, f"the fast worker answered {by['fast']} of 40 lines")
    log = bench.output(f"{c.broker.name}.err")
    bench.has(log, "given to a second worker as well", "the broker's log")
    c.stop()


def drain(bench):
    """Workers that are asked to leave do, with 0; others have their lines, and no attempt is lost."""
    c = cluster.Cluster(bench, heartbeat_ms=200, name="drain")
    lines = cluster.fake_lines(900)
    c.client("submit", bench.write("drain.jsonl", lines), "--batch", "b")
    for name in ("w1", "w2", "w3"):
        c.fake(name, think_ms=20)
    bench.wait_for("all at work", lambda: sum(w.get("leased", 0) > 0 for w in c.call("STATUS")["workers"]) == 3)
    bench.has(c.client("drain", "w1")[1], "1 workers asked to leave, with ", "drain")
    bench.same(bench.finish(c.workers.pop("w1"), 30)[0], 0, "w1's exit code")
    bench.wait_for("w1 to be gone", lambda: all(w["worker"] != "w1" for w in c.call("STATUS")["workers"]))
    bench.has(c.client("drain", "w1", code=3)[2], "no such worker is connected", "drain of one that has left")
    host = c.call("STATUS")["workers"][0]["host"]
    bench.has(c.client("drain", "--host", host)[1], "2 workers asked", "drain of a host")
    for name in ("w2", "w3"):
        bench.same(bench.finish(c.workers.pop(name), 30)[0], 0, f"{name}'s exit code")
    bench.check(c.batch("b").get("leased", 0) == 0 and c.batch("b")["done"] < 900, "all left, with lines undone")
    c.fake("w4")
    out = bench.path("drain-out.jsonl")
    c.client("results", "b", "-o", out, "--wait")
    c.check_output(out, lines)
    bench.check('"attempts": 2' not in bench.output("drain-out.jsonl"), "a line lost an attempt")
    c.stop()


def test(bench, options):
    del options
    stragglers(bench)
    drain(bench)


common.main(test)
