#!/usr/bin/env python3
"""A broker whose memory runs out: its Nth allocation fails, and as many behind it, while a client submits and a worker
brings results. It refuses what it cannot do, is never killed by it, and loses nothing; asked again, it does it. Which
allocations fail is drawn from a seed."""
import os
import random

import cluster
import wire


def run(bench, n, first, count):
    """One life of a short broker. Returns how many allocations it made, or None when it did not start."""
    bench_broker, bench.broker = bench.broker, os.path.abspath(bench.options.short_broker)
    c = cluster.Cluster(bench, name=f"m{n}", env={"OCTO_FAIL_ALLOCATIONS": f"{first} {count}"})
    bench.broker = bench_broker
    lines = cluster.fake_lines(120, words=5)
    path, out = bench.write(f"m{n}.jsonl", lines), bench.path(f"m{n}-out.jsonl")
    what = f"allocations {first} to {first + count - 1}"

    def alive():
        if c.broker.poll() is None:
            return True
        bench.same(c.broker.returncode, 3, f"{what}: the exit code of a broker that could not start")
        bench.check("memory" in bench.output(c.broker.name + ".err"), f"{what}: no reason was given")
        c.env = None
        c.start_broker()
        return False

    def started():
        alive()
        try:
            return wire.Caller(c.endpoint).call("STATUS", timeout=2)
        except (wire.Lost, OSError):
            return None

    bench.wait_for(f"{what}: the broker", started, 20)
    c.fake("w0", credit=16)

    def submitted():
        alive()
        return c.client("submit", path, "--batch", "b", code=None, timeout=20)[0] == 0

    bench.wait_for(f"{what}: the submit", submitted, 30)
    bench.wait_for(f"{what}: the results",
                   lambda: c.client("results", "b", "-o", out, "--wait", code=None, timeout=20)[0] == 0, 40)
    c.check_output(out, lines, what=what)
    broker = c.broker
    bench.same(broker.poll(), None, f"{what}: the exit code of a broker that nobody has stopped")
    c.stop()
    bench.same(broker.returncode, 0, f"{what}: the broker's exit code")
    log = bench.output(broker.name + ".err")
    made = [int(line.split()[1]) for line in log.splitlines() if line.startswith("allocations ")]
    return made[0] if made else None


def short_of_memory(bench):
    """Allocations of a broker fail, anywhere from its start to its end: nothing is lost, nothing crashes."""
    seed = bench.options.seed if bench.options.seed is not None else random.randrange(1 << 32)
    rng = random.Random(seed)
    print(f"seed {seed}")
    total = run(bench, 0, 1 << 60, 1)
    print(f"{total} allocations when none fails")
    bench.check(total is not None and total > 500, f"allocations of an undisturbed life: {total}")
    for n in range(1, bench.options.runs + 1):
        run(bench, n, rng.randrange(total or 1000), rng.choice((1, 1, 3, 30)))


cluster.common.main(cluster.rows([short_of_memory]), only=(str, "", "run only rows with this in their name"),
                    long=(bool, False, "also the rows that take long"), seed=(int, None, "which allocations fail"),
                    runs=(int, 12, "lives of a broker"), short_broker=(str, None, "octoflow-broker made short"))
