#!/usr/bin/env python3
"""Partitions between broker and workers, and broker and clients: the wire is cut, cut within a frame, plugged without
a word, slow. Nothing is lost, nothing comes twice, and everybody is back by himself."""
import random
import socket
import time

import cluster
import forwarder
import wire

COUNT = 600


def begin(bench, name, heartbeat_ms=100, lease_ms=60000, attempts=100, count=COUNT):
    c = cluster.Cluster(bench, heartbeat_ms=heartbeat_ms, lease_ms=lease_ms, name=name)
    lines = cluster.fake_lines(count, words=20)
    c.client("submit", bench.write(name + ".jsonl", lines), "--batch", "b", "--max-attempts", attempts)
    return c, lines


def end(bench, c, lines, name, endpoint=None):
    out = bench.path(name + "-out.jsonl")
    c.client("results", "b", "-o", out, "--wait", endpoint=endpoint)
    results = c.check_output(out, lines)
    c.stop()
    return results


def no_holes(bench):
    """The forwarder itself: what comes out of a slow wire that is cut within a frame, and healed before the last bytes
    are through, is the beginning of what went in."""
    sent = bytes(range(256)) * 8
    with socket.create_server(("127.0.0.1", 0)) as server:
        f = forwarder.Forwarder("tcp://127.0.0.1:%d" % server.getsockname()[1])
        with wire.connect(f.endpoint, 5) as client:
            peer, _ = server.accept()
            f.delay(0.3)
            f.cut_within(100)
            peer.sendall(sent[:1000])
            time.sleep(0.1)
            f.heal()
            peer.sendall(sent[1000:])
            client.settimeout(1)
            got = b""
            try:
                while piece := client.recv(4096):
                    got += piece
            except TimeoutError:
                bench.check(False, "the wire did not end")
            bench.check(got == sent[:100], f"{len(got)} bytes came, not the first 100")
            peer.close()
        f.close()


def workers_cut(bench):
    """Worker and broker are cut apart and joined, time after time; once for longer than three heartbeats."""
    c, lines = begin(bench, "wcut")
    near = [c.forward() for _ in range(2)]
    for n, f in enumerate(near):
        c.fake(f"w{n}", f.endpoint, think_ms=2)
    for n in range(8):
        f = near[n % 2]
        f.cut()
        time.sleep(0.6 if n == 3 else 0.05)
        f.heal()
        time.sleep(0.1)
    end(bench, c, lines, "wcut")


def workers_blink(bench):
    """A wire that breaks for a moment costs no attempt: the worker lives, its leases go on."""
    c, lines = begin(bench, "wblink", heartbeat_ms=500, attempts=1)
    f = c.forward()
    c.fake("w0", f.endpoint, think_ms=1)
    rng = random.Random(5)
    for n in range(12):
        bench.wait_for("the worker to be there", lambda n=n: f.accepted > n)  # its start takes a while
        time.sleep(rng.uniform(0.01, 0.1))
        f.blink()
    end(bench, c, lines, "wblink")


def workers_cut_within_frames(bench):
    """The wire breaks in the middle of frames, in either direction, at drawn places."""
    c, lines = begin(bench, "wmid")
    f = c.forward()
    c.fake("w0", f.endpoint, think_ms=1, twice=0.3)
    rng = random.Random(7)
    for _ in range(15):
        f.cut_within(rng.randrange(1, 20000))
        time.sleep(rng.uniform(0.02, 0.15))
    f.heal()
    end(bench, c, lines, "wmid")


def workers_plugged(bench):
    """Nothing passes and nobody is told (a pulled cable): the jobs go to the other worker; joined again, the late
    results are dropped, and the worker works on."""
    c, lines = begin(bench, "wplug")
    f = c.forward()
    c.fake("w0", f.endpoint, think_ms=5)
    bench.wait_for("a result", lambda: c.batch("b").get("done", 0) > 0)
    f.plug()
    bench.wait_for("the silent worker's jobs back", lambda: c.batch("b").get("leased", 0) == 0, 5)
    c.fake("w1", think_ms=2)
    time.sleep(0.3)
    f.heal()
    bench.wait_for("the worker behind the plug", lambda: any(
        w["worker"] == "w0" and w["state"] == "ready" for w in c.call("STATUS")["workers"]))
    end(bench, c, lines, "wplug")


def workers_slow(bench):
    """A wire of 150 ms each way, longer than a heartbeat: slower, and nothing else."""
    c, lines = begin(bench, "wslow", heartbeat_ms=200, attempts=1, count=200)
    f = c.forward()
    f.delay(0.15)
    c.fake("w0", f.endpoint)
    end(bench, c, lines, "wslow")


def clients_cut(bench):
    """Client and broker are cut apart within a submit and within a fetch: both go on by themselves."""
    c = cluster.Cluster(bench, name="ccut")
    f = c.forward()
    lines = cluster.fake_lines(3000, words=40)
    p = c.start_client("submit", bench.write("ccut.jsonl", lines), "--batch", "b", endpoint=f.endpoint)
    rng = random.Random(9)
    for _ in range(6):
        f.cut_within(rng.randrange(1, 300000))
        time.sleep(0.15)
    f.heal()
    c.finish(p)
    bench.same(c.batch("b")["total"], 3000, "lines")
    c.fake("w0")
    out = bench.path("ccut-out.jsonl")
    p = c.start_client("results", "b", "-o", out, "--wait", endpoint=f.endpoint)
    for _ in range(6):
        f.cut_within(rng.randrange(1, 30000))
        time.sleep(0.2)
    f.heal()
    c.finish(p)
    c.check_output(out, lines)
    c.stop()


def clients_plugged(bench):
    """The client's wire is plugged in the middle, for longer than it waits before it asks again."""
    c = cluster.Cluster(bench, name="cplug")
    f = c.forward()
    lines = cluster.fake_lines(2000, words=40)
    c.fake("w0")
    f.cut_within(200000)
    p = c.start_client("submit", bench.write("cplug.jsonl", lines), "--batch", "b", "--wait", endpoint=f.endpoint)
    time.sleep(0.3)
    f.plug()
    time.sleep(2.5)
    f.heal()
    c.finish(p)
    end(bench, c, lines, "cplug", f.endpoint)


def strangers(bench):
    """Something that is not a broker answers at its address for a while (its port was taken, a proxy, a scanner): when
    the broker is back, the client goes on by itself."""
    c, lines = begin(bench, "strange", count=100)
    c.fake("w0")
    waiting = []
    for n, (what, says) in enumerate(forwarder.STRANGERS.items()):
        stranger = forwarder.Stranger(bench.path(f"stranger-{n}.sock"), says)
        f = c.forward()
        f.target = stranger.endpoint
        out = bench.path(f"strange-{n}.out")
        waiting.append((what, stranger, f, out, c.start_client("results", "b", "-o", out, "--wait",
                                                               endpoint=f.endpoint)))
    for what, stranger, _, _, _ in waiting:
        bench.wait_for(f"the client to meet {what}", lambda s=stranger: s.met > 0)
    time.sleep(1)
    for _, stranger, f, _, _ in waiting:
        f.target = c.endpoint
        f.blink()
    for what, _, _, out, p in waiting:
        c.finish(p)
        c.check_output(out, lines, what=f"after {what}")
    c.stop()


def old_wire_speaks_last(bench):
    """A worker has connected anew, and what it had said on the wire before is read later than what it said on the new
    one: it is not taken for a second worker of its name. A true second one still is."""
    c = cluster.Cluster(bench, heartbeat_ms=5000, name="shadow")
    c.wait_broker()
    for second, answer in ((77, "RECONNECT"), (78, "ERROR")):
        new, w = wire.a_worker(c.endpoint, f"w-{second}", process=77)
        old, _ = wire.a_worker(c.endpoint, f"w-{second}", process=second)
        new.send("BEAT", session=w["session"], running=[])
        got = new.receive(10)
        bench.same(got and got["t"], answer, f"what a worker hears when process {second} joined under its name")
        old.close()
        new.close()
    c.stop()


def all_apart(bench):
    """Workers and client are cut off at once, the broker is killed meanwhile, and all meet again."""
    c, lines = begin(bench, "apart")
    wires = [c.forward() for _ in range(3)]
    for n in range(2):
        c.fake(f"w{n}", wires[n].endpoint, think_ms=3)
    out = bench.path("apart-out.jsonl")
    p = c.start_client("results", "b", "-o", out, "--wait", endpoint=wires[2].endpoint)
    for n in range(4):
        time.sleep(0.15)
        for f in wires:
            (f.cut if n % 2 else f.plug)()
        c.kill_broker()
        time.sleep(0.1)
        c.start_broker()
        for f in wires:
            f.heal()
            f.blink()
    c.finish(p)
    c.check_output(out, lines)
    c.stop()


def duplicates(bench):
    """The same lines, the same results and the same requests again and again: nothing is there twice."""
    c, lines = begin(bench, "dup")
    again = bench.path("dup.jsonl")
    for n in range(3):
        c.fake(f"w{n}", twice=1, late=1, think_ms=2)
    for _ in range(3):
        _, _, err = c.client("submit", again, "--batch", "b", "--max-attempts", 100)
        bench.has(err, f"{COUNT} were there", "the same submit again")
    cluster.until_done(c, "b")
    caller = wire.Caller(c.endpoint)
    bench.same(caller.fetch_all("b"), caller.fetch_all("b"), "fetched twice")
    caller.close()
    end(bench, c, lines, "dup")


cluster.main([no_holes, workers_cut, workers_blink, workers_cut_within_frames, workers_plugged, workers_slow,
              clients_cut, clients_plugged, strangers, old_wire_speaks_last, all_apart, duplicates])
