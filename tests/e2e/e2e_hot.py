#!/usr/bin/env python3
"""Two real workers on one software device, one of which believes its GPU to be far too hot (a sensor file): it rests
nine tenths of the time. The broker gives it less, and the night ends earlier than when heat is ignored
(--first-come)."""
import os
import sys
import time

import common

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "faults"))

import cluster  # noqa: E402

LINES, TOKENS, ROOM = 48, 18, 12


def night(bench, name, lines, *broker):
    """Returns (seconds from the first grant to the last result, the hot worker's part of the lines)."""
    c = cluster.Cluster(bench, heartbeat_ms=500, name=name, more=broker)
    common_options = ["--governor", "ramp", "--target-c", 75, "--max-jobs", ROOM]
    for worker, degrees in (("hot", 95), ("cool", 50)):
        sensor = bench.write(f"{name}-{worker}.txt", f"{degrees} 100 300\n")
        c.add([bench.worker, "--broker", c.endpoint, "-m", bench.model(), "--name", worker, "--sensor",
               f"fake:{sensor}", *common_options], worker)
    c.wait_broker()
    bench.wait_for("two workers", lambda: sum(w["state"] == "ready" for w in c.call("STATUS")["workers"]) == 2)
    warm(bench, c, name)
    before = done(c)
    c.client("submit", bench.write(name + ".jsonl", lines), "--batch", "b", "--paused", "--max-tokens", TOKENS)
    c.client("resume", "b")
    began = time.monotonic()
    out = bench.path(name + "-out.jsonl")
    c.client("results", "b", "-o", out, "--wait")
    took = time.monotonic() - began
    bench.same(len(common.read_results(out)), LINES, f"{name}: lines of the output")
    hot = done(c)["hot"] - before["hot"]
    c.stop()
    return took, hot / LINES, common.stripped(out)


def done(c):
    return {w["worker"]: w.get("done", 0) for w in c.call("STATUS")["workers"]}


def warm(bench, c, name):
    """Until both have done something and the hot one has told how hot it is."""
    lines = [common.chat_line(f"w{n}", [{"role": "user", "content": f"Tell me a story about {n}."}]) for n in range(12)]
    c.client("submit", bench.write(name + "-warm.jsonl", lines), "--batch", "warm", "--max-tokens", 8)
    bench.wait_for("the warm-up", lambda: c.batch("warm")["done"] == 12)

    def told():
        heat = {w["worker"]: w.get("duty", 1) for w in c.call("STATUS")["workers"]}
        return heat["hot"] < 0.2 and heat["cool"] > 0.9
    bench.wait_for("the hot one to rest", told, 30)


def test(bench, options):
    del options
    lines = [common.chat_line(f"l{n}", [{"role": "user", "content": f"Tell me a long story about the number {n}."}],
                              ignore_eos=True) for n in range(LINES)]
    blind_s, blind_part, blind_bytes = night(bench, "blind", lines, "--first-come")
    ours_s, part, our_bytes = night(bench, "ours", lines)
    print(f"       heat ignored: {blind_s:.1f} s, {blind_part:.0%} of the lines by the hot worker; "
          f"with headroom: {ours_s:.1f} s, {part:.0%}")
    bench.check(part < blind_part, f"the hot worker's part: {part:.0%} with headroom, {blind_part:.0%} without")
    bench.check(ours_s < blind_s, f"the night's end: {ours_s:.1f} s with headroom, {blind_s:.1f} without")
    bench.check(our_bytes == blind_bytes, "the answers are not the same")


common.main(test)
