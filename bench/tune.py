#!/usr/bin/env python3
"""Compares settings of the engine's tunables on one GPU: tune.py --bench PROGRAM -m FILE -o RESULTS.json

Runs on a bare GPU host as h200.py does. First, with --trained FILE --golden DIR, what each setting computes: the hash
of all logits rows, logits and perplexity must be those of the defaults, and the invariance test must hold. Then decode,
by batch size, of all settings in turn, round after round until --seconds are over: a card's clocks drift, neighbours in
time are comparable. The table, printed last, has the medians and how each compares with the defaults. The JSON file is
written after each step. Exit status 1: a command failed or a setting has other bits."""
import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import time

# Each against the defaults.
SETTINGS = ["", "sample_parts=1", "norm_rows=0", "norm_rows=8", "stream_rows=8", "stream_rows=32", "byte_tiles_mib=0",
            "byte_tiles_mib=65536", "chain_rows=32", "direct_input=0", "in_band_rows=0", "split_rows=0", "rehearse=0",
            "round_rows=0"]
USUAL = "defaults"
# Of the seconds, what comparing bits may take at most, and what a profile at the end needs.
CHECKS_SHARE, PROFILE_S = 0.35, 25


class Session:
    def __init__(self, options):
        self.options, self.start = options, time.monotonic()
        self.failed, self.seconds = [], {}
        self.checks, self.rates, self.profiles = {}, {}, {}

    def left_s(self):
        return self.options.seconds - (time.monotonic() - self.start)

    def call(self, kind, setting, arguments):
        """stdout's lines; None: it failed, which is on record, or would take longer than there is."""
        expected_s = self.seconds.get(kind, 0)
        if self.left_s() < expected_s + 1:
            return None
        command = [self.options.bench] + arguments + ([] if setting == "" else ["--set", setting])
        for name in ("device", "family"):
            if getattr(self.options, name):
                command += ["--" + name, getattr(self.options, name)]
        start = time.monotonic()
        try:
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
                                  timeout=max(self.left_s(), 1))
        except subprocess.TimeoutExpired:
            self.failed.append(f"{kind} {setting or USUAL}: not done when the time was over")
            return None
        took_s = time.monotonic() - start
        self.seconds[kind] = max(expected_s, took_s)
        lines = done.stdout.strip().split("\n")
        print(f"{self.left_s():6.0f} s left  {kind} {setting or USUAL}: {took_s:.1f} s, exit {done.returncode}",
              flush=True)
        if done.returncode != 0:
            self.failed.append(f"{kind} {setting or USUAL}: exit {done.returncode}: {lines[-1][:300]}")
            print("\n".join(lines[-5:]), flush=True)
            return None
        return lines

    def save(self):
        arguments = [os.path.basename(a) if os.sep in a else a for a in sys.argv[1:]]
        found = {"command": " ".join(["bench/tune.py"] + arguments),
                 "checks": self.checks, "decode": self.rates, "profile_us": self.profiles, "failed": self.failed}
        with open(self.options.output + ".part", "w", encoding="utf-8") as f:
            json.dump(found, f, indent=1)
            f.write("\n")
        os.replace(self.options.output + ".part", self.options.output)


def check(s, setting):
    """What a setting computes, as one text: equal texts, equal bits as far as they were looked at."""
    trained, golden = ["-m", s.options.trained], s.options.golden
    parts = []
    rows = s.call("invariance", setting, ["invariance"] + trained + [
        "--data", os.path.join(golden, "perplexity.jsonl"), "--seqs", str(s.options.seqs)])
    hashes = re.findall(r"hash of all rows (\w+)", "\n".join(rows or []))
    if hashes:
        parts.append("rows " + hashes[0])
    for kind, data in {"logits": "logits.json", "ppl": "perplexity.jsonl"}.items():
        lines = s.call(kind, setting, [kind] + trained + ["--data", os.path.join(golden, data)] + s.options.limit)
        if lines is not None:
            parts.append(lines[-1])
    s.checks[setting or USUAL] = parts
    s.save()


def verdict(s, setting):
    parts, usual = s.checks.get(setting or USUAL), s.checks.get(USUAL)
    if not parts or not usual or len(parts) < 3 or len(usual) < 3:
        return "not compared"
    return "same" if parts == usual else "OTHER BITS"


def timing(o, batch):
    return ["run", "-m", o.model, "-p", "", "--batch", batch, "--prompt", str(o.prompt), "-n", str(o.gen),
            "--repeats", "1", "-t", "0.8", "--top-p", "0.95", "--no-energy", "--json"]


def decode(s, setting, first):
    """tokens/s by batch, added to the setting's rounds. Checked against single sequences the first time."""
    more = [] if first else ["--no-verify"]
    lines = s.call("decode_first" if first else "decode", setting, timing(s.options, s.options.batch) + more)
    if lines is None:
        return False
    for key, rate in json.loads(lines[-1]).items():
        if re.fullmatch(r"decode_\d+", key):
            s.rates.setdefault(setting or USUAL, {}).setdefault(key[len("decode_"):], []).append(rate)
    s.save()
    return True


def profile(s, setting):
    lines = s.call("profile", setting, timing(s.options, s.options.profile) + ["--no-verify", "--profile"])
    if lines is None:
        return
    for key, times in json.loads(lines[-1]).items():
        if re.fullmatch(r"profile_decode_\d+", key):
            batch = key[len("profile_decode_"):]
            s.profiles.setdefault(setting or USUAL, {})[batch] = times
            print(f"profile, batch {batch}, {setting or USUAL}: " +
                  ", ".join(f"{name} {us:.1f}" for name, us in times.items()), flush=True)
    s.save()


def largest_fall(rates):
    """Percent, from n to n + 1 sequences, of those batches that were measured side by side."""
    falls = [(1 - rates[n + 1] / rates[n]) * 100 for n in rates if n + 1 in rates]
    return f"{max(falls):.1f} %" if falls else "-"


def print_table(s):
    batches = sorted(int(b) for b in s.rates.get(USUAL, {}))
    if not batches:
        print("nothing was measured")
        return
    medians = {name: {int(b): statistics.median(r) for b, r in rates.items()} for name, rates in s.rates.items()}
    print("\ndecode, tokens/s, medians of rounds; in brackets against the defaults")
    print("| setting | bits | rounds | " + " | ".join(str(b) for b in batches) + " | fall |")
    print("| --- | --- | ---: | " + "---: | " * len(batches) + "---: |")
    for setting in s.options.set:
        name = setting or USUAL
        if name not in medians:
            continue
        cells = [f"{medians[name][b]:,.0f} ({(medians[name][b] / medians[USUAL][b] - 1) * 100:+.1f} %)"
                 if b in medians[name] else "-" for b in batches]
        rounds = min(len(r) for r in s.rates[name].values())
        print(f"| {name} | {verdict(s, setting)} | {rounds} | " + " | ".join(cells) +
              f" | {largest_fall(medians[name])} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench", default="build/bench/octoflow-bench")
    parser.add_argument("-m", "--model", required=True, help="GGUF to time")
    parser.add_argument("-o", "--output", required=True)
    parser.add_argument("--device", help="as octoflow-bench takes it")
    parser.add_argument("--family", help="as octoflow-bench takes it")
    parser.add_argument("--trained", help="GGUF with real weights, for --golden")
    parser.add_argument("--golden", help="folder with perplexity.jsonl and logits.json")
    parser.add_argument("--seqs", type=int, default=64, help="sequences of the invariance test")
    parser.add_argument("--limit", type=lambda n: ["--limit", n], default=[], help="entries of the golden data")
    parser.add_argument("--seconds", type=float, default=520, help="begin nothing that would end later")
    parser.add_argument("--set", action="append", metavar="NAME=N,...", help="a setting to compare with the defaults; "
                        "may be given more than once (default: a list, see the source)")
    parser.add_argument("--rounds", type=int, default=1000, help="at most so many")
    parser.add_argument("--batch", default="1,4,8,9,16,17,32,64")
    parser.add_argument("--profile", default="1,8,9", metavar="N,N",
                        help="batches to split by kernel at the end (\"\": none)")
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("-n", "--gen", type=int, default=96, help="timed steps")
    options = parser.parse_args()
    if (options.trained is None) != (options.golden is None):
        parser.error("--trained and --golden go together")
    options.set = [""] + [x for x in options.set or SETTINGS if x != ""]
    s = Session(options)
    for setting in options.set if options.trained else []:
        if time.monotonic() - s.start < options.seconds * CHECKS_SHARE or setting == "":
            check(s, setting)
    profiled = [options.set[0], options.set[-1]] if options.profile else []
    for i in range(options.rounds):
        done = [decode(s, setting, i == 0) for setting in options.set
                if s.left_s() > PROFILE_S * len(profiled) + s.seconds.get("decode", 0)]
        if not any(done):
            break
    for setting in profiled:
        profile(s, setting)
    s.save()
    for failure in s.failed:
        print("failed:", failure)
    print_table(s)
    other = [x for x in options.set if verdict(s, x) == "OTHER BITS"]
    return 1 if s.failed or other else 0


if __name__ == "__main__":
    sys.exit(main())
