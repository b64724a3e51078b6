#!/usr/bin/env python3
"""The broker's benchmark on a few thousand jobs: test_broker_bench.py RUN_PY BUILD_DIR

Every job comes back once and whole, all figures are there, and a spoilt result is noticed."""
import json
import subprocess
import sys

FIGURES = ("lifecycles_per_s", "submit_per_s", "ack_p50_ms", "ack_p99_ms", "cost_ratio", "broker_peak_mib")


def run(*options):
    return subprocess.run([sys.executable, sys.argv[1], sys.argv[2], "--tiny", "--no-peer", "--json", *options],
                          stdout=subprocess.PIPE, text=True, check=False)


whole = run()
assert whole.returncode == 0, f"status {whole.returncode}"
figures = json.loads(whole.stdout.splitlines()[-1])
assert figures["correct"] is True, figures
for name in FIGURES:
    assert figures[name] > 0, (name, figures)

spoilt = run("--only", "lifecycles", "--damage", "1500")
assert spoilt.returncode == 1 and json.loads(spoilt.stdout.splitlines()[-1])["correct"] is False, spoilt
print(figures)
