#!/usr/bin/env python3
"""docs/limits.md against the source: limits.py ROOT

The last cell of each row names a number, `FILE NAME` or a broker's option, and the second says what it is. Prints what
differs, and exits 1 then."""
import os
import re
import sys

UNITS = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


def stated(cell):
    """(number, unit) of a cell like "32 MiB"; number None: no limit."""
    m = re.fullmatch(r"([\d,]+)(?: (KiB|MiB|GiB|s|ms))?", cell)
    return (None, "") if not m else (int(m[1].replace(",", "")) * UNITS.get(m[2], 1), m[2] or "")


def in_source(root, path, name):
    with open(os.path.join(root, path), encoding="utf-8") as f:
        m = re.search(rf"\b{name}\s*=\s*([\d\s<*()]+)", f.read())
    return eval(m[1]) if m else None  # digits, <, *, ( and ) only


def default_of(root, option):
    with open(os.path.join(root, "docs", "options.md"), encoding="utf-8") as f:
        page = f.read()
    broker = page[page.index("octoflow-broker --ledger"):]
    m = re.search(rf"{option} .*?\(default\s+(\d+)", broker, re.S)
    return int(m[1]) if m else None


def problem_of(root, row):
    cells = [c.strip() for c in row.strip().strip("|").split("|")]
    number, unit = stated(cells[1])
    if number is None and cells[1] != "no limit":
        return f"\"{cells[1]}\" is no number"
    m = re.fullmatch(r"`(?:(\S+) (\w+)|(--[\w-]+))`", cells[-1])
    if not m:
        return f"\"{cells[-1]}\" names no number of the source"
    found = default_of(root, m[3]) if m[3] else in_source(root, m[1], m[2])
    if found is None:
        return f"{cells[-1]} is not there"
    if m[2] and m[2].endswith("_MS"):
        found /= 1000 if unit == "s" else 1
    if m[2] and m[2].endswith("_MIB"):
        found <<= 20
    want = 0 if number is None else number
    return None if found == want else f"says {cells[1]}; {cells[-1]} is {found}"


def main():
    root, problems, rows = sys.argv[1], [], 0
    with open(os.path.join(root, "docs", "limits.md"), encoding="utf-8") as f:
        for n, line in enumerate(f, 1):
            if not line.startswith("|") or line.startswith(("|---", "| What ")):
                continue
            rows += 1
            problem = problem_of(root, line)
            if problem:
                problems.append(f"docs/limits.md:{n}: {problem}")
    print("\n".join(problems + [f"{rows} limits, {len(problems)} wrong"]))
    sys.exit(1 if problems or rows < 30 else 0)


main()
