#!/usr/bin/env python3
"""The golden greedy outputs through `octoflow run`: 66 of 66 texts with the F16 file, 65 with Q4_K_M."""
import common

NEEDED = {"f16": 66, "q8_0": 66, "q4_k_m": 65}


def one(bench, kind):
    cases = bench.golden("greedy.jsonl")
    lines = [common.chat_line(f"greedy-{n}", c["messages"], temperature=0, max_tokens=len(c["output_ids"]) + 16)
             for n, c in enumerate(cases)]
    inputs, out = bench.write(f"greedy-{kind}.in.jsonl", lines), bench.path(f"greedy-{kind}.jsonl")
    bench.run_batch(inputs, out, model=bench.model(kind), code=0, timeout=900)
    results = common.read_results(out)
    bench.same(len(results), len(cases), f"{kind}: lines")
    right = 0
    for n, (case, result) in enumerate(zip(cases, results), 1):
        usage = result["response"]["body"]["usage"]
        bench.same(usage["prompt_tokens"], len(case["prompt_ids"]), f"{kind} line {n}: prompt tokens")
        if common.answer(result) == case["output_text"]:
            right += 1
        else:
            print(f"{kind} line {n}, smallest margin {case['min_margin']}:\n    got      {common.answer(result)!r}\n"
                  f"    expected {case['output_text']!r}")
    print(f"{kind}: {right} of {len(cases)} equal")
    bench.check(right >= NEEDED[kind], f"{kind}: {right} equal, {NEEDED[kind]} needed")


def test(bench, options):
    for kind in options.kinds.split(","):
        one(bench, kind)


common.main(test, kinds=(str, "f16,q4_k_m", "comma-separated: f16, q8_0, q4_k_m"))
