#!/usr/bin/env python3
"""A disk without room, for the real broker: a limit on the size of its files, set and lifted while it runs. New work is
refused with the reason, what was acknowledged stays, results wait at their workers, and service resumes by itself. What
else a disk can do is tested in tests/broker (power, disk_faults)."""
import resource
import time

import cluster
import wire

FULL, ROOM = 1, resource.RLIM_INFINITY


def disk(c, most):
    """The largest size of a file that the broker may write."""
    resource.prlimit(c.broker.pid, resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))


def submit(bench, c, first, count, batch="b"):
    lines = cluster.fake_lines(first + count - 1)[first - 1:]
    caller = wire.Caller(c.endpoint)
    caller.call("BATCH_NEW", batch=batch)
    made = [{"line": first + n, "hash": first + n, "custom_id": line["custom_id"], "body": body_of(line)}
            for n, line in enumerate(lines)]
    reply = caller.call("SUBMIT", batch=batch, lines=made)
    caller.close()
    return reply


def body_of(line):
    b = line["body"]
    return wire.pack({"chat": True, "messages": b["messages"], "max_tokens": 8, "temperature": 0.0, "top_p": 1.0,
                      "seed": b["seed"]})


def submits_are_refused(bench):
    """A submit is refused with code and reason; what is there stays, over a kill -9 too; later it passes."""
    c = cluster.Cluster(bench, name="sub")
    c.wait_broker()
    bench.same(submit(bench, c, 1, 100).get("accepted"), 100, "accepted")
    disk(c, FULL)
    reply = submit(bench, c, 101, 100)
    bench.same((reply["t"], reply.get("code")), ("ERROR", "storage"), "the answer on a full disk")
    bench.has(reply.get("text", ""), "File too large", "the reason")
    bench.same(c.batch("b")["total"], 100, "lines while the disk is full")
    c.kill_broker()
    c.start_broker()
    c.wait_broker()
    bench.same(c.batch("b")["total"], 100, "lines after kill -9")
    disk(c, FULL)
    bench.same(submit(bench, c, 101, 100)["t"], "ERROR", "refused again")
    disk(c, ROOM)
    bench.wait_for("the submit to pass", lambda: submit(bench, c, 101, 100)["t"] == "SUBMIT_OK", 20)
    bench.same(c.batch("b")["total"], 200, "lines in the end")
    c.stop()


def results_wait(bench):
    """Workers that finish while the disk is full keep their results, and send them again: one attempt each."""
    c = cluster.Cluster(bench, heartbeat_ms=400, name="res")
    lines = cluster.fake_lines(1500)  # not all done before the disk is full for the third time
    c.client("submit", bench.write("res.jsonl", lines), "--batch", "b", "--max-attempts", 1)
    for n in range(2):
        c.fake(f"w{n}", think_ms=2)
    for _ in range(3):
        done = c.batch("b")["done"]
        disk(c, FULL)
        bench.wait_for("status to say so", lambda: "storage" in c.batch("b").get("problem", ""), 20)
        time.sleep(0.5)
        disk(c, ROOM)
        bench.wait_for("results again", lambda: c.batch("b")["done"] > done, 20)
    out = bench.path("res-out.jsonl")
    c.client("results", "b", "-o", out, "--wait")
    results = c.check_output(out, lines)
    bench.same({r["octoflow"]["attempts"] for r in results}, {1}, "attempts")
    c.stop()


def killed_while_full(bench):
    """kill -9 of the broker while the disk is full and results wait: the workers bring them to the next one."""
    c = cluster.Cluster(bench, heartbeat_ms=400, name="kill")
    lines = cluster.fake_lines(900)
    c.client("submit", bench.write("kill.jsonl", lines), "--batch", "b", "--max-attempts", 1)
    c.fake("w0", think_ms=3)
    for _ in range(3):
        done = c.batch("b")["done"]
        disk(c, FULL)
        time.sleep(0.3)
        c.kill_broker()
        c.start_broker()
        c.wait_broker()
        bench.wait_for("results again", lambda: c.batch("b")["done"] > done, 20)
    out = bench.path("kill-out.jsonl")
    c.client("results", "b", "-o", out, "--wait")
    results = c.check_output(out, lines)
    bench.same({r["octoflow"]["attempts"] for r in results}, {1}, "attempts")
    c.stop()


def the_client_says_why(bench):
    """`octoflow submit` on a full disk ends with the reason; the same command later goes on."""
    c = cluster.Cluster(bench, name="say")
    path = bench.write("say.jsonl", cluster.fake_lines(2000))
    c.wait_broker()
    disk(c, FULL)
    code, _, err = c.client("submit", path, "--batch", "b", code=None)
    bench.check(code not in (0, None), f"exit code on a full disk: {code}")
    bench.has(err, "File too large", "the reason is said")
    disk(c, ROOM)
    bench.wait_for("the submit to pass", lambda: c.client("submit", path, "--batch", "b", code=None)[0] == 0, 20)
    bench.same(c.batch("b")["total"], 2000, "lines")
    c.stop()


cluster.main([submits_are_refused, results_wait, killed_while_full, the_client_says_why])
