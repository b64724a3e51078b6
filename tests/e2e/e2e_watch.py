#!/usr/bin/env python3
"""Looking on: status --watch, workers, events and top against a real broker with a fake worker. top runs on a terminal
(a pseudo one): it follows the window's size, q and Ctrl-C end it, and the terminal is as it was before."""
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time

import common

FAULTS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "faults")
STILL = "broker_stood_still"  # an event on a busy machine: its heartbeats are short here
ENTER, LEAVE = b"\x1b[?1049h", b"\x1b[?1049l"


class Terminal:
    """A command on a pseudo terminal."""

    def __init__(self, bench, argv, columns, rows):
        self.seen = b""
        self.master, self.slave = pty.openpty()
        self.size(columns, rows)
        self.before = termios.tcgetattr(self.slave)
        self.pid = os.fork()
        if self.pid == 0:
            os.setsid()
            fcntl.ioctl(self.slave, termios.TIOCSCTTY, 0)
            for fd in (0, 1, 2):
                os.dup2(self.slave, fd)
            os.execve(argv[0], argv, bench.env)

    def size(self, columns, rows):
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def read(self, seconds=0.05):
        while select.select([self.master], [], [], seconds)[0]:
            try:
                self.seen += os.read(self.master, 65536)
            except OSError:
                return

    def frame(self):
        """The last whole page: its lines, without sequences."""
        self.read()
        pages = self.seen.split(b"\x1b[H")
        page = pages[-1] if pages[-1].endswith(b"\x1b[J") else pages[-2] if len(pages) > 1 else b""
        return [re.sub(rb"\x1b\[[0-9?;]*[a-zA-Z]", b"", line).decode().strip("\r") for line in page.split(b"\n")]

    def end(self, bench, what):
        bench.wait_for(f"{what}: its end", lambda: self.read() or os.waitpid(self.pid, os.WNOHANG)[0] == self.pid, 20)
        self.read()
        bench.check(self.seen.count(ENTER) == 1 and self.seen.count(LEAVE) == 1, f"{what}: the alternate screen")
        bench.check(self.seen.index(ENTER) < self.seen.rindex(LEAVE), f"{what}: left after it was entered")
        bench.check(b"\x1b[?25h" in self.seen, f"{what}: the cursor is shown again")
        bench.same(termios.tcgetattr(self.slave), self.before, f"{what}: the terminal's modes")
        os.close(self.master)
        os.close(self.slave)


def start_worker(bench, name, *more):
    return bench.start([sys.executable, "-S", "-E", os.path.join(FAULTS, "fake_worker.py"), "--broker",
                        "ipc://" + bench.path("s"), "--name", name, "--parent", os.getpid(), *more], name)


def objects(text):
    return [json.loads(line) for line in text.splitlines()]


def looks_on(bench, flow):
    """status --watch of a batch ends with it, and says what it sees on the way."""
    bench.run(*flow("submit"), bench.write("in.jsonl", [{"prompt": f"p{n}", "max_tokens": 4} for n in range(120)]),
              "--batch", "night", code=0, name="submit")
    _, out, _ = bench.run(*flow("status"), code=0, name="before")
    bench.has(out, "no worker is connected", "status without a worker")
    bench.has(out, "unknown", "status: the time left when nothing moves")
    worker = start_worker(bench, "w1", "--think-ms", "15", "--credit", "8")
    follow = bench.start([*flow("events"), "--follow", "--json", "--interval", "0.2"], "follow")
    _, out, _ = bench.run(*flow("status"), "night", "--watch", "--json", "--interval", "0.2", code=0, name="watch",
                          timeout=60)
    pages = [o["batches"][0] for o in objects(out)]
    bench.check(len(pages) >= 3, f"status --watch: {len(pages)} pages")
    bench.same(pages[-1]["state"], "completed", "the last page")
    bench.check(all(a["done"] <= b["done"] for a, b in zip(pages, pages[1:])), "done goes up")
    moving = [p for p in pages if 20 <= p["done"] <= 110]
    bench.check(moving and all(0 < p["eta_ms"] < 60000 and p["jobs_per_s"] > 1 for p in moving),
                f"the time left on the way: {moving}")
    bench.same(pages[-1]["eta_ms"], 0, "the time left at the end")
    _, out, _ = bench.run(*flow("workers"), "--json", code=0, name="workers")
    shown = objects(out)
    bench.check(len(shown) == 1 and "batches" not in shown[0], "workers --json: one object, of workers only")
    w = shown[0]["workers"][0]
    bench.same((w["worker"], w["state"], w["done"], w["leased"]), ("w1", "ready", 120, 0), "the worker")
    bench.check(0 <= w["seen_ms"] < 5000, f"seen {w['seen_ms']} ms ago")
    return worker, follow


def tells(bench, flow, worker, follow):
    """Events, as they come to one who follows, and as they are kept."""
    worker.kill()
    bench.finish(worker, 10)
    bench.wait_for("the worker's loss", lambda: "worker_lost" in bench.output("follow.out"), 20)
    second = start_worker(bench, "w2")
    bench.wait_for("the second one", lambda: '"w2"' in bench.output("follow.out"), 20)
    second.terminate()
    bench.finish(second, 20)
    bench.wait_for("its leave", lambda: "worker_left" in bench.output("follow.out"), 20)
    follow.terminate()
    bench.finish(follow, 10)
    followed = objects(bench.output("follow.out"))
    _, out, _ = bench.run(*flow("events"), "--json", code=0, name="events")
    kept = objects(out)
    bench.same(followed, kept, "followed and kept")
    wanted = [("broker_started", ""), ("batch_created", "night"), ("batch_sealed", "night"), ("worker_joined", "w1"),
              ("batch_completed", "night"), ("worker_lost", "w1"), ("worker_joined", "w2"), ("worker_left", "w2")]
    bench.same([e["seq"] - kept[0]["seq"] for e in kept], list(range(len(kept))), "their numbers")
    kept = [e for e in kept if e["kind"] != STILL]
    bench.same([(e["kind"], e["subject"]) for e in kept], wanted, "events")
    _, out, _ = bench.run(*flow("events"), "--after", kept[-1]["seq"] - 1, "--json", code=0, name="last")
    after = [e["kind"] for e in objects(out) if e["kind"] != STILL]
    bench.same(after, ["worker_left"], "events --after")


def draws(bench, flow):
    _, out, _ = bench.run(*flow("top"), code=0, name="piped")  # no terminal: once
    bench.has(out, "night  completed", "top into a file")
    bench.check("\x1b" not in out, "top into a file has no sequences")
    top = Terminal(bench, [*flow("top"), "--interval", "0.2"], 70, 12)
    bench.wait_for("a page", lambda: "octoflow top" in top.frame()[0], 20)
    bench.has("\n".join(top.frame()), "120/120", "the batch")
    page = top.frame()
    bench.check(len(page) <= 12 and max(map(len, page)) <= 70, f"the page fits 70 x 12: {page}")
    top.size(130, 5)
    bench.wait_for("a page of five long lines", lambda: len(top.frame()) == 5 and max(map(len, top.frame())) > 80, 10)
    os.write(top.master, b"x\x1b[Aq")
    top.end(bench, "q")
    for name, stop in (("Ctrl-C", lambda t: os.write(t.master, b"\x03")),
                       ("SIGTERM", lambda t: os.kill(t.pid, signal.SIGTERM)),
                       ("a crash", lambda t: os.kill(t.pid, signal.SIGSEGV))):
        top = Terminal(bench, [*flow("top"), "--interval", "0.2"], 80, 24)
        bench.wait_for("a page", lambda t=top: "octoflow top" in t.frame()[0], 20)
        stop(top)
        top.end(bench, name)


def outlives(bench, flow, broker):
    """A broker that is away for a while: the screen says so, and goes on; so do those without one, in a line."""
    watch = bench.start([*flow("status"), "--watch", "--json", "--interval", "0.2"], "away-status")
    follow = bench.start([*flow("events"), "--follow", "--timeout", "1"], "away-events")
    for looking in (watch, follow):
        bench.wait_for("what is there", lambda p=looking: bench.output(p.name + ".out"))
    top = Terminal(bench, [*flow("top"), "--interval", "0.2", "--timeout", "1"], 80, 24)
    other = Terminal(bench, [*flow("top"), "--interval", "0.2"], 80, 24)
    for t in (top, other):
        bench.wait_for("a page", lambda t=t: "octoflow top" in t.frame()[0], 20)
    broker.terminate()
    bench.same(bench.finish(broker, 30)[0], 0, "the broker's exit code")
    bench.wait_for("that it is away", lambda: "no answer from the broker for" in top.frame()[0], 20)
    bench.has("\n".join(top.frame()), "120/120", "what was there last")
    time.sleep(4)  # a key is heard at once, also when it has been away for longer
    os.write(other.master, b"q")
    other.end(bench, "while the broker is away")
    broker = start_broker(bench)
    bench.wait_for("that it is back", lambda: "broker up" in top.frame()[0], 20)
    os.write(top.master, b"q")
    top.end(bench, "after the broker's return")
    bench.wait_for("that it is back", lambda: "broker is back" in bench.output(follow.name + ".err"), 20)
    for looking, said in ((watch, ["octoflow status: no answer from the broker, waiting for it"]),
                          (follow, ["octoflow events: the broker is away, waiting until it is back",
                                    "octoflow events: the broker is back"])):
        looking.send_signal(signal.SIGINT)
        code, _, err = bench.finish(looking, 10)
        bench.same((code, err.splitlines()), (0, said), f"{looking.name}: Ctrl-C, and what it said")
    return broker


def nobody_reads(bench, flow):
    """What cannot be printed is no success, and who follows ends when nobody reads any more."""
    for what in (["status"], ["workers", "--json"], ["events"], ["keygen", "--out", "full.key"]):
        argv = [bench.octoflow, *what] if what[0] == "keygen" else [*flow(what[0]), *what[1:]]
        with open("/dev/full", "wb") as full:
            done = subprocess.run(argv, stdout=full, stderr=subprocess.PIPE, cwd=bench.dir, text=True, timeout=30)
        bench.same(done.returncode, 3, f"{what[0]} to a full disk: exit code")
        bench.has(done.stderr, f"octoflow {what[0]}: standard output: cannot write: No space left on device", what[0])
    for what in (["status", "--watch", "--interval", "0.1"], ["events", "--follow", "--interval", "0.1"]):
        p = subprocess.Popen([*flow(what[0]), *what[1:]], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                             preexec_fn=lambda: signal.signal(signal.SIGPIPE, signal.SIG_IGN), restore_signals=False)
        p.stdout.readline()
        p.stdout.close()
        bench.run(*flow("pause"), "night", code=0, name="pause")  # an event
        try:
            bench.same(p.wait(10), 3, f"{what[0]} with nobody who reads: exit code")
        except subprocess.TimeoutExpired:
            bench.check(False, f"{what[0]} goes on although nobody reads")
            p.kill()
        bench.has(p.stderr.read(), f"octoflow {what[0]}: standard output: cannot write: Broken pipe", what[0])


def start_broker(bench):
    broker = bench.start([bench.broker, "--ledger", bench.path("l.db"), "--listen", "ipc://" + bench.path("s"),
                          "--heartbeat-ms", "200"], "broker" + str(len(bench.started)))
    bench.wait_for("the broker", lambda: os.path.exists(bench.path("s")))
    return broker


def test(bench, options):
    def flow(command):
        return [bench.octoflow, command, "--broker", "ipc://" + bench.path("s")]

    broker = start_broker(bench)
    worker, follow = looks_on(bench, flow)
    tells(bench, flow, worker, follow)
    draws(bench, flow)
    nobody_reads(bench, flow)
    broker = outlives(bench, flow, broker)
    broker.terminate()
    bench.same(bench.finish(broker, 30)[0], 0, "the broker's exit code")


common.main(test)
