"""What the fault tests share: a cluster of the real broker and client with fake or real workers, forwarders between
them, and what must be true at the end. Built on tests/e2e/common.py."""
import os
import signal
import socket
import sqlite3
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "e2e"))

import common  # noqa: E402
import fake_worker  # noqa: E402
import forwarder  # noqa: E402
import wire  # noqa: E402

HERE = os.path.dirname(os.path.abspath(__file__))


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as s:
        return s.getsockname()[1]


class Cluster:
    """A broker on an ipc socket, or a TCP port of this machine; workers and clients on it or behind forwarders."""

    def __init__(self, bench, heartbeat_ms=100, lease_ms=60000, name="c", env=None, more=(), tcp=False):
        self.bench, self.name, self.env, self.more = bench, name, env, list(more)
        self.heartbeat_ms, self.lease_ms = heartbeat_ms, lease_ms
        self.endpoint = f"tcp://127.0.0.1:{free_port()}" if tcp else "ipc://" + bench.path(name + ".sock")
        self.ledger = bench.path(name + ".db")
        self.forwarders, self.workers, self.broker_starts = [], {}, 0
        self.starts = {}
        self.broker = None
        self.start_broker()

    # ---- processes ----

    def start(self, argv, name):
        """As Bench.start, with this cluster's environment; each start has output files of its own."""
        count = self.starts[name] = self.starts.get(name, 0) + 1
        saved = self.bench.env
        self.bench.env = dict(saved, **(self.env or {}))
        try:
            return self.bench.start(argv, f"{self.name}-{name}-{count}")
        finally:
            self.bench.env = saved

    def start_broker(self):
        self.broker = self.start([self.bench.broker, "--ledger", self.ledger, "--listen", self.endpoint,
                                  "--heartbeat-ms", self.heartbeat_ms, "--lease-ms", self.lease_ms, *self.more],
                                 "broker")

    def kill_broker(self):
        self.broker.send_signal(signal.SIGKILL)
        self.broker.wait()

    def fake(self, name, endpoint=None, **options):
        argv = [sys.executable, "-S", "-E", os.path.join(HERE, "fake_worker.py"), "--broker",
                endpoint or self.endpoint, "--name", name, "--parent", os.getpid()]
        for key, value in options.items():
            argv += ["--" + key.replace("_", "-"), value]
        return self.add(argv, name)

    def real(self, name, endpoint=None, *more):
        return self.add([self.bench.worker, "--broker", endpoint or self.endpoint, "-m", self.bench.model(),
                         "--name", name, "--governor", "off", *more], name)

    def add(self, argv, name):
        self.workers[name] = self.start(argv, name)
        return self.workers[name]

    def respawn_dead(self):
        """As a supervisor does. Returns the names."""
        dead = [name for name, p in self.workers.items() if p.poll() is not None]
        for name in dead:
            self.add(self.workers[name].argv, name)
        return dead

    def forward(self, bytes_per_s=None):
        f = forwarder.Forwarder(self.endpoint, bytes_per_s)
        self.forwarders.append(f)
        return f

    def client(self, command, *arguments, endpoint=None, code=0, timeout=120):
        p = self.start_client(command, *arguments, endpoint=endpoint)
        return self.finish(p, code, timeout)

    def start_client(self, command, *arguments, endpoint=None):
        return self.start([self.bench.octoflow, command, "--broker", endpoint or self.endpoint, *arguments], command)

    def finish(self, process, code=0, timeout=120):
        result = self.bench.finish(process, timeout)
        if code is not None and not self.bench.same(result[0], code, f"{process.name}: exit code"):
            print(common.tail(result[1]), common.tail(result[2]), sep="\n", flush=True)
        return result

    def call(self, name, **fields):
        """One call on a connection of its own."""
        c = wire.Caller(self.endpoint)
        try:
            return c.call(name, **fields)
        finally:
            c.close()

    def wait_broker(self, timeout=20):
        """Until it answers."""
        def answers():
            try:
                return self.call("STATUS", timeout=2)
            except wire.Lost:
                return None
        return self.bench.wait_for("the broker's answer", answers, timeout)

    def batch(self, name):
        return self.call("STATUS", batch=name)["batches"][0]

    def stop(self, whole=True):
        """SIGTERM to all, worst first; everybody has to leave with 0. Then the ledger's own checks, if it is whole."""
        for f in self.forwarders:
            f.heal()
        for process in [*self.workers.values(), self.broker]:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.send_signal(signal.SIGTERM)
                code = self.bench.finish(process, 60)[0]
                # one that has just been started has not said yet what SIGTERM shall do
                good = code == 0 or code == -signal.SIGTERM and process is not self.broker
                self.bench.check(good, f"{process.name}: exit code {code} after SIGTERM")
        for f in self.forwarders:
            f.close()
        if whole:
            self.check_ledger()

    # ---- what must be true ----

    def check_ledger(self):
        check_ledger(self.bench, self.ledger)

    def check_output(self, path, lines, poisons=(), what="output"):
        """Every line once, in order, each with the bytes that its request asks for; poisoned ones say so."""
        results = common.read_results(path)
        self.bench.same([r["custom_id"] for r in results], [line["custom_id"] for line in lines],
                        f"{what}: the lines")
        wrong = []
        for line, result in zip(lines, results):
            body = line["body"]
            if line["custom_id"] in poisons:
                error = (common.error_text(result) or "")
                good = "poison" in error and "attempt" in error and common.answer(result) is None
            else:
                want = fake_worker.expected_text(body["messages"][-1]["content"], body["seed"])
                good = common.answer(result) == want
            if not good:
                wrong.append(result)
        self.bench.check(not wrong, f"{what}: {len(wrong)} of {len(results)} results are wrong: "
                                    f"{common.short(wrong[:1])}")
        return results


def check_ledger(bench, path):
    """What a ledger that no broker uses must be."""
    db = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        bench.same(db.execute("PRAGMA integrity_check").fetchall(), [("ok",)], "the ledger's integrity")
        twice = db.execute("SELECT job, count(*) FROM result GROUP BY job HAVING count(*) > 1").fetchall()
        bench.same(twice, [], "jobs with two results")
        bad = db.execute("SELECT count(*) FROM job j WHERE j.state IN (1, 2) AND NOT EXISTS "
                         "(SELECT 1 FROM result r WHERE r.job = j.id)").fetchone()
        bench.same(bad, (0,), "finished jobs without a result")
        seqs = db.execute("SELECT batch, seq, count(*) FROM job WHERE seq > 0 GROUP BY batch, seq "
                          "HAVING count(*) > 1").fetchall()
        bench.same(seqs, [], "places in the order of completion taken twice")
    finally:
        db.close()


class Calm:
    """The undisturbed run that the rows compare with; made once."""
    files, batch = {}, "in.jsonl"

    @classmethod
    def run(cls, bench, name, lines):
        if (bench, name) not in cls.files:
            inputs, out = bench.write(name, lines), bench.path(name + ".calm")
            bench.run_batch(inputs, out, "--batch", cls.batch, code=0)
            cls.files[bench, name] = (inputs, common.stripped(out), common.read_results(out))
        return cls.files[bench, name]


def fake_lines(count, poisons=(), words=3, prefix="job"):
    """Lines for fake workers; `poisons`: line numbers from 1 whose request kills its worker."""
    lines = []
    for n in range(1, count + 1):
        text = f"{prefix} {n} " + "word " * (words * (n % 7))
        if n in poisons:
            text += fake_worker.POISON
        lines.append(common.chat_line(f"{prefix}-{n}", [{"role": "user", "content": text}], seed=n, max_tokens=8))
    return lines


def poison_ids(lines):
    return {line["custom_id"] for line in lines if fake_worker.POISON in line["body"]["messages"][-1]["content"]}


def until_done(cluster, batch, respawn=True, timeout=120, each=None):
    """Waits until all of a batch is finished, restarting dead workers; calls each() meanwhile."""
    end = time.monotonic() + timeout
    while True:
        if respawn:
            cluster.respawn_dead()
        if each is not None:
            each()
        try:
            b = cluster.batch(batch)
            if b["sealed"] and b["total"] == b["done"] + b["failed"] + b["cancelled"]:
                return b
        except (wire.Lost, KeyError):
            b = None
        if time.monotonic() > end:
            cluster.bench.check(False, f"batch {batch} not finished within {timeout} s: {b}")
            return b
        time.sleep(0.02)


def rows(table):
    """A test function for common.main that runs a table's rows, each in a bench of the same folder, by name."""
    def test(bench, options):
        chosen = [row for row in table if (options.only in row.__name__ if options.only else
                                           options.long or not getattr(row, "long", False))]
        for row in chosen:
            began, before = time.monotonic(), bench.failures
            row(bench)
            bench.no_processes(row.__name__)
            print(f"{'ok    ' if bench.failures == before else 'FAILED'} {time.monotonic() - began:5.1f} s  "
                  f"{row.__name__}: {' '.join((row.__doc__ or '').split())}", flush=True)
        bench.check(chosen, f"no row's name has {options.only}")
    return test


def main(table, **more):
    common.main(rows(table), **more, only=(str, "", "run only rows with this in their name"),
                long=(bool, False, "also the rows that take long"), seed=(int, None, "of rows that draw something"))
