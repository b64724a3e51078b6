#!/usr/bin/env python3
"""The governor on a real card, whose settings are not touched: octoflow-bench governor-live (the engine idle, free, and
under each law), its row of each second beside what nvidia-smi says in the same second, in one CSV; then a table of
the runs, the differences between the two, and a plot where gnuplot is.

    bench/governor_live.py -m MODEL.gguf [--seconds 540] [--loading 50] [--csv FILE] [-b 1024] [...]

Options that it does not know itself are octoflow-bench governor-live's.

What cannot be read is "unknown", and an empty cell of the CSV."""
import argparse
import csv
import os
import re
import shutil
import subprocess
import sys
import threading
import time

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
FIELDS = {  # a row's column: nvidia-smi's name for it, and the older one
    "temp_c": ["temperature.gpu"],
    "margin_c": ["temperature.gpu.tlimit"],
    "memory_temp_c": ["temperature.memory"],
    "power_w": ["power.draw.instant", "power.draw"],
    "mean_power_w": ["power.draw.average"],
    "limit_w": ["enforced.power.limit", "power.limit"],
    "clock_mhz": ["clocks.sm"],
    "throttle_bits": ["clocks_event_reasons.active", "clocks_throttle_reasons.active"],
}
REASONS = {0x20 | 0x40: 1, 0x4: 2, 0x8 | 0x80: 4}  # clocks event reasons: our bits for heat, power, brake
SMI_TIMEOUT_S, LATE_S, LOADING_S = 4, 0.5, 50


def number(text):
    try:
        return float(text)
    except (TypeError, ValueError):
        return None


def bits(text):
    try:
        reasons = int(text, 16)
    except ValueError:
        return None
    return sum(bit for mask, bit in REASONS.items() if reasons & mask)


class Smi:
    """nvidia-smi for one card; pci "unknown": for the only one there is."""

    def __init__(self, pci):
        self.id = [] if pci == "unknown" else ["--id=" + pci]
        self.names = {column: list(names) for column, names in FIELDS.items()}

    def ask(self):
        """Returns {column: number or None}, empty when it does not answer."""
        asked = {column: names[0] for column, names in self.names.items() if names}
        try:
            done = subprocess.run(["nvidia-smi", "--query-gpu=" + ",".join(asked.values()),
                                   "--format=csv,noheader,nounits", *self.id], stdin=subprocess.DEVNULL,
                                  capture_output=True, text=True, timeout=SMI_TIMEOUT_S, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return {}
        refused = re.search(r'Field "([^"]+)" is not a valid field', done.stdout + done.stderr)
        if refused and refused[1] in asked.values():
            for names in self.names.values():
                if names[:1] == [refused[1]]:
                    names.pop(0)
            return self.ask()
        cards = [line.split(",") for line in done.stdout.splitlines() if line.count(",") == len(asked) - 1]
        if done.returncode != 0 or len(cards) != 1:
            return {}
        return {column: (bits if column == "throttle_bits" else number)(cell.strip())
                for column, cell in zip(asked, cards[0])}


def follow(lines, path):
    """Copies the rows into the CSV, nvidia-smi's columns beside them; returns them with numbers for texts."""
    rows, started = [], float("inf")
    title = next(lines, "").strip()
    header = next(lines, "").strip().split(",")
    if not title.startswith("# ") or "time_s" not in header:
        return rows
    print(title[2:])
    smi = Smi(re.search(r", PCI ([^,]+),", title)[1])
    with open(path, "w", encoding="utf-8", newline="") as f:
        out = csv.writer(f, lineterminator="\n")
        out.writerow(header + ["smi_" + column for column in FIELDS])
        for line in lines:
            texts = line.rstrip("\n").split(",")
            if len(texts) < len(header):
                break  # cut off within a row
            row = {column: text if column == "phase" else number(text) for column, text in zip(header, texts)}
            now = time.monotonic() - row["time_s"]
            started = min(started, now)
            said = smi.ask() if now - started < LATE_S else {}
            row.update({"smi_" + column: said.get(column) for column in FIELDS})
            rows.append(row)
            out.writerow(texts + [row["smi_" + column] for column in FIELDS])
            f.flush()
            if len(rows) % 10 == 1:
                print("  ".join(f"{column} {show(row[column])}" for column in
                                ("time_s", "phase", "temp_c", "mean_power_w", "duty", "tokens_per_s")))
    return rows


def show(value):
    return "unknown" if value is None else value if isinstance(value, str) else f"{value:.4g}"


def known(rows, column):
    return [row[column] for row in rows if row[column] is not None]


def mean(values):
    return sum(values) / len(values) if values else None


def table(*lines):
    cells = [[show(cell) for cell in line] for line in lines]
    widths = [max(map(len, column)) for column in zip(*cells)]
    for line in cells:
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths)))


def sum_up(name, rows):
    """A run, by its second half."""
    rows = rows[len(rows) // 2:]
    temps, rate = known(rows, "temp_c"), mean(known(rows, "tokens_per_s"))
    watts = mean(known(rows, "mean_power_w") or known(rows, "power_w"))
    throttled = [seen for seen in known(rows, "throttle_bits") if int(seen) & 1]
    return [name, rate, mean(temps), max(temps, default=None), max(temps) - min(temps) if temps else None,
            mean(known(rows, "margin_c")), watts, watts / rate if watts is not None and rate else None,
            mean(known(rows, "clock_mhz")), mean(known(rows, "duty")), mean(known(rows, "busy")), len(throttled)]


def differ(name, rows):
    """Our readings and nvidia-smi's, in the same seconds."""
    line = [name]
    for column in FIELDS:
        apart = [abs(row[column] - row["smi_" + column]) for row in rows
                 if row[column] is not None and row["smi_" + column] is not None]
        line += [max(apart, default=None)]
    return line + [sum(row["smi_temp_c"] is not None for row in rows)]


def plot(path):
    picture = os.path.splitext(path)[0] + ".svg"
    if shutil.which("gnuplot") is None:
        print(f"no gnuplot here: gnuplot -e \"csv='{path}'\" docs/governor/live.gp > {picture}")
        return
    with open(picture, "w", encoding="utf-8") as f:
        subprocess.run(["gnuplot", "-e", f"csv='{path}'", os.path.join(ROOT, "docs/governor/live.gp")], stdout=f,
                       check=False)
    print(f"plot: {picture}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench", default=os.path.join(ROOT, "build/bench/octoflow-bench"), help="the program")
    parser.add_argument("--seconds", type=float, default=540, help="of everything, loading included (default 540)")
    parser.add_argument("--loading", type=float, help="of these, for all but the runs (default 50, or half of these)")
    parser.add_argument("--csv", default="governor-live.csv", help="what is written (default governor-live.csv)")
    options, more = parser.parse_known_args()
    sys.stdout.reconfigure(line_buffering=True)
    # Three runs, two times half as long to cool down, and a twelfth for the idle card.
    loading_s = min(LOADING_S, options.seconds / 2) if options.loading is None else options.loading
    run_s = (options.seconds - loading_s) / (3 + 2 / 2 + 1 / 12)
    command = [options.bench, "governor-live", "--idle", max(1, run_s / 12), "--seconds", run_s, "--cool", run_s / 2]
    with subprocess.Popen([str(word) for word in command + more], stdout=subprocess.PIPE, text=True) as bench:
        timer = threading.Timer(options.seconds, bench.kill)  # nothing is left to do at its end
        timer.start()
        rows = follow(bench.stdout, options.csv)
        timer.cancel()
    phases = {}
    for row in rows:
        phases.setdefault(row["phase"], []).append(row)
    if rows:
        plot(options.csv)
        print("\nmost between the sensor and nvidia-smi in the same second (power_w is of a moment: rests or work):")
        table(["run", *FIELDS, "seconds"], *(differ(name, seconds) for name, seconds in phases.items()))
        print("\nthe second half of each run:")
        table(["run", "tokens/s", "mean C", "peak C", "ripple C", "margin C", "watts", "J/token", "MHz", "duty", "busy",
               "throttled s"], *(sum_up(name, seconds) for name, seconds in phases.items() if name != "cool"))
    if bench.returncode != 0:
        print(f"octoflow-bench ended with {bench.returncode}: the runs are not whole", file=sys.stderr)
    return 0 if bench.returncode == 0 else 1


sys.exit(main())
