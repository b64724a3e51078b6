#!/usr/bin/env python3
"""Measures octoflow-broker, and beanstalkd beside it: run.py BUILD_DIR [options]

Starts the real broker on a synced ledger, one client process and eight worker processes that answer at once, all
over TCP on the loopback; README.md says what the figures mean. Exit: 0, or 1 when a job got lost, came twice or
came back damaged."""
import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

FULL = {"lifecycles": 200_000, "submit": 400_000, "rounds": 3, "depths": (10_000, 500_000), "depth_jobs": 60_000,
        "peer": {"0": 2_000, "5": 100_000}}
LONG = dict(FULL, depths=(10_000, 2_000_000))
TINY = {"lifecycles": 2_000, "submit": 2_000, "rounds": 1, "depths": (500, 3_000), "depth_jobs": 1_000,
        "peer": {"0": 200, "5": 1_000}}
WORKERS = 8
PEER_WINDOW = 512  # puts on the way: four times as many change beanstalkd's speed by less than a tenth


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def percentile(times, share):
    """Of a merged histogram in tenths of a millisecond: the upper edge of the bucket, in ms."""
    total, seen = sum(times.values()), 0
    for tenths in sorted(times):
        seen += times[tenths]
        if seen >= share * total:
            return (tenths + 1) / 10
    return 0.0


def median(values):
    ordered = sorted(values)
    return ordered[len(ordered) // 2]


def merge(histograms):
    times = {}
    for h in histograms:
        for tenths, count in h.items():
            times[int(tenths)] = times.get(int(tenths), 0) + count
    return times


def memory_mib(pid, what):
    with open(f"/proc/{pid}/status", encoding="ascii") as f:
        for line in f:
            if line.startswith(what):
                return int(line.split()[1]) / 1024
    return 0.0


def cpu_seconds(pid):
    """Of each thread, by its place: 0 the loop, then those of ZeroMQ and the ledger."""
    tasks = sorted(os.listdir(f"/proc/{pid}/task"), key=int)
    seconds = []
    for task in tasks:
        with open(f"/proc/{pid}/task/{task}/schedstat", encoding="ascii") as f:
            seconds.append(int(f.read().split()[0]) / 1e9)
    return seconds


def wait_for_port(port, process):
    for _ in range(3000):
        with socket.socket() as s:
            if s.connect_ex(("127.0.0.1", port)) == 0:
                return
        if process.poll() is not None:
            sys.exit(f"{process.args[0]} ended with status {process.returncode}")
        time.sleep(0.01)
    sys.exit(f"{process.args[0]} does not listen")


class Bench:
    def __init__(self, args):
        self.load = os.path.join(args.build, "bench/broker/octoflow-load")
        self.broker_exe = os.path.join(args.build, "broker/octoflow-broker")
        self.args = args
        self.size = TINY if args.tiny else LONG if args.long else FULL
        self.dir = tempfile.mkdtemp(prefix="broker-bench-", dir=args.dir or args.build)
        self.processes = []
        self.wrong = []

    def start(self, *command, **options):
        process = subprocess.Popen(command, text=True, **options)
        self.processes.append(process)
        return process

    def stop(self, process):
        process.send_signal(signal.SIGTERM)
        out = process.communicate(timeout=60)[0]
        self.processes.remove(process)
        return out

    def close(self):
        for process in self.processes:
            process.kill()
            process.wait()
        shutil.rmtree(self.dir)

    def warm(self, jobs, kib_a_job=5):
        """A virtual machine pays for each page of memory that it uses for the first time, or again after long. So
        that files of another run do not decide what a job costs: the pages that come next are used once before."""
        path, left, block = os.path.join(self.dir, "warm"), jobs * kib_a_job << 10, bytes(1 << 20)
        with open(path, "wb") as f:
            while left > 0:
                left -= f.write(block)
        os.remove(path)

    # -- ours --

    def start_broker(self, name):
        self.port = free_port()
        self.connect = f"tcp://127.0.0.1:{self.port}"
        broker = self.start(self.broker_exe, "--ledger", os.path.join(self.dir, name), "--listen", self.connect,
                            "--log-level", "error", "--die-with-parent")
        wait_for_port(self.port, broker)
        return broker

    def start_workers(self):
        # with SIGTERM held back until they handle it: what others did alone may be over before one has begun
        def hold():
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        return [self.start(self.load, "worker", "--connect", self.connect, "--name", f"w{i}", "--credit",
                           str(self.args.credit), "--damage", str(self.args.damage), stdout=subprocess.PIPE,
                           preexec_fn=hold)
                for i in range(WORKERS)]

    def stop_workers(self, workers):
        reports = [json.loads(self.stop(w)) for w in workers]
        if any(r["bad"] for r in reports):
            self.wrong.append("a worker got a damaged request")
        return reports

    def start_client(self, *options):
        return self.start(self.load, "client", "--connect", self.connect, *map(str, options), stdout=subprocess.PIPE)

    def end_client(self, client):
        out = client.communicate(timeout=60 if self.args.tiny else 3600)[0]
        self.processes.remove(client)
        if client.returncode != 0:
            self.wrong.append(f"client: status {client.returncode}: {out.strip()[-300:]}")
        return json.loads(out.splitlines()[-1])

    def submit(self, name, first, jobs):
        return self.end_client(self.start_client("--name", name, "--first", first, "--jobs", jobs, "--lines", 1024,
                                                 "--window", 4))

    def lifecycles(self, name, jobs, *more):
        """Submit, grant, result, fetch of every job, each checked: (jobs a second, client's report, workers')."""
        client = self.start_client("--name", name, "--jobs", jobs, "--lines", self.args.lines, "--window",
                                   self.args.window, "--queued", self.args.ahead, "--fetch", *more)
        workers = self.start_workers()
        report = self.end_client(client)
        reports = self.stop_workers(workers)
        if report["fetched"] < jobs:
            self.wrong.append(f"{name}: {jobs} jobs submitted, {report['fetched']} results fetched")
        return report["fetched"] / report["fetch_s"], report, reports

    def measure_lifecycles(self):
        rates, submit_acks, result_acks, cpu = [], [], [], []
        for i in range(self.size["rounds"]):
            self.warm(self.size["lifecycles"])
            broker = self.start_broker(f"life{i}")
            rate, report, reports = self.lifecycles("life", self.size["lifecycles"])
            cpu.append([s / self.size["lifecycles"] * 1e6 for s in cpu_seconds(broker.pid)])
            self.stop(broker)
            rates.append(rate)
            submit_acks.append(report["acks"])
            result_acks += [r["acks"] for r in reports]
            self.say(f"lifecycles, round {i + 1}: {rate:,.0f}/s; broker's CPU a job: {sum(cpu[-1]):.1f} us, by thread "
                     + " ".join(f"{us:.1f}" for us in cpu[-1]))
        every = merge(submit_acks + result_acks)
        return {"lifecycles_per_s": round(median(rates)),
                "lifecycles_per_s_best": round(max(rates)),
                "broker_cpu_us": round(min(sum(c) for c in cpu), 1),
                "ack_p50_ms": percentile(every, .5), "ack_p99_ms": percentile(every, .99),
                "submit_ack_p99_ms": percentile(merge(submit_acks), .99),
                "result_ack_p99_ms": percentile(merge(result_acks), .99)}

    def measure_submit(self):
        rates, acks = [], []
        for i in range(self.size["rounds"]):
            self.warm(self.size["submit"], 3)
            broker = self.start_broker(f"submit{i}")
            report = self.submit("bulk", 1, self.size["submit"])
            self.stop(broker)
            rates.append(report["submitted"] / report["submit_s"])
            acks.append(report["acks"])
            self.say(f"bulk submit, round {i + 1}: {rates[-1]:,.0f} lines/s")
        return {"submit_per_s": round(median(rates)), "submit_per_s_best": round(max(rates)),
                "bulk_ack_p99_ms": percentile(merge(acks), .99)}

    def measure_depth(self, depth):
        """So many more lines, then as many results: the cost of both for a job, seconds and CPU seconds."""
        jobs = self.size["depth_jobs"]
        broker = self.start_broker(f"depth{depth}")
        self.submit("deep", 1, depth)
        self.warm(jobs)
        cpu = [sum(cpu_seconds(broker.pid))]
        seconds = self.submit("deep", depth + 1, jobs)["submit_s"] / jobs
        cpu.append(sum(cpu_seconds(broker.pid)))
        rate, _, reports = self.lifecycles("deep", jobs, "--first", depth + jobs + 1, "--jobs", 0, "--done", jobs)
        cpu.append(sum(cpu_seconds(broker.pid)))
        seconds += 1 / rate
        # workers go on until they are stopped: by all that they did
        cpu_s = (cpu[1] - cpu[0]) / jobs + (cpu[2] - cpu[1]) / sum(r["done"] for r in reports)
        peak = memory_mib(broker.pid, "VmHWM")
        self.stop(broker)
        for part in ("", "-wal", ".lock"):
            path = os.path.join(self.dir, f"depth{depth}{part}")
            if os.path.exists(path):
                os.remove(path)
        self.say(f"{depth:,} queued: {seconds * 1e6:.1f} us a job, broker's CPU {cpu_s * 1e6:.1f} us, "
                 f"at most {peak:.0f} MiB")
        return seconds * 1e6, cpu_s * 1e6, peak

    def measure_depths(self):
        """What a job costs with few and with many others queued, by turns; the broker's memory."""
        runs = {depth: [] for depth in self.size["depths"]}
        for _ in range(self.size["rounds"]):
            for depth, measured in runs.items():
                measured.append(self.measure_depth(depth))
        us, cpu = ([round(median(run[what] for run in runs[depth]), 1) for depth in runs] for what in (0, 1))
        return {"depths": list(runs), "us_a_job_by_depth": us, "broker_cpu_us_by_depth": cpu,
                "cost_ratio": round(us[1] / us[0], 3), "cost_ratio_cpu": round(cpu[1] / max(cpu[0], 0.1), 3),
                "broker_peak_mib": round(max(peak for run in runs.values() for _, _, peak in run), 1)}

    # -- the peer --

    def start_peer(self, sync):
        where = os.path.join(self.dir, f"beanstalkd{sync}-{len(os.listdir(self.dir))}")
        os.mkdir(where)
        self.port = free_port()
        self.connect = f"tcp://127.0.0.1:{self.port}"
        peer = self.start(self.args.beanstalkd, "-l", "127.0.0.1", "-p", str(self.port), "-b", where, "-f", sync,
                          stderr=subprocess.DEVNULL)
        wait_for_port(self.port, peer)
        return peer

    def produce(self, jobs):
        run = subprocess.run([self.load, "producer", "--connect", self.connect, "--jobs", str(jobs), "--window",
                              str(PEER_WINDOW)], stdout=subprocess.PIPE, text=True, check=False)
        if run.returncode != 0:
            self.wrong.append(f"producer: status {run.returncode}")
        return json.loads(run.stdout)

    def measure_peer(self, sync):
        jobs = self.size["peer"][sync]
        self.warm(jobs)
        peer = self.start_peer(sync)
        consumers = [self.start(self.load, "consumer", "--connect", self.connect, "--credit", str(self.args.credit),
                                stdout=subprocess.PIPE) for _ in range(WORKERS)]
        made = self.produce(jobs)
        reports = [json.loads(c.communicate(timeout=600)[0]) for c in consumers]
        for c in consumers:
            self.processes.remove(c)
        self.stop(peer)
        deleted = sum(r["deleted"] for r in reports)
        if deleted != jobs or any(r["bad"] for r in reports):
            self.wrong.append(f"beanstalkd -f {sync}: {jobs} jobs put, {deleted} deleted")
        seconds = (max(r["last_ns"] for r in reports) - made["begun_ns"]) / 1e9
        peer = self.start_peer(sync)
        bulk = self.produce(jobs)
        self.stop(peer)
        times = merge([made["acks"]])
        self.say(f"beanstalkd -f {sync}: {jobs / seconds:,.0f} lifecycles/s, "
                 f"{jobs / bulk['submit_s']:,.0f} puts/s")
        return {"lifecycles_per_s": round(jobs / seconds), "submit_per_s": round(jobs / bulk["submit_s"]),
                "ack_p99_ms": percentile(times, .99)}

    def say(self, text):
        print(text, file=sys.stderr if self.args.json else sys.stdout, flush=True)


def parse(argv):
    parser = argparse.ArgumentParser(prog="./dev bench broker", description="Speed and memory of octoflow-broker.")
    parser.add_argument("build", help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true", help="the last line of the output is one line of JSON")
    parser.add_argument("--long", action="store_true", help="queues 2,000,000 jobs (6 GB of disk); else 500,000")
    parser.add_argument("--tiny", action="store_true", help="a few thousand jobs: only whether everything works")
    parser.add_argument("--only", choices=("lifecycles", "submit", "depths", "peer"), help="one part")
    parser.add_argument("--rounds", type=int, help="repetitions of the first two parts (default 3)")
    parser.add_argument("--beanstalkd", default=shutil.which("beanstalkd"), help="the peer's program")
    parser.add_argument("--dir", help="where the ledgers go (default: the build directory); it should be a disk")
    parser.add_argument("--no-peer", action="store_true", help="without beanstalkd")
    parser.add_argument("--damage", type=int, default=0, metavar="N",
                        help="workers spoil the result of every Nth line: the run has to fail")
    parser.add_argument("--lines", type=int, default=256, help="lines in a SUBMIT while workers work (default 256)")
    parser.add_argument("--window", type=int, default=1, help="SUBMITs on the way (default 1)")
    parser.add_argument("--ahead", type=int, default=20_000, help="most unfinished lines (default 20000)")
    parser.add_argument("--credit", type=int, default=64, help="jobs a worker asks for at a time (default 64)")
    return parser.parse_args(argv)


def main():
    args = parse(sys.argv[1:])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    bench = Bench(args)
    if args.rounds:
        bench.size = dict(bench.size, rounds=args.rounds)
    figures = {}
    try:
        for part, measure in (("lifecycles", bench.measure_lifecycles), ("submit", bench.measure_submit),
                              ("depths", bench.measure_depths)):
            if args.only in (None, part):
                figures.update(measure())
        if args.no_peer:
            pass
        elif args.only in (None, "peer") and args.beanstalkd is None:
            bench.say("beanstalkd is not installed: no peer in this run")
        elif args.only in (None, "peer"):
            figures["beanstalkd"] = {f"f{sync}": bench.measure_peer(sync) for sync in ("0", "5")}
    finally:
        bench.close()
    figures["correct"] = not bench.wrong
    for text in bench.wrong:
        print("WRONG:", text, file=sys.stderr)
    if args.json:
        print(json.dumps(figures))
    else:
        print(json.dumps(figures, indent=2))
    sys.exit(1 if bench.wrong else 0)


main()
