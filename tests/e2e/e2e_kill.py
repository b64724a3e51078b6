#!/usr/bin/env python3
"""kill -9 of the worker, then of the broker, at random moments of a run; of the client; and Ctrl-C with a resume.
Afterwards the file must hold every line once and equal the undisturbed run's, byte for byte, but for times and
provenance."""
import os
import signal
import time

import common


def compare(bench, out, want, count, what):
    results = common.read_results(out)
    bench.same(len(results), count, f"{what}: lines")
    ids = {r["custom_id"] for r in results}
    bench.same(len(ids), count, f"{what}: different custom_ids")
    got = common.stripped(out)
    bench.check(got == want, f"{what}: not the undisturbed run's bytes; {common.difference(got, want)}")


def kill_one(bench, run, program, delay_s):
    """After delay_s, kill -9 to the run's newest process of that program. True if there was one to kill."""
    end = time.monotonic() + delay_s
    while time.monotonic() < end:
        if run.poll() is not None:
            return False
        time.sleep(0.01)
    victims = bench.processes(program)
    if not victims or run.poll() is not None:
        return False
    os.kill(max(victims), signal.SIGKILL)
    return True


def argv_of(bench, inputs, out):
    return [bench.octoflow, "run", "-m", bench.model(), inputs, "-o", out]


def killed_children(bench, rng, rounds, inputs, want, count, took_s):
    hits = 0
    for n in range(1, rounds + 1):
        out = bench.path(f"kill-{n}.jsonl")
        first, second = sorted(rng.uniform(0.02, 0.9) * took_s for _ in range(2))
        run = bench.start(argv_of(bench, inputs, out), f"kill-{n}")
        a = kill_one(bench, run, bench.worker, first)
        b = kill_one(bench, run, bench.broker, second - first)
        print(f"round {n}: worker at {first:.2f} s ({'hit' if a else 'missed'}), "
              f"broker at {second:.2f} s ({'hit' if b else 'missed'})", flush=True)
        hits += a + b
        code, _, err = bench.finish(run, 600)
        if not bench.same(code, 0, f"round {n}: exit code"):
            print(common.tail(err))
        compare(bench, out, want, count, f"round {n}")
        bench.no_processes(f"round {n}")
    bench.check(hits >= rounds, f"only {hits} of {2 * rounds} kills hit a living process")


def killed_client(bench, rng, inputs, want, count, took_s):
    """kill -9 of `octoflow run` itself: its children leave by themselves, the same command goes on."""
    out = bench.path("client.jsonl")
    run = bench.start(argv_of(bench, inputs, out), "client-killed")
    delay = rng.uniform(0.2, 0.7) * took_s
    bench.check(kill_one(bench, run, bench.octoflow, delay), f"client killed after {delay:.2f} s: it had ended")
    run.wait()
    bench.no_processes("after kill -9 of the client", timeout=30)
    bench.run(*argv_of(bench, inputs, out), code=0, name="client-resumed", timeout=600)
    compare(bench, out, want, count, "after kill -9 of the client")


def interrupted(bench, rng, inputs, want, count, took_s):
    """Ctrl-C once: it stops cleanly and says how to go on; the same command finishes and repeats nothing done."""
    out = bench.path("ctrl-c.jsonl")
    run = bench.start(argv_of(bench, inputs, out), "ctrl-c")
    delay = rng.uniform(0.4, 0.7) * took_s
    time.sleep(delay)
    bench.check(run.poll() is None, f"Ctrl-C after {delay:.2f} s: the run had ended")
    os.killpg(run.pid, signal.SIGINT)  # as a terminal does: the whole foreground group
    code, stdout, stderr = bench.finish(run, 60)
    bench.check(code not in (0, None), f"Ctrl-C: exit code {code}")
    bench.has((stdout + stderr).lower(), "resume", "Ctrl-C: the message")
    bench.no_processes("after Ctrl-C")
    bench.run(*argv_of(bench, inputs, out), code=0, name="resumed", timeout=600)
    compare(bench, out, want, count, "after Ctrl-C and resume")
    bench.no_processes("after the resume")


def test(bench, options):
    rng = common.seeded(options)
    lines = common.mixed_lines(bench, options.lines)
    inputs, out = bench.write("in.jsonl", lines), bench.path("undisturbed.jsonl")
    began = time.monotonic()
    bench.run_batch(inputs, out, code=0, timeout=900)
    took_s = time.monotonic() - began
    print(f"undisturbed: {options.lines} lines in {took_s:.1f} s")
    want = common.stripped(out)
    compare(bench, out, want, options.lines, "undisturbed")
    killed_children(bench, rng, options.rounds, inputs, want, options.lines, took_s)
    killed_client(bench, rng, inputs, want, options.lines, took_s)
    interrupted(bench, rng, inputs, want, options.lines, took_s)


common.main(test, rounds=(int, 4, "runs in which worker and broker are killed"), lines=(int, 300, "lines of the run"),
            seed=(int, None, "of the random moments"))
