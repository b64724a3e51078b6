#!/usr/bin/env python3
"""Puts the tables of events and metrics, which the broker's source has, into docs/operations.md between their marker
lines:

  docs/make_operations.py BUILD_DIR           writes docs/operations.md
  docs/make_operations.py BUILD_DIR --check   fails when the page has other tables (a test does this)
"""
import os
import re
import subprocess
import sys

PAGE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "operations.md")


def main():
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    with open(PAGE, encoding="utf-8") as f:
        before = text = f.read()
    known = {"octoflow_worker_connected"}  # of workers alone
    for table in ("events", "metrics"):
        argv = [os.path.join(sys.argv[1], "broker", "tables_doc"), table]
        rows = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
        known |= set(re.findall(r"`(octoflow_\w+|process_\w+)`", rows))
        text, found = re.subn(f"(<!-- {table}: begin -->\n).*?(<!-- {table}: end -->\n)",
                              lambda match, rows=rows: match.group(1) + rows + match.group(2), text, flags=re.S)
        if found != 1:
            sys.exit(f"docs/operations.md: its marker lines of {table} are missing")
    used = set(re.findall(r"\boctoflow_[a-z_]*[a-z]", text))
    wrong = {name for name in used if re.sub("_bucket$", "", name) not in known}
    if wrong:
        sys.exit(f"docs/operations.md: no such metrics: {', '.join(sorted(wrong))}")
    if sys.argv[2:] == ["--check"] and text != before:
        sys.exit(f"docs/operations.md has other tables than the source; run: docs/make_operations.py {sys.argv[1]}")
    with open(PAGE, "w", encoding="utf-8") as f:
        f.write(text)


main()
