#!/usr/bin/env python3
"""octo-tiny in every tensor type, made by the reference quantizer from the F16 file: its perplexity on the engine, and
with --eval how many of the golden questions it answers as expected.

quant_table.py --build DIR --source DIR [--types F16,Q4_K] [--every N] [--eval] [--write docs/quantizations.md]

Prints a Markdown table; fails when a perplexity rises (or falls) more than the type's bits explain, or when fewer
answers are right than needed. --every N takes each Nth conversation and question: the short form of the test suite."""
import argparse
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile

# Type -> (most that the perplexity may differ from the reference, relative; least share of right answers).
LIMITS = {"F32": (0.001, 0.995), "F16": (0.001, 0.995), "BF16": (0.001, 0.995), "Q8_0": (0.002, 0.995),
          "Q6_K": (0.003, 0.995), "Q5_1": (0.006, 0.995), "Q5_0": (0.006, 0.995), "Q5_K": (0.006, 0.995),
          "Q4_1": (0.01, 0.99), "Q4_0": (0.01, 0.99), "Q4_K": (0.01, 0.99), "IQ4_NL": (0.01, 0.99),
          "IQ4_XS": (0.01, 0.99), "MXFP4": (0.02, 0.99), "Q3_K": (0.04, 0.98), "Q2_K": (0.35, 0.93)}
MARKS = ("<!-- table begins: tests/quant/quant_table.py --eval --write -->", "<!-- table ends -->")


def programs(build):
    found = {name: os.path.join(os.path.abspath(build), *path) for name, path in {
        "make": ("tests", "quant", "make_quantized"), "bench": ("bench", "octoflow-bench"),
        "octoflow": ("client", "octoflow")}.items()}
    for path in found.values():
        if not os.access(path, os.X_OK):
            sys.exit(f"{path} is not there: build first")
    return found


def golden(source, name, every):
    with open(os.path.join(source, "tests", "golden", name), encoding="utf-8") as f:
        return [json.loads(line) for line in f][::every]


def write_lines(path, objects):
    with open(path, "w", encoding="utf-8") as f:
        f.writelines(json.dumps(o, ensure_ascii=False) + "\n" for o in objects)
    return path


def run(*argv):
    """Its own process group, so that a stopped test leaves nothing running."""
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               text=True, start_new_session=True)
    try:
        out, err = process.communicate()
    except BaseException:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()
        raise
    if process.returncode != 0:
        raise RuntimeError(f"{os.path.basename(argv[0])} {argv[1]}: exit {process.returncode}: {(err or out).strip()}")
    return out


def perplexity(tools, model, data):
    out = run(tools["bench"], "ppl", "-m", model, "--data", data)
    return tuple(map(float, re.search(r"perplexity ([\d.]+) .* ([\d.]+) over \d+ answer tokens", out).groups()))


def right_answers(tools, model, cases, folder):
    lines = [{"custom_id": f"q{n}", "method": "POST", "url": "/v1/chat/completions",
              "body": {"messages": c["messages"], "temperature": 0, "max_tokens": 128}} for n, c in enumerate(cases)]
    inputs, out = write_lines(os.path.join(folder, "q.jsonl"), lines), os.path.join(folder, "a.jsonl")
    run(tools["octoflow"], "run", "-m", model, inputs, "-o", out)
    with open(out, encoding="utf-8") as f:
        choices = [json.loads(line)["response"]["body"]["choices"][0] for line in f]
    os.remove(out)
    shutil.rmtree(out + ".octoflow", ignore_errors=True)
    return sum(c["finish_reason"] == "stop" and c["message"]["content"] == case["expected"]
               for c, case in zip(choices, cases, strict=True))


def table_row(kind, bits, size, ppl, answer_ppl, right, count):
    answers = "" if right is None else f" {right} of {count} |"
    return f"| {kind} | {bits:g} | {size:,} | {ppl:.5f} | {answer_ppl:.5f} |{answers}"


def table_head(with_answers):
    head = "| type | bits a weight | file bytes | perplexity | of the answers |"
    line = "| --- | ---: | ---: | ---: | ---: |"
    return [head + " right answers |", line + " ---: |"] if with_answers else [head, line]


def rewrite(path, rows):
    with open(path, encoding="utf-8") as f:
        text = f.read()
    before, rest = text.split(MARKS[0])
    after = rest.split(MARKS[1])[1]
    with open(path, "w", encoding="utf-8") as f:
        f.write(before + MARKS[0] + "\n" + "\n".join(rows) + "\n" + MARKS[1] + after)


def measure(tools, options, folder):
    source = os.path.join(options.source, "examples", "octo-tiny-f16.gguf")
    entries = golden(options.source, "perplexity.jsonl", options.every)
    cases = golden(options.source, "eval.jsonl", options.every) if options.eval else []
    data = write_lines(os.path.join(folder, "ppl.jsonl"), entries)
    reference = math.exp(sum(e["nll"] for e in entries) / sum(len(e["ids"]) - 1 for e in entries))
    listed = run(tools["make"], "--list").split()
    bits = dict(zip(listed[::2], map(float, listed[1::2])))
    assert set(bits) == set(LIMITS), set(bits) ^ set(LIMITS)
    rows, failures = table_head(options.eval), []
    print(f"reference perplexity {reference:.5f} over {len(entries)} conversations", *rows, sep="\n", flush=True)
    for kind in options.types.split(",") if options.types else LIMITS:
        model = os.path.join(folder, f"octo-tiny-{kind.lower()}.gguf")
        run(tools["make"], source, kind, model)
        ppl, answer_ppl = perplexity(tools, model, data)
        right = right_answers(tools, model, cases, folder) if options.eval else None
        rows.append(table_row(kind, bits[kind], os.path.getsize(model), ppl, answer_ppl, right, len(cases)))
        print(rows[-1], flush=True)
        os.remove(model)
        rise, share = LIMITS[kind]
        if not abs(ppl / reference - 1) <= rise:
            failures.append(f"{kind}: perplexity {ppl:.5f} is {ppl / reference - 1:+.2%}, at most {rise:.1%} allowed")
        if right is not None and right < math.floor(share * len(cases)):
            failures.append(f"{kind}: {right} of {len(cases)} answers right, {math.floor(share * len(cases))} needed")
    return rows, failures


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", required=True, help="the build folder")
    parser.add_argument("--source", required=True, help="the project's root")
    parser.add_argument("--types", help="with commas; default: all")
    parser.add_argument("--every", type=int, default=1, help="each Nth conversation and question")
    parser.add_argument("--eval", action="store_true", help="the questions too, through `octoflow run`")
    parser.add_argument("--write", metavar="FILE", help="put the table between the marks of this Markdown file")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped by SIGTERM"))
    tools = programs(options.build)
    with tempfile.TemporaryDirectory(prefix="octo-") as folder:
        rows, failures = measure(tools, options, folder)
    for text in failures:
        print("FAILED:", text)
    if options.write and not failures:
        rewrite(options.write, rows)
    sys.exit(1 if failures else 0)


main()
