#!/usr/bin/env python3
"""A small run for sanitizer builds: a few answers, a bad line, a killed worker, and no sanitizer report from
any of the three programs (the harness collects them)."""
import os
import signal

import common


def test(bench, options):
    lines = common.mixed_lines(bench, 20, story_tokens=16)
    lines[3] = {"custom_id": "bad", "prompt": 7}
    inputs, out = bench.write("in.jsonl", lines), bench.path("out.jsonl")
    bench.run_batch(inputs, out, code=1, timeout=400)
    results = common.read_results(out)
    bench.same(len(results), len(lines), "lines")
    bench.same([r["custom_id"] for r in results], [line["custom_id"] for line in lines], "order")
    bench.same(common.status_code(results[3]), 400, "the bad line's status")
    bench.same(sum(common.answer(r) is not None for r in results), len(lines) - 1, "answers")
    bench.no_processes("after the run")

    killed = bench.path("killed.jsonl")
    run = bench.start([bench.octoflow, "run", "-m", bench.model(), inputs, "-o", killed], "killed")
    victims = bench.wait_for("a worker", lambda: bench.processes(bench.worker))
    if victims:
        os.kill(victims[0], signal.SIGKILL)
    bench.same(bench.finish(run, 400)[0], 1, "exit code with a killed worker")
    got, want = common.stripped(killed), common.stripped(out)
    bench.check(got == want, f"another file after the kill; {common.difference(got, want)}")
    bench.no_processes("after the killed run")


common.main(test)
