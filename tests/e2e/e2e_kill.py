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


def lines_done(out):
    """Lines of the partial file, or of the final one."""
    for path in (out + ".partial", out):
        try:
            with open(path, "rb") as f:
                return f.read().count(b"\n")
        except FileNotFoundError:
            pass
    return 0


def wait_for(run, out, lines, extra_s):
    """Until `lines` results are there, and a moment longer: machines differ in speed, and a busy one within a run."""
    while run.poll() is None and lines_done(out) < lines:
        time.sleep(0.01)
    end = time.monotonic() + extra_s
    while run.poll() is None and time.monotonic() < end:
        time.sleep(0.01)
    return run.poll() is None


def kill_one(bench, run, program, out, lines, extra_s):
    """kill -9 to the run's newest process of that program at that moment. True if there was one to kill."""
    if not wait_for(run, out, lines, extra_s):
        return False
    victims = bench.processes(program)
    if not victims or run.poll() is not None:
        return False
    os.kill(max(victims), signal.SIGKILL)
    return True


def argv_of(bench, inputs, out):
    return [bench.octoflow, "run", "-m", bench.model(), inputs, "-o", out]


def killed_children(bench, rng, rounds, inputs, want, count):
    hits = 0
    for n in range(1, rounds + 1):
        out = bench.path(f"kill-{n}.jsonl")
        first, second = sorted(rng.randrange(0, int(0.85 * count)) for _ in range(2))
        extra = [rng.uniform(0, 0.5), rng.uniform(0, 0.5)]
        run = bench.start(argv_of(bench, inputs, out), f"kill-{n}")
        a = kill_one(bench, run, bench.worker, out, first, extra[0])
        b = kill_one(bench, run, bench.broker, out, second, extra[1])
        print(f"round {n}: worker at line {first} + {extra[0]:.2f} s ({'hit' if a else 'missed'}), "
              f"broker at line {second} + {extra[1]:.2f} s ({'hit' if b else 'missed'})", flush=True)
        hits += a + b
        code, _, err = bench.finish(run, 600)
        if not bench.same(code, 0, f"round {n}: exit code"):
            print(common.tail(err))
        compare(bench, out, want, count, f"round {n}")
        bench.no_processes(f"round {n}")
    bench.check(hits >= rounds, f"only {hits} of {2 * rounds} kills hit a living process")


def killed_client(bench, rng, inputs, want, count):
    """kill -9 of `octoflow run` itself: its children leave by themselves, the same command goes on."""
    out = bench.path("client.jsonl")
    run = bench.start(argv_of(bench, inputs, out), "client-killed")
    lines = rng.randrange(1, int(0.7 * count))
    bench.check(kill_one(bench, run, bench.octoflow, out, lines, 0), f"client killed at line {lines}: it had ended")
    run.wait()
    bench.no_processes("after kill -9 of the client", timeout=30)
    bench.run(*argv_of(bench, inputs, out), code=0, name="client-resumed", timeout=600)
    compare(bench, out, want, count, "after kill -9 of the client")


def silent_broker(bench, rng, inputs, want, count):
    """A broker that stands still (a disk that hangs): the run says so, and goes on with it."""
    out = bench.path("silent.jsonl")
    run = bench.start(argv_of(bench, inputs, out), "silent")
    lines = rng.randrange(1, int(0.7 * count))
    if bench.check(wait_for(run, out, lines, 0), f"silence at line {lines}: the run had ended"):
        broker = max(bench.processes(bench.broker))
        os.kill(broker, signal.SIGSTOP)
        bench.wait_for("the line that says so", lambda: "the broker is away" in bench.output("silent.err"), 30)
        os.kill(broker, signal.SIGCONT)
    code, _, err = bench.finish(run, 600)
    bench.same(code, 0, "after the silence: exit code")
    bench.has(err, "octoflow run: the broker is back", "after the silence")
    compare(bench, out, want, count, "after the silence")


def interrupted(bench, rng, inputs, want, count):
    """Ctrl-C once: it stops cleanly and says how to go on; the same command finishes and repeats nothing done."""
    out = bench.path("ctrl-c.jsonl")
    other = bench.write("other.jsonl", common.mixed_lines(bench, 1))
    bench.run(*argv_of(bench, other, out), code=0, name="before")
    run = bench.start([*argv_of(bench, inputs, out), "--overwrite"], "ctrl-c")
    lines = rng.randrange(2, int(0.7 * count))  # 1 is there from before
    if bench.check(wait_for(run, out, lines, 0), f"Ctrl-C at line {lines}: the run had ended"):
        os.killpg(run.pid, signal.SIGINT)  # as a terminal does: the whole foreground group
    code, stdout, stderr = bench.finish(run, 60)
    bench.check(code not in (0, None), f"Ctrl-C: exit code {code}")
    bench.has((stdout + stderr).lower(), "resume", "Ctrl-C: the message")
    bench.no_processes("after Ctrl-C")
    other = bench.write("other.jsonl", common.mixed_lines(bench, 2))
    err = bench.run(*argv_of(bench, other, out), "--overwrite", code=3, name="other-input")[2]
    bench.has(err, "an unfinished run on \"", "another input into the same folder")
    err = bench.run(*argv_of(bench, inputs, out), "--overwrite", "--seed", "1", code=3, name="other-options")[2]
    bench.has(err, "seed=0, now it is seed=1; say that again", "other options into an unfinished run's folder")
    bench.run(*argv_of(bench, inputs, out), code=0, name="resumed", timeout=600)
    compare(bench, out, want, count, "after Ctrl-C and resume")
    bench.no_processes("after the resume")


def test(bench, options):
    rng = common.seeded(options)
    lines = common.mixed_lines(bench, options.lines)
    inputs, out = bench.write("in.jsonl", lines), bench.path("undisturbed.jsonl")
    began = time.monotonic()
    bench.run_batch(inputs, out, code=0, timeout=900)
    print(f"undisturbed: {options.lines} lines in {time.monotonic() - began:.1f} s")
    want = common.stripped(out)
    compare(bench, out, want, options.lines, "undisturbed")
    killed_children(bench, rng, options.rounds, inputs, want, options.lines)
    killed_client(bench, rng, inputs, want, options.lines)
    interrupted(bench, rng, inputs, want, options.lines)
    silent_broker(bench, rng, inputs, want, options.lines)


common.main(test, rounds=(int, 4, "runs in which worker and broker are killed"), lines=(int, 300, "lines of the run"),
            seed=(int, None, "of the random moments"))
