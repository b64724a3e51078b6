#!/usr/bin/env python3
"""Peers that flood the real broker, one kind after the other: each is cut off, and a good client beside them goes on
with short answers while the broker's memory stays bounded. Bad peers are processes of their own (--flood KIND)."""
import fcntl
import os
import random
import select
import socket
import struct
import subprocess
import sys
import termios
import threading
import time

import common

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "faults"))

import wire  # noqa: E402

MEMORY_MB = 300
PATIENCE_S = 15  # until a slow machine has cut off the first
SLOWEST_S = 2  # of the good client's answers, on two busy cores


# ---- bad peers ----

def gone(s):
    """Whether the other side has closed; what it said is read over, if it is to be read."""
    try:
        while select.select([s], [], [], 0)[0]:
            if not s.recv(1 << 20):
                return True
    except OSError:
        return True
    return False


class Due:
    """Whether the broker must cut off who sends good messages, by docs/limits.md and what it has taken from the wire,
    at least. A slow machine takes less than the limits, however much is sent: nobody is cut off for that there."""
    PER_S, BURST_S = 50000, 2  # MAX_PER_S of broker/server_internal.h, BURST_S of proto/guard.c
    UNREAD = (33 << 20) // 200  # MAX_PEER_QUEUE_BYTES and the wire's, by the least that an answer takes in memory
    ON_THE_WAY = 32 << 10  # bytes in libzmq's buffer and queue, more than there are

    def __init__(self, s, message_bytes, reads):
        self.socket, self.message_bytes, self.reads = s, message_bytes, reads
        self.too_many = self.too_much = False
        self.level, self.taken, self.at = 0.0, 0, time.monotonic()

    def look(self, sent):
        waits = struct.unpack("i", fcntl.ioctl(self.socket, termios.TIOCOUTQ, bytes(4)))[0]
        taken = max(self.taken, (sent - waits - self.ON_THE_WAY) // self.message_bytes)
        now = time.monotonic()
        self.level = max(0, self.level + taken - self.taken - (now - self.at) * self.PER_S)
        self.taken, self.at = taken, now
        self.too_many = self.too_many or self.level > self.PER_S * self.BURST_S
        self.too_much = not self.reads and taken > self.UNREAD


def flood_raw(endpoint, end, messages, reads, per_s=None):
    """Sends the messages again and again, until it is cut off; per_s: so many in a second at most. Returns (whether it
    was, bytes that went out, why it must be cut off: "flood", "reads" or "")."""
    load = b"".join(messages)
    try:
        d = wire.Dealer(endpoint)
    except wire.Lost:
        time.sleep(0.02)
        return False, 0, ""
    d.socket.setblocking(False)
    size = max(len(m) for m in messages)
    due = Due(d.socket, size, reads)
    sent = at = 0
    cut, began, now = False, time.monotonic(), time.monotonic()
    try:
        while not cut and now < end + PATIENCE_S * (due.too_many or due.too_much):
            cut = reads and gone(d.socket)
            if per_s and sent > (now - began) * per_s * size:
                time.sleep(0.002)
            elif select.select([], [d.socket], [], 0.1)[1]:
                n = d.socket.send(load[at:at + (1 << 18)])
                sent, at = sent + n, (at + n) % len(load)
                due.look(sent)
            now = time.monotonic()
    except OSError:
        cut = True
    d.close()
    return cut, sent, "flood" if due.too_many else "reads" if due.too_much else ""


def garbage(endpoint, end, rng):
    return flood_raw(endpoint, end, [wire.frame(rng.randbytes(rng.randrange(1, 60))) for _ in range(2000)], True)


def nonsense(endpoint, end, rng):
    """Messages that decode and that no peer of the broker's may send."""
    del rng
    return flood_raw(endpoint, end, [wire.frame(wire.message("OK", seq=1))] * 2000, True)


def giant(endpoint, end, rng):
    del rng
    return flood_raw(endpoint, end, [wire.frame(b"\xc1" * (31 << 20))], True)


def polite(endpoint, end, rng):
    """Good small messages, as fast as it goes, and every answer is read."""
    del rng
    return flood_raw(endpoint, end, [wire.frame(wire.message("STATUS", seq=1, batch="b"))] * 2000, True)


def deaf(endpoint, end, rng):
    """The same, and no answer is read."""
    del rng
    return flood_raw(endpoint, end, [wire.frame(wire.message("STATUS", seq=1))] * 2000, False)


def unread(endpoint, end, rng):
    """Small answers that are not read, and not too many a second: they wait until they are too many bytes."""
    del rng
    return flood_raw(endpoint, end, [wire.frame(wire.message("STATUS", seq=1, batch="b"))] * 100, False, 40000)


def stale(endpoint, end, rng):
    """A worker's messages for sessions that are not there."""
    sessions = [wire.message("BEAT", session=rng.getrandbits(60)) for _ in range(500)]
    return flood_raw(endpoint, end, [wire.frame(m) for m in sessions], True)


def hellos(endpoint, end, rng):
    names = [wire.message("HELLO", **wire.hello(f"w{rng.getrandbits(40)}")) for _ in range(500)]
    return flood_raw(endpoint, end, [wire.frame(m) for m in names], True)


def mutes(endpoint, end, rng):
    """Connections that stop in the middle of the handshake, as many as there is room for, again and again."""
    del end
    kept = []
    for _ in range(300):
        try:
            s = wire.connect(endpoint)
            s.sendall(wire.GREETING[:rng.randrange(64)])
            kept.append(s)
        except (OSError, wire.Lost):
            break
    time.sleep(0.2)
    cut = any(gone(s) for s in kept)
    for s in kept:
        s.close()
    return cut, len(kept), ""


PING = wire.frame(b"\x04PING\x00\x64x", wire.COMMAND)


def pings(endpoint, end, rng):
    """More messages than there is room for, PINGs of ZeroMQ's own among them, and gone: libzmq 4.3 by itself aborts."""
    del end, rng
    status = wire.frame(wire.message("STATUS", seq=1))
    try:
        d = wire.Dealer(endpoint)
        d.send_raw((status * 30 + PING) * 8)
        d.close()
    except wire.Lost:
        pass
    return True, 240, ""


def frames(endpoint, end, rng):
    """Whatever can be said below our protocol: greetings, commands, flags and lengths at random; all ways to end."""
    del end
    commands = (b"\x04PING\x00\x01", b"\x04PING\x00\x00" + b"y" * 40, b"\x04PONGxx", b"\x09SUBSCRIBEabc",
                b"\x06CANCELabc", b"\x05ERROR\x03bad", b"\x05READY", b"\x05HELLO" + bytes(190), b"\x07MESSAGEabc",
                b"", b"\xff", b"\x08INITIATEx")
    status = wire.frame(wire.message("STATUS", seq=1))
    try:
        if rng.random() < 0.25:
            s = wire.connect(endpoint)
            greeting = bytearray(wire.GREETING)
            for _ in range(rng.randrange(4)):
                greeting[rng.randrange(64)] = rng.randrange(256)
            s.sendall(bytes(greeting[:rng.randrange(1, 65)]) + rng.randbytes(rng.choice((0, 50))))
        else:
            s = wire.Dealer(endpoint, timeout=2).socket
            s.sendall(b"".join(rng.choice((
                status, status, status, PING, wire.frame(rng.choice(commands), wire.COMMAND),
                wire.frame(rng.randbytes(rng.randrange(300)), rng.choice((0, 1, 2, 3, 4, 5, 6, 7, 8, 255))),
                rng.randbytes(rng.randrange(8)))) for _ in range(rng.randrange(1, 300))))
        if rng.random() < 0.3:
            s.shutdown(rng.choice((socket.SHUT_RD, socket.SHUT_WR, socket.SHUT_RDWR)))
        if rng.random() < 0.2:
            time.sleep(0.005)
        s.close()
    except (OSError, wire.Lost):
        pass
    return True, 1, ""


GOOD = ("polite", "deaf", "unread", "stale")  # cut off for the number of their messages or of the answers alone
FLOODS = {f.__name__: f for f in (garbage, nonsense, giant, polite, deaf, unread, stale, hellos, mutes, pings,
                                  frames)}


def flood(kind, endpoint, seconds, seed):
    rng, cuts, sent, due = random.Random(seed), 0, 0, ""
    end = time.monotonic() + seconds
    while time.monotonic() < end or (cuts == 0 and time.monotonic() < end + PATIENCE_S):
        cut, n, reason = FLOODS[kind](endpoint, end + PATIENCE_S, rng)
        cuts, sent, due = cuts + cut, sent + n, due or reason
    print(cuts, sent, due)


# ---- the good one ----

def patient(endpoint, call, **fields):
    """A connection and the answer to its first call; as ZeroMQ does, it tries again while a crowd before it is not gone
    yet."""
    end = time.monotonic() + 20
    while True:
        try:
            caller = wire.Caller(endpoint)
            return caller, caller.call(call, **fields)
        except wire.Lost:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)


class Good(threading.Thread):
    """Submits a line and asks for the state, over one connection that it must never lose."""

    def __init__(self, endpoint, batch):
        super().__init__(daemon=True)
        self.batch, self.stopping, self.waits = batch, False, []
        self.caller, reply = patient(endpoint, "BATCH_NEW", batch=batch)
        self.trouble = "" if reply["t"] == "BATCH_OK" else str(reply)

    def run(self):
        line = 0
        try:
            while not self.stopping:
                line += 1
                for name, fields in (("SUBMIT", {"lines": [{"line": line, "hash": line, "body": b"x" * 100}]}),
                                     ("STATUS", {})):
                    began = time.monotonic()
                    reply = self.caller.call(name, timeout=30, batch=self.batch, **fields)
                    self.waits.append(time.monotonic() - began)
                    if reply["t"] != name + "_OK":
                        self.trouble = str(reply)
                        return
                time.sleep(0.005)
        except (wire.Lost, ValueError) as e:
            self.trouble = repr(e)

    def end(self):
        self.stopping = True
        self.join()
        waits = sorted(self.waits) or [0]
        return waits[len(waits) // 2], waits[len(waits) * 99 // 100], waits[-1]


def memory_mb(process):
    with open(f"/proc/{process.pid}/status", encoding="ascii") as f:
        return next(int(line.split()[1]) for line in f if line.startswith("VmRSS")) / 1024


def under(bench, broker, endpoint, kind, options, seed):
    """The good client's answers for some seconds, beside two flooding processes (kind None: beside nothing)."""
    good = Good(endpoint, f"beside-{kind}")
    argv = [sys.executable, "-S", __file__, "--flood", str(kind), "--endpoint", endpoint, "--seconds",
            str(options.seconds), "--build", options.build, "--source", options.source]
    bad = [subprocess.Popen([*argv, "--seed", str(seed + n)], stdout=subprocess.PIPE, env=bench.env)
           for n in range(2 if kind else 0)]
    good.start()
    most, end = 0.0, time.monotonic() + options.seconds
    while time.monotonic() < end or any(b.poll() is None for b in bad):
        most = max(most, memory_mb(broker))
        time.sleep(0.02)
        if time.monotonic() > end + 60:
            bench.check(False, f"{kind}: a flooding process did not end")
            for b in bad:
                b.kill()
    median, p99, longest = good.end()
    bench.same(good.trouble, "", f"{kind}: the good client's trouble")
    bench.check(broker.poll() is None, f"{kind}: the broker is gone")
    bench.check(len(good.waits) > 20, f"{kind}: the good client was answered {len(good.waits)} times")
    bench.check(longest < SLOWEST_S, f"{kind}: the good client waited {longest:.2f} s")
    if not options.sanitized:
        bench.check(most < MEMORY_MB, f"{kind}: the broker took {most:.0f} MB")
    cuts = sent = 0
    for b in bad:
        out = b.communicate()[0].decode().split()
        if bench.check(b.returncode == 0 and len(out) in (2, 3), f"{kind}: the flood failed: {out}"):
            cuts, sent = cuts + int(out[0]), sent + int(out[1])
            bench.check(int(out[0]) > 0 or (kind in GOOD and not out[2:]), f"{kind}: a peer was not cut off: {out}")
            options.reasons.update(out[2:])
    print(f"{kind or 'nothing':9} cut off {cuts:5} times, {sent / 1e6:9.1f} MB sent; good client: median "
          f"{median * 1e3:6.1f} ms, p99 {p99 * 1e3:6.1f} ms, longest {longest * 1e3:6.1f} ms of {len(good.waits)}; "
          f"broker at most {most:.0f} MB", flush=True)


def few_files(bench):
    """A broker that may open only 200 files keeps room for its own, and for who has something to say."""
    endpoint = "ipc://" + bench.path("few")
    argv = [bench.broker, "--ledger", bench.path("few.db"), "--listen", endpoint]
    broker = bench.start(["/bin/sh", "-c", 'ulimit -n 200; exec "$@"', "sh", *argv], "few-files")
    bench.wait_for("the broker", lambda: os.path.exists(bench.path("few")))
    good = Good(endpoint, "b")
    good.start()
    crowd = []
    for _ in range(400):
        try:
            crowd.append(wire.connect(endpoint))
        except wire.Lost:
            pass  # the kernel's own queue is full
    newcomer = bench.wait_for("an answer for somebody new", lambda: asks(endpoint), 30)
    longest = good.end()[2]
    bench.same(good.trouble, "", "few files: the good client's trouble")
    bench.check(newcomer and longest < SLOWEST_S, f"few files: the good client waited {longest:.2f} s")
    for s in crowd:
        s.close()
    broker.terminate()
    bench.same(bench.finish(broker, 60)[0], 0, "few files: exit code")
    bench.has(bench.output("few-files.err"), "no more than 136 connections", "few files: the log")


def asks(endpoint):
    try:
        caller = wire.Caller(endpoint)
        reply = caller.call("STATUS", timeout=1)
        caller.close()
        return reply["t"] == "STATUS_OK"
    except (wire.Lost, OSError):
        return False


def silent(bench, broker, endpoint):
    """Who says nothing any more is cut off after --idle-s; who speaks now and then is not."""
    speaker, quiet = patient(endpoint, "STATUS")[0], patient(endpoint, "STATUS")[0].dealer
    began, closed = time.monotonic(), None
    while closed is None and time.monotonic() - began < 30:
        speaker.call("STATUS")
        try:
            quiet.receive(0.1)
        except wire.Lost:
            closed = time.monotonic() - began
    bench.check(closed is not None and closed > 1.5, f"a silent peer was cut off after {closed} s; expected about 2")
    speaker.call("STATUS")
    bench.check(broker.poll() is None, "the broker is gone")


def test(bench, options):
    seed = options.seed if options.seed is not None else int.from_bytes(os.urandom(3), "little")
    print(f"seed {seed}")
    with open(bench.broker, "rb") as f:
        program = f.read()
    options.sanitized, options.reasons = b"__asan_init" in program or b"__tsan_init" in program, {"silent"}
    endpoint = "ipc://" + bench.path("s")
    broker = bench.start([bench.broker, "--ledger", bench.path("l.db"), "--listen", endpoint, "--heartbeat-ms", "100",
                          "--max-connections", "100", "--idle-s", "2"], "broker")
    bench.wait_for("the broker", lambda: os.path.exists(bench.path("s")))
    for kind in [None, *(options.only.split(",") if options.only else FLOODS)]:
        under(bench, broker, endpoint, kind, options, seed)
    silent(bench, broker, endpoint)
    few_files(bench)
    if not options.sanitized:
        bench.wait_for("the broker to give back memory", lambda: memory_mb(broker) < MEMORY_MB / 2, 15)
        left = memory_mb(broker)
        print(f"afterwards {left:.0f} MB")
    broker.terminate()
    bench.same(bench.finish(broker, 60)[0], 0, "exit code")
    log = bench.output("broker.err")
    if not options.only:
        options.reasons.update(("cannot be read", "make no sense", "too many connections"))
    for reason in options.reasons:
        bench.has(log, reason, "the broker's log")
    bench.check(len(log) < 1 << 20, f"the broker's log has {len(log)} bytes")


if "--flood" in sys.argv:
    value = {name: sys.argv[sys.argv.index("--" + name) + 1] for name in ("flood", "endpoint", "seconds", "seed")}
    flood(value["flood"], value["endpoint"], float(value["seconds"]), int(value["seed"]))
else:
    common.main(test, seconds=(float, 2.0, "how long each flood runs"), only=(str, "", "kinds, with commas"),
                seed=(int, None, "replays a run"))
