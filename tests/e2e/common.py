"""What the end-to-end tests share: the real programs in a folder of their own, checks that count, and results
read back and stripped of what may differ between two runs.

A test is a function given to main(): it gets a Bench. Arguments of every test: --build DIR, --source DIR.
Only the standard library."""
import argparse
import http.client
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

# Of a result's "octoflow" object: when, where, after how many tries and at what cost; never what was computed.
VARYING = {"attempts", "worker", "cached_tokens", "energy_j"}
VARYING_ENDING = "_at"


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def http_get(port, path, method="GET", timeout=10):
    """(status, body) from this machine's port; status 0: no answer."""
    c = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        c.request(method, path)
        r = c.getresponse()
        return r.status, r.read().decode()
    except (OSError, http.client.HTTPException):
        return 0, ""
    finally:
        c.close()


class Bench:
    """A temporary folder, the programs, and every process started by the test."""

    def __init__(self, options):
        self.options = options
        self.source = os.path.abspath(options.source)
        build = os.path.abspath(options.build)
        self.octoflow = os.path.join(build, "client", "octoflow")
        self.broker = os.path.join(build, "broker", "octoflow-broker")
        self.worker = os.path.join(build, "worker", "octoflow-worker")
        for program in (self.octoflow, self.broker, self.worker):
            if not os.access(program, os.X_OK):
                sys.exit(f"{program} is not there: build first")
        # Short: a Unix socket's path has at most 107 bytes.
        self.dir = tempfile.mkdtemp(prefix="octo-")
        self.env = dict(os.environ, OCTO_E2E=self.dir, HOME=self.dir)
        for name in ("ASAN_OPTIONS", "UBSAN_OPTIONS", "TSAN_OPTIONS"):
            old = self.env.get(name, "")
            self.env[name] = (old + ":" if old else "") + "log_path=" + os.path.join(self.dir, "sanitizer")
        self.checks = self.failures = 0
        self.started = []

    # ---- checks ----

    def check(self, condition, text):
        self.checks += 1
        if not condition:
            self.failures += 1
            print(f"FAILED: {text}", flush=True)
        return bool(condition)

    def same(self, got, want, text):
        return self.check(got == want, f"{text}: got {short(got)}, expected {short(want)}")

    def has(self, text, part, what):
        return self.check(part in text, f"{what}: {short(part)} is not in {short(text)}")

    # ---- files ----

    def path(self, name):
        return os.path.join(self.dir, name)

    def model(self, kind="q4_k_m"):
        return os.path.join(self.source, "examples", f"octo-tiny-{kind}.gguf")

    def golden(self, name):
        with open(os.path.join(self.source, "tests", "golden", name), encoding="utf-8") as f:
            return [json.loads(line) for line in f]

    def write(self, name, content):
        """A file in the test's folder: bytes, text, or a list of objects as JSONL. Returns its path."""
        if isinstance(content, list):
            content = "".join(json.dumps(o, ensure_ascii=False) + "\n" for o in content)
        if isinstance(content, str):
            content = content.encode()
        with open(self.path(name), "wb") as f:
            f.write(content)
        return self.path(name)

    # ---- processes ----

    def start(self, argv, name="program"):
        """Starts in its own process group, output into NAME.out and NAME.err. Returns the Popen."""
        out, err = self.path(name + ".out"), self.path(name + ".err")
        with open(out, "wb") as o, open(err, "wb") as e:
            process = subprocess.Popen([str(a) for a in argv], stdin=subprocess.DEVNULL, stdout=o, stderr=e,
                                       cwd=self.dir, env=self.env, start_new_session=True)
        process.name, process.argv = name, argv
        self.started.append(process)
        return process

    def finish(self, process, timeout=300):
        """Waits; returns (exit code, stdout, stderr). Past the timeout: killed, code None."""
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.check(False, f"{process.name}: still running after {timeout} s: {' '.join(map(str, process.argv))}")
            self.kill_group(process)
            process.wait()
            code = None
        return code, self.output(process.name + ".out"), self.output(process.name + ".err")

    def output(self, name):
        with open(self.path(name), encoding="utf-8", errors="replace") as f:
            return f.read()

    def run(self, *argv, code=None, name="program", timeout=300, input=None):
        """Runs to the end; with `code`, checks the exit code. Returns (code, stdout, stderr)."""
        if input is not None:
            done = subprocess.run([str(a) for a in argv], input=input, capture_output=True, cwd=self.dir, env=self.env,
                                  timeout=timeout)
            result = done.returncode, done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace")
        else:
            result = self.finish(self.start(argv, name), timeout)
        if code is not None and not self.same(result[0], code, f"exit code of {' '.join(map(str, argv))}"):
            print(tail(result[1]), tail(result[2]), sep="\n", flush=True)
        return result

    def run_batch(self, input_path, output_path, *more, model=None, code=0, name="run", timeout=300):
        argv = [self.octoflow, "run", "-m", model or self.model(), input_path, "-o", output_path, *more]
        return self.run(*argv, code=code, name=name, timeout=timeout)

    @staticmethod
    def kill_group(process):
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass

    def processes(self, program=None):
        """Ids of living processes of this test (they carry OCTO_E2E), of one program if named."""
        mark = f"OCTO_E2E={self.dir}".encode()
        found = []
        for entry in os.listdir("/proc"):
            if not entry.isdigit() or int(entry) == os.getpid():
                continue
            try:
                with open(f"/proc/{entry}/environ", "rb") as f:
                    ours = mark in f.read().split(b"\0")
                with open(f"/proc/{entry}/stat", "rb") as f:
                    alive = f.read().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
                with open(f"/proc/{entry}/cmdline", "rb") as f:
                    executable = f.read().split(b"\0")[0].decode(errors="replace")
            except OSError:
                continue
            if ours and alive and (program is None or os.path.basename(executable) == os.path.basename(program)):
                found.append(int(entry))
        return found

    def wait_for(self, what, condition, timeout=60):
        """Polls until condition() is true; a failed check past the timeout. Returns its value."""
        end = time.monotonic() + timeout
        while True:
            value = condition()
            if value:
                return value
            if time.monotonic() > end:
                self.check(False, f"waited {timeout} s for: {what}")
                return value
            time.sleep(0.05)

    def no_processes(self, what, timeout=10):
        """Checks that nothing of this test is running (given a moment to leave); kills what is."""
        end = time.monotonic() + timeout
        while self.processes() and time.monotonic() < end:
            time.sleep(0.1)
        left = self.processes()
        self.check(not left, f"{what}: left running: {[command_line(p) for p in left]}")
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def close(self):
        self.no_processes("at the end of the test")
        for process in self.started:
            process.poll()
        for name in sorted(os.listdir(self.dir)):
            if name.startswith("sanitizer"):
                self.check(False, f"sanitizer report {name}:\n{tail(self.output(name), 60)}")
        if self.failures == 0 and not self.options.keep:
            shutil.rmtree(self.dir)
        else:
            print(f"files kept in {self.dir}")
        print(f"{self.checks} checks, {self.failures} failed")


def command_line(pid):
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as f:
            return f"{pid} " + f.read().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return str(pid)


def short(value, width=400):
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= width else text[:width] + "..."


def tail(text, lines=25):
    return "\n".join("    " + line for line in text.rstrip("\n").split("\n")[-lines:])


# ---- results ----

def read_results(path):
    """The lines of a result file as objects. A line that is no JSON, or a file that ends within a line, raises."""
    with open(path, "rb") as f:
        content = f.read()
    if content and not content.endswith(b"\n"):
        raise ValueError(f"{path} does not end with a newline")
    return [json.loads(line) for line in content.decode("utf-8").splitlines()]


def answer(result):
    """The completion's text; None for an error line."""
    body = (result.get("response") or {}).get("body") or {}
    for choice in body.get("choices", []):
        return choice["message"]["content"] if "message" in choice else choice["text"]
    return None


def error_text(result):
    """The message of an error line; None for an answer."""
    body = (result.get("response") or {}).get("body") or {}
    error = body.get("error") or result.get("error")
    return error["message"] if error else None


def status_code(result):
    return (result.get("response") or {}).get("status_code")


def stripped(path):
    """The file's bytes with only times and the tries' provenance taken out of each line's "octoflow" object."""
    lines = []
    for result in read_results(path):
        octoflow = result.get("octoflow")
        if isinstance(octoflow, dict):
            result["octoflow"] = {k: v for k, v in octoflow.items()
                                  if k not in VARYING and not k.endswith(VARYING_ENDING)}
        lines.append(json.dumps(result, ensure_ascii=False))
    return "\n".join(lines).encode()


def difference(a, b):
    """Where two stripped files differ, for a failed check."""
    x, y = a.split(b"\n"), b.split(b"\n")
    for n, (p, q) in enumerate(zip(x, y), 1):
        if p != q:
            return f"line {n}:\n    {p.decode()}\n    {q.decode()}"
    return f"{len(x)} and {len(y)} lines" if len(x) != len(y) else "nowhere"


# ---- inputs ----

def chat_line(custom_id, messages, **sampling):
    return {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions",
            "body": {"messages": messages, **sampling}}


def mixed_lines(bench, count, story_tokens=40):
    """`count` requests: four of five short greedy questions, the fifth a sampled story (temperature 1), so that
    a wrong seed, a wrong order or a neighbour's influence shows."""
    questions = bench.golden("eval.jsonl")
    heroes = ["fox", "witch", "baker", "deer", "cat", "mouse", "tailor", "girl", "wolf", "boy"]
    lines = []
    for n in range(count):
        if n % 5 == 4:
            story = [{"role": "user", "content": f"Tell me a story about a {heroes[n // 5 % len(heroes)]}."}]
            lines.append(chat_line(f"story-{n}", story, temperature=1, seed=1000 + n, max_tokens=story_tokens))
        else:
            q = questions[(n * 7) % len(questions)]
            lines.append(chat_line(f"q-{n}", q["messages"], temperature=0, max_tokens=64))
    return lines


def seeded(options):
    seed = options.seed if options.seed is not None else int.from_bytes(os.urandom(4), "little")
    print(f"seed {seed}")
    return random.Random(seed)


def main(test, **arguments):
    """Runs test(bench, options); arguments: NAME=(type, default, help) become --name."""
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    parser.add_argument("--build", required=True, help="the build folder")
    parser.add_argument("--source", required=True, help="the project's root")
    parser.add_argument("--keep", action="store_true", help="keep the test's folder")
    for name, (kind, default, text) in arguments.items():
        flag = "--" + name.replace("_", "-")
        if kind is bool:
            parser.add_argument(flag, action="store_true", help=text)
        else:
            parser.add_argument(flag, type=kind, default=default, help=text)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped by SIGTERM"))  # a test's timeout: clean up first
    bench = Bench(options)
    try:
        test(bench, options)
    except BaseException:
        bench.failures += 1
        bench.close()
        raise
    bench.close()
    sys.exit(1 if bench.failures or not bench.checks else 0)
