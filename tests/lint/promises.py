#!/usr/bin/env python3
"""docs/PROMISES.md against the tests that there are: promises.py ROOT BUILD

Every `name` in a table's last columns is a test of meson, every `name/row` a row of tests/faults/name.py, and every row
of the fault table is named by a promise. Prints what is wrong, and exits 1 then."""
import json
import os
import re
import sys


def rows_of(path):
    """The rows that a fault test runs: the names in the list at its end."""
    with open(path, encoding="utf-8") as f:
        text = f.read()
    lists = re.findall(r"(?:cluster\.main\(|table = )\[([\w,\s]+)\]", text)
    return [name for part in lists for name in re.findall(r"\w+", part)]


def named(page):
    """(line number, name) of every code span in the rows of tables, but those of the first two columns."""
    for number, line in enumerate(page.split("\n"), 1):
        cells = line.strip().strip("|").split("|")
        if line.startswith("|") and len(cells) > 2:
            for cell in cells[2:]:
                for name in re.findall(r"`([^`]+)`", cell):
                    yield number, name


def main():
    root, build = sys.argv[1:3]
    with open(os.path.join(build, "meson-info", "intro-tests.json"), encoding="utf-8") as f:
        tests = {t["name"] for t in json.load(f)}
    folder = os.path.join(root, "tests", "faults")
    files = [name[:-3] for name in sorted(os.listdir(folder)) if re.fullmatch(r"fault_\w+\.py", name)]
    rows = {f"{name}/{row}" for name in files if name in tests
            for row in rows_of(os.path.join(folder, name + ".py"))}
    with open(os.path.join(root, "docs", "PROMISES.md"), encoding="utf-8") as f:
        page = f.read()
    problems, seen = [], set()
    for number, name in named(page):
        seen.add(name)
        if name not in (rows if "/" in name else tests):
            what = "row of a fault test" if "/" in name else "test"
            problems.append(f"docs/PROMISES.md:{number}: `{name}` is no {what}")
    problems += [f"docs/PROMISES.md: no promise names `{row}`" for row in sorted(rows - seen)]
    print("\n".join(problems + [f"{len(seen)} tests and rows named, {len(problems)} problems"]))
    sys.exit(1 if problems or len(seen) < 10 or len(rows) < 10 else 0)


main()
