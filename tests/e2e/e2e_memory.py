#!/usr/bin/env python3
"""The broker's memory with many jobs queued, before and after a restart: about 120 bytes a job and what it needs
anyway. --jobs 2000000 is the promise itself: below 300 MB."""
import os
import struct
import sys
import time

import common

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "faults"))

import wire  # noqa: E402

LINES, AHEAD, BODY = 1024, 8, 100
BYTES_A_JOB, ALL_MB = 150, 300
FIXED_MB = 60  # without a job: programs, libraries, caches, what is on its way


def memory_mb(process, field="VmRSS"):
    with open(f"/proc/{process.pid}/status", encoding="ascii") as f:
        return next(int(line.split()[1]) for line in f if line.startswith(field)) / 1024


def start(bench):
    return bench.start([bench.broker, "--ledger", bench.path("l.db"), "--listen", "ipc://" + bench.path("s"),
                        "--log-level", "error"], "broker")


def call(bench, **fields):
    def answer():
        try:
            caller = wire.Caller("ipc://" + bench.path("s"))
        except wire.Lost:
            return None
        reply = caller.call(timeout=60, **fields)
        caller.close()
        return reply
    return bench.wait_for("an answer of the broker", answer, 120)


def submit(bench, jobs):
    """As wire.message() would make it, but fast: a line is a template with two numbers in it."""
    line = (b"\x83\xa4line\xcf" + bytes(8) + b"\xa4hash\xcf" + bytes(8) + b"\xa4body\xc4" + bytes([BODY]) + b"x" * BODY)
    at_line, at_hash = line.index(b"\xcf") + 1, line.index(b"hash") + 5
    peer = wire.Dealer("ipc://" + bench.path("s"))
    sent = acknowledged = most = 0
    first = 1
    while acknowledged < sent or first <= jobs:
        if first <= jobs and sent - acknowledged < AHEAD:
            count = min(LINES, jobs - first + 1)
            lines = bytearray(line * count)
            for n in range(count):
                struct.pack_into(">Q", lines, n * len(line) + at_line, first + n)
                struct.pack_into(">Q", lines, n * len(line) + at_hash, first + n)
            sent += 1
            head = b"\x85\xa1v\x01\xa1t\xa6SUBMIT\xa3seq\xcf" + struct.pack(">Q", sent)
            peer.send_raw(wire.frame(head + b"\xa5batch\xa1b\xa5lines\xdc" + struct.pack(">H", count) + lines))
            first += count
            continue
        m = peer.receive(60)
        if not bench.check(m is not None and m["t"] == "SUBMIT_OK", f"SUBMIT answered {m}"):
            return 0
        acknowledged += 1
        if acknowledged % 50 == 0:
            most = max(most, memory_mb(bench.started[-1]))
    peer.close()
    return most


def test(bench, options):
    broker = start(bench)
    call(bench, name="BATCH_NEW", batch="b")
    before = memory_mb(broker)
    began = time.monotonic()
    most = max(submit(bench, options.jobs), memory_mb(broker))
    seconds = time.monotonic() - began
    bench.same(call(bench, name="STATUS", batch="b")["batches"][0]["queued"], options.jobs, "queued")
    # by the job, as far as there are enough of them to measure it; in all, for the promised number
    limit = min(ALL_MB, FIXED_MB + options.jobs * BYTES_A_JOB / 1e6)
    print(f"{options.jobs} jobs: {before:.0f} MB before, {memory_mb(broker):.0f} MB after, at most {most:.0f} MB "
          f"(limit {limit:.0f} MB, peak {memory_mb(broker, 'VmHWM'):.0f} MB), {options.jobs / seconds:.0f} lines/s")
    bench.check(most < limit, f"the broker took {most:.0f} MB; expected less than {limit:.0f}")
    broker.terminate()
    bench.same(bench.finish(broker, 120)[0], 0, "exit code")

    broker = start(bench)
    bench.same(call(bench, name="STATUS", batch="b")["batches"][0]["queued"], options.jobs, "queued after a restart")
    again = memory_mb(broker)
    print(f"after a restart {again:.0f} MB, peak {memory_mb(broker, 'VmHWM'):.0f} MB")
    bench.check(again < limit, f"after a restart the broker took {again:.0f} MB; expected less than {limit:.0f}")
    broker.terminate()
    bench.same(bench.finish(broker, 120)[0], 0, "exit code")


common.main(test, jobs=(int, 200000, "how many are queued"))
