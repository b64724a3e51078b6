#!/usr/bin/env python3
"""A cluster over TCP with keys, as docs/security.md sets it up: who is on the list gets its answers, everybody else one
clear line; the list changes while all runs; and nothing of prompts, answers or secret keys is in any log, also at level
debug."""
import json
import os
import signal
import socket
import stat
import time

import common

USAGE, FATAL = 2, 3
MARK = "xylophone"  # in every prompt


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Keys:
    """Key files of names, and the lines that keygen printed for them."""

    def __init__(self, bench):
        self.bench, self.lines = bench, {}

    def make(self, name, roles="submit"):
        _, out, err = self.bench.run(self.bench.octoflow, "keygen", "--out", self.file(name), "--roles", roles, code=0,
                                     name=f"keygen-{name}")
        self.lines[name] = out
        self.bench.has(err, f"{name}.key has the secret key", "keygen")

    def file(self, name):
        return self.bench.path(name + ".key")

    def public(self, name):
        return self.lines[name].split()[0]

    def secret(self, name):
        with open(self.file(name), encoding="ascii") as f:
            return f.read().split()[-1]

    def allow(self, *names):
        return self.bench.write("allow.txt", "# who may\n" + "".join(self.lines[n] for n in names))


def keygen(bench, keys):
    for name, roles in (("broker", "admin"), ("gpu", "work"), ("alice", "submit"), ("eve", "submit"), ("late", "work"),
                        ("boss", "admin")):
        keys.make(name, roles)
    bench.same(stat.S_IMODE(os.stat(keys.file("alice")).st_mode), 0o600, "mode of a secret key's file")
    before = keys.secret("alice")
    _, _, err = bench.run(bench.octoflow, "keygen", "--out", keys.file("alice"), code=FATAL)
    bench.has(err, "alice.key: is there already, and keys are never overwritten", "keygen again")
    bench.same(keys.secret("alice"), before, "the key after that")


def plain_is_refused(bench):
    """Off this machine without keys: only if somebody says so."""
    far = "tcp://192.0.2.1:7420"
    cases = [("broker", [bench.broker, "--ledger", bench.path("no.db"), "--listen", "tcp://0.0.0.0:7420"],
              "give --curve-key FILE and --allow FILE"),
             ("client", [bench.octoflow, "status", "--broker", far], "give --curve-key FILE and --server-key FILE"),
             ("worker", [bench.worker, "--broker", far, "-m", bench.model()],
              "give --curve-key FILE and --server-key FILE")]
    for name, argv, text in cases:
        _, _, err = bench.run(*argv, code=USAGE, name="plain-" + name)
        bench.has(err, text, f"plain {name}")
        bench.has(err, "--insecure", f"plain {name}")
        bench.same(len(err.splitlines()), 1, f"plain {name}: lines")
    _, _, err = bench.run(bench.octoflow, "status", "--broker", far, "--insecure", "--timeout", "0.3", code=FATAL)
    bench.has(err, "no connection to a broker within", "plain client, --insecure")


def wrong_keys(bench, keys, endpoint):
    """Each gets one line and the way out."""
    ours, theirs = keys.file("alice"), keys.file("broker") + ".pub"
    loose = bench.write("loose.key", f"secret {keys.secret('alice')}\n")
    os.chmod(loose, 0o644)
    cases = [
        ("unknown key", ["--curve-key", keys.file("eve"), "--server-key", theirs], FATAL,
         f"the broker does not let in the key {keys.public('eve')}"),
        ("no keys", ["--timeout", "2"], FATAL, "give --curve-key FILE and --server-key FILE"),
        ("wrong role", ["--curve-key", keys.file("gpu"), "--server-key", theirs], FATAL,
         "STATUS needs the role submit"),
        ("half of it", ["--curve-key", ours], USAGE, "--curve-key without --server-key"),
        ("others may read it", ["--curve-key", loose, "--server-key", theirs], USAGE, "chmod 600"),
        ("the wrong file", ["--curve-key", ours, "--server-key", ours], USAGE, 'expected one line "public KEY"'),
        ("no such file", ["--curve-key", bench.path("none"), "--server-key", theirs], USAGE, "cannot open"),
    ]
    for name, options, code, text in cases:
        began = time.monotonic()
        _, _, err = bench.run(bench.octoflow, "status", "--broker", endpoint, *options, code=code, name="wrong")
        bench.check(time.monotonic() - began < 20, f"{name}: waited {time.monotonic() - began:.1f} s")
        bench.has(err, text, name)
        bench.check(1 <= len(err.splitlines()) <= 2, f"{name}: {err}")
    _, _, err = bench.run(bench.octoflow, "status", "--broker", endpoint, "--curve-key", ours, "--server-key",
                          keys.public("eve"), "--timeout", "2", code=FATAL, name="wrong")
    bench.has(err, f"no secure connection: {keys.public('eve')} (--server-key) is not the broker's public key",
              "wrong server key")


def by_environment(bench, keys, endpoint):
    """The client's three variables in place of three options."""
    ours = {"OCTOFLOW_BROKER": endpoint, "OCTOFLOW_CURVE_KEY": keys.file("alice"),
            "OCTOFLOW_SERVER_KEY": keys.public("broker")}
    bench.env.update(ours)
    bench.run(bench.octoflow, "status", code=0, name="environment")
    for name in ours:
        del bench.env[name]


def no_worker_of_alice(bench, worker):
    """A key that may submit is no worker's: that ends it."""
    code, _, err = bench.finish(worker("alice"), 60)
    bench.same(code, FATAL, "a worker with a submitter's key: exit code")
    bench.has(err, "HELLO needs the role work, which the key of alice does not have", "its log")


def work(bench, keys, client):
    lines = [common.chat_line(f"q-{n}", [{"role": "user", "content": f"Tell me a story about a {MARK}, number {n}."}],
                              max_tokens=24, ignore_eos=True, temperature=1, seed=n) for n in range(6)]
    _, out, _ = bench.run(*client("alice", "submit"), bench.write("in.jsonl", lines), "--batch", "night", "--client",
                          "somebody", "--wait", code=0, name="submit")
    results = bench.path("out.jsonl")
    bench.run(*client("alice", "results"), "night", "-o", results, code=0, name="results")
    answers = [common.answer(r) for r in common.read_results(results)]
    bench.check(len(answers) == 6 and all(len(a) > 30 for a in answers), f"answers: {answers}")
    _, out, _ = bench.run(*client("boss", "status"), "--json", code=0, name="boss")
    batch = json.loads(out)["batches"][0]
    bench.same(batch.get("client"), "alice", "whose batch it is")
    return answers


def one_is_late(bench, keys, worker, broker):
    """A worker that is not on the list says so once, waits, and joins when it is."""
    late = worker("late")
    log = late.name + ".err"
    bench.wait_for("the worker's complaint", lambda: "nobody lets this worker in" in bench.output(log))
    bench.has(bench.output(log), f"the broker does not let in the key {keys.public('late')}", "late worker")
    keys.allow("alice", "gpu", "boss", "late")
    broker.send_signal(signal.SIGHUP)
    bench.wait_for("the late worker", lambda: "joined the broker" in bench.output(log))
    bench.same(bench.output(log).count("nobody lets this worker in"), 1, "complaints")
    late.terminate()
    bench.same(bench.finish(late, 60)[0], 0, "late worker: exit code")


def one_is_removed(bench, keys, client, broker):
    """A key that leaves the list: new commands are told and end, one that waits is told and goes on waiting."""
    waits = bench.start([*client("alice", "submit"), bench.write("waits.jsonl", [{"prompt": "p", "max_tokens": 4}]),
                         "--paused", "--wait"], "waits")
    bench.wait_for("the paused batch", lambda: bench.output("waits.out"))
    keys.allow("gpu", "boss", "late")
    broker.send_signal(signal.SIGHUP)
    bench.wait_for("the list read again", lambda: bench.output("broker.err").count("list of keys read again") == 2)
    _, _, err = bench.run(*client("alice", "status"), code=FATAL, name="after")
    bench.has(err, "the broker does not let in the key", "a key that was removed")
    bench.wait_for("why it waits", lambda: "the broker does not let in the key" in bench.output("waits.err"))
    waits.terminate()
    _, out, _ = bench.run(*client("boss", "status"), code=0, name="boss")
    bench.has(out, "gpu", "the worker that was there")


def nothing_in_logs(bench, keys, answers):
    logs = {n: bench.output(n) for n in os.listdir(bench.dir) if n.endswith((".err", ".out"))}
    bench.check("batch created" in logs["broker.err"], "the broker's log is there")
    bench.check("joined the broker" in logs["worker-gpu.err"], "the worker's log is there")
    texts = [MARK] + [a[4:24] for a in answers] + [keys.secret(n) for n in keys.lines]
    for name, log in logs.items():
        for text in texts:
            bench.check(len(text) > 8 and text not in log, f"{name} has {common.short(text, 12)}")


def test(bench, options):
    keys, port = Keys(bench), free_port()
    endpoint = f"tcp://127.0.0.1:{port}"
    keygen(bench, keys)
    plain_is_refused(bench)
    allow = keys.allow("alice", "gpu", "boss")
    broker = bench.start([bench.broker, "--ledger", bench.path("ledger.db"), "--listen", f"tcp://0.0.0.0:{port}",
                          "--curve-key", keys.file("broker"), "--allow", allow, "--log-level", "debug",
                          "--heartbeat-ms", "300"], "broker")
    bench.wait_for("the broker", lambda: "broker started" in bench.output("broker.err"))

    def with_keys(name):
        return ["--broker", endpoint, "--curve-key", keys.file(name), "--server-key", keys.file("broker") + ".pub"]

    def client(name, command):
        return [bench.octoflow, command, *with_keys(name)]

    def worker(name):
        return bench.start([bench.worker, *with_keys(name), "-m", bench.model(), "--name", name, "--governor", "off",
                            "--log-level", "debug"], "worker-" + name)

    gpu = worker("gpu")
    wrong_keys(bench, keys, endpoint)
    by_environment(bench, keys, endpoint)
    no_worker_of_alice(bench, worker)
    answers = work(bench, keys, client)
    one_is_late(bench, keys, worker, broker)
    one_is_removed(bench, keys, client, broker)
    for process in (gpu, broker):
        process.terminate()
        bench.same(bench.finish(process, 60)[0], 0, f"{process.name}: exit code")
    nothing_in_logs(bench, keys, answers)


common.main(test)
