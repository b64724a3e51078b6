#!/usr/bin/env python3
"""Writes docs/options.md from what the programs print for --help, so that the page cannot be wrong for long:

  docs/make_options.py BUILD_DIR           writes docs/options.md
  docs/make_options.py BUILD_DIR --check   fails when the page is not what the programs say (a test does this)
"""
import os
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
PAGE = os.path.join(HERE, "options.md")
COMMANDS = ["run", "submit", "status", "workers", "models", "top", "events", "backup", "results", "cancel", "keygen",
            "inspect", "tokenize", "detokenize"]
HEAD = """# Options

What each program says to `--help`. Written by `docs/make_options.py build`; a test checks that it is up to date.
"""


def help_of(build, folder, program, *command):
    done = subprocess.run([os.path.join(build, folder, program), *command, "--help"], capture_output=True, text=True)
    name = " ".join([program, *command])
    if done.returncode != 0 or not done.stdout:
        sys.exit(f"{name} --help: exit code {done.returncode}\n{done.stderr}")
    lines = "".join(("    " + line).rstrip() + "\n" for line in done.stdout.strip("\n").split("\n"))
    return f"\n## {name}\n\n{lines}"


def main():
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    build = sys.argv[1]
    page = HEAD + help_of(build, "client", "octoflow")
    for command in COMMANDS:
        page += help_of(build, "client", "octoflow", command)
    page += help_of(build, "broker", "octoflow-broker") + help_of(build, "worker", "octoflow-worker")
    page += help_of(build, "bench", "octoflow-bench")
    if sys.argv[2:] == ["--check"]:
        with open(PAGE, encoding="utf-8") as f:
            if f.read() != page:
                sys.exit(f"docs/options.md is not what the programs print; run: docs/make_options.py {build}")
        print("docs/options.md is what the programs print")
        return
    with open(PAGE, "w", encoding="utf-8") as f:
        f.write(page)


main()
