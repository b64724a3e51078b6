#!/usr/bin/env python3
"""Workers that die, stand still, leave or misbehave: when their jobs are back in the queue, and that nothing of it
shows in the results. Fake workers; fault_real.py has the real ones."""
import signal
import time

import cluster
import wire

BEAT_MS = 500  # busy machines stop a process for a moment


def held(c, name):
    """Jobs that the broker has given to that worker."""
    return next((w.get("leased", 0) for w in c.call("STATUS")["workers"]
                 if w["worker"] == name and w["state"] != "lost"), 0)


def submitted(bench, c, count, name, **more):
    lines = cluster.fake_lines(count, **more)
    c.client("submit", bench.write(name + ".jsonl", lines), "--batch", "b")
    return lines


def collect(bench, c, lines, name, poisons=()):
    out = bench.path(name + "-out.jsonl")
    c.client("results", "b", "-o", out, "--wait", code=1 if poisons else 0)
    return c.check_output(out, lines, poisons)


def time_until_back(bench, c, limit_s, what):
    """Seconds from now until no job is leased any more."""
    began = time.monotonic()
    bench.wait_for(what, lambda: c.batch("b").get("leased", 0) == 0, limit_s + 10)
    took = time.monotonic() - began
    bench.check(took <= limit_s, f"{what}: after {took:.2f} s; expected at most {limit_s} s")
    return took


def dead_worker(bench):
    """kill -9 of a worker: its jobs are back within three missed heartbeats, and another one finishes them."""
    c = cluster.Cluster(bench, heartbeat_ms=BEAT_MS, name="dead")
    lines = submitted(bench, c, 150, "dead")
    w = c.fake("w1", think_ms=50)
    bench.wait_for("leases", lambda: held(c, "w1") >= 32)
    w.kill()
    # the last beat may have come just before; the broker looks every quarter of one; and a busy machine
    took = time_until_back(bench, c, 3.25 * BEAT_MS / 1000 + 0.8, "a dead worker's jobs back")
    print(f"       jobs back after {took / BEAT_MS * 1000:.2f} heartbeats")
    c.fake("w2")
    collect(bench, c, lines, "dead")
    c.stop()


def stopped_worker(bench):
    """SIGSTOP of a worker: its jobs go to another at the end of the lease at the latest; woken up, its results are
    dropped, acknowledged, and it works on."""
    c = cluster.Cluster(bench, heartbeat_ms=BEAT_MS, lease_ms=2000, name="stop")
    lines = submitted(bench, c, 150, "stop")
    w = c.fake("w1", think_ms=20)
    bench.wait_for("leases", lambda: held(c, "w1") >= 32)
    w.send_signal(signal.SIGSTOP)
    time_until_back(bench, c, 2 + 0.8, "a stopped worker's jobs back")
    other = c.fake("w2")
    cluster.until_done(c, "b")
    w.send_signal(signal.SIGCONT)
    bench.wait_for("the woken worker's new session", lambda: any(
        x["worker"] == "w1" and x["state"] == "ready" for x in c.call("STATUS")["workers"]))
    collect(bench, c, lines, "stop")
    bench.same(other.poll(), None, "the other worker lives")
    c.stop()


def forgotten_leases(bench):
    """A worker that beats without naming its leases loses them at lease end, and keeps those it names."""
    c = cluster.Cluster(bench, heartbeat_ms=BEAT_MS, lease_ms=1000, name="forget")
    submitted(bench, c, 2, "forget")
    d, w = wire.a_worker(c.endpoint, "w")
    d.send("PULL", session=w["session"], credit_total=2)
    jobs = d.expect("GRANT")["jobs"]
    while len(jobs) < 2:
        jobs += d.expect("GRANT")["jobs"]
    kept, dropped = ({"job": g["job"], "epoch": g["epoch"]} for g in jobs)
    began = time.monotonic()
    queued = 0
    while not queued and time.monotonic() < began + 10:
        d.send("BEAT", session=w["session"], running=[kept])
        d.receive(0.1)
        queued = c.batch("b").get("queued", 0)
    took = time.monotonic() - began
    bench.check(0.9 <= took <= 2.5, f"the lease that no beat named ended after {took:.2f} s; expected 1 s")
    bench.same(c.batch("b").get("leased"), 1, "the lease that every beat named")
    d.send("BEAT", session=w["session"], running=[kept, dropped])
    bench.same(c.batch("b").get("leased"), 2, "named again before anybody else had it: it goes on")
    d.close()
    c.stop()


def silent_worker(bench):
    """A worker that takes jobs and never says a word again costs each of them an attempt, no more."""
    c = cluster.Cluster(bench, heartbeat_ms=100, name="mute")
    lines = submitted(bench, c, 64, "mute")
    d, w = wire.a_worker(c.endpoint, "mute")
    d.send("PULL", session=w["session"], credit_total=64)
    d.expect("GRANT")
    c.fake("w2")
    results = collect(bench, c, lines, "mute")
    bench.check({r["octoflow"]["attempts"] for r in results} <= {1, 2}, "attempts: one or two")
    d.close()
    c.stop()


def busy_hands(bench):
    """1,000 jobs, four workers that send results twice, late ones, ones of epochs that never were, and hand back a
    tenth; killed at random, all the time."""
    c = cluster.Cluster(bench, heartbeat_ms=100, name="busy")
    lines = cluster.fake_lines(1000)
    c.client("submit", bench.write("busy.jsonl", lines), "--batch", "b", "--max-attempts", "100")
    names = [f"w{n}" for n in range(4)]
    for n, name in enumerate(names):
        c.fake(name, twice=0.5, late=0.8, nack=0.1, think_ms=3, seed=n)
    state = {"kills": 0, "at": 0.0}

    def kill_one():
        now = time.monotonic()
        if state["kills"] < 12 and now > state["at"]:
            c.workers[names[state["kills"] % 4]].kill()
            state["kills"] += 1
            state["at"] = now + 0.12

    cluster.until_done(c, "b", each=kill_one)
    bench.check(state["kills"] >= 8, f"kills before the end: {state['kills']}")
    collect(bench, c, lines, "busy")
    c.stop()


def leaving_worker(bench):
    """SIGTERM: a worker that leaves costs no attempt, and its name is free again."""
    c = cluster.Cluster(bench, heartbeat_ms=BEAT_MS, name="leave")
    lines = submitted(bench, c, 300, "leave")
    c.fake("w1", think_ms=2)
    bench.wait_for("a result", lambda: c.batch("b").get("done", 0) > 0)
    c.workers["w1"].send_signal(signal.SIGTERM)
    bench.same(c.finish(c.workers["w1"])[0], 0, "exit code")
    c.fake("w1")
    results = collect(bench, c, lines, "leave")
    bench.same({r["octoflow"]["attempts"] for r in results}, {1}, "attempts")
    c.stop()


def clients_that_vanish(bench):
    """kill -9 and SIGSTOP of clients that wait: the batch goes on, other clients never notice, the same command
    again has the whole file."""
    c = cluster.Cluster(bench, heartbeat_ms=100, name="gone")
    lines = submitted(bench, c, 600, "gone")
    c.fake("w1", think_ms=1)
    out = bench.path("gone-out.jsonl")
    stopped = c.start_client("results", "b", "-o", bench.path("gone-stopped.jsonl"), "--wait")
    for _ in range(5):
        p = c.start_client("results", "b", "-o", out, "--wait")
        time.sleep(0.1)
        p.kill()
    stopped.send_signal(signal.SIGSTOP)
    collect(bench, c, lines, "gone")
    stopped.send_signal(signal.SIGCONT)
    c.finish(stopped)
    c.check_output(bench.path("gone-stopped.jsonl"), lines, what="of the client that stood still")
    c.stop()


cluster.main([dead_worker, stopped_worker, forgotten_leases, silent_worker, busy_hands, leaving_worker,
              clients_that_vanish])
