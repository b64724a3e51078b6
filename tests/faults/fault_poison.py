#!/usr/bin/env python3
"""Jobs that kill their workers: each fails as poison after max_attempts, with the history of its attempts; all others
are answered, wherever among 1,000 the poison stands. Fake workers, which a supervisor starts again."""
import time

import cluster
import common
import wire


def check_history(bench, result, least, most, what):
    """First it runs beside others, then beside suspects, then alone; only what happens alone counts."""
    text, tries = common.error_text(result) or "", result["octoflow"]["attempts"]
    for attempt in range(1, least + 1):
        bench.has(text, f"attempt {attempt}: ", f"{what}: its history")
    bench.check(least <= tries <= most, f"{what} took {tries} attempts; expected {least} to {most}")


def run(bench, name, poisons, count=1000, workers=2, attempts=3, credit=64, **more):
    c = cluster.Cluster(bench, heartbeat_ms=100, name=name)
    lines = cluster.fake_lines(count, poisons)
    c.client("submit", bench.write(name + ".jsonl", lines), "--batch", "b", "--max-attempts", attempts)
    for n in range(workers):
        c.fake(f"w{n}", credit=credit, **more)
    b = cluster.until_done(c, "b")
    bench.same((b["done"], b["failed"]), (count - len(poisons), len(poisons)), f"{name}: done, failed")
    out = bench.path(name + "-out.jsonl")
    c.client("results", "b", "-o", out, "--wait", code=1)
    results = c.check_output(out, lines, cluster.poison_ids(lines), name)
    for n in poisons:
        check_history(bench, results[n - 1], attempts, attempts + 2, f"{name}: line {n}")
    c.stop()
    return sum(c.starts[f"w{n}"] for n in range(workers))


def first_middle_last(bench):
    """The first, the middle and the last of 1,000 lines are poison, for two workers of 64 jobs each."""
    died = run(bench, "fml", {1, 500, 1000})
    print(f"       workers started: {died}")


def poison_first(bench):
    """The first of 1,000."""
    run(bench, "first", {1})


def poison_middle(bench):
    """The middle one of 1,000, with four workers."""
    run(bench, "middle", {500}, workers=4)


def poison_last(bench):
    """The last of 1,000, one worker."""
    run(bench, "last", {1000}, workers=1)


def poison_beside_poison(bench):
    """Ten in a row, held by the same worker."""
    run(bench, "row", set(range(100, 110)), count=300)


def one_attempt(bench):
    """max_attempts 1: whoever holds the poison has no attempt to spare, and still only the poison fails."""
    run(bench, "one", {10}, count=60, attempts=1)


def slow_worker(bench):
    """Workers that take their time hold much when they die."""
    run(bench, "slow", {40, 80}, count=120, think_ms=4)


def survives_the_broker(bench):
    """The broker is killed while poison is being found out: attempts and their history are not forgotten."""
    c = cluster.Cluster(bench, heartbeat_ms=100, name="kill")
    lines = cluster.fake_lines(300, {150})
    c.client("submit", bench.write("kill.jsonl", lines), "--batch", "b")
    c.fake("w0", think_ms=1)
    c.fake("w1", think_ms=1)
    state = {"at": time.monotonic() + 0.3, "kills": 0}

    def kill_broker():
        if state["kills"] < 4 and time.monotonic() > state["at"]:
            c.kill_broker()
            c.start_broker()
            state.update(at=time.monotonic() + 0.4, kills=state["kills"] + 1)

    cluster.until_done(c, "b", each=kill_broker)
    out = bench.path("kill-out.jsonl")
    c.client("results", "b", "-o", out, "--wait", code=1)
    results = c.check_output(out, lines, cluster.poison_ids(lines))
    # an end of the broker makes nobody a suspect, but who was alone may have company again
    check_history(bench, results[149], 3, 3 + 2 + state["kills"], "line 150")
    c.stop()


def lost_grants(bench):
    """A worker whose wire breaks while grants are on their way has not died: it costs the jobs no attempt."""
    c = cluster.Cluster(bench, heartbeat_ms=3000, name="lost")
    lines = cluster.fake_lines(20)
    c.client("submit", bench.write("lost.jsonl", lines), "--batch", "b", "--max-attempts", 1)
    for _ in range(4):
        d, w = wire.a_worker(c.endpoint, "w", process=77)
        d.send("PULL", session=w["session"], credit_total=20)
        bench.wait_for("a grant", lambda: c.batch("b").get("leased", 0) > 0)
        d.close()
    d, w = wire.a_worker(c.endpoint, "w", process=77)
    d.send("BYE", session=w["session"])
    d.expect("BYE_OK")
    c.fake("w")
    out = bench.path("lost-out.jsonl")
    c.client("results", "b", "-o", out, "--wait")
    results = c.check_output(out, lines)
    bench.same({r["octoflow"]["attempts"] for r in results}, {1}, "attempts")
    c.stop()


cluster.main([first_middle_last, poison_first, poison_middle, poison_last, poison_beside_poison, one_attempt,
              slow_worker, survives_the_broker, lost_grants])
