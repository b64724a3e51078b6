#!/usr/bin/env python3
"""The fault table with real workers and the shipped model: the answers are those of an undisturbed run, byte for
byte, whatever happened to worker, broker, client and the wires between them."""
import signal
import time

import cluster
import common
import forwarder
import wire

LINES = 20
BATCH = "in.jsonl"


class Row:
    """A cluster with the lines submitted."""

    def __init__(self, bench, name, heartbeat_ms=500, lease_ms=60000):
        self.bench = bench
        self.inputs, self.want, _ = cluster.Calm.run(bench, BATCH, common.mixed_lines(bench, LINES, 24))
        self.c = cluster.Cluster(bench, heartbeat_ms=heartbeat_ms, lease_ms=lease_ms, name=name)
        self.c.client("submit", self.inputs, "--batch", BATCH, "--max-attempts", 20)
        self.out = bench.path(name + ".out")

    def wait_done(self, count):
        self.bench.wait_for(f"{count} results", lambda: self.c.batch(BATCH)["done"] >= count)

    def end(self, process=None):
        """Fetches, compares, stops. Returns the results."""
        if process is None:
            self.c.client("results", BATCH, "-o", self.out, "--wait")
        else:
            self.c.finish(process)
        got = common.stripped(self.out)
        self.bench.check(got == self.want, f"not the undisturbed run's bytes; {common.difference(got, self.want)}")
        results = common.read_results(self.out)
        self.c.stop()
        return results


def attempts(results):
    return sorted({r["octoflow"]["attempts"] for r in results})


def worker_killed(bench):
    """kill -9 of a real worker; a new one goes on."""
    row = Row(bench, "wk")
    row.c.real("w0")
    row.wait_done(3)
    row.c.workers["w0"].kill()
    row.c.workers["w0"].wait()
    row.c.respawn_dead()
    row.end()


def worker_stopped(bench):
    """SIGSTOP of a real worker; another takes over; the first wakes up, and both work on."""
    row = Row(bench, "ws", lease_ms=1500)
    row.c.real("w0")
    row.wait_done(3)
    row.c.workers["w0"].send_signal(signal.SIGSTOP)
    bench.wait_for("the stopped worker's jobs back", lambda: row.c.batch(BATCH).get("leased", 0) == 0, 10)
    row.c.real("w1")
    row.wait_done(8)
    row.c.workers["w0"].send_signal(signal.SIGCONT)
    row.end()


def broker_killed(bench):
    """kill -9 of the broker; what the worker finishes meanwhile is not computed again."""
    row = Row(bench, "bk")
    row.c.real("w0")
    row.wait_done(2)
    for pause in (0, 1.5):
        row.c.kill_broker()
        time.sleep(pause)
        row.c.start_broker()
        row.c.wait_broker()
    bench.same(attempts(row.end()), [1], "attempts: nobody lost anything")


def broker_stopped(bench):
    """SIGSTOP of the broker for five heartbeats: no lease is lost."""
    row = Row(bench, "bs")
    row.c.real("w0")
    row.wait_done(2)
    row.c.broker.send_signal(signal.SIGSTOP)
    time.sleep(2.5)
    row.c.broker.send_signal(signal.SIGCONT)
    bench.same(attempts(row.end()), [1], "attempts: nobody lost anything")


def broker_stopped_for_long(bench):
    """SIGSTOP of the broker for 25 s: longer than worker and client wait before they connect anew. No lease is lost."""
    row = Row(bench, "bl")
    row.c.real("w0")
    row.wait_done(2)
    waiting = row.c.start_client("results", BATCH, "-o", row.out, "--wait", "--timeout", "60")
    row.c.broker.send_signal(signal.SIGSTOP)
    time.sleep(25)
    row.c.broker.send_signal(signal.SIGCONT)
    bench.same(attempts(row.end(waiting)), [1], "attempts: nobody lost anything")


def client_killed_and_stopped(bench):
    """kill -9 and SIGSTOP of clients that wait."""
    row = Row(bench, "ck")
    row.c.real("w0")
    first = row.c.start_client("results", BATCH, "-o", row.out, "--wait")
    row.wait_done(2)
    first.kill()
    second = row.c.start_client("results", BATCH, "-o", row.out, "--wait")
    second.send_signal(signal.SIGSTOP)
    row.wait_done(LINES)
    second.send_signal(signal.SIGCONT)
    bench.same(attempts(row.end(second)), [1], "attempts")


def wire_cut(bench):
    """The wire of a real worker is cut, cut within a frame, slow, and plugged for longer than three heartbeats."""
    row = Row(bench, "wc")
    f = row.c.forward()
    row.c.real("w0", f.endpoint)
    row.wait_done(2)
    f.cut()
    time.sleep(0.2)
    f.heal()
    row.wait_done(5)
    f.cut_within(700)
    row.wait_done(10)
    f.delay(0.1)
    row.wait_done(15)
    f.plug()
    time.sleep(2)
    f.heal()
    row.end()


def strangers(bench):
    """Something that is not a broker answers at its address for a while: the worker works when the broker is back."""
    row = Row(bench, "strange")
    met = []
    for n, (what, says) in enumerate(forwarder.STRANGERS.items()):
        stranger = forwarder.Stranger(bench.path(f"stranger-{n}.sock"), says)
        f = row.c.forward()
        f.target = stranger.endpoint
        if what in ("noise", "a giant frame"):  # fault_partition has them all
            row.c.real(f"w{n}", f.endpoint)
            met.append((f"w{n}", what, stranger, f))
    for name, what, stranger, f in met:
        bench.wait_for(f"{name} to meet {what}", lambda s=stranger: s.met > 0)
    time.sleep(1)
    for name, what, _, f in met:
        bench.same(row.c.workers[name].poll(), None, f"the worker lives after {what}")
        f.target = row.c.endpoint
        f.blink()
    for name, what, _, _ in met:
        bench.wait_for(f"the worker to be back after {what}", lambda n=name: any(
            w["worker"] == n for w in row.c.call("STATUS")["workers"]), 20)
    row.end()


def another_ledger(bench):
    """The broker goes while a worker holds jobs, and one with another ledger comes to its address: what was begun for
    the first is not taken for an answer of the second, whose jobs and leases have the same numbers."""
    row = Row(bench, "other")
    first, second = row.c.ledger, bench.path("second.db")
    asks = [[{"role": "user", "content": f"Tell me about {n} cats."}] for n in range(LINES)]
    other, want, _ = cluster.Calm.run(bench, "other.jsonl", [
        common.chat_line(f"o-{n}", ask, temperature=0, max_tokens=6) for n, ask in enumerate(asks)])

    def swap(ledger):
        row.c.kill_broker()
        row.c.ledger = ledger
        row.c.start_broker()
        row.c.wait_broker()

    swap(second)
    row.c.client("submit", other, "--batch", BATCH)
    swap(second)  # so that it has been started more often than the first
    swap(first)
    row.c.real("w0")
    bench.wait_for("leases", lambda: row.c.batch(BATCH).get("leased", 0) >= 10)
    row.c.kill_broker()
    time.sleep(1.5)  # what it holds is finished meanwhile
    swap(second)
    row.c.client("results", BATCH, "-o", row.out, "--wait")
    got = common.stripped(row.out)
    bench.check(got == want, f"answers of the second ledger: {common.difference(got, want)}")
    swap(first)
    row.end()


broker_stopped_for_long.long = True
cluster.main([worker_killed, worker_stopped, broker_killed, broker_stopped, broker_stopped_for_long,
              client_killed_and_stopped, wire_cut, strangers, another_ledger])
