#!/usr/bin/env python3
"""Quotas and waiting, as somebody at the shell sees them: a submit larger than its quota waits for room, says so once,
and goes through as jobs get done; what can never fit says so and ends; a broker that is not there is waited for
aloud; and who waits for a batch to be complete waits longer than any broker is away."""
import os
import sys
import time

import common

FAULTS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "faults")
LINES = 250


def start_broker(bench, *more, ledger=None):
    name = "broker" + str(len(bench.started))
    if os.path.exists(bench.path("s")):
        os.unlink(bench.path("s"))  # of the broker before: it would be taken for this one's
    broker = bench.start([bench.broker, "--ledger", bench.path(ledger or name + ".db"), "--listen",
                          "ipc://" + bench.path("s"), "--heartbeat-ms", "200", *more], name)
    bench.wait_for("the broker", lambda: os.path.exists(bench.path("s")))
    return broker


def start_worker(bench):
    return bench.start([sys.executable, "-S", "-E", os.path.join(FAULTS, "fake_worker.py"), "--broker",
                        "ipc://" + bench.path("s"), "--name", "w", "--parent", os.getpid()], "worker")


def stop(bench, process):
    process.terminate()
    bench.same(bench.finish(process, 60)[0], 0, f"{process.name}: exit code")


def lines(count, text="What is 1 + 1?"):
    return [common.chat_line(f"q-{n}", [{"role": "user", "content": text}], max_tokens=4) for n in range(count)]


def waits_for_room(bench, flow):
    broker = start_broker(bench, "--max-client-jobs", "60", "--max-jobs", "100")
    path = bench.write("in.jsonl", lines(LINES))
    submit = bench.start([*flow("submit"), path, "--batch", "b", "--client", "alice", "--timeout", "1"], "submit")
    full = "waiting for room: quota: client alice has 31 of 60 jobs unfinished"
    bench.wait_for("the line that says what it waits for", lambda: full in bench.output("submit.err"))
    # Its own quota is no other's.
    other = bench.write("other.jsonl", lines(20))
    bench.run(*flow("submit"), other, "--batch", "other", "--client", "bob", code=0, name="bob")
    time.sleep(1.5)  # longer than --timeout: the broker answers, so it is not given up
    bench.check(submit.poll() is None, "submit has ended without room")
    worker = start_worker(bench)
    code, out, err = bench.finish(submit, 60)
    bench.same(code, 0, "submit: exit code")
    bench.has(out, "b", "submit: output")
    bench.has(err, f"{LINES} lines: {LINES} new", "submit")
    bench.check(err.count("waiting for room") == 1, f"submit said it waits {err.count('waiting for room')} times")
    results = bench.path("out.jsonl")
    bench.run(*flow("results"), "b", "-o", results, "--wait", code=0, name="results")
    bench.same(len(common.read_results(results)), LINES, "results")
    # Again, with nothing unfinished and with everything there: a no-op, whatever the quota.
    _, _, err = bench.run(*flow("submit"), path, "--batch", "b", "--client", "alice", code=0, name="again")
    bench.has(err, f"0 new, {LINES} were there", "submit again")
    worker.terminate()
    bench.finish(worker, 30)
    stop(bench, broker)


def never_fits(bench, flow):
    broker = start_broker(bench, "--max-client-bytes", "2000")
    path = bench.write("large.jsonl", lines(4)[:3] + lines(9, "x" * 3000)[8:])
    code, _, err = bench.run(*flow("submit"), path, "--batch", "l", "--client", "alice", name="large", timeout=60)
    bench.same(code, 3, "a line above the quota: exit code")
    bench.has(err, "large.jsonl:4: ", "a line above the quota")
    bench.has(err, "the quota of client alice is 2000 (--max-client-bytes)", "a line above the quota")
    stop(bench, broker)


def nobody_there(bench, flow):
    began = time.monotonic()
    status = bench.start([*flow("status"), "--timeout", "20"], "status")
    bench.wait_for("a line within seconds", lambda: bench.output("status.err"), 10)
    took = time.monotonic() - began
    bench.check(0.9 < took < 5, f"status spoke after {took:.1f} s; expected about 1")
    bench.same(bench.output("status.err"), "octoflow status: no connection to the broker yet, waiting for up to 20 s "
               "(--timeout)\n", "status")
    broker = start_broker(bench)
    bench.same(bench.finish(status, 30)[0], 0, "status, once there is a broker: exit code")
    broker.send_signal(19)  # SIGSTOP
    try:
        _, _, err = bench.run(*flow("status"), "--timeout", "1.5", code=3, name="stopped")
    finally:
        broker.send_signal(18)
    bench.has(err, "no connection to the broker yet", "status of a stopped broker")
    stop(bench, broker)


def outlasts_the_broker(bench, flow):
    """--timeout is for a broker that has never answered; one that goes away later is waited for, aloud."""
    _, _, err = bench.run(*flow("results"), "w", "-o", bench.path("no/such.jsonl"), "--wait", code=3, name="nowhere",
                          timeout=20)
    bench.has(err, "no/such.jsonl: cannot write there: No such file or directory", "results that have no place")
    path = bench.write("wait.jsonl", lines(20))
    for argv in ([*flow("submit"), path, "--batch", "w"], [*flow("results"), "w"]):
        _, _, err = bench.run(*argv, "--wait", "--timeout", "1", code=3, name="alone-" + argv[1], timeout=20)
        bench.has(err, "no connection to a broker within 1000 ms", "--wait without a broker")
    broker = start_broker(bench, ledger="wait.db")
    waiting = [bench.start([*flow("submit"), path, "--batch", "w", "--wait", "--timeout", "2"], "wait-submit")]
    bench.wait_for("the batch", lambda: bench.output("wait-submit.out"))
    waiting.append(bench.start([*flow("results"), "w", "-o", bench.path("w.jsonl"), "--wait", "--timeout", "2"],
                               "wait-results"))
    time.sleep(2)  # it has started, and has its first answer: it says nothing of that
    broker.kill()
    broker.wait()
    away = "the broker is away, waiting until it is back"
    for p in waiting:
        bench.wait_for("the line that says so", lambda p=p: away in bench.output(p.name + ".err"))
    time.sleep(3)
    bench.same([p.poll() for p in waiting], [None, None], "exit codes with the broker away for longer than --timeout")
    broker, worker = start_broker(bench, ledger="wait.db"), start_worker(bench)
    for p in waiting:
        code, _, err = bench.finish(p, 60)
        bench.same(code, 0, f"{p.name}: exit code")
        bench.same([err.count(away), err.count("the broker is back")], [1, 1], f"{p.name}: lines in {err!r}")
    bench.same(len(common.read_results(bench.path("w.jsonl"))), 20, "results after the wait")
    worker.terminate()
    bench.finish(worker, 30)
    stop(bench, broker)


def test(bench, options):
    def flow(command):
        return [bench.octoflow, command, "--broker", "ipc://" + bench.path("s")]

    nobody_there(bench, flow)
    outlasts_the_broker(bench, flow)
    waits_for_room(bench, flow)
    never_fits(bench, flow)


common.main(test)
