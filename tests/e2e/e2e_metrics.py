#!/usr/bin/env python3
"""The broker's page of metrics and its probes, over HTTP: the page is what Prometheus reads, its numbers are those of
the batch; scrapers that are slow, many or mad cost the broker nothing and others nothing; and a broker that hangs,
or whose store does not work, says so."""
import os
import resource
import signal
import socket
import sys
import time

import common
import prometheus

FAULTS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "faults")
LINES = 200


def checker_works(bench):
    """The reader itself: it takes a good page, and sees what is wrong with others."""
    good = '# HELP a_total x\n# TYPE a_total counter\na_total{b="c\\"\\\\\\n",d=""} 3\na_total{b="e"} 1e+06\n'
    bench.same(prometheus.problems(good), [], "a good page")
    for bad in (good[:-1], good.replace("counter", "counted"), good.replace("# HELP a_total x\n", ""),
                good.replace('b="e"', 'b="c\\"\\\\\\n",d=""'), good.replace("3", "three"), good.replace('"e"', "e"),
                good.replace("3", "-3"), good.replace("a_total", "a"), good.replace("a_total", "a_ms_total"),
                good.replace("\\n", "\n"), good + "b 1\n", good + good,
                "# HELP h x\n# TYPE h histogram\nh_bucket{le=\"1\"} 2\nh_bucket{le=\"+Inf\"} 1\nh_sum 1\nh_count 1\n"):
        bench.check(prometheus.problems(bad), f"not seen to be wrong: {bad!r}")


def page(bench, port, what):
    status, text = common.http_get(port, "/metrics")
    bench.same(status, 200, f"{what}: status")
    bench.same(prometheus.problems(text), [], f"{what}: problems")
    return prometheus.values(text)


def one(values, name, **labels):
    return values.get((name, tuple(labels.items())))


def numbers(bench, port, flow):
    """Before, during and after a batch."""
    before = page(bench, port, "before")
    bench.same([one(before, "octoflow_jobs", state="queued"), one(before, "octoflow_ledger_up")], [0, 1], "before")
    lines = [{"prompt": f"p{n}", "max_tokens": 4} for n in range(LINES)]
    bench.run(*flow("submit"), bench.write("in.jsonl", lines), "--batch", "night", code=0, name="submit")
    worker = bench.start([sys.executable, "-S", "-E", os.path.join(FAULTS, "fake_worker.py"), "--broker",
                          "ipc://" + bench.path("s"), "--name", 'w"1\\', "--think-ms", "20", "--credit", "8",
                          "--parent", os.getpid()], "worker")
    during = bench.wait_for("a page with half of it", lambda: (lambda v: v if one(
        v, "octoflow_jobs_finished_total", outcome="done") >= 40 else None)(page(bench, port, "during")), 30)
    bench.same(sum(one(during, "octoflow_jobs", state=s) for s in ("queued", "running")) +
               one(during, "octoflow_jobs_finished_total", outcome="done"), LINES, "lines in all states")
    name = 'w\\"1\\\\'
    bench.check(0 < one(during, "octoflow_worker_jobs_running", worker=name) <= one(during, "octoflow_jobs",
                state="running"), "the only worker runs what runs")
    bench.same(one(during, "octoflow_batches", state="in_progress"), 1, "batches in progress")
    bench.run(*flow("results"), "night", "-o", bench.path("out.jsonl"), "--wait", code=0, name="results")
    after = bench.wait_for("the page of the end", lambda: (lambda v: v if one(
        v, "octoflow_batches", state="completed") == 1 else None)(page(bench, port, "after")), 10)
    bench.same([one(after, "octoflow_jobs", state="queued"), one(after, "octoflow_jobs", state="running")], [0, 0],
               "unfinished at the end")
    bench.same([one(after, "octoflow_jobs_finished_total", outcome="done"), one(after, "octoflow_jobs_submitted_total"),
                one(after, "octoflow_generation_tokens_total")], [LINES, LINES, 7 * LINES], "totals")
    commits = one(after, "octoflow_ledger_commit_duration_seconds_count")
    bench.check(3 <= commits <= 3 * LINES, f"{commits} commits")
    bench.check(one(after, "process_resident_memory_bytes") > 1e6, "the broker's memory")
    bench.check(all(after[k] >= v for k, v in during.items() if k[0].endswith("_total") and k in after),
                "counters go up")
    worker.kill()
    bench.finish(worker, 10)
    lost = bench.wait_for("the worker's loss", lambda: (lambda v: v if one(
        v, "octoflow_workers", state="lost") == 1 else None)(page(bench, port, "lost")), 20)
    bench.same(one(lost, "octoflow_worker_up", worker=name, host="test", device="test", model="octo-tiny-q4_k_m"), 0,
               "a lost worker is not up")
    bench.check(one(lost, "octoflow_worker_jobs_running", worker=name) is None, "a lost worker's figures are gone")


def probes(bench, port, broker):
    bench.same(common.http_get(port, "/healthz"), (200, "ok\n"), "/healthz")
    bench.same(common.http_get(port, "/readyz"), (200, "ok\n"), "/readyz")
    bench.same(common.http_get(port, "/nothing")[0], 404, "another path")
    bench.same(common.http_get(port, "/metrics", "DELETE")[0], 405, "another method")
    bench.same(common.http_get(port, "/metrics", "HEAD"), (200, ""), "HEAD")


def mad_scrapers(bench, port, flow):
    """Half a request on every connection there is, then floods and giants: the broker answers its clients at once, and
    is there for a scraper as soon as they are gone."""
    slow = []
    for _ in range(40):
        s = socket.create_connection(("127.0.0.1", port), 5)
        s.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n")
        slow.append(s)
    began = time.monotonic()
    bench.run(*flow("status"), code=0, name="status")
    bench.check(time.monotonic() - began < 2, "status while connections are taken")
    for s in slow:
        s.close()
    for part in (b"\0" * 100000, b"GET " + b"/x" * 100000,
                 b"POST /metrics HTTP/1.1\r\nContent-Length: 9999999999\r\n\r\n" + b"y" * 100000,
                 b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 5000):
        try:
            with socket.create_connection(("127.0.0.1", port), 5) as s:
                s.settimeout(0.5)
                s.sendall(part)  # and reads nothing
        except OSError:
            pass
    bench.wait_for("a page after that", lambda: common.http_get(port, "/metrics", timeout=2)[0] == 200, 20)
    bench.run(*flow("status"), code=0, name="status")


def stopped(pid):
    """All threads of a process."""
    states = []
    for thread in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{thread}/stat", encoding="utf-8") as f:
            states.append(f.read().rpartition(")")[2].split()[0])
    return set(states) == {"T"}


def hangs(bench, port, broker):
    """SIGSTOP stops its probe, too: that is a failed one. What stands still while the probe's thread goes on is for the
    unit test."""
    broker.send_signal(signal.SIGSTOP)
    try:
        bench.wait_for("it has stopped", lambda: stopped(broker.pid), 10)
        bench.same(common.http_get(port, "/healthz", timeout=1)[0], 0, "/healthz of a stopped broker")
    finally:
        broker.send_signal(signal.SIGCONT)
    bench.wait_for("it is healthy again", lambda: common.http_get(port, "/healthz")[0] == 200, 10)


def store_fails(bench, flow):
    """A ledger that cannot grow: /readyz says no and why, /healthz is fine."""
    port = common.free_port()
    argv = [bench.broker, "--ledger", bench.path("small.db"), "--listen", "ipc://" + bench.path("s"), "--metrics",
            f"127.0.0.1:{port}"]
    broker = bench.start(argv, "small")
    bench.wait_for("the broker", lambda: common.http_get(port, "/readyz")[0] == 200)
    resource.prlimit(broker.pid, resource.RLIMIT_FSIZE, (256 << 10, resource.RLIM_INFINITY))
    lines = [{"prompt": "x" * 3000, "max_tokens": 4}] * 400
    large = bench.write("large.jsonl", lines)
    submit = bench.start([*flow("submit"), large, "--batch", "l", "--timeout", "2"], "large")
    bench.wait_for("it is not ready", lambda: common.http_get(port, "/readyz")[0] == 503, 20)
    bench.has(common.http_get(port, "/readyz")[1], "ledger", "/readyz says why")
    bench.same(common.http_get(port, "/healthz")[0], 200, "/healthz of a broker whose store fails")
    bench.same(one(page(bench, port, "a failed store"), "octoflow_ledger_up"), 0, "octoflow_ledger_up")
    bench.finish(submit, 30)
    broker.terminate()
    bench.same(bench.finish(broker, 30)[0], 0, "small: exit code")


def refused(bench):
    for address, text in (("0.0.0.0:9", "anybody who reaches this address could read it"), ("nine", "is no address"),
                          ("127.0.0.1:99999", "is no address"), ("[::1:5", "is no address")):
        _, _, err = bench.run(bench.broker, "--ledger", bench.path("r.db"), "--listen", "ipc://" + bench.path("r"),
                              "--metrics", address, code=2, name="refused")
        bench.has(err, text, f"--metrics {address}")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()
        _, _, err = bench.run(bench.broker, "--ledger", bench.path("r.db"), "--listen", "ipc://" + bench.path("r"),
                              "--metrics", f"127.0.0.1:{s.getsockname()[1]}", code=3, name="taken")
        bench.has(err, "cannot listen at", "a port that is taken")


def test(bench, options):
    def flow(command):
        return [bench.octoflow, command, "--broker", "ipc://" + bench.path("s")]

    checker_works(bench)
    refused(bench)
    port = common.free_port()
    broker = bench.start([bench.broker, "--ledger", bench.path("l.db"), "--listen", "ipc://" + bench.path("s"),
                          "--heartbeat-ms", "200", "--metrics", f"localhost:{port}"], "broker")
    bench.wait_for("the broker", lambda: common.http_get(port, "/metrics")[0] == 200)
    numbers(bench, port, flow)
    probes(bench, port, broker)
    mad_scrapers(bench, port, flow)
    hangs(bench, port, broker)
    broker.terminate()
    bench.same(bench.finish(broker, 30)[0], 0, "broker: exit code")
    store_fails(bench, flow)


common.main(test)
