#!/usr/bin/env python3
"""Acknowledged is durable, a result counts once, a late one of an old lease is dropped and acknowledged; the broker is
killed at each of these points and comes back with everything."""
import signal
import time

import cluster
import wire

BODY = wire.pack({"chat": False, "prompt": "p", "max_tokens": 1, "temperature": 0.0, "top_p": 1.0, "seed": 1})


def output(text):
    return wire.pack({"status_code": 200, "choices": [{"text": text, "finish_reason": "stop"}]})


def new_batch(caller, name, count, sealed=True, **more):
    caller.call("BATCH_NEW", batch=name, **more)
    lines = [{"line": n, "hash": n, "custom_id": f"{name}-{n}", "body": BODY} for n in range(1, count + 1)]
    got = caller.call("SUBMIT", batch=name, lines=lines)
    if sealed:
        caller.call("SEAL", batch=name, lines=count)
    return got


def restarted(c):
    c.kill_broker()
    c.start_broker()
    return wire.Caller(c.endpoint) if c.wait_broker() else None


def leased(bench, d, welcome, count):
    """Takes so many jobs: {job: grant}."""
    jobs = {}
    d.send("PULL", session=welcome["session"], credit_total=count)
    while len(jobs) < count:
        for g in d.expect("GRANT")["jobs"]:
            bench.check(g["job"] not in jobs, f"job {g['job']} was granted twice")
            jobs[g["job"]] = g
    return jobs


def give(d, welcome, refs, text="first"):
    """Sends results for (job, epoch)s; returns the outcomes in that order."""
    d.send("RESULTS", session=welcome["session"],
           results=[{"job": j, "epoch": e, "failed": False, "body": output(text)} for j, e in refs])
    acks = {}
    while len(acks) < len(set(refs)):
        for a in d.expect("ACKS")["acks"]:
            acks[a["job"], a["epoch"]] = a["outcome"]
    return [acks[r] for r in refs]


def text_of(fetched):
    return wire.unpack(fetched["body"])["choices"][0]["text"]


def submitted_lines(bench):
    """kill -9 of the broker right after each SUBMIT_OK: every acknowledged line is there."""
    c = cluster.Cluster(bench, heartbeat_ms=5000, name="sub")
    c.wait_broker()
    for n in range(1, 9):
        caller = wire.Caller(c.endpoint)
        caller.call("BATCH_NEW", batch="b")
        lines = [{"line": 100 * n + i, "hash": i, "body": BODY} for i in range(100)]
        bench.same(caller.call("SUBMIT", batch="b", lines=lines)["accepted"], 100, "accepted")
        caller.close()
        caller = restarted(c)
        bench.same(caller.call("STATUS", batch="b")["batches"][0]["total"], 100 * n, "lines after kill -9")
        again = caller.call("SUBMIT", batch="b", lines=lines)
        bench.same((again["accepted"], again["duplicates"]), (0, 100), "the same lines again")
        other = caller.call("SUBMIT", batch="b", lines=[{"line": 100 * n, "hash": 99999, "body": BODY}])
        bench.same((other["t"], other.get("code"), other.get("line")), ("ERROR", "conflict", 100 * n), "another line")
        caller.close()
    c.stop()


def acknowledged_results(bench):
    """kill -9 of the broker right after ACKS: every acknowledged result is there, and a rerun's is not."""
    c = cluster.Cluster(bench, heartbeat_ms=5000, name="res")
    c.wait_broker()
    caller = wire.Caller(c.endpoint)
    new_batch(caller, "b", 60)
    d, w = wire.a_worker(c.endpoint, "w")
    jobs = leased(bench, d, w, 60)
    refs = [(j, g["epoch"]) for j, g in jobs.items()]
    for n in range(6):
        part = refs[n * 10:n * 10 + 10]
        bench.same(give(d, w, part), [0] * 10, "outcomes")
        caller = restarted(c)
        d, w = wire.a_worker(c.endpoint, "w", holding=refs[n * 10:])
        bench.same(sorted(r["job"] for r in w.get("lost", [])), sorted(j for j, _ in part), "lost at HELLO")
        bench.same(give(d, w, part, "second"), [1] * 10, "the same leases' results again")
        got = caller.fetch_all("b")
        bench.same([text_of(f) for f in got], ["first"] * (n * 10 + 10), "results after kill -9")
    bench.same(len({f["seq"] for f in got}), 60, "places in the order of completion")
    c.stop()


def finished_while_down(bench):
    """Results finished while the broker was down are taken when it is back, without a rerun."""
    c = cluster.Cluster(bench, heartbeat_ms=5000, name="down")
    c.wait_broker()
    new_batch(wire.Caller(c.endpoint), "b", 20)
    d, w = wire.a_worker(c.endpoint, "w")
    jobs = leased(bench, d, w, 20)
    refs = [(j, g["epoch"]) for j, g in jobs.items()]
    caller = restarted(c)
    other, ow = wire.a_worker(c.endpoint, "other")  # hungry, and here first
    other.send("PULL", session=ow["session"], credit_total=20)
    d, w = wire.a_worker(c.endpoint, "w", holding=refs)
    bench.same(w.get("lost", []), [], "leases lost by the restart")
    bench.same(give(d, w, refs), [0] * 20, "outcomes")
    bench.same([f["attempts"] for f in caller.fetch_all("b")], [1] * 20, "attempts")
    bench.check(other.receive(0.3) is None, "held jobs were given to another worker")
    c.stop()


def late_results(bench):
    """A late result of an old lease is dropped and acknowledged as such; the new lease's counts, once."""
    c = cluster.Cluster(bench, name="late", heartbeat_ms=500)
    c.wait_broker()
    caller = wire.Caller(c.endpoint)
    new_batch(caller, "b", 6)  # few enough to be given to one worker after a loss
    slow, sw = wire.a_worker(c.endpoint, "slow")
    old = [(j, g["epoch"]) for j, g in leased(bench, slow, sw, 6).items()]
    quick, qw = wire.a_worker(c.endpoint, "quick")
    # slow says nothing for three heartbeats, quick keeps itself alive
    new = {}
    quick.send("PULL", session=qw["session"], credit_total=6)
    end = time.monotonic() + 5
    while len(new) < 6 and time.monotonic() < end:
        quick.send("BEAT", session=qw["session"], running=[])
        m = quick.receive(0.1)
        if m and m["t"] == "GRANT":
            new.update({g["job"]: g["epoch"] for g in m["jobs"]})
    bench.same(sorted(new), sorted(j for j, _ in old), "jobs of the silent worker, granted again")
    bench.check(all(new[j] > e for j, e in old), "each has a newer epoch")
    slow, sw = wire.a_worker(c.endpoint, "slow", holding=old)
    bench.same(len(sw["lost"]), 6, "leases that the late worker lost")
    bench.same(give(slow, sw, old[:3], "late"), [2] * 3, "late results, before the new ones")
    bench.same(give(quick, qw, list(new.items())), [0] * 6, "the new lease's results")
    bench.same(give(slow, sw, old, "late"), [2] * 6, "late results, behind the new ones")
    bench.same(give(quick, qw, list(new.items()), "again"), [1] * 6, "the new lease's results again")
    bench.same(give(slow, sw, [(j, e + 1000) for j, e in new.items()], "future"), [2] * 6, "epochs that never were")
    bench.same([text_of(f) for f in caller.fetch_all("b")], ["first"] * 6, "what is in the ledger")
    new_batch(caller, "waiting", 4)
    waiting = range(7, 11)
    for epoch in (0, 1, 2, 1 << 32, (1 << 32) + 1000, 1 << 40):
        refs = [(j, epoch) for j in waiting]
        bench.same(give(slow, sw, refs, "made up"), [2] * 4, f"results of jobs nobody was given, epoch {epoch}")
        slow.send("BEAT", session=sw["session"], running=[{"job": j, "epoch": e} for j, e in refs])
        bench.same(len(slow.expect("BEAT_OK")["cancel"]), 4, f"leases made up with epoch {epoch}")
    caller = restarted(c)
    slow, sw = wire.a_worker(c.endpoint, "slow")
    for low in (1000, 1 << 16, 1 << 31):  # as if the run before had given them, and its notes were lost
        refs = [(j, (1 << 32) + low + j) for j in waiting]
        bench.check(give(slow, sw, refs, "made up").count(2) >= 3, "results with epochs of the run before")
        slow.send("BEAT", session=sw["session"], running=[{"job": j, "epoch": e} for j, e in refs])
        bench.check(len(slow.expect("BEAT_OK")["cancel"]) >= 3, "leases made up with epochs of the run before")
    bench.check(len(caller.fetch_all("waiting")) <= 1, "results of jobs that nobody was given")
    unknown = give(slow, sw, [(10**9, 1)])
    bench.check(unknown[0] in (1, 2), f"a job that never was is acknowledged: {unknown}")
    c.stop()


def another_ledger(bench):
    """A worker comes from a broker with another ledger, where its leases had the same numbers: none counts here."""
    c = cluster.Cluster(bench, heartbeat_ms=5000, name="led")
    c.wait_broker()
    caller = wire.Caller(c.endpoint)
    new_batch(caller, "b", 4)
    d, w = wire.a_worker(c.endpoint, "w")
    refs = [(j, g["epoch"]) for j, g in leased(bench, d, w, 4).items()]
    for ledger, lost in (("0123456789abcdef", 4), (w["broker"], 0), ("", 0)):
        restarted(c).close()
        d, got = wire.a_worker(c.endpoint, "w", holding=refs, ledger=ledger)
        bench.same(len(got.get("lost", [])), lost, f"leases lost of ledger {ledger!r}")
        bench.same(got["broker"], w["broker"], "the ledger's id")
    c.stop()


def killed_while_submitting(bench):
    """kill -9 of broker and client at many moments of a submit and a run: the same command goes on."""
    c = cluster.Cluster(bench, name="mid")
    lines = cluster.fake_lines(3000, words=40)
    path = bench.write("mid.jsonl", lines)
    for n in range(6):
        p = c.start_client("submit", path, "--batch", "b")
        time.sleep(0.004 * 2**n)
        if n % 2:
            p.kill()
        c.kill_broker()
        c.start_broker()
        c.finish(p, None if n % 2 else 0)
    c.client("submit", path, "--batch", "b")
    bench.same(c.batch("b")["total"], 3000, "lines")
    c.fake("w1", twice=0.5, late=0.5)
    c.fake("w2", twice=0.5, late=0.5)
    out = bench.path("mid-out.jsonl")
    p = c.start_client("results", "b", "-o", out, "--wait")
    for _ in range(4):
        time.sleep(0.25)
        c.kill_broker()
        c.start_broker()
    c.finish(p)
    c.check_output(out, lines)
    c.stop()


def second_broker(bench):
    """A second broker, with a ledger of its own, does not take the address of one that runs; the ledger of one that
    runs is refused too. Either says why."""
    c = cluster.Cluster(bench, name="two")
    c.wait_broker()
    for ledger, endpoint, why in ((bench.path("other.db"), c.endpoint, "in use"),
                                  (c.ledger, "ipc://" + bench.path("other.sock"), "another broker is using it")):
        code, _, err = bench.run(bench.broker, "--ledger", ledger, "--listen", endpoint, name="second", timeout=60)
        bench.same(code, 3, "the second broker's exit code")
        bench.has(err, why, "what it says")
    bench.same(c.call("STATUS")["t"], "STATUS_OK", "the first one answers")
    c.stop()


def restarted_at_once(bench):
    """SIGTERM, and the next broker without waiting for the end of the one before, time after time: the address is that
    of the next one."""
    c = cluster.Cluster(bench, name="next")
    lines = cluster.fake_lines(1000)
    c.client("submit", bench.write("next.jsonl", lines), "--batch", "b")
    c.fake("w", think_ms=1)
    for _ in range(8):
        time.sleep(0.15)
        before = c.broker
        before.send_signal(signal.SIGTERM)
        c.start_broker()
        bench.same(bench.finish(before, 30)[0], 0, "exit code after SIGTERM")
        c.wait_broker()
    out = bench.path("next-out.jsonl")
    c.client("results", "b", "-o", out, "--wait")
    c.check_output(out, lines)
    c.stop()


def stopped_broker(bench):
    """SIGSTOP of the broker for longer than three heartbeats: nobody loses a job when it goes on."""
    c = cluster.Cluster(bench, heartbeat_ms=400, name="stp")
    lines = cluster.fake_lines(200)
    c.client("submit", bench.write("stp.jsonl", lines), "--batch", "b")
    c.fake("w1", think_ms=10)
    c.fake("w2", think_ms=10)
    bench.wait_for("a result", lambda: c.batch("b")["done"] > 0)
    c.broker.send_signal(signal.SIGSTOP)
    time.sleep(2)
    c.broker.send_signal(signal.SIGCONT)
    out = bench.path("stp-out.jsonl")
    c.client("results", "b", "-o", out, "--wait")
    results = c.check_output(out, lines)
    bench.same({r["octoflow"]["attempts"] for r in results}, {1}, "attempts")
    c.stop()


cluster.main([submitted_lines, acknowledged_results, finished_while_down, late_results, another_ledger,
              killed_while_submitting, second_broker, restarted_at_once, stopped_broker])
