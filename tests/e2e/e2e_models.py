#!/usr/bin/env python3
"""Several models on one worker: batches for two of them that are waited for by turns, a worker that fetches what it
lacks from the broker, killed on the way, and what is said of a model that nobody has."""
import json
import os
import shutil
import signal
import sys
import time

import common

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "faults"))

import forwarder  # noqa: E402

SMALL, LARGE, DAMAGED = "octo-tiny-q4_k_m", "octo-tiny-q8_0", "octo-tiny-f16"


class Cluster:
    def __init__(self, bench, name, *more):
        self.bench, self.name, self.endpoint = bench, name, "ipc://" + bench.path(name + ".sock")
        argv = [bench.broker, "--listen", self.endpoint, "--ledger", bench.path(name + ".db"), "--heartbeat-ms", "500"]
        self.broker = bench.start([*argv, *more], name + "-broker")
        self.workers = []

    def add_worker(self, name, *more, endpoint=None):
        argv = [self.bench.worker, "--broker", endpoint or self.endpoint, "--name", name, "--max-jobs", "4", "--ctx",
                "256"]
        self.workers.append(self.bench.start([*argv, *more], f"{self.name}-{name}"))
        return self.workers[-1]

    def client(self, command, *arguments, code=0):
        return self.bench.run(self.bench.octoflow, command, "--broker", self.endpoint, *arguments, code=code,
                              name=f"{self.name}-{command}")

    def submit(self, batch, count, *more):
        path = self.bench.write(batch + ".jsonl", [{"custom_id": f"{batch}-{n}", "prompt": f"Once {n}", "max_tokens": 8,
                                                    "temperature": 0} for n in range(count)])
        return self.client("submit", path, "--batch", batch, *more)[2]

    def results(self, batch):
        out = self.bench.path(f"{batch}-out.jsonl")
        self.client("results", batch, "-o", out, "--wait")
        return common.read_results(out)

    def models(self):
        return json.loads(self.client("models", "--json")[1])["models"]

    def status(self, batch):
        return json.loads(self.client("status", batch, "--json")[1])["batches"][0]

    def stop(self):
        for process in [*self.workers, self.broker]:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                self.bench.same(self.bench.finish(process, 60)[0], 0, f"{process.name}: exit code after SIGTERM")


def check_models(bench, results, count, model):
    bench.same([(r["octoflow"]["model"], common.status_code(r)) for r in results], [(model, 200)] * count,
               f"{model}: models and states of its results")


def damage(path):
    """Its tokenizer's name becomes another, its size and time stay: nobody notices before it is loaded."""
    with open(path, "rb") as f:
        content = f.read()
    key = b"tokenizer.ggml.pre"
    at = content.index(key) + len(key) + 4 + 8
    times = os.stat(path)
    with open(path, "r+b") as f:
        f.seek(at)
        f.write(b"?")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def changes(bench):
    """One worker, two models: each batch is run with its own, and the worker changes once for each."""
    folder = bench.path("models")
    os.mkdir(folder)
    shutil.copy(bench.model("q8_0"), folder)
    bench.write("models/torn.gguf", b"GGUF\3\0\0\0")
    c = Cluster(bench, "turns")
    bench.has(c.submit("none", 1, "--model", "nobodys"), "warning: no worker is connected", "submit without a worker")
    heat = bench.write("heat", b"50 100 700")
    worker = c.add_worker("w", "-m", bench.model("q4_k_m"), "--models", folder, "--sensor", "fake:" + heat)
    bench.wait_for("the worker's models", lambda: {m["name"] for m in c.models()} == {SMALL, LARGE})
    shutil.copy(bench.model("f16"), folder)
    worker.send_signal(signal.SIGHUP)
    bench.wait_for("one more model", lambda: {m["name"] for m in c.models()} == {SMALL, LARGE, DAMAGED})
    hashes = {m["name"]: m["hash"] for m in c.models()}
    bench.same({m["name"]: m["state"] for m in c.models()}, {SMALL: "loaded", LARGE: "there", DAMAGED: "there"},
               "octoflow models")
    nobody = f"no worker has model huge (there is: {SMALL}, {DAMAGED}, {LARGE})"
    bench.has(c.submit("nobodys", 1, "--model", "huge"), "warning: " + nobody, "submit for a model that nobody has")
    bench.has(c.status("nobodys")["problem"], nobody, "its status")
    bench.same(c.submit("large", 6, "--model", LARGE).count("warning"), 0, "warnings for a model that is there")
    c.submit("any", 3)
    c.submit("small", 6, "--model", hashes[SMALL])
    for batch, model in (("small", SMALL), ("large", LARGE)):
        results = c.results(batch)
        check_models(bench, results, 6, model)
        bench.check(all(r["octoflow"]["energy_j"] for r in results), f"{batch}: an answer without energy: {results}")
    bench.same({common.status_code(r) for r in c.results("any")}, {200}, "lines for any model")
    damage(bench.path("models/octo-tiny-f16.gguf"))
    c.submit("damaged", 2, "--model", DAMAGED)
    bench.wait_for("the failed load", lambda: "cannot be loaded" in bench.output(f"{worker.name}.err"))
    c.submit("small-again", 2, "--model", SMALL)
    check_models(bench, c.results("small-again"), 2, SMALL)
    log = bench.output(f"{worker.name}.err")
    bench.same(log.count(" ready name="), 4, "how often a model was ready: at the start, after two changes and a try")
    bench.has(c.status("damaged")["problem"], f"no worker has model {DAMAGED}", "status of what cannot be loaded")
    bench.same(log.count("a model file that cannot be used"), 1, "lines about the torn file")
    bench.same(c.status("small")["failed"] + c.status("large")["failed"], 0, "failed lines")
    c.client("cancel", "damaged")
    c.client("cancel", "nobodys")
    c.client("cancel", "none")
    c.stop()


def fetches(bench):
    """A worker that lacks the model gets it from the broker: killed in the middle, it goes on where it was."""
    offered, own = bench.path("offered"), bench.path("own")
    os.mkdir(offered)
    os.mkdir(own)
    shutil.copy(bench.model("q8_0"), offered)
    shutil.copy(bench.model("q4_k_m"), os.path.join(offered, "renamed.gguf"))
    size = os.path.getsize(bench.model("q8_0"))
    c = Cluster(bench, "fetch", "--models", offered)
    argv = ["-m", bench.model("q4_k_m"), "--models", own]
    wire = forwarder.Forwarder(c.endpoint, bytes_per_s=3 << 20)
    worker = c.add_worker("w", *argv, endpoint=wire.endpoint)
    bench.wait_for("the worker", lambda: any(m["worker"] for m in c.models()))
    bench.same(c.submit("large", 6, "--model", LARGE).count("warning"), 0, "warnings for a model that can be fetched")

    def partial():
        for folder, _, files in os.walk(own):
            for name in files:
                if name.endswith(".partial"):
                    return os.path.getsize(os.path.join(folder, name))
        return 0

    there = bench.wait_for("a part of the file", lambda: partial() > size // 4 and partial())
    bench.has(c.status("large")["problem"], f"worker w fetches model {LARGE}", "status meanwhile")
    bench.same(bench.output("fetch-broker.err").count("worker lost"), 0, "heartbeats that were late beside the fetch")
    bench.kill_group(worker)
    worker.wait()
    there = partial()
    bench.check(0 < there < size, f"{there} of {size} bytes were there when the worker was killed")
    again = c.add_worker("w", *argv)
    check_models(bench, c.results("large"), 6, LARGE)
    log = bench.output(f"{again.name}.err")
    bench.has(log, f"bytes={size} there={there}", "the worker's log: it goes on where it was")
    bench.same(len([m for m in c.models() if m["name"] == LARGE]), 2, "who has it: broker and worker")
    bench.same(c.submit("renamed", 2, "--model", "renamed").count("warning"), 0, "warnings for a file of two names")
    check_models(bench, c.results("renamed"), 2, SMALL)
    bench.same(bench.output(f"{again.name}.err").count("fetching a model"), 1, "what was fetched: not what was there")
    wire.close()
    c.stop()


def test(bench, options):
    del options
    began = time.monotonic()
    changes(bench)
    fetches(bench)
    print(f"       {time.monotonic() - began:.1f} s")


common.main(test)
