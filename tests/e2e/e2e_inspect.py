#!/usr/bin/env python3
"""octoflow inspect: says of any GGUF file whether it runs here, with how many sequences at which context, or why
not; and what it says is what a worker does."""
import glob
import os
import re
import shutil

import common

FATAL = 3


def inspect(bench, *argv, code=0):
    """Its answer by key: what is below "Runs here"."""
    got, stdout, stderr = bench.run(bench.octoflow, "inspect", "--no-tensors", *argv, timeout=120)
    bench.same(got, code, f"inspect {argv}: exit code ({common.short(stderr)})")
    _, _, verdict = stdout.partition("\nRuns here\n")
    pairs = [line.strip().partition(":") for line in verdict.splitlines()]
    return {key: value.strip() for key, _, value in pairs}, stderr


def models(bench):
    for kind in ("f16", "q8_0", "q4_k_m"):
        says, _ = inspect(bench, bench.model(kind))
        for key, start in ("tokenizer", "yes (gpt2, pre-tokenizer qwen2)"), ("chat", "yes"), ("model", "yes: qwen2"):
            bench.check(says.get(key, "").startswith(start), f"{kind}: {key}: {says.get(key)}")
        bench.has(says.get("memory", ""), "KV cache 4.0 KiB a token", kind)  # 8 layers x 2 x 2 heads of 64 halves
        bench.has(says.get("room", ""), "of 2048", kind)
        bench.check(re.match(r"yes: [1-9]\d* sequences of up to 2048 tokens", says.get("runs", "")),
                    f"{kind}: runs: {says.get('runs')}")
    says, _ = inspect(bench, bench.model(), "--ctx", "640")
    bench.has(says.get("runs", ""), "of up to 640 tokens", "a shorter context")
    says, _ = inspect(bench, bench.model(), "--ctx", "1000000")
    bench.has(says.get("runs", ""), "of up to 2048 tokens", "a context beyond the model's")
    says, _ = inspect(bench, bench.model(), "--device", "no-such-card")
    bench.check(says.get("runs", "").startswith("no: "), f"no device: {says.get('runs')}")
    bench.has(says.get("runs", ""), "no-such-card", "no device")


def vocabularies(bench):
    golden = os.path.join(bench.source, "tests", "golden")
    files = sorted(glob.glob(os.path.join(golden, "*.gguf")) + glob.glob(os.path.join(golden, "vocab", "*.gguf")))
    bench.check(files, "no vocabulary was found")
    for path in files:
        name = os.path.basename(path)
        says, _ = inspect(bench, path)
        tokenizer, chat = says.get("tokenizer", ""), says.get("chat", "")
        bench.check(re.match(r"yes \(\w+, pre-tokenizer [\w.-]+\): [1-9]\d+ tokens$", tokenizer) or
                    re.match(r"no \(\w+, pre-tokenizer [\w.-]+\): .{10,}", tokenizer),
                    f"{name}: tokenizer: {tokenizer}")
        bench.check(chat == "yes" or re.match(r"no: .{10,}", chat), f"{name}: chat: {chat}")
        bench.has(says.get("model", ""), "no: a vocabulary without tensors", name)
        bench.same(says.get("runs"), "no", f"{name}: runs")


def broken(bench):
    with open(bench.model(), "rb") as f:
        model = f.read()
    _, err = inspect(bench, bench.write("cut.gguf", model[: len(model) // 2]), code=FATAL)
    bench.has(err, "cut.gguf", "a file cut in the middle")
    bench.same(len(err.splitlines()), 1, "a file cut in the middle: lines on standard error")
    other = model.replace(b"\x05\0\0\0\0\0\0\0qwen2", b"\x05\0\0\0\0\0\0\0otter", 1)
    bench.check(other != model, "the architecture key was found in the file")
    says, _ = inspect(bench, bench.write("otter.gguf", other))
    bench.has(says.get("model", ""), "otter", "an unknown architecture")
    bench.same(says.get("runs"), "no", "an unknown architecture: runs")


def unknown_tokenizer(bench):
    """The model could be computed, but the worker would refuse it."""
    with open(bench.model(), "rb") as f:
        model = f.read()
    key = b"tokenizer.ggml.pre\x08\0\0\0\x05\0\0\0\0\0\0\0"
    other = model.replace(key + b"qwen2", key + b"swine", 1)
    bench.check(other != model, "the pre-tokenizer's key was found in the file")
    says, _ = inspect(bench, bench.write("swine.gguf", other))
    for what in "tokenizer", "runs":
        bench.check(says.get(what, "").startswith("no"), f"an unknown pre-tokenizer: {what}: {says.get(what)}")
        bench.has(says.get(what, ""), "swine", "an unknown pre-tokenizer")


def no_fit(bench):
    code, out, _ = bench.run(bench.worker, "--plan", "-m", bench.model(), "--kv-tokens", "1000000000000", "--max-jobs",
                             "4096", "--ctx", "2048")
    bench.same(code, 0, "plan of too much: exit code")
    runs = [line for line in out.splitlines() if line.startswith("runs:")]
    bench.same(len(runs), 1, "plan of too much: one answer")
    # 32 GiB, or as much of it as the driver's limit for one buffer leaves in each layer.
    bench.check(re.search(r"(no: .* take (16|32)\.\d GiB|yes: )", runs[0]), f"plan of too much: {runs}")
    code, out, _ = bench.run(bench.worker, "--plan", "-m", bench.model(), "--kv-tokens", "64")
    bench.has(out, "runs:      no: KV cache of 64 tokens", "a cache that is too small")
    code, out, _ = bench.run(bench.worker, "--plan", "-m", "nowhere.gguf")
    bench.same(code, FATAL, "plan of no file: exit code")
    bench.has(out, "nowhere.gguf", "plan of no file")


def no_worker(bench):
    """The client alone, as somebody may have copied it."""
    alone = bench.path("alone")
    os.mkdir(alone)
    program = shutil.copy(bench.octoflow, alone)
    path, bench.env["PATH"] = bench.env.get("PATH", ""), alone
    code, out, err = bench.run(program, "inspect", "--no-tensors", bench.model(), timeout=60)
    bench.env["PATH"] = path
    bench.same(code, 0, f"without a worker: exit code ({common.short(err)})")
    bench.has(out, "runs:      unknown: octoflow-worker is neither beside", "without a worker")


def test(bench, options):
    models(bench)
    vocabularies(bench)
    broken(bench)
    unknown_tokenizer(bench)
    no_fit(bench)
    no_worker(bench)


common.main(test)
