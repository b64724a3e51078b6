#!/usr/bin/env python3
"""deploy/RUNBOOK.md and deploy/README.md against the sources and the programs: a line of a log that is quoted is one
that a program can say, and every command line of ours has options that exist."""
import os
import re
import sys

import commands

VARIES = "…"
FOLDERS = ("base", "proto", "model", "engine", "broker", "worker", "client")
LITERAL = re.compile(r'"(?:[^"\\\n]|\\.)*"(?:\s*(?:PRI\w+\s*)?"(?:[^"\\\n]|\\.)*")*')
CONVERSION = re.compile(r"%[-+ #0]*(?:\d+|\*)?(?:\.(?:\d+|\*))?(?:hh|h|ll|l|z|j)?[a-zA-Z]")


def said(root):
    """Every text of the sources, with an ellipsis for what varies."""
    texts = []
    for folder in FOLDERS:
        for path, _, names in os.walk(os.path.join(root, folder)):
            for name in names:
                if name.endswith((".c", ".h")):
                    with open(os.path.join(path, name), encoding="utf-8") as f:
                        texts += LITERAL.findall(f.read())
    joined = [re.sub(r'"\s*(PRI\w+)\s*"', "u", t) for t in texts]
    joined = [re.sub(r'"\s*"', "", t)[1:-1].replace('\\"', '"') for t in joined]
    return {CONVERSION.sub(VARIES, t) for t in joined}


def is_said(line, texts):
    """It is part of a text, or a text with something in the places that vary."""
    return any(line in t or len(t.replace(VARIES, "")) > 8 and re.fullmatch(".+".join(map(re.escape, t.split(VARIES))),
                                                                            line) for t in texts)


def quoted(page):
    """(number, line): indented lines behind a bar, and code spans in the first column of a table."""
    for number, line in enumerate(page.split("\n"), 1):
        found = re.match(r"    \| (.*)$", line)
        if found:
            yield number, found.group(1)
        cell = re.match(r"\| `([^`]+)` \|", line)
        if cell:
            yield number, cell.group(1)


def command_lines(page):
    """(number, words): of ours, in blocks of code."""
    for number, line in enumerate(page.split("\n"), 1):
        if re.match(r"    octoflow", line):
            yield number, re.split(r"\s[#>|]|\s>>", line)[0].split()


def main():
    source, build = sys.argv[1:3]
    programs, texts, problems, counts = commands.Programs(build), said(source), [], [0, 0]
    for name in ("RUNBOOK.md", "README.md"):
        with open(os.path.join(source, "deploy", name), encoding="utf-8") as f:
            page = f.read()
        for number, line in quoted(page):
            counts[0] += 1
            if not is_said(line, texts):
                problems.append(f"deploy/{name}:{number}: no program says: {line}")
        for number, words in command_lines(page):
            counts[1] += 1
            problems += [f"deploy/{name}:{number}: {p}" for p in programs.problems(words)]
    print("\n".join(problems + [f"{counts[0]} lines quoted, {counts[1]} commands, {len(problems)} problems"]))
    sys.exit(1 if problems or counts[0] < 30 or counts[1] < 10 else 0)


main()
