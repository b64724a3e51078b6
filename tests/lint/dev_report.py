#!/usr/bin/env python3
"""The last line of ./dev test, dev_report.py ROOT: with a meson of our own, whose tests pass, fail and are skipped."""
import json
import os
import shutil
import subprocess
import sys
import tempfile

# Another test's output that looks like a result is none.
RESULTS = [("octoflow:base / base", "OK", ""), ("octoflow:hosts / hosts", "SKIP", ""),
           ("octoflow:proto / proto keys", "OK", '"result": "SKIP"'), ("octoflow:deploy / deploy_boot", "SKIP", ""),
           ("octoflow:e2e / e2e_kill", "FAIL", "")]


def last_line(folder, results):
    with open(os.path.join(folder, "dev.json"), "w", encoding="utf-8") as f:
        for name, result, said in results:
            f.write(json.dumps({"name": name, "stdout": said, "result": result, "env": {"name": "x"}}) + "\n")
    done = subprocess.run([os.path.join(folder, "dev"), "test", "some"], capture_output=True, text=True,
                          env=dict(os.environ, PATH=folder + ":" + os.environ["PATH"]))
    return done.returncode, done.stdout.rstrip("\n").split("\n")[-1]


def main():
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(os.path.join(sys.argv[1], "dev"), folder)
        os.makedirs(os.path.join(folder, "build", "meson-logs"))
        for name, does in (("dpkg-query", "printf installed"), ("ninja", ":"),
                           ("meson", f"[ $1 != test ] || cp {folder}/dev.json {folder}/build/meson-logs/dev.json")):
            path = os.path.join(folder, name)
            with open(path, "w", encoding="utf-8") as f:
                f.write(f"#!/bin/sh\n{does}\n")
            os.chmod(path, 0o755)
        got = [last_line(folder, RESULTS), last_line(folder, RESULTS[:4]), last_line(folder, RESULTS[:1])]
    expected = [(1, "2 passed, 1 failed, 2 skipped: hosts, deploy_boot"),
                (0, "2 passed, 0 failed, 2 skipped: hosts, deploy_boot"), (0, "1 passed, 0 failed")]
    print(f"got      {got}\nexpected {expected}")
    sys.exit(got != expected)


main()
