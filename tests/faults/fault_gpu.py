#!/usr/bin/env python3
"""GPU trouble with the real programs: the device is lost, hangs or is out of memory while a batch runs
(OCTOFLOW_INJECT, worker/inject.h). The answers are those of an undisturbed run, byte for byte; a job that takes its
GPU or its worker down with it is found out, and only that one fails."""
import os

import cluster
import common

BATCH = "in.jsonl"
KILLER_SEED = 4242


def story_lines(count, tokens, killers=()):
    """Stories, each with a seed of its own; `killers`: line numbers from 1."""
    lines = []
    for n in range(1, count + 1):
        story = [{"role": "user", "content": f"Tell me a story about fox number {n}."}]
        seed = KILLER_SEED if n in killers else 1000 + n
        lines.append(common.chat_line(f"story-{n}", story, temperature=1, seed=seed, max_tokens=tokens))
    return lines


def injected(bench, what):
    return dict(bench.env, OCTOFLOW_INJECT=what)


def disturbed_run(bench, kind, every=15, count=12, tokens=24):
    """`octoflow run` whose worker has this trouble at every so manyth submission of its life."""
    inputs = bench.write(BATCH, story_lines(count, tokens))
    calm, out = bench.path(f"{kind}-calm.jsonl"), bench.path(f"{kind}-out.jsonl")
    bench.run_batch(inputs, calm, "--batch", "b")
    saved, bench.env = bench.env, injected(bench, f"{kind}@{every}")
    try:
        bench.run_batch(inputs, out, "--batch", "b")
    finally:
        bench.env = saved
    want, got = common.stripped(calm), common.stripped(out)
    bench.check(got == want, f"{kind}: not the undisturbed run's bytes; {common.difference(got, want)}")
    with open(os.path.join(out + ".octoflow", "worker.log"), encoding="utf-8") as f:
        log = f.read()
    hits = log.count("injected: ")
    bench.check(hits >= 2, f"{kind}: the trouble came {hits} times")
    bench.has(log, "the GPU failed, handing everything back", f"{kind}: the worker's log")
    return log


def device_lost(bench):
    """The device is lost at every 15th submission of a worker's life: handed back with the tokens so far, run again."""
    disturbed_run(bench, "lost")


def device_hangs(bench):
    """The device hangs: given up, left to the end of the process."""
    log = disturbed_run(bench, "hang")
    bench.has(log, "what is on it is left to the end of the process", "hang: the worker's log")


def out_of_memory(bench):
    """A submission finds no memory."""
    disturbed_run(bench, "oom")


def culprit(bench, kind, killers, workers):
    count = 24
    lines = story_lines(count, 8, killers)
    inputs = bench.write(BATCH, lines)
    calm, out = bench.path(f"{kind}-alone-calm.jsonl"), bench.path(f"{kind}-alone-out.jsonl")
    bench.run_batch(inputs, calm, "--batch", "b")
    c = cluster.Cluster(bench, heartbeat_ms=300, name=kind, env={"OCTOFLOW_INJECT": f"{kind}@seed:{KILLER_SEED}"})
    c.client("submit", inputs, "--batch", "b", "--max-attempts", 2)
    for n in range(workers):
        c.real(f"w{n}")
    b = cluster.until_done(c, "b", timeout=240)
    bench.same((b["done"], b["failed"]), (count - len(killers), len(killers)), f"{kind}: done, failed")
    c.client("results", "b", "-o", out, "--wait", code=1)
    want, got = common.read_results(calm), common.read_results(out)
    for n, (expected, result) in enumerate(zip(want, got), 1):
        if n in killers:
            text = common.error_text(result) or ""
            bench.has(text, "poison", f"{kind}: line {n}")
            bench.same(text.count(": alone: "), 2, f"{kind}: losses alone in the history of line {n}, {text}")
        else:
            bench.same(common.answer(result), common.answer(expected), f"{kind}: line {n}")

    def all_ready():
        c.respawn_dead()  # the last one that lost its GPU may still be leaving
        return sum(w["state"] == "ready" for w in c.call("STATUS")["workers"]) == workers

    bench.wait_for("all workers", all_ready)
    c.stop()


def job_loses_the_gpu(bench):
    """Two jobs lose their GPU whenever they run: they fail as poison, and nothing else does."""
    culprit(bench, "lost", {1, 12}, 2)


def job_kills_the_worker(bench):
    """A job kills its worker's process: it fails as poison, and nothing else does."""
    culprit(bench, "kill", {24}, 1)


def no_room_at_first(bench):
    """Another program has the GPU's memory while a worker starts: it waits, and starts then."""
    c = cluster.Cluster(bench, name="room", env={"OCTOFLOW_INJECT": "oom@vkAllocateMemory:3"})
    inputs = bench.write("room.jsonl", story_lines(2, 4))
    c.client("submit", inputs, "--batch", "b")
    c.real("w0")
    bench.same(cluster.until_done(c, "b", respawn=False)["done"], 2, "lines done after the memory was there")
    bench.has(bench.output("room-w0-1.err"), "no room on the GPU now", "the worker's log")
    c.stop()


out_of_memory.long = job_kills_the_worker.long = True

cluster.main([device_lost, device_hangs, out_of_memory, job_loses_the_gpu, job_kills_the_worker, no_room_at_first])
