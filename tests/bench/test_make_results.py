"""RESULTS.md from numbers whose ratios are known: test_make_results.py MAKE_RESULTS_PY"""
import json
import os
import subprocess
import sys
import tempfile


def make(numbers):
    with tempfile.TemporaryDirectory() as folder:
        source, target = os.path.join(folder, "r.json"), os.path.join(folder, "R.md")
        with open(source, "w", encoding="utf-8") as f:
            json.dump(numbers, f)
        subprocess.run([sys.executable, sys.argv[1], source, "-o", target, "--price", "3.6"], check=True)
        with open(target, encoding="utf-8") as f:
            return f.read()


def cells(page, label):
    """The columns after the row's label."""
    rows = [line for line in page.split("\n") if line.startswith(f"| {label} |")]
    assert len(rows) == 1, (label, rows)
    return [cell.strip() for cell in rows[0].split("|")[2:-1]]


def main():
    page = make({
        "device": "NVIDIA H200", "driver": "580", "date": "2026-11-25T20:00:00Z", "matrix_units": True,
        "read_bytes_per_s": 4e12, "matrix_flops_per_s": 500e12, "fma_flops_per_s": 60e12,
        # a step of 0.4 GB: 0.1 ms at these rates, 10,000 tokens/s
        "decode_1": 1830.0, "decode_1_greedy": 2000.0, "bytes_per_step_1": 4e8, "flops_per_step_1": 1e9,
        # a step of 1 TFLOP: 2 ms, 512,000 tokens/s
        "decode_1024": 256000.0, "bytes_per_step_1024": 1e9, "flops_per_step_1024": 1e12,
        "prefill_2048": 24000.0,
        "scale_7b_512_decode_16": 1000.0,
        "profile_decode_1": {"head": 75.0, "norm": 25.0},
        "tokens_per_joule_1": 12.5,
        "commands": {"decode": "octoflow-bench run"}, "failed": ["mixed: exit 3: out of memory"],
    })
    assert cells(page, "decode, 1 sequence") == ["1,830", "2,000", "915", "2.00", "3.23", "1,500", "2,500", "reached",
                                                 "18.3 %", "memory"], cells(page, "decode, 1 sequence")
    assert cells(page, "decode, 1024 (128 + 128)")[-3:] == ["aim reached", "50.0 %", "matrix units"]
    assert cells(page, "prefill, 2048")[3] == "0.50" and cells(page, "prefill, 2048")[7] == "missed"
    # nothing is made up where nothing was measured
    assert cells(page, "decode, 64 (128 + 128)")[0] == "not measured"
    assert cells(page, "decode, 64 (128 + 128)")[7:] == ["", "", ""]
    assert cells(page, "copy") == ["not measured"]
    # 3.6 $ an hour is 0.001 $ a second: 1,000 s for a million tokens
    assert cells(page, "7b") == ["512", "16", "1,000", "", "", "1.0000 $"], cells(page, "7b")
    assert cells(page, "head") == ["75.0", "75.0 %"]
    assert "12.5 at 1" in page and "failed: mixed: exit 3" in page and "not an H200" not in page
    assert "not an H200" in make({"device": "NVIDIA H100 80GB HBM3"})
    assert "Tokens per joule: unknown" in make({})


main()
