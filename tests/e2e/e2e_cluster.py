#!/usr/bin/env python3
"""A small cluster by hand: a broker and two workers on ipc, a client that submits, asks, fetches and cancels. The
result file is the one of `octoflow run`; a worker drained by SIGTERM in the middle loses nothing."""
import json
import os
import signal
import time

import common
from cluster import Cluster


BATCH = "in.jsonl"  # as `octoflow run` calls it: ids are made from the batch's name and the line


def test(bench, options):
    lines = common.mixed_lines(bench, 120)
    inputs = bench.write("in.jsonl", lines)
    alone, fetched = bench.path("alone.jsonl"), bench.path("cluster.jsonl")
    bench.run_batch(inputs, alone, code=0)

    cluster = Cluster(bench)
    first = cluster.add_worker("worker-1")
    cluster.add_worker("worker-2")
    cluster.client("submit", inputs, "--batch", BATCH)
    cluster.client("submit", inputs, "--batch", BATCH)  # again: a no-op

    # Drain one worker as soon as something is done: it finishes or hands back what it holds and leaves.
    part = bench.path("part.jsonl")

    def some():
        cluster.client("results", BATCH, "-o", part, code=None)
        return os.path.exists(part) and os.path.getsize(part) > 0

    bench.wait_for("a first result", some, 120)
    first.send_signal(signal.SIGTERM)
    bench.same(bench.finish(first, 60)[0], 0, "the drained worker's exit code")
    cluster.client("results", BATCH, "-o", fetched, "--wait")
    got, want = common.stripped(fetched), common.stripped(alone)
    bench.check(got == want, f"the cluster's file is another one; {common.difference(got, want)}")
    _, stdout, _ = cluster.client("status")
    bench.has(stdout, BATCH, "status")
    bench.has(stdout, "worker-2", "status")

    # A prefix stays on the worker from one batch to the next.
    prefix = "Once upon a time there was a fox who lived near a river. " * 8
    cached = []
    for name in ("before", "after"):
        tell = [common.chat_line(name, [{"role": "user", "content": prefix + name}], max_tokens=2)]
        cluster.client("submit", bench.write(name + ".jsonl", tell), "--batch", name)
        cluster.client("results", name, "-o", bench.path(name + ".out.jsonl"), "--wait")
        cached.append(common.read_results(bench.path(name + ".out.jsonl"))[0]["octoflow"]["cached_tokens"])
    bench.check(cached[0] == 0 and cached[1] >= 32, f"cached tokens of two batches, one prefix: {cached}")

    def reported():
        workers = json.loads(cluster.client("status", "--json")[1])["workers"]
        return any(w["worker"] == "worker-2" and w["cached_tokens"] >= cached[1] and w["prefill_tokens"] > 0
                   for w in workers)

    bench.wait_for("a heartbeat that tells the tokens found in the cache", reported, 30)

    # Cancel: what is not finished becomes a cancelled line.
    story = [{"role": "user", "content": "Tell me a story about a fox."}]
    long = [common.chat_line(f"long-{n}", story, ignore_eos=True, max_tokens=1500) for n in range(40)]
    cluster.client("submit", bench.write("long.jsonl", long), "--batch", "long")
    time.sleep(1)
    cluster.client("cancel", "long")
    cancelled = bench.path("cancelled.jsonl")
    cluster.client("results", "long", "-o", cancelled, "--wait", code=1, timeout=60)
    results = common.read_results(cancelled)
    bench.same([r["custom_id"] for r in results], [line["custom_id"] for line in long], "cancelled: lines in order")
    bench.check(any("cancel" in str(r).lower() for r in results), "no line says that it was cancelled")

    # A broker that is stopped and started again has everything.
    cluster.broker.send_signal(signal.SIGTERM)
    bench.same(bench.finish(cluster.broker, 60)[0], 0, "broker: exit code after SIGTERM")
    cluster.start_broker()
    again = bench.path("again.jsonl")
    cluster.client("results", BATCH, "-o", again, "--wait")
    with open(again, "rb") as a, open(fetched, "rb") as b:
        bench.check(a.read() == b.read(), "after a restart of the broker the same results have other bytes")
    cluster.stop()
    bench.no_processes("after the cluster was stopped")


common.main(test)
