#!/usr/bin/env python3
"""The wall clock jumps by a day, forth and back, in broker, client and a real worker while they run: no lease ends, no
session, no wait, and no byte of an answer is another one. Argument --shim: what makes it jump (clock_shim.c)."""
import os
import random
import time

import cluster
import common

DAY = 86400


class Clock:
    def __init__(self, bench, shim, name):
        self.path = bench.path(name)
        self.env = {"LD_PRELOAD": os.path.abspath(shim), "OCTO_CLOCK_FILE": self.path,
                    "ASAN_OPTIONS": bench.env["ASAN_OPTIONS"] + ":verify_asan_link_order=0"}
        self.jumps = 0
        self.set(0)

    def set(self, seconds):
        with open(self.path + ".new", "w", encoding="ascii") as f:
            f.write(str(seconds))
        os.rename(self.path + ".new", self.path)
        self.jumps += 1


def started(bench, shim, name, **more):
    clock = Clock(bench, shim, name + ".clock")
    return cluster.Cluster(bench, name=name, env=clock.env, **more), clock


def shim_works(bench, shim):
    """The jump is seen where it may be seen: in the times that results carry."""
    c, clock = started(bench, shim, "seen")
    clock.set(40 * DAY)
    c.client("submit", bench.write("seen.jsonl", cluster.fake_lines(3)), "--batch", "b")
    days = (c.batch("b")["created_ms"] / 1000 - time.time()) / DAY
    bench.check(39.9 < days < 40.1, f"the batch was made {days:.2f} days ahead; expected 40")
    c.stop()


def jumps_with_fakes(bench, shim):
    """Leases of two seconds and heartbeats of 400 ms, jumps all the time: every job takes one attempt."""
    c, clock = started(bench, shim, "fakes", heartbeat_ms=400, lease_ms=2000)
    lines = cluster.fake_lines(1000)
    c.client("submit", bench.write("fakes.jsonl", lines), "--batch", "b", "--max-attempts", 1)
    for n in range(2):
        c.fake(f"w{n}", think_ms=3, credit=24)
    rng = random.Random(3)
    out = bench.path("fakes-out.jsonl")
    p = c.start_client("results", "b", "-o", out, "--wait")
    while p.poll() is None and clock.jumps < 400:
        clock.set(rng.choice((DAY, -DAY, 0, 3600, -3600, 10, -10)))
        time.sleep(0.05)
    c.finish(p)
    bench.check(clock.jumps >= 10, f"{clock.jumps} jumps")
    results = c.check_output(out, lines)
    bench.same({r["octoflow"]["attempts"] for r in results}, {1}, "attempts")
    c.stop()


def restart_in_another_year(bench, shim):
    """A ledger from the future or the past: the broker goes on with it, leases that are held are claimed, and no batch
    is taken for an old one (--keep)."""
    c, clock = started(bench, shim, "year", heartbeat_ms=100, more=("--keep", "30d"))
    lines, few = cluster.fake_lines(400), cluster.fake_lines(3)
    c.fake("w", think_ms=3)
    c.client("submit", bench.write("few.jsonl", few), "--batch", "finished")
    c.client("results", "finished", "-o", bench.path("few-out.jsonl"), "--wait")
    c.client("submit", bench.write("year.jsonl", lines), "--batch", "b", "--max-attempts", 1)
    for days in (400, -400, 0):
        time.sleep(0.2)
        c.kill_broker()
        clock.set(days * DAY)
        c.start_broker()
        if days == 400:  # one that removes it looks for old batches in its first ticks
            bench.wait_for("the warning", lambda: "the clock is far ahead" in bench.output(c.broker.name + ".err"))
            time.sleep(0.5)
    out = bench.path("year-out.jsonl")
    c.client("results", "b", "-o", out, "--wait")
    c.check_output(out, lines)
    out = bench.path("year-finished.jsonl")
    c.client("results", "finished", "-o", out)
    c.check_output(out, few)
    c.stop()


def jumps_with_a_model(bench, shim):
    """A real worker and the shipped model: the answers are those of an undisturbed clock, byte for byte."""
    lines = common.mixed_lines(bench, 30, 24)
    inputs = bench.write("b.jsonl", lines)
    bench.run_batch(inputs, bench.path("calm.jsonl"), code=0)
    c, clock = started(bench, shim, "model", heartbeat_ms=500, lease_ms=10000)
    c.client("submit", inputs, "--batch", "b.jsonl", "--max-attempts", 1)
    c.real("w")
    out = bench.path("model-out.jsonl")
    p = c.start_client("results", "b.jsonl", "-o", out, "--wait")
    while p.poll() is None and clock.jumps < 2000:
        clock.set((DAY, -DAY)[clock.jumps % 2])
        time.sleep(0.1)
    c.finish(p)
    got, want = common.stripped(out), common.stripped(bench.path("calm.jsonl"))
    bench.check(got == want, f"other bytes under a jumping clock; {common.difference(got, want)}")
    c.stop()


def test(bench, options):
    def row(function):
        def run(b):
            function(b, options.shim)
        run.__name__, run.__doc__ = function.__name__, function.__doc__
        return run
    table = [shim_works, jumps_with_fakes, restart_in_another_year, jumps_with_a_model]
    cluster.rows([row(f) for f in table])(bench, options)


common.main(test, only=(str, "", "run only rows with this in their name"), long=(bool, False, "the same here"),
            shim=(str, "", "the preloaded library of clock_shim.c"))
