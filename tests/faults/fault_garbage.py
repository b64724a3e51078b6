#!/usr/bin/env python3
"""Peers that send garbage, giant frames, millions of frames, half a message, or read nothing: the broker stays small
and alive, and a good client and worker beside them never notice."""
import random
import struct
import threading
import time

import cluster
import wire

MEMORY_MB = 300


class Beside:
    """A good worker and a good client beside whatever goes on: a batch of one attempt a job, and a thread that calls
    and submits all the time and keeps the longest wait."""

    def __init__(self, bench, name, count=400, more=()):
        self.bench, self.name = bench, name
        self.c = cluster.Cluster(bench, heartbeat_ms=1000, name=name, more=["--log-level", "error", *more])
        self.lines = cluster.fake_lines(count)
        self.c.client("submit", bench.write(name + ".jsonl", self.lines), "--batch", "b", "--max-attempts", 1)
        self.c.fake("good", think_ms=2)
        self.longest_s, self.calls, self.most_mb, self.trouble = 0.0, 0, 0, ""
        self.limit_mb, self.stopping = self.memory_limit_mb(), False
        self.thread = threading.Thread(target=self.watch, daemon=True)
        self.thread.start()

    def memory_limit_mb(self):
        with open(f"/proc/{self.c.broker.pid}/maps", encoding="utf-8") as f:
            sanitized = "san.so" in f.read()  # keeps what was freed, and notes beside each byte
        return 4 * MEMORY_MB if sanitized else MEMORY_MB

    def memory_mb(self):
        with open(f"/proc/{self.c.broker.pid}/status", encoding="ascii") as f:
            return next(int(line.split()[1]) for line in f if line.startswith("VmRSS")) / 1024

    def watch(self):
        try:
            caller = wire.Caller(self.c.endpoint)
            caller.call("BATCH_NEW", batch="beside", paused=True)
            while not self.stopping:
                line = {"line": self.calls + 1, "hash": 1, "body": b"x"}
                for name, fields in (("STATUS", {"batch": "b"}), ("SUBMIT", {"batch": "beside", "lines": [line]})):
                    began = time.monotonic()
                    reply = caller.call(name, timeout=30, **fields)
                    self.longest_s = max(self.longest_s, time.monotonic() - began)
                    if reply["t"] != name + "_OK" and reply.get("code") != "full":
                        raise ValueError(reply)
                self.calls += 1
                self.most_mb = max(self.most_mb, self.memory_mb())
                time.sleep(0.01)
            caller.close()
        except (wire.Lost, OSError, ValueError) as e:
            self.trouble = repr(e)

    def end(self):
        out = self.bench.path(self.name + "-out.jsonl")
        self.c.client("results", "b", "-o", out, "--wait")
        self.stopping = True
        self.thread.join()
        results = self.c.check_output(out, self.lines)
        self.bench.same({r["octoflow"]["attempts"] for r in results}, {1}, "attempts of the jobs beside")
        self.bench.same(self.trouble, "", "the good client's trouble")
        self.bench.check(self.calls > 5, f"the good client called {self.calls} times")
        self.bench.check(self.longest_s < 2, f"the good client waited {self.longest_s:.2f} s; expected less than 2 s")
        self.bench.check(self.most_mb < self.limit_mb, f"the broker took {self.most_mb:.0f} MB")
        print(f"       longest wait of a good client {self.longest_s * 1000:.0f} ms of {self.calls} calls, "
              f"broker's memory {self.most_mb:.0f} MB")
        self.c.stop()


def try_send(peer, data):
    """False once the connection is gone."""
    try:
        (peer.send_raw if hasattr(peer, "send_raw") else peer.sendall)(data)
        return True
    except (wire.Lost, OSError):
        return False


def drain(peer):
    """Reads what is there; a flood is only cut off or answered when somebody looks."""
    try:
        while peer.receive(0) is not None:
            pass
    except (wire.Lost, ValueError):
        return False
    return True


def no_zeromq(bench):
    """Bytes that are no ZeroMQ: noise, HTTP, half a greeting, and nothing at all."""
    b = Beside(bench, "noise")
    rng = random.Random(11)
    kept = []
    for n in range(150):
        s = wire.connect(b.c.endpoint)
        what = (rng.randbytes(rng.randrange(1, 3000)), b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", wire.GREETING[:n % 64],
                wire.GREETING + rng.randbytes(500), b"")[n % 5]
        try_send(s, what)
        if n % 3:
            s.close()
        else:
            kept.append(s)
    b.end()
    for s in kept:
        s.close()


def no_messages(bench):
    """Frames that hold no message of ours: random bytes, good messages with drawn bytes changed, cut or doubled, and
    messages of several frames."""
    b = Beside(bench, "frames")
    rng = random.Random(13)
    good = [wire.message("HELLO", **wire.hello("evil", [(1, 2), (3, 4)])),
            wire.message("STATUS", seq=1), wire.message("PULL", session=1, credit_total=2**63),
            wire.message("SUBMIT", seq=2, batch="b", lines=[{"line": 1, "hash": 2, "body": b"x" * 50}]),
            wire.message("RESULTS", session=1 << 32, results=[{"job": 1, "epoch": 1, "failed": False, "body": b"x"}]),
            wire.message("BEAT", session=1 << 32 | 1, running=[{"job": 1, "epoch": 1, "checkpoint": b"y" * 99}]),
            wire.message("CANCEL", seq=5, batch="nowhere", lines=[1, 2, 3])]
    for n in range(40):
        try:
            d = wire.Dealer(b.c.endpoint)
        except wire.Lost:
            continue
        for _ in range(50):
            raw = bytearray(rng.choice(good))
            kind = rng.randrange(4)
            if kind == 0:
                raw = rng.randbytes(rng.randrange(0, 200))
            elif kind == 1:
                raw[rng.randrange(len(raw))] = rng.randrange(256)
            elif kind == 2:
                raw = raw[:rng.randrange(len(raw))]
            else:
                raw = raw * 2
            if not try_send(d, wire.frame(bytes(raw), wire.MORE if rng.random() < 0.1 else 0)):
                break
        drain(d)
        d.close()
    b.end()


def giants(bench):
    """Frames that announce up to 2^63 bytes, and 31 MiB that are truly sent: the first are cut off at their header."""
    b = Beside(bench, "giant")
    for size in ((32 << 20) + 1, 1 << 32, (1 << 63) - 1):
        d = wire.Dealer(b.c.endpoint)
        try_send(d, struct.pack(">BQ", wire.LONG, size) + bytes(1000))
        end = time.monotonic() + 10
        gone = False
        while not gone and time.monotonic() < end:
            gone = not drain(d)
            time.sleep(0.01)
        bench.check(gone, f"a frame of {size} bytes costs its sender the connection")
        d.close()
    d = wire.Dealer(b.c.endpoint)
    for _ in range(3):
        if not try_send(d, wire.frame(bytes(31 << 20))):
            break
        drain(d)
    d.close()
    b.end()


def floods(bench):
    """A million empty frames, and as many bad and good small messages as fit into seconds, from several peers."""
    b = Beside(bench, "flood")
    status = wire.frame(wire.message("STATUS", seq=1))
    hello = wire.frame(wire.message("HELLO", **wire.hello("flood")))
    loads = (wire.frame(b"") * 100000, wire.frame(b"\xc1" * 8) * 20000, status * 2000, hello * 500)
    sent = [0] * len(loads)
    end = time.monotonic() + 6

    def flood(n):
        while time.monotonic() < end and sent[n] < 10:
            try:
                d = wire.Dealer(b.c.endpoint)
            except wire.Lost:
                time.sleep(0.05)
                continue
            while time.monotonic() < end and sent[n] < 10 and try_send(d, loads[n]):
                sent[n] += 1
                if not drain(d):
                    break
            d.close()

    threads = [threading.Thread(target=flood, args=(n,), daemon=True) for n in range(len(loads))]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    print(f"       floods sent: {sent} loads of 100,000 empty, 20,000 bad, 2,000 STATUS, 500 HELLO")
    bench.check(all(sent), f"each flood was sent: {sent}")
    b.end()


def cut_off(bench):
    """Who sends too much that is no message, floods, or says nothing is cut off; the good ones beside stay."""
    b = Beside(bench, "cut", more=["--idle-s", "2"])
    status = wire.frame(wire.message("STATUS", seq=1))
    says = {"empty frames": wire.frame(b"") * 5000, "bad frames": wire.frame(b"\xc1" * 8) * 5000,
            "good messages without end": status * 400000, "one message, then nothing": status, "nothing": b""}
    peers = {}
    for what, data in says.items():
        peers[what] = wire.Dealer(b.c.endpoint)
        threading.Thread(target=try_send, args=(peers[what], data), daemon=True).start()
    began = time.monotonic()
    for what, d in peers.items():
        while drain(d) and time.monotonic() < began + 20:
            time.sleep(0.02)
        bench.check(not drain(d), f"a peer is cut off that sent {what}")
        print(f"       cut off by {time.monotonic() - began:.1f} s: {what}")
        d.close()
    b.end()


def deaf(bench):
    """A client that asks for results without end and reads none: its answers do not pile up, nor do those of one that
    asks sixty times for the largest result."""
    b = Beside(bench, "deaf")
    cluster.until_done(b.c, "b")
    caller = wire.Caller(b.c.endpoint)
    caller.call("BATCH_NEW", batch="large")
    refusal = wire.pack({"status_code": 400, "error_message": "x" * (15 << 20)})
    reply = caller.call("SUBMIT", batch="large", lines=[{"line": 1, "hash": 1, "refusal": refusal}])
    bench.same(reply["t"], "SUBMIT_OK", "a large refusal")
    caller.dealer.send_raw(wire.frame(wire.message("FETCH", seq=9, batch="large", by_line=True, after=0, max=1)) * 60)
    fetch = wire.frame(wire.message("FETCH", seq=1, batch="b", by_line=True, after=0, max=1024)) * 100
    kept = []
    for _ in range(4):
        d = wire.Dealer(b.c.endpoint)
        d.socket.settimeout(0.3)
        for _ in range(60):
            if not try_send(d, fetch):
                break
        kept.append(d)
    time.sleep(1)
    b.end()
    for d in [*kept, caller]:
        d.close()


def much_to_ask(bench):
    """One polite client with a large batch asks for what is finished of it, which is next to nothing, and cancels lines
    that are not there, tens of thousands in a message: the others' requests come in between."""
    count, fetches, cancels = 100000, 30, 16
    b = Beside(bench, "asks")
    d = wire.Dealer(b.c.endpoint)
    d.send("BATCH_NEW", seq=0, batch="large", paused=True)
    d.expect("BATCH_OK")
    for first in range(1, count, 1000):
        d.send("SUBMIT", seq=0, batch="large",
               lines=[{"line": n, "hash": n, "body": b"x"} for n in range(first, first + 1000)])
    for _ in range(1, count, 1000):
        d.expect("SUBMIT_OK", timeout=60)
    nowhere = wire.message("CANCEL", seq=2, batch="large", lines=list(range(1 << 40, (1 << 40) + 65536)))
    d.send_raw(wire.frame(wire.message("FETCH", seq=1, batch="large", by_line=True, after=0, max=512)) * fetches +
               wire.frame(nowhere) * cancels)
    began = time.monotonic()
    answers = [d.receive(60) for _ in range(fetches + cancels)]
    bench.same(sorted((m["t"], m.get("cancelled"), m.get("results")) for m in answers),
               [("CANCEL_OK", 0, None)] * cancels + [("FETCH_OK", None, [])] * fetches, "the answers")
    print(f"       {fetches} FETCHes and {cancels} CANCELs took {time.monotonic() - began:.1f} s")
    d.close()
    b.end()


def idle_crowd(bench):
    """600 connections that say nothing, half of them before the greeting."""
    b = Beside(bench, "idle")
    crowd = []
    for n in range(600):
        s = wire.connect(b.c.endpoint)
        if n % 2:
            try_send(s, wire.GREETING + wire.READY)
        crowd.append(s)
    b.end()
    for s in crowd:
        s.close()


def bad_workers(bench):
    """Workers that lie: results for leases of others, beats that name all jobs there are, hand-backs of what they do
    not hold, 200 more HELLOs under names of their own. None of it reaches another's lease."""
    b = Beside(bench, "liar")
    jobs = list(range(1, 401))
    d, w = wire.a_worker(b.c.endpoint, "liar")
    body = wire.pack({"status_code": 200, "choices": [{"text": "LIE", "finish_reason": "stop"}]})
    for n in range(40):
        epoch = random.Random(n).randrange(1, 1 << 40)
        d.send("BEAT", session=w["session"], running=[{"job": j, "epoch": epoch} for j in jobs])
        d.send("NACK", session=w["session"], jobs=[{"job": j, "epoch": epoch, "counts": True} for j in jobs])
        d.send("RESULTS", session=w["session"],
               results=[{"job": j, "epoch": epoch, "failed": False, "body": body} for j in jobs])
        drain(d)
    names = []
    for n in range(200):
        names.append(wire.a_worker(b.c.endpoint, f"crowd-{n}")[0])
    for x in [*names, d]:
        x.close()
    b.end()


cluster.main([no_zeromq, no_messages, giants, floods, cut_off, deaf, much_to_ask, idle_crowd, bad_workers])
