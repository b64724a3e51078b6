#!/usr/bin/env python3
"""When and how much of a batch runs: paused, resumed, at most so many at a time, hours, a deadline; and that a broker's
restart forgets none of it. Real broker and client, fake workers."""
import os
import sys
import time

import common

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "faults"))

import cluster  # noqa: E402

ELSEWHEN = time.strftime("%H:%M-", time.localtime(time.time() + 7200)) + \
    time.strftime("%H:%M", time.localtime(time.time() + 10800))


def submit(bench, c, batch, count, *more):
    lines = cluster.fake_lines(count, prefix=batch)
    c.client("submit", bench.write(batch + ".jsonl", lines), "--batch", batch, *more)
    return lines


def stays(bench, c, batch, what, says):
    """Nothing of it starts, and status says why."""
    end = time.monotonic() + 0.5
    while time.monotonic() < end:
        b = c.batch(batch)
        if not bench.check(b.get("leased", 0) == 0 and b["done"] == 0, f"{what}: something started: {b}"):
            return
        time.sleep(0.05)
    bench.has(c.client("status", batch)[1], says, f"{what}: status")


def done(bench, c, batch, lines):
    out = bench.path(batch + "-out.jsonl")
    c.client("results", batch, "-o", out, "--wait")
    c.check_output(out, lines, what=batch)


def test(bench, options):
    del options
    c = cluster.Cluster(bench, name="s")
    c.fake("w1")
    lines = {name: submit(bench, c, name, 40, *more) for name, more in (
        ("paused", ["--paused"]), ("later", ["--not-before", "+1h"]), ("hours", ["--hours", ELSEWHEN]))}
    stays(bench, c, "paused", "a paused batch", "paused: octoflow resume paused goes on")
    stays(bench, c, "later", "a batch of later", "starts at 20")
    stays(bench, c, "hours", "a batch with hours", f"waits for its hours, {ELSEWHEN.replace('-', ' to ')}")
    c.kill_broker()
    c.start_broker()
    c.wait_broker()
    bench.wait_for("the worker", lambda: any(w["state"] == "ready" for w in c.call("STATUS")["workers"]))
    for name, says in (("paused", "paused"), ("later", "starts at"), ("hours", "waits for its hours")):
        stays(bench, c, name, f"{name}, after a restart", says)
    c.client("resume", "paused")
    done(bench, c, "paused", lines["paused"])
    c.client("change", "later", "--not-before", "none")
    done(bench, c, "later", lines["later"])
    c.client("change", "hours", "--hours", "all")
    done(bench, c, "hours", lines["hours"])
    few_at_a_time(bench, c)
    deadline(bench, c)
    wrong(bench, c)
    c.stop()


def few_at_a_time(bench, c):
    c.fake("w2", think_ms=20)
    lines = submit(bench, c, "few", 60, "--max-parallel", 3, "--paused")
    c.workers["w1"].terminate()
    bench.same(bench.finish(c.workers.pop("w1"), 30)[0], 0, "w1's exit code")
    c.client("resume", "few")
    most, b = 0, c.batch("few")
    while b["done"] < 40:
        b = c.batch("few")
        most = max(most, b.get("leased", 0))
    bench.same(most, 3, "jobs at a time")
    c.client("change", "few", "--max-parallel", 0)
    done(bench, c, "few", lines)


def deadline(bench, c):
    """What is not done in time fails, what is done stays, and the batch is over."""
    submit(bench, c, "ends", 2000, "--max-parallel", 2)
    bench.wait_for("the first lines", lambda: c.batch("ends")["done"] > 5)
    ends = time.localtime(time.time() + 3)
    c.client("change", "ends", "--deadline", time.strftime("%Y-%m-%d %H:%M:%S", ends))
    out = bench.path("ends-out.jsonl")
    c.client("results", "ends", "-o", out, "--wait", code=1)
    results = common.read_results(out)
    good = [r for r in results if common.status_code(r) == 200]
    late = [r for r in results if "not done by the batch's deadline" in (common.error_text(r) or "")]
    bench.check(len(good) > 5 and len(late) > 1000 and len(good) + len(late) == 2000,
                f"a deadline: {len(good)} done, {len(late)} late of 2000")
    with open(out, encoding="utf-8") as f:
        bench.has(f.read(), "batch_expired", "the results")
    bench.has(c.client("change", "ends", "--deadline", "none", code=3)[2], "the batch's deadline has passed", "change")


def wrong(bench, c):
    for more, says in ((["--not-before", "soon"], '--not-before "soon": expected a time as 22:00'),
                       (["--hours", "22-6"], '--hours "22-6": expected hours'),
                       (["--not-before", "+3h", "--not-after", "+2h"], "over before anything could start"),
                       ([], "nothing to change")):
        code, _, err = bench.run(bench.octoflow, "change", "few", "--broker", c.endpoint, *more)
        bench.same(code, 2, f"exit code of {more}")
        bench.has(err, says, f"change {more}")


common.main(test)
