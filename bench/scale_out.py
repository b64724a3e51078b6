#!/usr/bin/env python3
"""What more devices bring: the same file of prompts, once for each set of devices, by one broker and a worker for each
device, over their real sockets.

    bench/scale_out.py --build DIR -m MODEL.gguf [--devices 0 --devices 0,1] [--lines 8192] [--tokens 256] [--json]

Timed from the submission to the last line of the output, after a batch that is not, by workers that are ready. All
sets must give the same answers. The table is printed last, with --json one line after it. Exit status 1: a program
failed, an answer is missing or is another."""
import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

READY_S, STOP_S = 300, 30


class Programs:
    """A broker and its workers in a folder of their own."""

    def __init__(self, options, folder):
        self.options, self.folder, self.running = options, folder, []
        self.endpoint = "ipc://" + os.path.join(folder, "s")

    def start_all(self, devices):
        self.start("broker", "--ledger", os.path.join(self.folder, "ledger.db"), "--listen", self.endpoint)
        for number, device in enumerate(devices):
            self.start("worker", "--broker", self.endpoint, "-m", os.path.abspath(self.options.model),
                       "--device", device, "--name", f"{number}-device-{device}")

    def start(self, kind, *arguments):
        program = os.path.join(self.options.build, kind, "octoflow-" + kind)
        with open(os.path.join(self.folder, f"{kind}-{len(self.running)}.log"), "wb") as log:
            self.running.append(subprocess.Popen([program, *arguments], stdout=log, stderr=log))

    def client(self, *arguments):
        program = os.path.join(self.options.build, "client", "octoflow")
        done = subprocess.run([program, *arguments, "--broker", self.endpoint], stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True, check=False)
        if done.returncode not in (0, 1):  # 1: some lines failed, answers() says why
            raise RuntimeError(f"octoflow {arguments[0]}: exit {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def workers(self):
        return {w["worker"]: w for w in json.loads(self.client("workers", "--json"))["workers"]}

    def wait_ready(self, count):
        end = time.monotonic() + READY_S
        while sum(w["state"] == "ready" for w in self.workers().values()) < count:
            for process in self.running:
                if process.poll() is not None:
                    raise RuntimeError(f"a program ended before all were ready: {self.logs()}")
            if time.monotonic() > end:
                raise RuntimeError(f"not all workers were ready after {READY_S} s: {self.logs()}")
            time.sleep(0.2)

    def logs(self):
        ends = []
        for name in sorted(os.listdir(self.folder)):
            if name.endswith(".log"):
                with open(os.path.join(self.folder, name), encoding="utf-8", errors="replace") as f:
                    ends.append(f"{name}: {f.read()[-300:].strip()}")
        return "; ".join(ends)

    def stop(self):
        for process in reversed(self.running):  # workers first
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def prompts(path, name, count, tokens):
    """About 128 prompt tokens each, and as many generated as asked for."""
    with open(path, "w", encoding="utf-8") as f:
        for n in range(count):
            text = " ".join(f"{name} {n}, part {part}: tell me more about it." for part in range(8))
            f.write(json.dumps({"custom_id": f"{name}-{n}", "method": "POST", "url": "/v1/chat/completions", "body": {
                "messages": [{"role": "user", "content": text}], "max_tokens": tokens, "ignore_eos": True,
                "temperature": 0.8, "top_p": 0.95, "seed": n}}) + "\n")


def answers(path):
    """{custom_id: text}, and how many tokens they are."""
    texts, tokens = {}, 0
    with open(path, encoding="utf-8") as f:
        for line in map(json.loads, f):
            body = (line.get("response") or {}).get("body", {})
            if "choices" not in body:
                raise RuntimeError(f"{line['custom_id']}: {line.get('error') or body.get('error')}")
            texts[line["custom_id"]] = body["choices"][0]["message"]["content"]
            tokens += body["usage"]["completion_tokens"]
    return texts, tokens


def run_batch(programs, name, lines, tokens):
    """Returns (answers, tokens, seconds)."""
    path = {end: os.path.join(programs.folder, name + end) for end in (".jsonl", "-out.jsonl")}
    prompts(path[".jsonl"], name, lines, tokens)
    began = time.monotonic()
    programs.client("submit", path[".jsonl"], "--batch", name)
    programs.client("results", name, "-o", path["-out.jsonl"], "--wait")
    took_s = time.monotonic() - began
    texts, count = answers(path["-out.jsonl"])
    if len(texts) != lines:
        raise RuntimeError(f"{name}: {len(texts)} answers to {lines} lines")
    return texts, count, took_s


def measure(options, devices):
    folder = tempfile.mkdtemp(prefix="octo-")
    programs = Programs(options, folder)
    try:
        programs.start_all(devices)
        programs.wait_ready(len(devices))
        run_batch(programs, "warm", max(1, options.lines // 16), options.tokens)
        before = {name: w.get("done", 0) for name, w in programs.workers().items()}
        texts, tokens, took_s = run_batch(programs, "timed", options.lines, options.tokens)
        share = {name: w.get("done", 0) - before[name] for name, w in sorted(programs.workers().items())}
        return {"texts": texts, "tokens": tokens, "seconds": took_s, "share": share}
    finally:
        programs.stop()
        shutil.rmtree(folder)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--build", required=True, help="the build folder")
    p.add_argument("-m", "--model", required=True)
    p.add_argument("--devices", action="append", help="one set, as 0,1; again for the next (default: 0, then 0,1)")
    p.add_argument("--lines", type=int, default=8192)
    p.add_argument("--tokens", type=int, default=256, help="generated for each line")
    p.add_argument("--json", action="store_true")
    options = p.parse_args()
    rows, first = [], None
    for devices in options.devices or ["0", "0,1"]:
        try:
            found = measure(options, devices.split(","))
        except (RuntimeError, OSError) as e:
            sys.exit(f"scale_out: devices {devices}: {e}")
        first = first or found
        wrong = sum(found["texts"][name] != text for name, text in first["texts"].items())
        if wrong > 0:
            sys.exit(f"scale_out: devices {devices}: {wrong} of {options.lines} answers are others than the first's")
        rate = found["tokens"] / found["seconds"]
        times = rate / (rows[0]["tokens_per_s"] if rows else rate)
        rows.append({"devices": devices, "seconds": found["seconds"], "tokens_per_s": rate, "times": times,
                     "lines": found["share"]})
        print(f"devices {devices}: {found['seconds']:.1f} s", flush=True)
    print("\n| devices | s | output tokens/s | times the first | lines by each |\n| --- | ---: | ---: | ---: | --- |")
    for row in rows:
        cells = [row["devices"], f"{row['seconds']:.1f}", f"{row['tokens_per_s']:,.0f}", f"{row['times']:.2f}",
                 ", ".join(f"{name} {count}" for name, count in row["lines"].items())]
        print("| " + " | ".join(cells) + " |")
    if options.json:
        print(json.dumps({"rows": rows}))


if __name__ == "__main__":
    main()
