#!/usr/bin/env python3
"""A worker that answers at once, by a function of the request alone (expected_text), and that can misbehave on
purpose. It keeps the protocol as worker/session.h does: results are kept until acknowledged, leases are named in
every BEAT and HELLO. As a program it is killed and stopped like a real one."""
import argparse
import hashlib
import os
import random
import select
import signal
import sys
import time

import wire

POISON = "POISON"  # a prompt with it kills its worker


def expected_text(prompt, seed):
    return "echo " + hashlib.blake2s(f"{seed}\n{prompt}".encode()).hexdigest()


class FakeWorker:
    def __init__(self, options):
        self.o = options
        self.rng = random.Random(options.seed)
        self.leases = {}  # job -> [epoch, result or None, sent at]
        self.todo = []  # jobs without a result
        self.dealer = None
        self.session, self.ledger = None, ""
        self.hello_at = self.beat_at = self.heard_at = self.pull_at = 0
        self.heartbeat_s = 1
        self.granted = 0
        self.lost_refs = []  # (job, epoch) of leases that were taken away or finished: for late results
        self.draining = self.gone = False

    # ---- the connection ----

    def connect(self, now):
        try:
            self.dealer = wire.Dealer(self.o.broker, timeout=2)
        except wire.Lost:
            self.dealer = None
            time.sleep(0.1)
            return
        self.say_hello(now)

    def say_hello(self, now):
        self.session = None
        self.hello_at = now + 1
        holding = [(job, lease[0]) for job, lease in self.leases.items()]
        self.dealer.send("HELLO", **wire.hello(self.o.name, holding, self.o.numeric_class, max_jobs=self.o.credit,
                                               process=os.getpid(), ledger=self.ledger))

    # ---- what the broker says ----

    def on_message(self, m, now):
        self.heard_at = now
        kind = m["t"]
        if kind == "WELCOME":
            self.session, self.granted = m["session"], 0
            self.heartbeat_s = m["heartbeat_ms"] / 1000
            self.beat_at = self.pull_at = now
            for ref in m.get("lost", []):
                self.lose(ref)
            if m["broker"] != self.ledger:
                self.ledger, self.leases, self.todo, self.lost_refs = m["broker"], {}, [], []
            for lease in self.leases.values():
                lease[2] = 0
        elif kind == "GRANT" and m["session"] == self.session:
            for g in m["jobs"]:
                self.on_grant(g)
        elif kind == "ACKS":
            for a in m["acks"]:
                lease = self.leases.get(a["job"])
                if lease and lease[0] == a["epoch"] and lease[1]:
                    self.lose(a)
        elif kind == "BEAT_OK":
            self.draining = self.draining or m.get("drain", False)
            for ref in m.get("cancel", []):
                self.lose(ref)
        elif kind == "RECONNECT" and self.session is not None:
            self.say_hello(now)
        elif kind == "ERROR" and m["code"] == "conflict":
            sys.exit("another worker has this name")

    def lose(self, ref):
        lease = self.leases.get(ref["job"])
        if lease and lease[0] == ref["epoch"]:
            self.lost_refs = self.lost_refs[-200:] + [(ref["job"], lease[0], lease[1])]
            del self.leases[ref["job"]]

    def on_grant(self, g):
        self.granted += 1
        lease = self.leases.get(g["job"])
        if lease:
            if g["epoch"] > lease[0]:
                lease[0], lease[2] = g["epoch"], 0
            return
        self.leases[g["job"]] = [g["epoch"], None, 0]
        self.todo.append((g["job"], wire.unpack(g["body"])))

    # ---- work ----

    def answer(self, job, request):
        prompt = request.get("prompt") or request["messages"][-1]["content"]
        if POISON in prompt:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.rng.random() < self.o.nack:
            epoch = self.leases.pop(job)[0]
            self.dealer.send("NACK", session=self.session, jobs=[{"job": job, "epoch": epoch, "counts": False,
                                                                  "reason": "no room, on purpose"}])
            return
        text = expected_text(prompt, request["seed"])
        choice = {"text": text, "finish_reason": "stop", "completion_tokens": 7}
        self.leases[job][1] = wire.pack({"status_code": 200, "chat": bool(request["chat"]), "choices": [choice],
                                         "prompt_tokens": len(prompt), "completion_tokens": 7,
                                         "seed": request["seed"], "model_name": "fake", "model_hash": "00ff",
                                         "numeric_class": self.o.numeric_class})

    def work(self):
        end = time.monotonic() + 0.02  # then heartbeats again
        while self.todo and time.monotonic() < end:
            job, request = self.todo.pop(0)
            lease = self.leases.get(job)
            if lease and lease[1] is None:
                if self.o.think_ms:
                    time.sleep(self.o.think_ms / 1000)
                self.answer(job, request)

    def results(self, refs):
        return [{"job": job, "epoch": epoch, "failed": False, "body": body, "prompt_tokens": 3,
                 "completion_tokens": 7} for job, epoch, body in refs]

    def send_results(self, now):
        ready = [(job, lease[0], lease[1]) for job, lease in self.leases.items()
                 if lease[1] and now - lease[2] > (5 if lease[2] else 0)][:64]
        if not ready:
            return
        for job, _, _ in ready:
            self.leases[job][2] = now
        self.dealer.send("RESULTS", session=self.session, results=self.results(ready))
        if self.rng.random() < self.o.twice:
            self.dealer.send("RESULTS", session=self.session, results=self.results(ready))
        if self.rng.random() < self.o.late:  # old leases, epochs that never were, another content
            choice = {"text": "LATE", "finish_reason": "stop"}
            wrong = wire.pack({"status_code": 200, "chat": True, "choices": [choice]})
            old = [(job, epoch, body or wrong) for job, epoch, body in self.lost_refs[-8:]]
            old += [(job, epoch - 1, wrong) for job, epoch, _ in ready[:4] if epoch > 0]
            if old:
                self.dealer.send("RESULTS", session=self.session, results=self.results(old))

    def timers(self, now):
        if self.session is None:
            if now >= self.hello_at:
                self.say_hello(now)
            return
        if now - self.heard_at > 3 * self.heartbeat_s + 0.2:
            self.say_hello(now)
            return
        if self.draining and not self.leases:
            self.dealer.send("BYE", session=self.session)
            self.gone = True
            return
        if now >= self.beat_at:
            self.beat_at = now + self.heartbeat_s
            running = [{"job": job, "epoch": lease[0], "completion_tokens": 1} for job, lease in self.leases.items()]
            self.dealer.send("BEAT", session=self.session, running=running, draining=self.draining)
        if now >= self.pull_at and not self.draining:
            self.pull_at = now + 0.02
            room = self.o.credit - len(self.leases)
            if room > 0:
                self.dealer.send("PULL", session=self.session, credit_total=self.granted + room)

    def turn(self):
        now = time.monotonic()
        if self.dealer is None:
            self.connect(now)
            return
        try:
            waits = 0 if self.todo and self.session else 0.01
            if select.select([self.dealer], [], [], waits)[0]:
                self.dealer.fill()
            while (m := self.dealer.poll()) is not None:
                self.on_message(m, time.monotonic())
            if self.session is not None:
                self.work()
                self.send_results(time.monotonic())
            self.timers(time.monotonic())
        except wire.Lost:
            self.dealer.close()
            self.dealer = self.session = None

    def run(self):
        while not self.gone:
            if self.o.parent and os.getppid() != self.o.parent:
                return
            self.turn()


def parse(argv):
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--broker", required=True)
    p.add_argument("--name", required=True)
    p.add_argument("--numeric-class", default="fake")
    p.add_argument("--credit", type=int, default=64, help="jobs it holds at most")
    p.add_argument("--think-ms", type=float, default=0, help="time a job takes")
    p.add_argument("--seed", type=int, default=1, help="of what it does wrong")
    p.add_argument("--nack", type=float, default=0, help="share of jobs it hands back")
    p.add_argument("--twice", type=float, default=0, help="share of RESULTS sent twice")
    p.add_argument("--late", type=float, default=0, help="share of RESULTS after which it sends old leases' results")
    p.add_argument("--parent", type=int, default=0, help="leave when the parent is another process")
    return p.parse_args(argv)


def main():
    worker = FakeWorker(parse(sys.argv[1:]))

    def drain(*_):
        worker.draining = True

    signal.signal(signal.SIGTERM, drain)
    worker.run()


if __name__ == "__main__":
    main()
