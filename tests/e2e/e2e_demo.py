#!/usr/bin/env python3
"""The demo's run: every line answered or refused in its place, the known answers right, the same command again
repeats nothing, an edited input is refused, and nothing stays behind."""
import json
import os
import time

import common

# What the model must say: greedy answers whose best token leads clearly at every step.
EXPECTED = {
    "sum-1": "933", "sum-2": "341", "difference-1": "-348", "difference-2": "-48", "product-1": "33", "product-2": "56",
    "compare-1": "13", "compare-2": "Yes", "sort-words": "beside, bubble, never, path, wasp",
    "sort-numbers": "819, 585, 259, 91, 81", "reverse-1": "t e k c a j", "reverse-2": "r e n n a m",
    "upper": "ZAINDTRAKE RESCUE", "count-1": "3", "count-2": "10",
    "json-record": '{"name": "Leila", "age": 75, "job": "lawyer", "city": "São Paulo"}',
    "json-extract": '{"name": "Jacob", "age": 60, "job": "gardener", "city": "Nîmes"}',
    "json-some": '{"name": "Teresa", "job": "potter"}',
    "json-product": '{"item": "sofa", "color": "yellow", "price": 192, "in_stock": false}',
    "json-array": '["gather", "brown", "hot", "hour", "wet"]',
    "review-1": "positive", "review-2": "negative", "review-3": "positive", "review-4": "negative",
    "translate-1": "cinq", "translate-2": "zwei, eins", "translate-3": "bird", "translate-4": "bear",
    "emoji-1": "poule 🐔", "emoji-2": "penguin", "turns-1": "101", "turns-2": "hibou",
    "turns-3": "wagon, lemon, harp, cedar", "short-4": "bolt, island, pepper", "complete-1": "54",
    "thanks": "You are welcome!",
}
BAD_LINE = 46
PROVENANCE = ["model_hash", "quantization", "numeric_class", "device", "driver", "build", "seed", "attempts", "worker"]


def check_lines(bench, prompts, results):
    bench.same(len(results), len(prompts), "result lines")
    ids = [r["id"] for r in results]
    bench.same(len(set(ids)), len(ids), "different ids")
    for n, (prompt, result) in enumerate(zip(prompts, results), 1):
        want = json.loads(prompt).get("custom_id")
        if want is not None:
            bench.same(result["custom_id"], want, f"line {n}: custom_id")
        if n == BAD_LINE:
            bench.same(common.status_code(result), 400, f"line {n}: status_code")
            bench.has(common.error_text(result) or "", f"line {n}", "the bad line's message")
            bench.has(common.error_text(result) or "", "messages", "the bad line's message")
            continue
        bench.same(common.status_code(result), 200, f"line {n}: status_code ({common.error_text(result)})")
        bench.same(result["error"], None, f"line {n}: error")
        text = common.answer(result)
        bench.check(text, f"line {n}: an empty answer")
        if want in EXPECTED:
            bench.same(text, EXPECTED[want], f"line {n}: answer to {want}")
        check_body(bench, n, result)


def check_body(bench, n, result):
    body, octoflow = result["response"]["body"], result["octoflow"]
    usage = body["usage"]
    bench.same(usage["prompt_tokens"] + usage["completion_tokens"], usage["total_tokens"], f"line {n}: usage")
    bench.check(body["choices"][0]["finish_reason"] in ("stop", "length"), f"line {n}: finish_reason")
    for field in PROVENANCE:
        bench.check(octoflow.get(field) not in (None, ""), f"line {n}: octoflow.{field} is missing")


def test(bench, options):
    source = os.path.join(bench.source, "examples", "prompts.jsonl")
    with open(source, encoding="utf-8") as f:
        prompts = f.read().splitlines()
    inputs = bench.write("prompts.jsonl", "\n".join(prompts) + "\n")
    out = bench.path("results.jsonl")
    began = time.monotonic()
    _, stdout, stderr = bench.run_batch(inputs, out, code=1)
    took = time.monotonic() - began
    print(f"the demo's prompts took {took:.1f} s")
    bench.check(took < 60 or options.slow, f"the demo took {took:.1f} s; under 60 s is promised")
    bench.no_processes("after the run")
    check_lines(bench, prompts, common.read_results(out))
    with open(out, "rb") as f:
        first = f.read()

    # The same command again: the same bytes (times too, so nothing was computed again), and quickly.
    began = time.monotonic()
    bench.run_batch(inputs, out, code=1, name="again")
    print(f"the same command again took {time.monotonic() - began:.1f} s")
    with open(out, "rb") as f:
        bench.check(f.read() == first, "the same command again changed the result file")
    bench.no_processes("after the second run")

    # One line of the input edited: refused by its number, the results untouched.
    edited = list(prompts)
    edited[6] = edited[6].replace("83", "84")
    bench.write("prompts.jsonl", "\n".join(edited) + "\n")
    code, stdout, stderr = bench.run_batch(inputs, out, code=None, name="edited")
    bench.check(code in (2, 3), f"edited input: exit code {code}")
    bench.has(stdout + stderr, "prompts.jsonl:7", "edited input: the message")
    with open(out, "rb") as f:
        bench.check(f.read() == first, "the refused run changed the result file")


common.main(test, slow=(bool, False, "do not check the time (sanitizers)"))
