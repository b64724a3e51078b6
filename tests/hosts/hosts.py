#!/usr/bin/env python3
"""A broker, two workers and a client on hosts of their own (lan.py), over TCP with keys, the workers with a real model:
packets get lost, cables are narrow, long, cut and plugged, a host loses its power, the broker moves to another one.
Every run ends complete, with the bytes of an undisturbed one."""
import json
import os
import shutil
import socket
import sys
import threading
import time

import lan

for folder in ("e2e", "faults"):
    sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", folder))

import cluster  # noqa: E402
import common  # noqa: E402
import forwarder  # noqa: E402

BROKER = "10.77.0.1"
ADDRESSES = {"broker": BROKER, "gpu1": "10.77.0.2", "gpu2": "10.77.0.3", "desk": "10.77.0.4"}
ENDPOINT = f"tcp://{BROKER}:7420"
HEARTBEAT_MS = 400  # lost after 1.2 s
JOBS = 4  # of a worker at a time: there is work for both
MARK = "xylophone"  # in every story


def stories(count, tokens, **more):
    """Sampled stories: a wrong seed, order or neighbour would show."""
    def messages(n):
        return [{"role": "user", "content": f"Tell me a story about a {MARK} and {n} foxes."}]
    return [common.chat_line(f"story-{n}", messages(n), temperature=1, seed=1000 + n, max_tokens=tokens,
                             ignore_eos=True, **more) for n in range(count)]


class Night:
    """The hosts and what runs on them; one for all rows. Each row has a batch of its own."""

    def __init__(self, bench, inputs):
        self.bench, self.ledger, self.count = bench, bench.path("ledger.db"), 0
        self.inputs, self.calm = {}, {}
        for name, lines in inputs.items():
            self.inputs[name] = bench.write(name + ".jsonl", lines)
        self.undisturbed()
        self.lan = lan.Lan()
        for name, address in ADDRESSES.items():
            self.lan.add(name, address)
        self.keys()
        self.start_broker("broker")
        self.workers = {name: self.start_worker(name, name) for name in ("gpu1", "gpu2")}
        for name in self.workers:
            self.wait_worker(name + ":0", "ready")

    def undisturbed(self):
        """All batches on one worker, without a network."""
        endpoint = "ipc://" + self.bench.path("calm")
        started = [self.bench.start([self.bench.broker, "--ledger", self.bench.path("calm.db"), "--listen", endpoint],
                                    "calm-broker"),
                   self.bench.start([self.bench.worker, "--broker", endpoint, "-m", self.bench.model(), "--governor",
                                     "off"], "calm-worker")]
        for name, path in self.inputs.items():
            self.bench.run(self.bench.octoflow, "submit", "--broker", endpoint, path, "--batch", name, code=0)
        for name in self.inputs:
            out = self.bench.path(name + ".calm")
            self.bench.run(self.bench.octoflow, "results", "--broker", endpoint, name, "-o", out, "--wait", code=0)
            self.calm[name] = common.stripped(out)
        for process in reversed(started):
            process.terminate()
            self.bench.same(self.bench.finish(process, 60)[0], 0, f"{process.name}: exit code")

    def keys(self):
        allowed = ""
        for name, roles in (("broker", "admin"), ("gpu1", "work"), ("gpu2", "work"), ("desk", "submit,admin")):
            allowed += self.bench.run(self.bench.octoflow, "keygen", "--out", self.key(name), "--roles", roles,
                                      code=0)[1]
        self.bench.write("allow.txt", allowed)

    # ---- programs ----

    def key(self, name):
        return self.bench.path(name + ".key")

    def start(self, host, *argv, name):
        self.count += 1
        return self.bench.start(self.lan.hosts[host].argv(*argv), f"{name}-{self.count}")

    def start_broker(self, host):
        self.broker = self.start(host, self.bench.broker, "--ledger", self.ledger, "--listen", ENDPOINT, "--curve-key",
                                 self.key("broker"), "--allow", self.bench.path("allow.txt"), "--heartbeat-ms",
                                 HEARTBEAT_MS, name="broker")

    def start_worker(self, host, name, endpoint=ENDPOINT):
        """Under its own name of HOST:0, if that is the host's."""
        more = () if name == host else ("--name", name)
        return self.start(host, self.bench.worker, "--broker", endpoint, "-m", self.bench.model(), "--curve-key",
                          self.key(host), "--server-key", self.key("broker") + ".pub", "--governor", "off",
                          "--max-jobs", JOBS, *more, name=name)

    def client(self, command, *arguments, endpoint=ENDPOINT):
        return self.start("desk", self.bench.octoflow, command, "--broker", endpoint, "--curve-key", self.key("desk"),
                          "--server-key", self.key("broker") + ".pub", *arguments, name=command)

    def ask(self, command, *arguments, **more):
        process = self.client(command, *arguments, **more)
        code, out, err = self.bench.finish(process, 60)
        if not self.bench.same(code, 0, f"{process.name}: exit code"):
            print(common.tail(err), flush=True)
        return out

    def status(self):
        return json.loads(self.ask("status", "--json"))

    def worker(self, name):
        """What the broker says of it; None: not there."""
        return next((w for w in self.status()["workers"] if w["worker"] == name), None)

    def wait_worker(self, name, state):
        return self.bench.wait_for(f"{name} {state}", lambda: (self.worker(name) or {}).get("state") == state, 30)

    def wait_work(self, *names):
        """Until each of them has lines."""
        def busy():
            return {w["worker"] for w in self.status()["workers"] if w.get("leased", 0) > 0} >= set(names)
        self.bench.wait_for(f"work for {names}", busy, 30)

    # ---- a batch ----

    def submit(self, name, **more):
        self.ask("submit", self.inputs[name], "--batch", name, **more)

    def finish(self, name, **more):
        """Waits for all of it; it has the bytes of the undisturbed run. Returns the results."""
        out = self.bench.path(name + ".out")
        code, _, err = self.bench.finish(self.client("results", name, "-o", out, "--wait", **more), 120)
        if not self.bench.same(code, 0, f"{name}: exit code of results"):
            print(common.tail(err), flush=True)
            return []
        got = common.stripped(out)
        self.bench.check(got == self.calm[name], f"{name}: another file; {common.difference(got, self.calm[name])}")
        return common.read_results(out)

    def close(self):
        for process in [*self.workers.values(), self.broker]:
            process.terminate()
            self.bench.same(self.bench.finish(process, 60)[0], 0, f"{process.name}: exit code after SIGTERM")
        cluster.check_ledger(self.bench, self.ledger)


class Sniffer(threading.Thread):
    """Everything that passes the switch."""

    def __init__(self, host):
        super().__init__(daemon=True)
        with host.here():
            self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        self.socket.settimeout(0.1)
        self.seen, self.stopping = bytearray(), False
        self.start()

    def run(self):
        while not self.stopping:
            try:
                self.seen += self.socket.recv(1 << 16)
            except TimeoutError:
                pass

    def stop(self):
        self.stopping = True
        self.join()
        self.socket.close()
        return bytes(self.seen)


# ---- rows: the batch's input, and what happens ----

def whole(night):
    """Nothing is wrong: the undisturbed run's file, by workers on both hosts, and nothing on the wire can be read."""
    sniffer = Sniffer(night.lan.switch)
    night.submit("whole")
    results = night.finish("whole")
    seen = sniffer.stop()
    bench = night.bench
    bench.same({w["host"] for w in night.status()["workers"]}, {"gpu1", "gpu2"}, "hosts of the workers")
    bench.same({r["octoflow"]["worker"] for r in results}, {"gpu1:0", "gpu2:0"}, "who answered")
    bench.check(len(seen) > 10000, f"only {len(seen)} bytes passed the switch")
    bench.check(MARK.encode() not in seen, "a prompt passes the switch in the clear")
    plain = night.start("desk", bench.octoflow, "status", "--broker", ENDPOINT, "--insecure", "--timeout", 2,
                        name="plain")
    bench.same(bench.finish(plain, 30)[0], 3, "exit code of a client without keys")


def lossy(night):
    """Each host loses 5 % of what comes."""
    night.lan.lose(5)
    night.submit("lossy")
    night.finish("lossy")
    # a short batch has few packets: calls go on until some have met their fate
    night.bench.wait_for("five lost packets", lambda: night.status() is not None and night.lan.lost() >= 5)
    night.lan.lose_none()


def narrow(night):
    """Workers behind 1 Mbit/s, with answers that have log-probabilities: nobody is given up, no attempt is lost."""
    for name in ("gpu1", "gpu2"):
        night.lan.narrow(name, "1mbit")
    night.submit("narrow")
    results = night.finish("narrow")
    waited = night.lan.widen("gpu1") + night.lan.widen("gpu2")
    night.bench.check(waited > 20, f"only {waited} packets had to wait")
    night.bench.same({r["octoflow"]["attempts"] for r in results}, {1}, "attempts")


def far(night):
    """A worker and the client 100 ms away, each way."""
    forwarders = {}
    for host in ("gpu2", "desk"):
        with night.lan.hosts[host].here():
            forwarders[host] = forwarder.Forwarder(ENDPOINT)
        forwarders[host].delay(0.1)
    night.ask("drain", "gpu2:0")
    night.bench.same(night.bench.finish(night.workers.pop("gpu2"), 60)[0], 0, "exit code of a drained worker")
    night.workers["gpu2"] = night.start_worker("gpu2", "far", forwarders["gpu2"].endpoint)
    night.wait_worker("far", "ready")
    night.submit("far", endpoint=forwarders["desk"].endpoint)
    results = night.finish("far", endpoint=forwarders["desk"].endpoint)
    night.bench.check("far" in {r["octoflow"]["worker"] for r in results}, "the far worker answered nothing")
    night.bench.same({r["octoflow"]["attempts"] for r in results}, {1}, "attempts")
    night.workers["gpu2"].terminate()
    night.bench.same(night.bench.finish(night.workers["gpu2"], 60)[0], 0, "exit code of the far worker")
    for f in forwarders.values():
        f.close()
    night.workers["gpu2"] = night.start_worker("gpu2", "gpu2")


def cables(night):
    """A worker's cable is out until it is given up, another's interface is down, then nobody reaches the broker."""
    night.wait_worker("gpu2:0", "ready")
    night.submit("cables")
    night.wait_work("gpu1:0", "gpu2:0")
    night.lan.cut("gpu2")
    night.wait_worker("gpu2:0", "lost")
    night.lan.off("gpu1")
    night.lan.plug("gpu2")
    night.wait_worker("gpu2:0", "ready")
    night.lan.on("gpu1")
    night.wait_worker("gpu1:0", "ready")
    night.lan.cut("broker")
    back = threading.Timer(2, night.lan.plug, ["broker"])
    back.start()
    night.finish("cables")
    back.join()


def power(night):
    """A host loses its power with work on it, and nobody hears of it; its worker comes back under the same name."""
    night.submit("power")
    night.wait_work("gpu1:0")
    night.lan.cut("gpu1")
    common.Bench.kill_group(night.workers["gpu1"])
    night.workers["gpu1"].wait()
    night.wait_worker("gpu1:0", "lost")
    night.lan.plug("gpu1")
    night.workers["gpu1"] = night.start_worker("gpu1", "gpu1")
    night.finish("power")
    night.wait_worker("gpu1:0", "ready")


def moved(night):
    """The broker goes to another host with ledger, key and address, amid a batch: all come back by themselves."""
    night.submit("moved")
    night.wait_work("gpu1:0", "gpu2:0")
    night.broker.terminate()
    night.bench.same(night.bench.finish(night.broker, 60)[0], 0, "broker: exit code after SIGTERM")
    night.lan.take("broker", BROKER)
    shutil.copy(night.ledger, night.bench.path("moved.db"))
    night.ledger = night.bench.path("moved.db")
    night.lan.add("spare", BROKER)
    night.start_broker("spare")
    night.bench.wait_for("the new host's cable", lambda: night.lan.has_carrier("spare"))
    night.lan.announce("spare", BROKER)
    results = night.finish("moved")
    night.bench.same({r["octoflow"]["attempts"] for r in results}, {1}, "attempts")


ROWS = {whole: stories(10, 16), lossy: stories(10, 16), narrow: stories(5, 40, logprobs=True, top_logprobs=20),
        far: stories(10, 16), cables: stories(24, 40), power: stories(10, 32), moved: stories(10, 32)}


def test(bench, options):
    chosen = {row.__name__: lines for row, lines in ROWS.items() if options.only in row.__name__}
    if not bench.check(chosen, f"no row's name has {options.only}"):
        return
    began = time.monotonic()
    night = Night(bench, chosen)
    print(f"       {time.monotonic() - began:5.1f} s  undisturbed run, hosts and keys", flush=True)
    for row in ROWS:
        if row.__name__ not in chosen:
            continue
        began, before = time.monotonic(), bench.failures
        row(night)
        print(f"{'ok    ' if bench.failures == before else 'FAILED'} {time.monotonic() - began:5.1f} s  "
              f"{row.__name__}: {' '.join(row.__doc__.split())}", flush=True)
    night.close()


lan.private()
common.main(test, only=(str, "", "run only rows with this in their name"))
