#!/usr/bin/env python3
"""Slow wires, and programs that read late: a heartbeat does not wait behind megabytes, nobody is taken for dead while
a message of theirs is coming in, and nothing is sent twice for want of patience. The workers are real sessions with
answers and checkpoints of any size (session_worker.c)."""
import os
import time

import cluster
import common
import wire

BYTES_PER_S = 1_000_000
HEARTBEAT_MS = 500  # three are 1.5 s: less than four megabytes take, or one message of two


def lines_of(count, answer_bytes, hold_ms=0, checkpoint_bytes=0, padding=0):
    return [{"prompt": f"answer {answer_bytes} hold {hold_ms} checkpoint {checkpoint_bytes} " + "y" * padding,
             "seed": 1000 + n, "max_tokens": 8} for n in range(count)]


def start_worker(bench, c, endpoint, name="w0"):
    c.add([os.path.abspath(bench.options.session_worker), endpoint, name], name)


def run(bench, name, lines):
    """All lines through one worker behind a slow wire: done at the first attempt, in one session, each once."""
    c = cluster.Cluster(bench, heartbeat_ms=HEARTBEAT_MS, name=name, tcp=True)
    f = c.forward(BYTES_PER_S)
    c.client("submit", bench.write(name + ".jsonl", lines), "--batch", "b")
    start_worker(bench, c, f.endpoint)
    out = bench.path(name + "-out.jsonl")
    c.client("results", "b", "-o", out, "--wait")
    results = common.read_results(out)
    for line, result in zip(lines, results):
        size = int(line["prompt"].split()[1])
        want = f"{line['seed']} ".ljust(size, "x")
        text = result["response"]["body"]["choices"][0]["text"]
        if not bench.check(text == want, f"{name}: answer {common.short(text)}"):
            break
    bench.same(len(results), len(lines), f"{name}: answers")
    bench.same({r["octoflow"]["attempts"] for r in results}, {1}, f"{name}: attempts")
    sessions = bench.output(f"{name}-w0-1.err").count("WELCOME")
    bench.same(sessions, 1, f"{name}: sessions of the worker")
    c.stop()
    return f.forwarded


def results_pile_up(bench):
    """Four megabytes of results, one of them alone two, and checkpoints all the while."""
    lines = lines_of(10, 200_000) + lines_of(1, 2_000_000) + lines_of(8, 30, hold_ms=3500, checkpoint_bytes=100_000)
    sent = run(bench, "pile", lines)
    bench.check(sent < 8_000_000, f"{sent} bytes on the wire: nothing was sent twice")


def large_grants(bench):
    """Requests of megabytes on their way to a worker: it does not take their slowness for the broker's death."""
    run(bench, "grants", lines_of(7, 30, padding=300_000) + lines_of(1, 30, padding=2_000_000))


def late_reader(bench):
    """A worker with credit for 36 MB of requests that reads none of them for a while: they wait in the queue of jobs,
    and it is neither cut off nor given up."""
    c = cluster.Cluster(bench, heartbeat_ms=5000, name="late")
    lines = lines_of(60, 30, padding=600_000)
    c.client("submit", bench.write("late.jsonl", lines), "--batch", "b")
    d, w = wire.a_worker(c.endpoint, "late")
    d.send("PULL", session=w["session"], credit_total=60)
    time.sleep(1)
    waiting = c.batch("b")["queued"]
    bench.check(waiting > 40, f"{waiting} of 60 jobs wait, as nobody reads what is granted")
    granted = []
    while len(granted) < 60:
        granted += [g["line"] for g in d.expect("GRANT")["jobs"]]
    bench.same(sorted(granted), list(range(1, 61)), "lines granted, each once")
    d.close()
    c.stop()


def clients_ask_once(bench):
    """A client behind a slow wire, with a request and an answer that each take longer than it waits before it asks
    again, and longer than --timeout: it waits, and does not ask again while they are on their way. The request takes
    longer than a connection may be silent, too."""
    c = cluster.Cluster(bench, name="once", tcp=True)
    f = c.forward(BYTES_PER_S // 14)
    lines = lines_of(1, 2_600_000, padding=1_700_000)
    c.client("submit", bench.write("once.jsonl", lines), "--batch", "b", "--timeout", 8, endpoint=f.endpoint)
    f.bytes_per_s = BYTES_PER_S * 2 // 3
    bench.check(f.forwarded < 2_500_000, f"{f.forwarded} bytes for a submit of 1.7 MB")
    start_worker(bench, c, c.endpoint)
    cluster.until_done(c, "b")
    before, out = f.forwarded, bench.path("once.out")
    c.client("results", "b", "-o", out, "--timeout", 2, endpoint=f.endpoint)
    bench.same(len(common.read_results(out)), 1, "results")
    bench.check(f.forwarded - before < 4_000_000, f"{f.forwarded - before} bytes for results of 2.6 MB")
    c.stop()


def two_results_at_once(bench):
    """Two clients write a batch's results to the same file at the same time, one of them behind a slow wire: it is
    whole when the first is done, when both are, and when one is killed."""
    c = cluster.Cluster(bench, heartbeat_ms=HEARTBEAT_MS, name="two", tcp=True)
    f = c.forward()
    c.wait_broker()
    caller = wire.Caller(c.endpoint)
    caller.call("BATCH_NEW", batch="b")
    refusal = wire.pack({"status_code": 400, "error_message": "no" * 1000, "error_type": "x", "error_code": "y"})
    for first in range(1, 2001, 500):
        lines = [{"line": n, "hash": n, "custom_id": f"c{n}", "refusal": refusal} for n in range(first, first + 500)]
        bench.same(caller.call("SUBMIT", batch="b", lines=lines)["t"], "SUBMIT_OK", "submit")
    caller.call("SEAL", batch="b", lines=2000)
    out = bench.path("two.out")
    c.client("results", "b", "-o", out, code=1)
    with open(out, "rb") as file:
        whole = file.read()
    bench.same(whole.count(b"\n"), 2000, "lines")

    def same(what):
        with open(out, "rb") as file:
            bench.check(file.read() == whole, f"the file is whole {what}")

    def others():
        return [name for name in os.listdir(os.path.dirname(out)) if name.startswith("two.out.")]

    for end in ("done", "killed"):
        f.bytes_per_s = 3 * BYTES_PER_S
        slow = c.start_client("results", "b", "-o", out, endpoint=f.endpoint)
        bench.wait_for("the slow one to write", lambda: sum(os.path.getsize(bench.path(n)) for n in others()) > 0, 20)
        f.bytes_per_s = BYTES_PER_S // 10
        c.client("results", "b", "-o", out, code=1)
        same("when the first is done")
        if end == "killed":
            slow.kill()
            slow.wait()
        f.bytes_per_s = None
        if end == "done":
            c.finish(slow, 1)
            bench.same(others(), [], "files beside the results")
        same(f"when the other is {end}")
    c.stop()


cluster.main([results_pile_up, large_grants, late_reader, clients_ask_once, two_results_at_once],
             session_worker=(str, "", "the program session_worker"))
