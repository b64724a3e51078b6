#!/usr/bin/env python3
"""Writes RESULTS.md from the JSON of one h200.py run: make_results.py RESULTS.json -o RESULTS.md [--price 3]

Peers' numbers are constants below. What the JSON does not have is "not measured" in the table."""
import argparse
import json
import sys

# key, label, peer (llama.cpp CUDA), least, aim: tokens/s. The peer: llama.cpp of September 2026, CUDA, flash attention
# on, one NVIDIA H200, driver 580.159, a synthetic file of the same shape; its mixed load: llama-server with 256 slots,
# greedy.
ROWS = [
    ("decode_1", "decode, 1 sequence", 915, 1500, 2500),
    ("decode_8", "decode, 8", 4007, 12000, 20000),
    ("decode_64", "decode, 64 (128 + 128)", 10665, 35000, 80000),
    ("decode_256", "decode, 256 (128 + 128)", 20398, 75000, 150000),
    ("decode_1024", "decode, 1024 (128 + 128)", None, 120000, 200000),
    ("prefill_2048", "prefill, 2048", 48000, 130000, 300000),
    ("mixed_256", "mixed, 256 x 100..1024", 1280, 40000, 70000),
]
# The same card and file through llama.cpp's Vulkan backend.
VULKAN = {"decode_1": 567, "decode_64": 10772, "decode_256": 3665, "prefill_2048": 29700}
NONE = "not measured"


def count(value):
    return NONE if value is None else f"{value:,.0f}"


def rounded(value):
    return f"{value:,.1f}" if value >= 10 else f"{value:.3g}"


def ratio(ours, theirs):
    return "" if ours is None or not theirs else f"{ours / theirs:.2f}"


def limit(r, tokens, bytes_, flops):
    """(tokens/s at the measured rates, what bounds it); None where the run lacks a number."""
    bandwidth = r.get("read_bytes_per_s")
    units, rate = "matrix units", r.get("matrix_flops_per_s")
    if rate is None or r.get("matrix_units") is False:
        units, rate = "F32 units", r.get("fma_flops_per_s")
    if None in (bandwidth, rate, bytes_, flops):
        return None, ""
    memory, math = bytes_ / bandwidth, flops / rate
    return tokens / max(memory, math), units if math > memory else "memory"


def limit_of(r, key, prefix=""):
    kind, _, number = key.partition("_")
    if kind == "decode":
        return limit(r, int(number), r.get(f"{prefix}bytes_per_step_{number}"),
                     r.get(f"{prefix}flops_per_step_{number}"))
    if kind == "prefill":
        return limit(r, int(number), r.get(f"{prefix}bytes_per_prompt_{number}"),
                     r.get(f"{prefix}flops_per_prompt_{number}"))
    return None, ""


def share(ours, most):
    return "" if ours is None or most is None else f"{100 * ours / most:.1f} %"


def goal(ours, least, aim):
    if ours is None:
        return ""
    return "aim reached" if ours >= aim else "reached" if ours >= least else "missed"


def table(head, rows):
    yield "| " + " | ".join(head) + " |"
    yield "| " + " | ".join(["---"] + ["---:"] * (len(head) - 1)) + " |"
    for row in rows:
        yield "| " + " | ".join(row) + " |"
    yield ""


def main_table(r):
    rows = []
    for key, label, peer, least, aim in ROWS:
        ours, greedy = r.get(key), r.get(key + "_greedy")
        most, bound = limit_of(r, key)
        rows.append([label, count(ours), count(greedy), "-" if peer is None else count(peer), ratio(ours, peer),
                     ratio(ours, VULKAN.get(key)), count(least), count(aim), goal(ours, least, aim),
                     share(ours, most), bound])
    return table(["tokens/s", "sampled", "greedy", "llama.cpp CUDA", "ratio", "ratio to its Vulkan", "goal", "aim", "",
                  "of the limit", "bound by"], rows)


def rates_table(r):
    unit = [("read_bytes_per_s", "read bandwidth", 1e9, "GB/s"), ("copy_bytes_per_s", "copy", 1e9, "GB/s"),
            ("matrix_flops_per_s", "matrix units, f16 in, F32 sums", 1e12, "TFLOP/s"),
            ("fma_flops_per_s", "F32 fma", 1e12, "TFLOP/s"),
            ("dispatch_1_us", "dispatch and barrier, 1 workgroup", 1, "us"),
            ("dispatch_132_us", "dispatch and barrier, 132 workgroups", 1, "us"),
            ("submit_us", "submit and wait", 1, "us")]
    return table(["the device", "measured"],
                 [[label, NONE if r.get(key) is None else f"{rounded(r[key] / scale)} {name}"]
                  for key, label, scale, name in unit])


def scaling_table(r, price):
    """Decode by model, context and batch; cost of a million output tokens, the prompt's not counted."""
    rows = []
    for shape in ("0.5b", "1.5b", "7b"):
        for context in (512, 2048, 8192):
            prefix = f"scale_{shape}_{context}_"
            batches = sorted(int(k[len(prefix) + 7:]) for k in r
                             if k.startswith(prefix + "decode_") and k[len(prefix) + 7:].isdigit())
            for batch in batches:
                ours = r[f"{prefix}decode_{batch}"]
                most, bound = limit_of(r, f"decode_{batch}", prefix)
                rows.append([shape, f"{context:,}", str(batch), count(ours), share(ours, most), bound,
                             f"{price * 1e6 / 3600 / ours:.4f} $"])
    if not rows:
        return [NONE, ""]
    return table(["model", "context", "batch", "tokens/s", "of the limit", "bound by", "per million"], rows)


def profiles(r):
    keys = [k for k in r if k.startswith("profile_") and isinstance(r[k], dict)]
    for key in sorted(keys, key=lambda k: (k.rstrip("0123456789"), int("0" + k.rpartition("_")[2]))):
        total = sum(r[key].values())
        yield f"{key[8:].replace('_', ' of ', 1)}: {total:,.0f} us on the device"
        yield ""
        yield from table(["kernel", "us", "share"], [[name, f"{us:,.1f}", f"{100 * us / total:.1f} %"]
                                                     for name, us in sorted(r[key].items(), key=lambda x: -x[1])])


def page(r, price):
    yield "# Measured"
    yield ""
    yield f"Written by `bench/make_results.py` from one run: {r.get('device', 'unknown device')}, driver " \
          f"{r.get('driver', 'unknown')}, build {r.get('build', 'unknown')}, {r.get('date', 'date unknown')}, model " \
          f"{r.get('model', 'unknown')}."
    if r.get("small"):
        yield ""
        yield "**A rehearsal (`--small`)**: few and short sequences, no measurement."
    if "H200" not in r.get("device", ""):
        yield ""
        yield "**The device is not an H200**, on which the peers were measured and for which the goals are set: " \
              "ratios and goals compare two cards."
    yield ""
    yield from main_table(r)
    yield "Sampled: temperature 0.8, top-p 0.95, on the device. Decode: tokens/s while all sequences decode. Mixed: " \
          "output tokens/s from the first step to the last token. llama.cpp: September 2026, CUDA (and Vulkan), " \
          "flash attention on, one H200, a synthetic file of this shape; its mixed load is llama-server with 256 " \
          "slots, greedy. The limit: bytes over the measured read bandwidth or FLOPs over the measured matrix rate, " \
          "the longer of both; weights count once a step, as the engine reads them (f16 where it keeps them so)."
    yield ""
    drop = r.get("worst_drop_percent")
    yield "Largest fall of total tokens/s from n to n + 1 sequences (command `range`): " + \
        (NONE if drop is None else f"{drop:.1f} % (goal: at most 5 %)") + "."
    yield ""
    if r.get("shared_prefill_tokens") is not None:
        yield f"Requests behind one prefix (command `shared`): {count(r.get('shared_prompt_tokens'))} prompt tokens, " \
              f"{count(r['shared_prefill_tokens'])} computed, {count(r.get('shared_cached_tokens'))} from the prefix " \
              f"cache, {r.get('shared_seconds', 0):.2f} s."
        yield ""
    joules = sorted(int(k[17:]) for k in r if k.startswith("tokens_per_joule_") and k[17:].isdigit())
    known = ", ".join(f"{r[f'tokens_per_joule_{n}']:.1f} at {n}" for n in joules)
    yield f"Tokens per joule: {known or 'unknown'}."
    yield ""
    for name in ("ppl", "logits", "invariance"):
        if name in r:
            yield f"{name}, with trained weights: {r[name]}"
            yield ""
    yield "## The device"
    yield ""
    yield from rates_table(r)
    yield "## Scale"
    yield ""
    yield f"Decode, sampled. Cost of a million output tokens at {price:g} $ a GPU hour (an assumption), decode alone."
    yield ""
    yield from scaling_table(r, price)
    yield "## Where a step's time is"
    yield ""
    yield "The same before the matrix units were used: the first tables of bench/NOTES.md."
    yield ""
    times = list(profiles(r))
    yield from times if times else [NONE, ""]
    yield "## Commands"
    yield ""
    for name, line in {"all": r.get("command", "unknown"), **r.get("commands", {})}.items():
        yield f"- {name}: `{line}`"
    for failure in r.get("failed", []):
        yield f"- failed: {failure}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("json")
    parser.add_argument("-o", "--output", required=True)
    parser.add_argument("--price", type=float, default=3.0, help="$ a GPU hour (default 3)")
    options = parser.parse_args()
    with open(options.json, encoding="utf-8") as f:
        r = json.load(f)
    with open(options.output, "w", encoding="utf-8") as f:
        f.write("\n".join(page(r, options.price)) + "\n")


if __name__ == "__main__":
    sys.exit(main())
