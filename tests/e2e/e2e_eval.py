#!/usr/bin/env python3
"""600 held-out questions through `octoflow run`, greedy: how many answers are exactly right. A right engine gets
599 with each of the three files."""
import collections

import common

NEEDED = 597


def one(bench, kind):
    cases = bench.golden("eval.jsonl")
    lines = [common.chat_line(f"eval-{n}", c["messages"], temperature=0, max_tokens=128) for n, c in enumerate(cases)]
    inputs, out = bench.write(f"eval-{kind}.in.jsonl", lines), bench.path(f"eval-{kind}.jsonl")
    bench.run_batch(inputs, out, model=bench.model(kind), code=0, timeout=1500)
    results = common.read_results(out)
    bench.same(len(results), len(cases), f"{kind}: lines")
    right, tasks = 0, collections.Counter()
    for n, (case, result) in enumerate(zip(cases, results), 1):
        ended = result["response"]["body"]["choices"][0]["finish_reason"] == "stop"
        if ended and common.answer(result) == case["expected"]:
            right += 1
        else:
            tasks[case["task"]] += 1
            print(f"{kind} line {n}: {case['messages'][-1]['content']!r} -> {common.answer(result)!r}, "
                  f"expected {case['expected']!r}")
    print(f"{kind}: {right} of {len(cases)} right; wrong by task: {dict(tasks)}")
    bench.check(right >= NEEDED, f"{kind}: {right} right, {NEEDED} needed")


def test(bench, options):
    for kind in ["q4_k_m", "q8_0", "f16"] if options.all else [options.kind]:
        one(bench, kind)


common.main(test, all=(bool, False, "all three files"), kind=(str, "q4_k_m", "f16, q8_0 or q4_k_m"))
