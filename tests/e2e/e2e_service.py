#!/usr/bin/env python3
"""Broker and worker as services: what they tell a service manager (a socket of the test's own), from "ready" to
"stopping", that their watchdogs are fed while they are well, and that their child processes tell nothing; and the
worker's own page of metrics and probes."""
import os
import signal
import socket
import time

import common
import prometheus

WATCHDOG_S = 2


class Manager:
    """A service manager for one program."""

    def __init__(self, bench, name):
        self.path = bench.path(name + ".notify")
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.path)
        self.socket.setblocking(False)
        self.said = []

    def start(self, bench, argv, name):
        old = bench.env
        bench.env = dict(old, NOTIFY_SOCKET=self.path, WATCHDOG_USEC=str(WATCHDOG_S * 1000000))
        try:
            return bench.start(argv, name)
        finally:
            bench.env = old

    def read(self):
        while True:
            try:
                text = self.socket.recv(4096).decode()
            except BlockingIOError:
                return self.said
            self.said += text.split("\n")

    def has(self, start):
        return [line for line in self.read() if line.startswith(start)]

    def feeds(self):
        return self.has("WATCHDOG=1")


def told(bench, manager, name):
    """In order: ready before it is at work, stopping at the end; each once."""
    lines = manager.read()
    bench.same([lines.count("READY=1"), lines.count("STOPPING=1")], [1, 1], f"{name}: ready and stopping")
    bench.check(lines.index("READY=1") < lines.index("STOPPING=1"), f"{name}: ready, then stopping")


def test(bench, options):
    began = time.monotonic()
    port = common.free_port()
    managers = {name: Manager(bench, name) for name in ("broker", "worker", "run")}
    broker = managers["broker"].start(bench, [bench.broker, "--ledger", bench.path("l.db"), "--listen",
                                              "ipc://" + bench.path("s")], "broker")
    bench.wait_for("the broker is ready", lambda: managers["broker"].has("READY=1"), 30)
    bench.check(os.path.exists(bench.path("s")), "ready, and nobody can connect")
    worker = managers["worker"].start(bench, [bench.worker, "--broker", "ipc://" + bench.path("s"), "-m",
                                              bench.model(), "--name", "w", "--metrics", f"127.0.0.1:{port}"],
                                      "worker")
    bench.wait_for("it is alive", lambda: common.http_get(port, "/healthz")[0] == 200, 30)
    bench.wait_for("the worker is ready", lambda: managers["worker"].has("READY=1"), 60)
    path = bench.write("in.jsonl", common.mixed_lines(bench, 20))
    bench.run(bench.octoflow, "submit", "--broker", "ipc://" + bench.path("s"), path, "--batch", "b", "--wait", code=0,
              name="submit")
    for name in ("broker", "worker"):
        bench.wait_for(f"{name}: fed three times", lambda n=name: len(managers[n].feeds()) >= 3, 3 * WATCHDOG_S)
        elapsed = time.monotonic() - began
        bench.check(len(managers[name].feeds()) <= 4 * elapsed / WATCHDOG_S + 2, f"{name}: fed too often")
    bench.wait_for("the broker's status", lambda: managers["broker"].has(
        "STATUS=1 batches, 0 lines unfinished, 1 workers"), 10)
    bench.wait_for("the worker's status", lambda: [line for line in managers["worker"].has("STATUS=octo-tiny")
                                                   if line.endswith("at work for the broker, 0 running, 20 finished")],
                   10)
    bench.same(common.http_get(port, "/readyz"), (200, "ok\n"), "/readyz of the worker")
    text = common.http_get(port, "/metrics")[1]
    bench.same(prometheus.problems(text), [], "the worker's page")
    values = prometheus.values(text)
    bench.same([values.get((f"octoflow_worker_{name}", labels)) for name, labels in (
        ("connected", ()), ("jobs_finished_total", (("worker", "w"),)), ("jobs_running", (("worker", "w"),)))],
               [1, 20, 0], "the worker's figures")
    bench.check(values["octoflow_worker_prompt_tokens_total", (("worker", "w"), ("source", "computed"))] > 100,
                "its prompt tokens")
    # SIGHUP: reloading, and ready again (Type=notify-reload).
    broker.send_signal(signal.SIGHUP)
    bench.wait_for("the reload", lambda: managers["broker"].has("READY=1")[1:], 10)
    lines = managers["broker"].read()
    at = lines.index("RELOADING=1")
    bench.check(lines[at + 1].startswith("MONOTONIC_USEC=") and "READY=1" in lines[at:], "the reload's order")
    lines.reverse()
    lines.remove("READY=1")  # the one of the reload: the start's is looked at below
    lines.reverse()
    for process in (worker, broker):
        process.terminate()
        bench.same(bench.finish(process, 60)[0], 0, f"{process.name}: exit code")
        told(bench, managers[process.name], process.name)
    # Child processes of a service have nothing to tell: octoflow run is none itself.
    run = managers["run"].start(bench, [bench.octoflow, "run", "-m", bench.model(), path, "-o", bench.path("o.jsonl")],
                                "run")
    bench.same(bench.finish(run, 120)[0], 0, "run: exit code")
    bench.same(managers["run"].read(), [], "what children of octoflow run told")


common.main(test)
