#!/usr/bin/env python3
"""The Slurm script: shellcheck, options of sbatch and of the worker; and two jobs of an array with a stand-in for srun
and a real broker: one gets the TERM that Slurm sends before the time is over, drains and ends well, and the other
finishes the batch, with no attempt lost. A GPU that is lost is a new start of the worker."""
import os
import re
import signal
import subprocess
import sys

import commands

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "e2e"))

import common  # noqa: E402

# Of sbatch(1), those that the script uses: option -> what its value looks like.
SBATCH = {"job-name": r"[\w-]+", "gres": r"gpu:\d+", "ntasks": r"\d+", "cpus-per-task": r"\d+", "mem": r"\d+[MG]",
          "time": r"\d\d:\d\d:\d\d", "signal": r"(B:)?[A-Z]+@\d+", "requeue": None, "open-mode": "append|truncate",
          "output": r"[\w%.-]+"}
# As srun: runs it, and the signals of the step go there. Its process is noted for the test, which plays Slurm's part.
SRUN = """#!/bin/sh
echo $$ > "$STEP_FILE"
exec "$@"
"""
LOST_TWICE = """#!/bin/sh
echo started >> "$STARTS"
[ "$(wc -l < "$STARTS")" -ge 3 ] || exit 4
"""


def lint(bench, path):
    with open(path, encoding="utf-8") as f:
        text = f.read()
    done = subprocess.run(["shellcheck", path], capture_output=True, text=True)
    bench.same((done.returncode, done.stdout), (0, ""), "shellcheck")
    options = dict((m.group(1), m.group(3)) for m in re.finditer(r"^#SBATCH --([\w-]+)(=(\S+))?$", text, re.M))
    bench.same(len(options), len(re.findall("^#SBATCH", text, re.M)), "lines of #SBATCH that are options")
    for name, value in options.items():
        form = SBATCH.get(name, "(no such option)")
        bench.check((form is None) == (value is None) and re.fullmatch(form or "None", str(value)),
                    f"#SBATCH --{name}={value}")
    bench.check(text.index("#SBATCH") < text.index("set -eu"), "sbatch reads no options behind the first command")
    command = re.search(r"srun (octoflow-worker (?:.*\\\n)*.*?) \|\|", text).group(1).replace("\\\n", "")
    words = command.replace('"$@"', "").split()
    bench.same(commands.Programs(bench.options.build).problems(words), [], "options of octoflow-worker")
    left = int(options["signal"].split("@")[1])
    drain = int(words[words.index("--drain-s") + 1])
    bench.check(drain + 30 < left, f"a drain of {drain} s in the {left} s before the end")


class Slurm:
    """Two tools of it, in a folder that comes first in PATH."""

    def __init__(self, bench, script):
        self.bench, self.script = bench, script
        os.mkdir(bench.path("bin"))
        self.tool("srun", SRUN)

    def tool(self, name, text):
        path = self.bench.write(f"bin/{name}", text)
        os.chmod(path, 0o755)

    def job(self, task, *arguments, **more):
        env = dict(SLURM_JOB_ID=str(100 + task), SLURM_ARRAY_JOB_ID="100", SLURM_ARRAY_TASK_ID=str(task),
                   SLURMD_NODENAME=f"node{task}", STEP_FILE=self.bench.path(f"step{task}"), OCTOFLOW_RESTART_S="0",
                   PATH=self.bench.path("bin") + ":" + os.environ["PATH"], **more)
        before = self.bench.env
        self.bench.env = dict(before, **env)
        try:
            return self.bench.start(["bash", self.script, *arguments], f"job{task}")
        finally:
            self.bench.env = before


def drains(bench, slurm):
    port = common.free_port()
    endpoint = f"tcp://127.0.0.1:{port}"
    allowed = ""
    for name, roles in (("broker", "admin"), ("gpu", "work"), ("desk", "submit,admin")):
        allowed += bench.run(bench.octoflow, "keygen", "--out", bench.path(name + ".key"), "--roles", roles, code=0)[1]
    bench.env.update(OCTOFLOW_BROKER=endpoint, OCTOFLOW_MODEL=bench.model(), OCTOFLOW_WORKER_KEY=bench.path("gpu.key"),
                     OCTOFLOW_SERVER_KEY=bench.path("broker.key.pub"), OCTOFLOW_CURVE_KEY=bench.path("desk.key"))
    broker = bench.start([bench.broker, "--listen", endpoint, "--ledger", bench.path("l.db"), "--curve-key",
                          bench.path("broker.key"), "--allow", bench.write("allow.txt", allowed)], "broker")
    os.symlink(bench.worker, bench.path("bin/octoflow-worker"))
    jobs = [slurm.job(task, "--governor", "off", "--max-jobs", "4") for task in (0, 1)]
    for task in (0, 1):
        bench.wait_for(f"worker {task}", lambda t=task: f"node{t}-100_{t}" in bench.output("broker.err"), 60)
    lines = common.mixed_lines(bench, 40)
    bench.run(bench.octoflow, "submit", bench.write("in.jsonl", lines), "--batch", "b", code=0, name="submit")
    bench.wait_for("work at the first", lambda: "ready node0" in re.sub(r"(node\S+)\s+(\w+)", r"\2 \1", bench.run(
        bench.octoflow, "workers", name="workers")[1]), 30)
    with open(bench.path("step0"), encoding="ascii") as f:
        os.kill(int(f.read()), signal.SIGTERM)  # as --signal does: the step, not the script
    bench.same(bench.finish(jobs[0], 60)[0], 0, "exit code of the job whose time is over")
    bench.has(bench.output("job0.err"), "draining seconds=240", "its log")
    out = bench.path("out.jsonl")
    bench.run(bench.octoflow, "results", "b", "-o", out, "--wait", code=0, name="results")
    results = common.read_results(out)
    bench.same([r["custom_id"] for r in results], [line["custom_id"] for line in lines], "lines")
    bench.same({r["octoflow"]["attempts"] for r in results}, {1}, "attempts")
    with open(bench.path("step1"), encoding="ascii") as f:
        os.kill(int(f.read()), signal.SIGTERM)
    bench.same(bench.finish(jobs[1], 60)[0], 0, "exit code of the other job")
    broker.terminate()
    bench.same(bench.finish(broker, 30)[0], 0, "exit code of the broker")
    os.unlink(bench.path("bin/octoflow-worker"))


def starts_again(bench, slurm):
    slurm.tool("octoflow-worker", LOST_TWICE)
    job = slurm.job(2, STARTS=bench.path("starts"))
    bench.same(bench.finish(job, 30)[0], 0, "exit code")
    bench.same(bench.output("job2.err").count("the GPU was lost"), 2, "losses of the GPU")
    slurm.tool("octoflow-worker", "#!/bin/sh\nexit 3\n")
    bench.same(bench.finish(slurm.job(3), 30)[0], 3, "exit code of a worker that cannot run: no new start")
    del bench.env["OCTOFLOW_MODEL"]
    job = slurm.job(4)
    bench.check(bench.finish(job, 30)[0] != 0, "without a model")
    bench.has(bench.output("job4.err"), "OCTOFLOW_MODEL: the model, a GGUF file", "what is missing")


def test(bench, options):
    script = os.path.join(os.path.abspath(options.source), "deploy", "slurm", "octoflow-workers.sbatch")
    lint(bench, script)
    slurm = Slurm(bench, script)
    drains(bench, slurm)
    starts_again(bench, slurm)


common.main(test)
