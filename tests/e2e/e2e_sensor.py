#!/usr/bin/env python3
"""A worker whose sensor hangs, like a driver that is stuck: it says so, works on as one that is blind, and leaves when
it is told to. Its quiet hours are all day. Before it, one whose governor is off, which has no target. Sensors that
die and come back: e2e_energy."""
import errno
import json
import os
import signal

import common


def open_for_reader(path):
    """Opens a pipe for writing once somebody reads; None before. Who reads it waits from then on."""
    try:
        return os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    except OSError as e:
        if e.errno != errno.ENXIO:
            raise
        return None


def test(bench, options):
    heat = bench.write("heat", "61 90 300\n")
    address = "ipc://" + bench.path("s")
    broker = bench.start([bench.broker, "--ledger", bench.path("l.db"), "--listen", address], "broker")
    argv = [bench.worker, "--broker", address, "-m", bench.model(), "--device", "llvmpipe", "--sensor", "fake:" + heat]

    def worker_row():
        status = json.loads(bench.run(bench.octoflow, "status", "--broker", address, "--json", code=0)[1])
        return next((w for w in status["workers"] if w["state"] == "ready" and w["temp_known"]), None)

    free = bench.start([*argv, "--governor", "off", "--max-watts", "50"], "free")
    row = bench.wait_for("a worker without a governor", worker_row)
    bench.same((row["target_c"], row["temp_c"], row["duty"]), (None, 61, 1), "target, heat and duty without a governor")
    log = bench.output("free.err")
    bench.has(log, "the governor is off: no target, --max-watts", "what it says of its options")
    bench.same(log.count("target_c="), 0, "targets that it tells of")
    os.kill(free.pid, signal.SIGTERM)
    bench.same(bench.finish(free, 90)[0], 0, "the exit code of the one without a governor")
    worker = bench.start([*argv, "--quiet-hours", "0:00-24:00=66C"], "worker")

    def answers(batch):
        request = {"prompt": "Once upon a time", "max_tokens": 8, "temperature": 0}
        bench.run(bench.octoflow, "submit", "--broker", address, bench.write("in.jsonl", [request] * 4), "--wait",
                  "--batch", batch, code=0, name="submit", timeout=120)

    answers("well")
    row = bench.wait_for("a worker that sees", worker_row)
    bench.same((row["target_c"], row["pace_ms"]), (66, 0), "the target, which is that of the quiet hours, and the rest")
    os.mkfifo(bench.path("pipe"))
    os.rename(bench.path("pipe"), heat)
    hold = bench.wait_for("the worker reads the pipe", lambda: open_for_reader(heat), 30)
    says = 'no fresh sensor reading, resting 5.0 ms after every 50 ms of work error="it does not answer"'
    bench.wait_for("the worker says that its sensor hangs", lambda: says in bench.output("worker.err"), 30)
    bench.wait_for("nobody sees its heat", lambda: worker_row() is None, 30)
    answers("stuck")
    status = json.loads(bench.run(bench.octoflow, "status", "--broker", address, "--json", code=0)[1])
    bench.same([w["pace_ms"] for w in status["workers"] if w["state"] == "ready"], [5], "rest of a blind worker")
    os.kill(worker.pid, signal.SIGTERM)
    bench.same(bench.finish(worker, 90)[0], 0, "the worker's exit code")
    os.close(hold)
    os.kill(broker.pid, signal.SIGTERM)
    bench.same(bench.finish(broker, 60)[0], 0, "the broker's exit code")


common.main(test)
