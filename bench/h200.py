#!/usr/bin/env python3
"""All of the benchmark on one GPU, into one JSON file: h200.py --bench PROGRAM -m FILE -o RESULTS.json

Runs on a bare GPU host: Python's standard library, octoflow-bench and a model file. The scaling rows need --synth DIR
(a folder for synthetic models; 1.5B and 7B shapes are written there: 6 GB). --trained FILE --golden DIR adds
perplexity, logits and the invariance test with real weights. A step that fails is named in "failed" and the exit status
is 1: its numbers are missing then, never 0. make_results.py writes RESULTS.md from the file."""
import argparse
import json
import os
import subprocess
import sys
import time

SAMPLED = ["-t", "0.8", "--top-p", "0.95"]
BATCHES = "1,8,32,64,128,256,512,1024"
SHAPES = {"0.5b": None, "1.5b": "qwen2.5-1.5b", "7b": "qwen2.5-7b"}
CONTEXTS = [512, 2048, 8192]
ABOUT = ("device", "driver", "build", "date", "model", "matrix_units")


class Session:
    def __init__(self, options):
        self.options = options
        self.result = {"commands": {}, "seconds": {}, "failed": []}
        self.start = time.monotonic()

    def save(self):
        """After each step, so that a run that is cut short leaves what it has."""
        self.result["seconds_in_all"] = round(time.monotonic() - self.start, 1)
        with open(self.options.output + ".part", "w", encoding="utf-8") as f:
            json.dump(self.result, f, indent=1)
            f.write("\n")
        os.replace(self.options.output + ".part", self.options.output)

    def call(self, name, arguments, limit_s=300):
        """stdout's lines, or None: the failure is on record."""
        if self.options.seconds and time.monotonic() - self.start > self.options.seconds:
            self.result["failed"].append(f"{name}: not begun, {self.options.seconds} s were over")
            self.save()
            return None
        line = ["octoflow-bench"] + [os.path.basename(a) if os.sep in a else a for a in arguments]
        command = [self.options.bench] + arguments
        if self.options.device and arguments[0] != "synth":
            command += ["--device", self.options.device]
        self.result["commands"][name] = " ".join(line)
        print("==", name, "=", " ".join(line), flush=True)
        start = time.monotonic()
        try:
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                  timeout=limit_s)
        except subprocess.TimeoutExpired:
            self.result["failed"].append(f"{name}: more than {limit_s} s")
            return None
        seconds = time.monotonic() - start
        self.result["seconds"][name] = round(seconds, 1)
        print(done.stdout, f"-- {seconds:.1f} s", flush=True)
        lines = done.stdout.strip().split("\n")
        if done.returncode != 0:
            self.result["failed"].append(f"{name}: exit {done.returncode}: {lines[-1][:300]}")
            return None
        return lines

    def numbers(self, name, arguments):
        """The command's JSON object, {} if it failed."""
        lines = self.call(name, arguments + ["--json"])
        if lines is None:
            return {}
        try:
            found = json.loads(lines[-1])
        except ValueError:
            self.result["failed"].append(f"{name}: the last line is no JSON object")
            return {}
        for key in ABOUT:
            if key in found and found[key] != "":
                self.result.setdefault(key, found[key])
        return found

    def keep(self, found, rename=lambda key: key):
        for key, value in found.items():
            if key not in ABOUT and isinstance(value, (int, float, dict)) and not isinstance(value, bool):
                self.result[rename(key)] = value
        self.save()


def main_rows(s):
    model, small = ["-m", s.options.model], s.options.small
    lengths, batches, prompt, gen = ("16,32", "1,2", "16", "8") if small else ("512,2048", BATCHES, "128", "128")
    s.keep(s.numbers("device", ["device"]))
    decode = ["run"] + model + ["--batch", batches, "--prompt", prompt, "-n", gen]
    profile = ["--profile"] if s.options.profile else []
    s.keep(s.numbers("decode", decode + ["-p", lengths] + SAMPLED + profile))
    s.keep(s.numbers("decode_greedy", decode + ["-p", lengths, "--no-energy"]),
           lambda key: key if key.endswith("_greedy") else "greedy_" + key)
    ranged = ["--batch", "1-64", "-n", "24", "--repeats", "5"]
    if small:
        ranged = ["--batch", "1-3", "--prompt", prompt, "-n", "8"]
    s.keep(s.numbers("range", ["run"] + model + ranged + ["-p", lengths.split(",")[0]] + SAMPLED),
           lambda key: key if key.startswith("worst_drop") else "range_" + key)
    size = ["--requests", "256", "--batch", "256"]
    if small:
        size = ["--requests", "4", "--batch", "4", "--shortest", "4", "--longest", "12"]
    mixed = ["mixed"] + model + size
    for name, more in {"mixed": SAMPLED, "mixed_greedy": ["-t", "0"],
                       "shared": SAMPLED + ["--shared-prefix", "32" if small else "1024"]}.items():
        s.keep(s.numbers(name, mixed + more),
               lambda key, name=name: key if key.startswith("mixed_") else name + "_" + key)


def scaling(s):
    """Keys scale_SHAPE_CONTEXT_decode_BATCH and the counts beside them."""
    for shape, synthetic in SHAPES.items():
        path = s.options.model
        if synthetic is not None:
            path = os.path.join(s.options.synth, synthetic + ".gguf")
            make = ["synth", "--shape", synthetic, "-o", path]
            if not os.path.exists(path) and s.call("synth_" + shape, make) is None:
                continue
        for context in CONTEXTS if shape == "0.5b" else CONTEXTS[:1]:
            name = f"scale_{shape}_{context}"
            batches = "1,16,64" if context == 8192 else "1,16,64,256"
            found = s.numbers(name, ["run", "-m", path, "--batch", batches, "--prompt", str(context), "-n", "32",
                                     "-p", str(context), "--repeats", "1", "--no-energy"] + SAMPLED)
            s.keep(found, lambda key, name=name: name + "_" + key)


def quality(s):
    trained, golden = ["-m", s.options.trained], s.options.golden
    for name, arguments in {
            "ppl": ["ppl"] + trained + ["--data", os.path.join(golden, "perplexity.jsonl")],
            "logits": ["logits"] + trained + ["--data", os.path.join(golden, "logits.json")],
            "invariance": ["invariance"] + trained + ["--data", os.path.join(golden, "perplexity.jsonl")]}.items():
        lines = s.call(name, arguments)
        if lines is not None:
            s.result[name] = lines[-1]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench", default="build/bench/octoflow-bench")
    parser.add_argument("-m", "--model", required=True, help="GGUF of the Qwen2.5-0.5B shape, Q4_K_M")
    parser.add_argument("-o", "--output", required=True)
    parser.add_argument("--device", help="as octoflow-bench takes it")
    parser.add_argument("--synth", help="folder for synthetic models: measures other shapes and contexts too")
    parser.add_argument("--trained", help="GGUF with real weights, for --golden")
    parser.add_argument("--golden", help="folder with perplexity.jsonl and logits.json")
    parser.add_argument("--seconds", type=float, help="begin no step after so many")
    parser.add_argument("--small", action="store_true", help="a rehearsal: few and short sequences")
    parser.add_argument("--profile", action="store_true", help="time by kernel too")
    options = parser.parse_args()
    if (options.trained is None) != (options.golden is None):
        parser.error("--trained and --golden go together")
    s = Session(options)
    s.result["small"] = options.small
    arguments = [os.path.basename(a) if os.sep in a else a for a in sys.argv[1:]]
    s.result["command"] = " ".join(["bench/h200.py"] + arguments)
    main_rows(s)
    if options.trained is not None:
        quality(s)
    if options.synth is not None:
        scaling(s)
    s.save()
    for failure in s.result["failed"]:
        print("failed:", failure, file=sys.stderr)
    return 1 if s.result["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
