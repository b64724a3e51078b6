#!/usr/bin/env python3
"""The ledger in the long run: finished batches that are old enough leave it and nothing else does, a backup made while
work goes on is a ledger with all of it, and compaction makes the file small."""
import json
import os
import signal
import sys

import common

FAULTS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "faults")


def start_broker(bench, ledger, *more):
    name = "broker" + str(len(bench.started))
    if os.path.exists(bench.path("s")):
        os.unlink(bench.path("s"))
    broker = bench.start([bench.broker, "--ledger", bench.path(ledger), "--listen", "ipc://" + bench.path("s"),
                          "--heartbeat-ms", "200", *more], name)
    bench.wait_for("the broker", lambda: os.path.exists(bench.path("s")))
    return broker


def start_worker(bench, *more):
    return bench.start([sys.executable, "-S", "-E", os.path.join(FAULTS, "fake_worker.py"), "--broker",
                        "ipc://" + bench.path("s"), "--name", "w", "--parent", os.getpid(), *more],
                       "worker" + str(len(bench.started)))


def stop(bench, *processes):
    for process in processes:
        process.terminate()
        bench.same(bench.finish(process, 60)[0], 0, f"{process.name}: exit code")


def lines(count, text="p"):
    return [{"prompt": f"{text}{n}" + "x" * 2000, "max_tokens": 4} for n in range(count)]


def batches(bench, flow):
    _, out, _ = bench.run(*flow("status"), "--json", code=0, name="batches")
    return {b["batch"]: b for b in json.loads(out)["batches"]}


def results(bench, flow, batch, name):
    path = bench.path(name)
    bench.run(*flow("results"), batch, "-o", path, "--wait", code=0, name="results")
    with open(path, "rb") as f:
        return f.read()


def old_ones_leave(bench, flow):
    broker = start_broker(bench, "keep.db", "--keep", "5s")
    worker = start_worker(bench)
    for batch, count in (("night", 700), ("other", 3)):
        bench.run(*flow("submit"), bench.write("in.jsonl", lines(count)), "--batch", batch, code=0, name="submit")
    results(bench, flow, "night", "night.jsonl")
    worker.kill()
    bench.finish(worker, 10)
    # No worker: this one is not finished, and stays.
    bench.run(*flow("submit"), bench.write("more.jsonl", lines(5)), "--batch", "stuck", code=0, name="submit")
    bench.wait_for("the old ones' leave", lambda: set(batches(bench, flow)) == {"stuck"}, 40)
    code, _, err = bench.run(*flow("results"), "night", "-o", bench.path("gone.jsonl"), name="gone")
    bench.check(code != 0 and "night" in err, f"results of a batch that left: {code} {err}")
    _, out, _ = bench.run(*flow("events"), "--json", code=0, name="events")
    removed = {e["subject"]: e["text"] for e in map(json.loads, out.splitlines()) if e["kind"] == "batch_removed"}
    bench.same(removed, {"night": "700 lines, older than --keep", "other": "3 lines, older than --keep"}, "events")
    broker.send_signal(signal.SIGKILL)  # while the rows of "night" may still be on their way out
    bench.finish(broker, 10)
    broker = start_broker(bench, "keep.db", "--keep", "1h")
    # The name is free again, for another content.
    bench.run(*flow("submit"), bench.write("new.jsonl", lines(4, "new")), "--batch", "night", code=0, name="again")
    worker = start_worker(bench)
    bench.same(len(results(bench, flow, "night", "new-out.jsonl").splitlines()), 4, "lines of the new batch")
    results(bench, flow, "stuck", "stuck.jsonl")
    stop(bench, worker, broker)


def backup_works(bench, flow):
    os.mkdir(bench.path("backups"))
    broker = start_broker(bench, "live.db", "--backups", bench.path("backups"))
    worker = start_worker(bench, "--think-ms", "1")
    bench.run(*flow("submit"), bench.write("a.jsonl", lines(1500)), "--batch", "a", code=0, name="submit")
    before = results(bench, flow, "a", "before.jsonl")
    bench.run(*flow("submit"), bench.write("b.jsonl", lines(1000, "b")), "--batch", "b", code=0, name="submit")
    _, out, _ = bench.run(*flow("backup"), "monday.db", "--json", code=0, name="backup")
    made = json.loads(out)
    bench.same(made["path"], bench.path("backups/monday.db"), "path")
    bench.same(made["bytes"], os.path.getsize(made["path"]), "bytes")
    bench.check(made["bytes"] > 5e6, f"{made['bytes']} bytes")
    for name, why in (("monday.db", "it is there already"), ("../monday.db", "expected the name of a file"),
                      (".hidden", "expected the name of a file")):
        _, _, err = bench.run(*flow("backup"), name, code=3, name="refused")
        bench.has(err, why, f"backup {name}")
    os.chmod(bench.path("backups"), 0o500)
    if not os.access(bench.path("backups"), os.W_OK):  # root may write anywhere
        bench.run(*flow("backup"), "tuesday.db", code=3, name="denied")
    os.chmod(bench.path("backups"), 0o700)
    results(bench, flow, "b", "b-out.jsonl")
    stop(bench, worker, broker)
    # On with the copy: all that was done then is there, and the rest is done again, to the byte.
    os.rename(made["path"], bench.path("copy.db"))
    broker = start_broker(bench, "copy.db")
    status = batches(bench, flow)
    bench.same((status["a"]["done"], status["b"]["total"]), (1500, 1000), "batches of the copy")
    worker = start_worker(bench)
    bench.check(results(bench, flow, "a", "after.jsonl") == before, "the copy's answers are those from before")
    results(bench, flow, "b", "b-copy.jsonl")
    bench.same(common.stripped(bench.path("b-copy.jsonl")), common.stripped(bench.path("b-out.jsonl")),
               "the second batch, done on")
    _, _, err = bench.run(*flow("backup"), "x.db", code=3, name="none")
    bench.has(err, "start it with --backups FOLDER", "a broker without a folder for backups")
    stop(bench, worker, broker)


def compaction_works(bench, flow):
    size = os.path.getsize(bench.path("keep.db"))
    broker = start_broker(bench, "keep.db")
    _, _, err = bench.run(bench.broker, "--ledger", bench.path("keep.db"), "--compact", code=3, name="in-use")
    bench.has(err, "another broker is using it", "--compact of a ledger in use")
    stop(bench, broker)
    _, out, _ = bench.run(bench.broker, "--ledger", bench.path("keep.db"), "--compact", code=0, name="compact")
    after = os.path.getsize(bench.path("keep.db"))
    bench.same(out, f"{bench.path('keep.db')}: {after} bytes, before {size}\n", "output")
    bench.check(after < size / 4, f"{size} bytes before, {after} after")
    broker = start_broker(bench, "keep.db")
    bench.same({name: b["done"] for name, b in batches(bench, flow).items()}, {"stuck": 5, "night": 4}, "what is left")
    stop(bench, broker)


def test(bench, options):
    def flow(command):
        return [bench.octoflow, command, "--broker", "ipc://" + bench.path("s")]

    for value in ("30", "d", "1w", "-1d", "1d2h"):
        _, _, err = bench.run(bench.broker, "--ledger", bench.path("x"), "--listen", "ipc://x", "--keep", value, code=2,
                              name="time")
        bench.has(err, "expected a number with s, m, h or d behind it", f"--keep {value}")
    old_ones_leave(bench, flow)
    backup_works(bench, flow)
    compaction_works(bench, flow)


common.main(test)
