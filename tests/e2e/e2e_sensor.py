#!/usr/bin/env python3
"""A worker whose sensor hangs, like a driver that is stuck: it works on, and leaves when it is told to. Its quiet
hours are all day. Sensors that die and come back: e2e_energy."""
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
    worker = bench.start([bench.worker, "--broker", address, "-m", bench.model(), "--device", "llvmpipe",
                          "--sensor", "fake:" + heat, "--quiet-hours", "0:00-24:00=66C"], "worker")

    def answers(batch):
        request = {"prompt": "Once upon a time", "max_tokens": 8, "temperature": 0}
        bench.run(bench.octoflow, "submit", "--broker", address, bench.write("in.jsonl", [request] * 4), "--wait",
                  "--batch", batch, code=0, name="submit", timeout=120)

    answers("well")
    status = json.loads(bench.run(bench.octoflow, "status", "--broker", address, "--json", code=0)[1])
    bench.same(status["workers"][0]["target_c"], 66, "the target, which is that of the quiet hours")
    os.mkfifo(bench.path("pipe"))
    os.rename(bench.path("pipe"), heat)
    hold = bench.wait_for("the worker reads the pipe", lambda: open_for_reader(heat), 30)
    answers("stuck")
    os.kill(worker.pid, signal.SIGTERM)
    bench.same(bench.finish(worker, 90)[0], 0, "the worker's exit code")
    os.close(hold)
    os.kill(broker.pid, signal.SIGTERM)
    bench.same(bench.finish(broker, 60)[0], 0, "the broker's exit code")


common.main(test)
