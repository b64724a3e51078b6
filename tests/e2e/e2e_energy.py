#!/usr/bin/env python3
"""Energy with a sensor that is a file: 100 W, told or counted, make as many joules as they have to, in results, status
and reports; a sensor that dies while the worker works and comes back is said once each time, the worker rests as one
that is blind, and every line is answered; without a sensor everything is unknown, and nothing is 0."""
import datetime
import json
import os
import re
import threading
import time

import common
from cluster import Cluster

WATTS = 100
GOOD = f"50 {WATTS} 700"
BLIND = ["temp_c", "margin_c", "power_w", "power_limit_w", "joules_per_token"]
BLIND_MS = 5  # --pace-ms-without-sensor


def lines(name, count, tokens):
    return [{"custom_id": f"{name}-{n}", "prompt": "Once upon a time", "max_tokens": tokens, "ignore_eos": True,
             "seed": n} for n in range(count)]


def seconds(text):
    return datetime.datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def wall_s(results):
    return max(seconds(r["octoflow"]["finished_at"]) for r in results) - \
        min(seconds(r["octoflow"]["started_at"]) for r in results)


def check_report(bench, said, joules, tokens):
    told = re.search(r"energy: ([0-9.]+) kWh, ([0-9.e+-]+) J for each token of the answers", said)
    if bench.check(told is not None, f"the report has no energy: {said}"):
        bench.check(abs(float(told[1]) * 3.6e6 / sum(joules) - 1) < 0.01 and
                    abs(float(told[2]) * tokens / sum(joules) - 1) < 0.01,
                    f"the report has {told[0]}, the results {sum(joules)} J of {tokens} tokens")


class Bench(Cluster):
    """A broker and one worker whose sensor is a file."""

    def __init__(self, bench):
        super().__init__(bench)
        self.set_sensor(GOOD)
        self.worker = self.add_worker("w1", "--sensor", "fake:" + bench.path("sensor"))
        self.batches = 0

    def set_sensor(self, text):
        with open(self.bench.path("sensor.new"), "w", encoding="utf-8") as f:
            f.write(text + "\n")
        os.replace(self.bench.path("sensor.new"), self.bench.path("sensor"))

    def status(self):
        return json.loads(self.client("status", "--json")[1])

    def submit(self, name, count, tokens):
        path = self.bench.write(name + ".in.jsonl", lines(name, count, tokens))
        self.client("submit", path, "--batch", name)

    def results(self, name):
        out = self.bench.path(name + ".jsonl")
        _, _, said = self.client("results", name, "-o", out, "--wait")
        return common.read_results(out), said

    def work_until(self, what, condition):
        """Keeps the worker at work, a small batch at a time, until its picture is as wanted."""
        def step():
            status = self.status()
            if condition(status["workers"][0]):
                return status["workers"][0]
            if all(b["state"] == "completed" for b in status["batches"]):
                self.submit(f"more-{self.batches}", 2, 20)
                self.batches += 1
            return None

        worker = self.bench.wait_for(what, step, 60)
        if worker is None:
            raise SystemExit(f"never saw {what}")
        return worker


def counted(bench, b):
    """Six answers of 50 tokens on a device that counts 100 J a second and tells no watts: their joules in results,
    report and status."""
    over = threading.Event()

    def count():
        while not over.wait(0.01):
            b.set_sensor(f"50 - 700 0 - - {WATTS * time.monotonic():.3f}")

    counter = threading.Thread(target=count, daemon=True)
    counter.start()
    bench.wait_for("watts from the counter",
                   lambda: any(w["power_w"] not in (None, WATTS) for w in b.status()["workers"]))
    b.submit("counted", 6, 50)
    results, said = b.results("counted")
    joules = [r["octoflow"]["energy_j"] for r in results]
    if not bench.check(all(j is not None and j > 0 for j in joules), f"energy of each answer: {joules}"):
        return
    bench.check(0.5 * WATTS < sum(joules) / wall_s(results) < 1.1 * WATTS,  # the counter moves each 10 ms
                f"{sum(joules):.2f} J in {wall_s(results):.3f} s at {WATTS} W")
    bench.check(max(joules[1:]) < 1.5 * min(joules[1:]),  # the first one may begin alone
                f"equal work side by side, other shares: {joules}")
    check_report(bench, said, joules, 300)

    def reported():
        status = b.status()
        worker = status["workers"][0]
        return worker["joules_per_token"] and (worker["energy_j"] or 0) >= sum(joules) and status
    status = bench.wait_for("a heartbeat with what the device used for that", reported)
    over.set()
    counter.join()
    batch, worker = status["batches"][0], status["workers"][0]
    bench.check(abs(batch["energy_j"] - sum(joules)) < 0.01 and batch["energy_jobs"] == 6,
                f"the batch has {batch['energy_j']} J of {batch['energy_jobs']} jobs, the results {sum(joules)}")
    bench.same((worker["temp_mean_c"], worker["temp_peak_c"]), (50, 50), "mean, peak")
    bench.check(abs(worker["power_w"] - WATTS) < 0.1 * WATTS, f"{worker['power_w']} W of a counter of {WATTS}")
    bench.check(0 < worker["joules_per_token"] < WATTS, f"{worker['joules_per_token']} J a token")
    bench.has(b.client("status")[1], " kWh", "status")
    b.set_sensor(GOOD)


def dies(bench, b):
    worker = b.work_until("a worker that sees", lambda w: w["temp_known"])
    bench.check(worker["pace_ms"] < BLIND_MS, f"cool and seen it rests {worker['pace_ms']} ms")
    b.set_sensor("the wires are loose")
    worker = b.work_until("a worker that is blind", lambda w: not w["temp_known"])
    bench.same([worker[name] for name in BLIND], [None] * len(BLIND), "headroom of a blind worker")
    bench.same(worker["pace_ms"], BLIND_MS, "rest of a blind worker")
    b.submit("blind", 2, 10)
    results, said = b.results("blind")
    bench.same([r["octoflow"]["energy_j"] for r in results], [None, None], "energy while the sensor was away")
    bench.has(said, "energy: unknown\n", "results: the report")
    os.unlink(bench.path("sensor"))
    b.set_sensor(GOOD)
    b.work_until("a worker that sees again", lambda w: w["temp_known"] and w["power_w"] == WATTS)
    b.submit("back", 2, 10)
    results, _ = b.results("back")
    bench.check(all(r["octoflow"]["energy_j"] > 0 for r in results), "energy after the sensor came back")
    for n in range(b.batches):
        bench.same([r["response"]["status_code"] for r in b.results(f"more-{n}")[0]], [200, 200], f"batch more-{n}")
    log = bench.output("w1.err")
    for text in ("no fresh sensor reading", "sensor answers again"):
        bench.same(log.count(text), 1, f'how often the worker\'s log says "{text}"')
    bench.has(log, '"the": expected up to', "why it is blind")


def without(bench):
    inputs, out = bench.write("none.in.jsonl", lines("none", 2, 5)), bench.path("none.jsonl")
    _, said, _ = bench.run_batch(inputs, out, "--sensor", "none", code=0)
    bench.same([r["octoflow"]["energy_j"] for r in common.read_results(out)], [None, None], "energy without a sensor")
    bench.has(said, "energy: unknown\n", "the run's report")
    bench.has(said, ": temperature unknown, energy with idle time unknown\n", "the run's report")
    bench.check(" 0 J" not in said and "0.00 kWh" not in said, "the run's report: nothing is 0")
    bench.write("sensor2", GOOD)
    _, said, _ = bench.run_batch(inputs, bench.path("some.jsonl"), "--sensor", "fake:" + bench.path("sensor2"), code=0)
    results = common.read_results(bench.path("some.jsonl"))
    joules = [r["octoflow"]["energy_j"] for r in results]
    if bench.check(all(j is not None and j > 0 for j in joules), f"energy at {WATTS} W: {joules}"):
        bench.check(sum(joules) <= WATTS * (wall_s(results) + 0.01), f"{joules} J in {wall_s(results)} s at {WATTS} W")
        check_report(bench, said, joules, 10)
    bench.has(said, ": 50 C on average, 50 C at most, energy with idle time 0.", "the run's report")


def test(bench, options):
    b = Bench(bench)
    counted(bench, b)
    dies(bench, b)
    b.stop()
    without(bench)


common.main(test)
