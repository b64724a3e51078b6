#!/usr/bin/env python3
"""Random fault runs: --seed N --runs K. Run i draws everything from the seed N + i: the batch, the workers and what
they do wrong, wires between them, and a schedule of faults (kill -9, SIGSTOP, SIGTERM of broker, workers and clients,
wires cut, plugged, slowed or cut within a frame, full disks, garbage, lies, the same lines again). At the end every
line must be in the client's file once, with the bytes that its request asks for; poison must have failed as poison; the
ledger must be whole, and nothing left running. A failed run is repeated with --seed of its line and --runs 1 (what
happens at which moment within a process stays the machine's affair). Each --real-every-th run has real workers and a
model."""
import os
import random
import resource
import signal
import sys
import threading
import time

import cluster
import common
import fake_worker
import wire

BATCH = "b"
REAL_LINES, CANCEL_LINES = 24, 60


def cancel_body(n):
    return {"chat": False, "prompt": f"line {n}", "max_tokens": 4, "temperature": 0.0, "top_p": 1.0, "seed": n}


class Run:
    def __init__(self, bench, seed, real):
        self.bench, self.seed, self.real = bench, seed, real
        self.rng = rng = random.Random(seed)
        self.name = f"r{seed}"
        self.log, self.later = [], []
        heartbeat = rng.randrange(200, 500) if real else rng.randrange(60, 250)
        self.lease_ms = rng.randrange(600, 4000)
        self.poisons = set() if real else self.draw_poisons()
        if real:
            self.lines = common.mixed_lines(bench, REAL_LINES, 24)
        else:
            self.lines = cluster.fake_lines(self.count, self.poisons, words=rng.randrange(1, 30))
        self.input = bench.write(self.name + ".jsonl", self.lines)
        self.output = bench.path(self.name + ".out.jsonl")
        # three is what a user has; but here workers die for no fault of a job's, many times
        self.attempts = 10 if self.poisons else 50
        self.c = cluster.Cluster(bench, heartbeat_ms=heartbeat, lease_ms=self.lease_ms, name=self.name)
        self.wires = []
        self.worker_names = []
        for n in range(rng.randrange(1, 3 if real else 5)):
            self.start_worker(f"{self.name}-w{n}")
        self.client_endpoint = self.maybe_wire("client")
        self.client, self.client_killed, self.step = None, False, "submit"
        self.disk_was_full = self.stopping = False
        self.lock, self.cancels, self.cancelled = threading.Lock(), [], []
        self.schedule = self.draw_schedule()

    # ---- drawing ----

    def draw_poisons(self):
        self.count = self.rng.randrange(50, 1001)
        if self.rng.random() < 0.6:
            return set()
        return set(self.rng.sample([1, self.count // 2, self.count, self.rng.randrange(1, self.count)],
                                   self.rng.randrange(1, 3)))

    def maybe_wire(self, whose):
        if self.rng.random() < 0.4:
            return None
        f = self.c.forward()
        f.whose = whose
        self.wires.append(f)
        return f.endpoint

    def start_worker(self, name):
        self.worker_names.append(name)
        endpoint = self.maybe_wire(name)
        if self.real:
            self.c.real(name, endpoint, "--drain-s", "1")
            return
        r = self.rng
        options = {"think_ms": round(r.choice((0, r.uniform(0, 6))), 2), "credit": r.randrange(2, 65),
                   "seed": r.randrange(1 << 30), "nack": r.choice((0, 0, 0.05)), "twice": r.choice((0, 0.3, 1)),
                   "late": r.choice((0, 0.3, 1))}
        self.log.append(f"worker {name[len(self.name) + 1:]} {options}")
        self.c.fake(name, endpoint, **options)

    def draw_schedule(self):
        """[(when, what, to whom, how long, a number)], by time. All of a run is drawn before it begins."""
        r = self.rng
        kinds = ["kill broker", "stop broker", "kill worker", "kill worker", "stop worker", "term worker",
                 "kill client", "stop client", "garbage", "liar", "again", "full disk"]
        kinds += [] if self.real else ["cancel"]
        if self.wires:
            kinds += ["cut", "plug", "blink", "cut within", "delay"]
        span = r.uniform(2, 7) if self.real else r.uniform(0.5, 2.5)
        events = []
        for _ in range(r.randrange(3, 13)):
            kind = r.choice(kinds)
            target = ""
            if "worker" in kind:
                target = r.choice(self.worker_names)
            elif kind in ("cut", "plug", "blink", "cut within", "delay"):
                target = r.randrange(len(self.wires))
            events.append((r.uniform(0, span), kind, target, r.choice((0.02, 0.1, 0.3, 0.8)), r.randrange(1, 30000)))
        return sorted(events, key=lambda e: e[0])

    # ---- faults ----

    def after(self, seconds, do):
        self.later.append((time.monotonic() + seconds, do))

    def note(self, text):
        self.log.append(f"{time.monotonic() - self.began:.2f} {text}")

    def inject(self, kind, target, length, number):
        verb, _, what = kind.partition(" ")
        self.note(f"{kind} {target if isinstance(target, str) else self.wires[target].whose} "
                  f"{length} s {number if kind == 'cut within' else ''}".strip())
        if kind == "full disk":
            self.fill_disk(length)
        elif what == "broker":
            self.hit_broker(verb, length)
        elif what == "worker":
            self.hit_worker(verb, target, length)
        elif what == "client":
            self.hit_client(verb, length)
        elif kind == "again":
            self.again()
        elif kind in ("garbage", "liar", "cancel"):  # they wait for a broker that this loop may have stopped
            threading.Thread(target=getattr(self, kind), args=(number,), daemon=True).start()
        else:
            self.hit_wire(kind, self.wires[target], length, number)

    def hit_broker(self, verb, length):
        if self.c.broker.poll() is not None:
            return
        if verb == "kill":
            self.c.kill_broker()
            self.after(length, self.c.start_broker)
        else:
            self.pause(self.c.broker, length)

    def pause(self, process, length):
        process.send_signal(signal.SIGSTOP)
        self.after(length, lambda: process.send_signal(signal.SIGCONT))

    def fill_disk(self, length):
        """The broker can write nothing for that long. A client may be refused meanwhile, with the reason."""
        process = self.c.broker
        if process.poll() is not None:
            return

        def limit(most):
            if process.poll() is None:
                resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))

        limit(1)
        self.disk_was_full = True
        self.after(length, lambda: limit(resource.RLIM_INFINITY))

    def hit_worker(self, verb, name, length):
        process = self.c.workers[name]
        if process.poll() is not None:
            return
        if verb == "stop":
            self.pause(process, length)
        elif verb == "kill":  # the loop starts it again
            process.kill()
            process.wait()
        else:
            process.send_signal(signal.SIGTERM)

    def hit_client(self, verb, length):
        if self.client is None or self.client.poll() is not None:
            return
        if verb == "stop":
            self.pause(self.client, length)
        else:
            self.client_killed = True
            self.client.kill()

    def hit_wire(self, kind, wire_, length, number):
        if kind == "blink":
            wire_.blink()
            return
        if kind == "cut within":
            wire_.cut_within(number)
        elif kind == "delay":
            wire_.delay(length / 4)
        else:
            getattr(wire_, kind)()
        self.after(length, wire_.heal)

    def garbage(self, number):
        r = random.Random(number)
        try:
            s = wire.connect(self.c.endpoint, 1)
            if number % 2:
                s.sendall(wire.GREETING + wire.READY)
            s.sendall(r.randbytes(number % 5000))
            s.close()
        except (wire.Lost, OSError):
            pass

    def liar(self, number):
        """A worker that is given jobs and sends made-up results for others', then dies."""
        try:
            d, w = wire.a_worker(self.c.endpoint, "liar")
            d.send("PULL", session=w["session"], credit_total=number % 8)
            body = wire.pack({"status_code": 200, "choices": [{"text": "LIE", "finish_reason": "stop"}]})
            d.send("RESULTS", session=w["session"], results=[
                {"job": j, "epoch": e, "failed": False, "body": body} for j in range(1, 40) for e in (0, 1, 1 << 40)])
            d.receive(0.02)
            d.close()
        except wire.Lost:
            pass

    def again(self):
        """Another client sends the same lines at the same time."""
        p = self.c.start_client("submit", self.input, "--batch", BATCH, "--max-attempts", str(self.attempts))
        self.after(0.5, lambda: p.poll() is None and p.kill())

    def cancel(self, number):
        """Another batch, half of which is cancelled at once, by calls that are repeated until they are answered."""
        name = f"cancel-{number}"
        lines = [{"line": n, "hash": n, "body": wire.pack(cancel_body(n))} for n in range(1, CANCEL_LINES + 1)]
        calls = [("BATCH_NEW", {"max_attempts": 50, "priority": 1 + number % 200}), ("SUBMIT", {"lines": lines}),
                 ("SEAL", {"lines": CANCEL_LINES}), ("CANCEL", {"lines": list(range(1, CANCEL_LINES // 2 + 1))})]
        with self.lock:
            self.cancels.append(name)
        for call, fields in calls:
            while not self.stopping:
                try:
                    reply = self.c.call(call, timeout=1, batch=name, **fields)
                    if reply["t"] != "ERROR" or reply["code"] not in ("full", "storage"):
                        break
                except wire.Lost:
                    time.sleep(0.05)
            if not self.stopping:
                self.bench.check(reply["t"] != "ERROR", f"seed {self.seed}: {call} {name}: {reply}")
        with self.lock:
            self.cancelled.append(name)

    def check_cancels(self):
        """All of those batches end; each line is done, with its bytes, or cancelled, and of the others none is."""
        self.bench.wait_for("all cancels", lambda: len(self.cancelled) == len(self.cancels), 30)
        for name in self.cancels:
            cluster.until_done(self.c, name)
            caller = wire.Caller(self.c.endpoint)
            got = caller.fetch_all(name)
            caller.close()
            self.bench.same([f["line"] for f in got], list(range(1, CANCEL_LINES + 1)), f"seed {self.seed}: {name}")
            for f in got:
                body = cancel_body(f["line"])
                text = fake_worker.expected_text(body["prompt"], body["seed"])
                good = (f["state"] == "done" and wire.unpack(f["body"])["choices"][0]["text"] == text or
                        f["state"] == "cancelled" and f["line"] <= CANCEL_LINES // 2)
                self.bench.check(good, f"seed {self.seed}: {name}: {f}")

    # ---- the run ----

    def drive_client(self):
        """Starts the client's next step; one that we killed starts again. True: it has the file."""
        if self.client is not None and self.client.poll() is None:
            return False
        refused = self.client is not None and self.disk_was_full and self.client.returncode == 3
        if self.client is not None and not self.client_killed and not refused:
            want = 1 if self.step == "results" and self.poisons else 0
            if not self.bench.same(self.client.returncode, want, f"seed {self.seed}: octoflow {self.step}'s exit code"):
                print(common.tail(self.bench.output(self.client.name + ".err")))
                return True
            if self.step == "results":
                return True
            self.step = "results"
        more = ["results", BATCH, "-o", self.output, "--wait"]
        if self.step == "submit":
            more = ["submit", self.input, "--batch", BATCH, "--max-attempts", self.attempts]
        self.client_killed = False
        self.client = self.c.start_client(*more, endpoint=self.client_endpoint)
        return False

    def run_later(self):
        now = time.monotonic()
        due = [do for when, do in self.later if when <= now]
        self.later = [x for x in self.later if x[0] > now]
        for do in due:
            try:
                do()
            except ProcessLookupError:
                pass

    def go(self, timeout):
        self.began = time.monotonic()
        events, done = list(self.schedule), False
        while not done or events or self.later:
            while events and time.monotonic() - self.began >= events[0][0]:
                self.inject(*events.pop(0)[1:])
            self.run_later()
            done = done or self.drive_client()
            if not done or events:
                self.c.respawn_dead()
                if self.disk_was_full and self.c.broker.poll() == 3:  # it may not start on a full disk
                    self.c.start_broker()
            if time.monotonic() - self.began > timeout:
                self.bench.check(False, f"seed {self.seed}: not done within {timeout} s; in step {self.step}")
                break
            time.sleep(0.01)
        self.finish()

    def finish(self):
        self.c.respawn_dead()
        if self.c.broker.poll() is not None:
            self.c.start_broker()
        if os.path.exists(self.output):
            if self.real:
                got = common.stripped(self.output)
                self.bench.check(got == self.want, f"seed {self.seed}: {common.difference(got, self.want)}")
            else:
                self.c.check_output(self.output, self.lines, cluster.poison_ids(self.lines), f"seed {self.seed}")
        else:
            self.bench.check(False, f"seed {self.seed}: no output file")
        if self.client.poll() is None:
            self.client.kill()
        self.c.wait_broker()
        self.check_cancels()
        self.stopping = True
        self.c.stop()
        self.bench.no_processes(f"seed {self.seed}")


def clean(bench, name):
    for entry in os.listdir(bench.dir):
        if entry.startswith((name + "-", name + ".")):
            os.unlink(bench.path(entry))
    bench.started.clear()


def test(bench, options):
    seed = options.seed if options.seed is not None else int.from_bytes(os.urandom(3), "little") * 1000
    print(f"seed {seed}: {options.runs} runs; repeat one by --seed of its line, --runs 1 and --real-every 0 (fake) "
          "or 1 (real)", flush=True)
    want = None
    began, longest, faults, failed = time.monotonic(), 0, 0, []
    for n in range(options.runs):
        real = options.real_every > 0 and n % options.real_every == options.real_every - 1
        if real and want is None:
            inputs = bench.write(BATCH, common.mixed_lines(bench, REAL_LINES, 24))
            bench.run_batch(inputs, bench.path("calm.out"), "--batch", BATCH, code=0)
            want = common.stripped(bench.path("calm.out"))
        before, start = bench.failures, time.monotonic()
        run = Run(bench, seed + n, real)
        run.want = want
        run.go(options.limit)
        took = time.monotonic() - start
        longest, faults = max(longest, took), faults + len(run.schedule)
        good = bench.failures == before
        print(f"{'ok    ' if good else 'FAILED'} seed {run.seed} {'real' if real else 'fake'} {took:.1f} s, "
              f"{len(run.lines)} lines, poison {sorted(run.poisons)}, heartbeat {run.c.heartbeat_ms} ms, "
              f"lease {run.lease_ms} ms: " + "; ".join(run.log), flush=True)
        if good:
            clean(bench, run.name)
        else:
            failed.append(run.seed)
        if options.for_s and time.monotonic() - began > options.for_s:
            print(f"stopped after {n + 1} runs: {options.for_s} s are over")
            break
    print(f"{n + 1} runs, {len(failed)} failed, {faults} faults, {time.monotonic() - began:.0f} s, longest "
          f"{longest:.1f} s" + (f"; failed seeds {failed}" if failed else ""), flush=True)


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)
    common.main(test, seed=(int, None, "of the first run"), runs=(int, 20, "how many"),
                real_every=(int, 0, "each so manieth run has real workers (0: none)"),
                limit=(int, 90, "seconds a run may take"), for_s=(int, 0, "begin no run after so many seconds"))
