#!/usr/bin/env python3
"""The systemd units: systemd finds nothing to say about them, counts them as well shut off, and their options are the
programs'. deploy_boot runs them."""
import os
import re
import shlex
import subprocess
import sys
import tempfile

import commands

EXPOSURE_MOST = 2.0  # of systemd-analyze security; 10 is a service without any restriction
PROMISED = ("Type=notify", "WatchdogSec=", "Restart=on-failure", "DynamicUser=yes", "ProtectSystem=strict",
            "NoNewPrivileges=yes", "SystemCallFilter=@system-service", "RestrictAddressFamilies=", "LoadCredential=")


def unit_lines(text):
    return re.sub(r"\\\n\s*", "", text).split("\n")


def environment(path):
    with open(path, encoding="utf-8") as f:
        return dict(line.strip().split("=", 1) for line in f if line.strip() and not line.startswith("#"))


def expand(words, values):
    """As systemd does: ${NAME} is one word, $NAME as many as it has."""
    out = []
    for word in words:
        if re.fullmatch(r"\$\w+", word):
            out += values[word[1:]].split()
        else:
            out.append(re.sub(r"\$\{(\w+)\}", lambda m: values[m.group(1)], word))
    return out


def check_unit(programs, name, text, env, folder):
    problems = [f"{name}: {line} is missing" for line in PROMISED if line not in text]
    for line in unit_lines(text):
        if line.startswith("ExecStart="):
            problems += [f"{name}: {p}" for p in programs.problems(expand(shlex.split(line[10:]), env))]
    path = os.path.join(folder, name)
    with open(path, "w", encoding="utf-8") as f:
        f.write(re.sub(r"^ExecStart=\S*/(octoflow[\w-]*)", lambda m: "ExecStart=" + programs.path(m.group(1)), text,
                       flags=re.M))
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", path], capture_output=True, text=True)
    said = [line for line in done.stderr.split("\n") if name.split("@")[0] in line]
    if done.returncode != 0 or said:
        problems.append(f"{name}: systemd-analyze verify: {done.returncode} {said}")
    done = subprocess.run(["systemd-analyze", "security", "--offline=yes", f"--threshold={EXPOSURE_MOST * 10:.0f}",
                           path], capture_output=True, text=True)
    print((done.stdout.strip().split("\n") or [""])[-1])
    if done.returncode != 0:
        problems.append(f"{name}: more exposed than {EXPOSURE_MOST}: {done.stdout.strip()[-300:]} {done.stderr}")
    return problems


def main():
    source, build = sys.argv[1:3]
    programs = commands.Programs(build)
    folder = os.path.join(source, "deploy", "systemd")
    problems = []
    with tempfile.TemporaryDirectory() as scratch:
        for name, env in (("octoflow-broker.service", "broker.env"), ("octoflow-worker@.service", "worker.env")):
            with open(os.path.join(build, "deploy", "systemd", name), encoding="utf-8") as f:
                problems += check_unit(programs, name, f.read(), environment(os.path.join(folder, env)), scratch)
    print("\n".join(problems + [f"{len(problems)} problems"]))
    sys.exit(1 if problems else 0)


main()
