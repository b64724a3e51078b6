#!/usr/bin/env python3
"""The end of a night with many workers: half of them hold the last lines, the others have room and nothing to do, as
all other batches are paused. All the broker hears are heartbeats, so it has next to nothing to do either."""
import os
import resource
import select
import sys
import time

import common

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "faults"))

import wire  # noqa: E402

WORKERS, HELD = 200, 64  # of each half; lines that one holds
PAUSED = 200  # batches
WATCH_S = 5
MOST_CPU = 0.5  # of one core


class Worker:
    def __init__(self, endpoint, name, held):
        self.wire, self.leases, self.asked_at = wire.Dealer(endpoint), [], 0
        self.wire.send("HELLO", **wire.hello(name))
        self.session = self.wire.expect("WELCOME")["session"]
        self.wire.send("PULL", session=self.session, credit_total=HELD)
        while len(self.leases) < held:
            self.leases += [(g["job"], g["epoch"]) for g in self.wire.expect("GRANT")["jobs"]]

    def beat(self):
        running = [{"job": job, "epoch": epoch, "completion_tokens": 1} for job, epoch in self.leases]
        self.wire.send("BEAT", session=self.session, running=running)
        self.asked_at = time.monotonic()


def cpu_s(process):
    with open(f"/proc/{process.pid}/stat", encoding="utf-8") as f:
        fields = f.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def submit(endpoint, count):
    c = wire.Caller(endpoint)
    c.call("BATCH_NEW", batch="b")
    for at in range(0, count, 512):
        c.call("SUBMIT", batch="b", lines=[{"line": n + 1, "hash": n + 1, "custom_id": "x", "body": b"request"}
                                           for n in range(at, min(count, at + 512))])
    for n in range(PAUSED):
        c.call("BATCH_NEW", batch=f"paused-{n}", paused=True)
        c.call("SUBMIT", batch=f"paused-{n}", lines=[{"line": 1, "hash": 1, "custom_id": "x", "body": b"request"}])
    c.close()


def watch(workers, heartbeat_s):
    """Each says BEAT once a heartbeat, one after the other. Returns (answers, the slowest in s)."""
    by_fd, events = {w.wire.fileno(): w for w in workers}, select.epoll()
    for fd in by_fd:
        events.register(fd, select.EPOLLIN)
    began, sent, answers, slowest = time.monotonic(), 0, 0, 0
    while (now := time.monotonic()) < began + WATCH_S:
        while sent < (now - began) * len(workers) / heartbeat_s:
            workers[sent % len(workers)].beat()
            sent += 1
        for fd, _ in events.poll(0.01):
            w = by_fd[fd]
            w.wire.fill()
            while (m := w.wire.poll()) is not None:
                if m["t"] == "BEAT_OK":
                    answers += 1
                    slowest = max(slowest, time.monotonic() - w.asked_at)
    return answers, slowest


def test(bench, _):
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    endpoint = "ipc://" + bench.path("s")
    broker = bench.start([bench.broker, "--ledger", bench.path("ledger.db"), "--listen", endpoint], "broker")
    bench.wait_for("the broker", lambda: os.path.exists(bench.path("s")))
    submit(endpoint, WORKERS * HELD)
    workers = [Worker(endpoint, f"busy-{n}", HELD) for n in range(WORKERS)]
    workers += [Worker(endpoint, f"idle-{n}", 0) for n in range(WORKERS)]
    before = cpu_s(broker)
    answers, slowest = watch(workers, 2)
    used = (cpu_s(broker) - before) / WATCH_S
    print(f"{answers} heartbeats answered, the slowest after {slowest:.3f} s; {used:.0%} of a core", flush=True)
    bench.check(used < MOST_CPU, f"the broker needs {used:.0%} of a core to hear heartbeats")
    bench.check(answers > WATCH_S * WORKERS / 2, f"only {answers} heartbeats were answered")
    bench.check("stood still" not in bench.output("broker.err"), "the broker stood still")
    broker.terminate()
    bench.same(bench.finish(broker, 60)[0], 0, "broker: exit code")


common.main(test)
