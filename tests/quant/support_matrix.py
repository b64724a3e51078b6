#!/usr/bin/env python3
"""Architecture x tensor type x tokenizer: each cell is a synthetic model of that shape with every matrix in that type
(where a row is a multiple of its block), which must tokenize a text and give it back, be said to run by `octoflow
inspect`, and compute finite logits on the engine.

support_matrix.py --build DIR [--types A,B] [--shapes A,B] [--every N] [--write docs/support.md]

What a cell cannot say is in the tests the page names: whether the numbers are right. --every N takes each Nth cell,
another set of types for each shape: the short form of the test suite."""
import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile

TYPES = ["F32", "F16", "BF16", "Q8_0", "Q6_K", "Q5_K", "Q5_1", "Q5_0", "Q4_K", "Q4_1", "Q4_0", "IQ4_NL", "IQ4_XS",
         "MXFP4", "Q3_K", "Q2_K"]
SHAPES = ["llama-tiny", "llama3-tiny", "mixtral-tiny", "qwen2-tiny", "qwen3-tiny", "qwen3moe-tiny", "gemma2-tiny",
          "gemma3-tiny", "phi3-tiny", "phi3.5-tiny"]
TEXT = "The cat  sat on 3 mats,\nand\tslept: \u00e9\u4e2d\U0001f600"
MARKS = ("<!-- table begins: tests/quant/support_matrix.py --write -->", "<!-- table ends -->")


def call(*argv, text=None):
    return subprocess.run(argv, input=text, capture_output=True, timeout=300,
                          stdin=subprocess.DEVNULL if text is None else None)


def fail(cell, what, run):
    said = (run.stderr or run.stdout).decode(errors="replace").strip()
    print(f"FAILED: {cell}: {what}: exit {run.returncode}: {said[-300:]}", flush=True)
    return False


def cell(bench, octoflow, folder, data, shape, kind):
    """True when all of it works; the tokenizer's name is read from `inspect`."""
    name = f"{shape} {kind}"
    path = os.path.join(folder, "cell.gguf")
    made = call(bench, "synth", "--shape", shape, "--type", kind.lower(), "--ctx", "1024", "-o", path)
    if made.returncode != 0:
        return fail(name, "synth", made), None
    seen = call(octoflow, "inspect", "--no-tensors", path)
    tokenizer = re.search(rb"tokenizer: yes \((\w+), pre-tokenizer ([^)]+)\)", seen.stdout)
    if seen.returncode != 0 or tokenizer is None or not re.search(rb"runs: +yes", seen.stdout):
        return fail(name, "inspect", seen), None
    ids = call(octoflow, "tokenize", "--no-bos", "-m", path, text=TEXT.encode())
    back = call(octoflow, "detokenize", "-m", path, text=ids.stdout)
    if back.returncode != 0 or back.stdout.rstrip(b"\n").strip() != TEXT.encode():
        return fail(name, f"text came back as {back.stdout!r}", back), None
    ppl = call(bench, "ppl", "-m", path, "--data", data)
    value = re.search(rb"perplexity ([0-9.]+) over", ppl.stdout)
    if ppl.returncode != 0 or value is None or not 1 < float(value.group(1)) < 1e12:
        return fail(name, "ppl", ppl), None
    kind_of = tokenizer.group(1).decode()
    return True, "SentencePiece" if kind_of == "llama" else f"BPE {tokenizer.group(2).decode()}"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--build", required=True)
    parser.add_argument("--types", default=",".join(TYPES))
    parser.add_argument("--shapes", default=",".join(SHAPES))
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--write")
    o = parser.parse_args()
    bench = os.path.join(os.path.abspath(o.build), "bench", "octoflow-bench")
    octoflow = os.path.join(os.path.abspath(o.build), "client", "octoflow")
    types, shapes = o.types.split(","), o.shapes.split(",")
    rows, failures, cells = [], 0, 0
    with tempfile.TemporaryDirectory(prefix="octo-") as folder:
        data = os.path.join(folder, "ids.jsonl")
        rng = random.Random(1)
        with open(data, "w", encoding="utf-8") as f:
            for count in (70, 33):
                f.write(json.dumps({"ids": [rng.randrange(300, 2000) for _ in range(count)]}) + "\n")
        for s, shape in enumerate(shapes):
            row, tokenizer = [], None
            for t, kind in enumerate(types):
                if (t + s) % o.every != 0:
                    row.append("")
                    continue
                ok, name = cell(bench, octoflow, folder, data, shape, kind)
                cells += 1
                failures += not ok
                tokenizer = tokenizer or name
                row.append("yes" if ok else "NO")
            rows.append(f"| `{shape}` | {tokenizer} | " + " | ".join(row) + " |")
            print(rows[-1], flush=True)
    print(f"{cells} cells, {failures} failed")
    if o.write and failures == 0 and o.every == 1:
        with open(o.write, encoding="utf-8") as f:
            page = f.read()
        begin, end = page.index(MARKS[0]) + len(MARKS[0]), page.index(MARKS[1])
        table = ["| shape | tokenizer | " + " | ".join(types) + " |", "| --- " * (len(types) + 2) + "|", *rows]
        with open(o.write, "w", encoding="utf-8") as f:
            f.write(page[:begin] + "\n" + "\n".join(table) + "\n" + page[end:])
    return failures > 0 or cells == 0


sys.exit(main())
