#!/usr/bin/env python3
"""Checkpoints with real workers and the shipped model: a job goes on elsewhere from its tokens so far, within its
numeric class only, and has the bytes of an undisturbed run in either case."""
import signal

import cluster
import common
import wire

STORY = {"temperature": 1, "seed": 77, "ignore_eos": True}


def hand_over(bench, c, batch, change, numeric_class=None):
    """A stand-in takes the job that a real worker handed back, and hands it on, with the checkpoint changed by
    `change`. Returns the real checkpoint."""
    d, w = wire.a_worker(c.endpoint, "stand-in", numeric_class="stand-in")
    d.send("PULL", session=w["session"], credit_total=1)
    grant = d.expect("GRANT", 20)["jobs"][0]
    bench.check(grant.get("checkpoint"), "the job came without a checkpoint")
    real = wire.unpack(grant["checkpoint"])
    forged = dict(real, completion_ids=change(real["completion_ids"]))
    if numeric_class:
        forged["numeric_class"] = numeric_class
    d.send("NACK", session=w["session"], jobs=[{"job": grant["job"], "epoch": grant["epoch"], "counts": False,
                                                "reason": "a stand-in", "checkpoint": wire.pack(forged)}])
    bench.wait_for("the job back", lambda: c.batch(batch).get("leased", 0) == 0)
    d.send("BYE", session=w["session"])
    d.expect("BYE_OK")
    d.close()
    return real


def taken_over(bench, name, change, numeric_class=None):
    """A long story starts on one real worker and is finished by another. Returns (calm result, result)."""
    lines = [common.chat_line("story", [{"role": "user", "content": "Tell me a story about a fox."}], max_tokens=300,
                              **STORY)]
    inputs, _, calm = cluster.Calm.run(bench, "story.jsonl", lines)
    c = cluster.Cluster(bench, heartbeat_ms=50, name=name)
    c.client("submit", inputs, "--batch", cluster.Calm.batch)
    first = c.real("first", None, "--drain-s", "0")
    bench.wait_for("tokens", lambda: c.batch(cluster.Calm.batch).get("running_tokens", 0) >= 30, 60)
    first.send_signal(signal.SIGTERM)
    bench.same(c.finish(first)[0], 0, "the drained worker's exit code")
    real = hand_over(bench, c, cluster.Calm.batch, change, numeric_class)
    bench.check(len(real["completion_ids"]) >= 30, f"tokens in the checkpoint: {len(real['completion_ids'])}")
    bench.same(real["numeric_class"], calm[0]["octoflow"]["numeric_class"], "the checkpoint's numeric class")
    c.real("second")
    out = bench.path(name + ".out")
    c.client("results", cluster.Calm.batch, "-o", out, "--wait")
    result = common.read_results(out)[0]
    bench.same(result["response"]["body"]["usage"], calm[0]["response"]["body"]["usage"], f"{name}: usage")
    bench.same(result["octoflow"]["worker"], "second", f"{name}: who finished")
    c.stop()
    return calm[0], result


def goes_on(bench):
    """A job taken over within its numeric class has the bytes it would have had."""
    calm, result = taken_over(bench, "ck-same", lambda ids: ids)
    bench.same(common.answer(result), common.answer(calm), "the story")


def is_used(bench):
    """It truly goes on from there: other tokens in the checkpoint are other words in the answer."""
    calm, result = taken_over(bench, "ck-forged", lambda ids: ids[::-1])
    bench.check(common.answer(result) != common.answer(calm), "the story began anew in spite of a checkpoint")


def of_another_class(bench):
    """Tokens of another numeric class are not used: the job starts from its prompt, and the result names its class."""
    calm, result = taken_over(bench, "ck-class", lambda ids: ids[::-1], "another class")
    bench.same(common.answer(result), common.answer(calm), "the story")
    bench.same(result["octoflow"]["numeric_class"], calm["octoflow"]["numeric_class"], "the result's class")


def survives_kill(bench):
    """kill -9 of a worker in a long story: heartbeats had carried its tokens, and the next one goes on from them."""
    lines = [common.chat_line("long", [{"role": "user", "content": "Tell me a story about a cat."}], max_tokens=1800,
                              **STORY)]
    inputs, want, _ = cluster.Calm.run(bench, "long.jsonl", lines)
    c = cluster.Cluster(bench, heartbeat_ms=100, name="ck-kill")
    c.client("submit", inputs, "--batch", cluster.Calm.batch)
    first = c.real("first")
    bench.wait_for("tokens", lambda: c.batch(cluster.Calm.batch).get("running_tokens", 0) >= 1200, 120)
    first.kill()
    real = hand_over(bench, c, cluster.Calm.batch, lambda ids: ids)
    print(f"       tokens in the checkpoint: {len(real['completion_ids'])}")
    bench.check(len(real["completion_ids"]) >= 128, "the heartbeats' checkpoint")
    c.real("second")
    out = bench.path("ck-kill.out")
    c.client("results", cluster.Calm.batch, "-o", out, "--wait")
    bench.check(common.stripped(out) == want, "not the undisturbed run's bytes")
    c.stop()


survives_kill.long = True  # a minute
cluster.main([goes_on, is_used, of_another_class, survives_kill])
