#!/usr/bin/env python3
"""The real broker's ledger on a disk that is really full (a small tmpfs where we may mount one, else a limit on the
size of files), where it must not write, with a page that goes bad at work, and damaged: refused at start with one line,
salvaged, and completed by submitting the same input again. What every single failed write or lost page does is tested
in tests/broker."""
import os
import random
import resource
import shutil
import subprocess

import cluster

NOBODY = 65534


class ClusterAt(cluster.Cluster):
    """With the ledger at a place of its own."""

    def __init__(self, bench, ledger, **more):
        self.at = ledger
        super().__init__(bench, **more)

    def start_broker(self):
        self.ledger = self.at
        super().start_broker()


class SmallDisk:
    """A folder whose room can be used up. Without the right to mount, the broker's files are limited instead."""

    def __init__(self, bench, megabytes=8):
        self.path = bench.path("disk")
        os.mkdir(self.path)
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "none", self.path],
                              capture_output=True)
        self.mounted = done.returncode == 0
        print("a tmpfs of its own" if self.mounted else "no right to mount: a limit on the size of files")

    def fill(self, pid):
        if not self.mounted:
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))
            return
        with open(os.path.join(self.path, "filler"), "wb", buffering=0) as f:
            try:
                while True:
                    f.write(bytes(4096))
            except OSError:
                pass

    def clear(self, pid):
        if self.mounted:
            os.unlink(os.path.join(self.path, "filler"))
        else:
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

    def close(self):
        if self.mounted:
            subprocess.run(["umount", "-l", self.path], check=True)


def full_disk(bench):
    """On a full disk a submit is refused in one line, results are read, the broker even starts; then it goes on."""
    disk = SmallDisk(bench)
    try:
        c = ClusterAt(bench, os.path.join(disk.path, "ledger.db"), name="full")
        lines = cluster.fake_lines(300)
        path, out = bench.write("full.jsonl", lines), bench.path("full-out.jsonl")
        c.client("submit", path, "--batch", "b")
        c.fake("w0")
        c.client("results", "b", "-o", out, "--wait")
        disk.fill(c.broker.pid)
        # The WAL has room that it used before: a few lines still fit.
        many = bench.write("more.jsonl", cluster.fake_lines(3000, words=40, prefix="more"))
        code, _, err = c.client("submit", many, "--batch", "more", code=None)
        bench.check(code not in (0, None), f"exit code of a submit on a full disk: {code}")
        bench.check("full" in err or "I/O" in err, f"the reason: {err}")
        bench.same(len([line for line in err.splitlines() if "ledger" in line or "storage" in line]), 1,
                   f"lines that say so: {err}")
        again = bench.path("full-again.jsonl")
        c.client("results", "b", "-o", again, "--wait")
        with open(out, "rb") as a, open(again, "rb") as b:
            bench.check(a.read() == b.read(), "results read on a full disk are others")
        c.kill_broker()
        c.start_broker()
        if not disk.mounted:
            disk.fill(c.broker.pid)
        c.wait_broker()
        bench.same(c.batch("b")["done"], 300, "results after a start on a full disk")
        disk.clear(c.broker.pid)
        bench.wait_for("the submit to pass",
                       lambda: c.client("submit", many, "--batch", "more", code=None)[0] == 0, 30)
        bench.same(c.batch("more")["total"], 3000, "lines in the end")
        c.client("cancel", "more")
        c.stop()
    finally:
        disk.close()


def no_right_to_write(bench):
    """A read-only ledger and a folder without rights: one line each, exit code 3, nothing is changed."""
    folder = bench.path("rights")
    os.mkdir(folder)
    os.chmod(bench.dir, 0o755)
    broker, ledger = os.path.join(folder, "octoflow-broker"), os.path.join(folder, "ledger.db")
    shutil.copy(bench.broker, broker)
    c = ClusterAt(bench, ledger, name="rights")
    c.client("submit", bench.write("rights.jsonl", cluster.fake_lines(10)), "--batch", "b")
    c.stop()
    as_user = [] if os.getuid() != 0 else ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    argv = [*as_user, broker, "--listen", "ipc://" + os.path.join(folder, "s"), "--ledger"]
    with open(ledger, "rb") as f:
        before = f.read()
    os.chmod(ledger, 0o444)
    os.chmod(ledger + ".lock", 0o666)
    os.chmod(folder, 0o777)
    _, _, err = bench.run(*argv, ledger, code=3, name="readonly", timeout=30)
    bench.has(err, "read-only", "a read-only ledger")
    bench.same(len(err.splitlines()), 1, f"lines: {err}")
    os.chmod(folder, 0o555)
    _, _, err = bench.run(*argv, os.path.join(folder, "other.db"), code=3, name="folder", timeout=30)
    bench.has(err, "Permission denied", "a folder without rights")
    bench.same(len(err.splitlines()), 1, f"lines: {err}")
    os.chmod(folder, 0o755)
    with open(ledger, "rb") as f:
        bench.check(f.read() == before, "the read-only ledger is another one")


def damage(path, rng):
    """Wipes the file's first page and some others."""
    size = os.path.getsize(path)
    with open(path, "r+b") as f:
        for page in [0, *rng.sample(range(1, size // 4096), 3)]:
            f.seek(page * 4096)
            f.write(bytes(4096))


def spoil_request(path, letter):
    """Ends the chain of pages of a request that is one letter, a million times."""
    with open(path, "r+b") as f:
        while page := f.read(16384):
            if page[4:] == letter * 16380 and page[:4] != bytes(4):
                f.seek(-16384, os.SEEK_CUR)
                f.write(bytes(4))
                return True
    return False


def damaged_page(bench):
    """A page of one request goes bad while the broker works: that line fails and says so, the others are answered."""
    c = cluster.Cluster(bench, name="page")
    chats = [[{"role": "user", "content": chr(64 + n) * 1000000}] for n in range(1, 25)]  # more than SQLite's cache
    lines = [cluster.common.chat_line(f"page-{n}", chat, seed=n, max_tokens=8) for n, chat in enumerate(chats, 1)]
    path, out = bench.write("page.jsonl", lines), bench.path("page-out.jsonl")
    c.client("submit", path, "--batch", "b")
    bench.check(spoil_request(c.ledger, b"G"), "line 7 in the file")
    c.fake("w0", credit=8)
    c.fake("w1", credit=8)
    c.client("results", "b", "-o", out, "--wait", code=1, timeout=60)
    results = cluster.common.read_results(out)
    bench.same([r["custom_id"] for r in results], [line["custom_id"] for line in lines], "the lines")
    for n, (line, result) in enumerate(zip(lines, results), 1):
        want = cluster.fake_worker.expected_text(line["body"]["messages"][-1]["content"], line["body"]["seed"])
        if n != 7:
            bench.same(cluster.common.answer(result), want, f"line {n}")
    error = results[6]["response"]["body"].get("error", {})
    bench.same(error.get("code"), "storage", "the damaged line's code")
    bench.has(error.get("message", ""), "line 7: storage: the request cannot be read: ledger ", "what it says")
    bench.same(c.batch("b").get("problem", ""), "", "the batch's problem")
    c.stop(whole=False)


def salvaged(bench):
    """A damaged ledger: said at start with what to do, salvaged into another file, completed by submitting again."""
    c = cluster.Cluster(bench, name="bad")
    lines = cluster.fake_lines(400, words=20)
    path, out = bench.write("bad.jsonl", lines), bench.path("bad-out.jsonl")
    c.client("submit", path, "--batch", "b")
    c.fake("w0")
    c.client("results", "b", "-o", out, "--wait")
    c.check_output(out, lines)
    c.stop()
    seed = bench.options.seed if bench.options.seed is not None else random.randrange(1 << 32)
    print(f"damage seed {seed}")
    damage(c.ledger, random.Random(seed))
    with open(c.ledger, "rb") as f:
        before = f.read()
    argv = [bench.broker, "--ledger", c.ledger]
    _, _, err = bench.run(*argv, "--listen", c.endpoint, code=3, name="refused", timeout=60)
    bench.has(err, "--salvage NEW-FILE", "a damaged ledger")
    bench.same(len(err.splitlines()), 1, f"lines: {err}")
    new = bench.path("new.db")
    _, said, _ = bench.run(*argv, "--salvage", new, code=0, name="salvage", timeout=60)
    print(said)
    for word in ("batches:", "jobs:", "results:", "kept", "lost"):
        bench.has(said, word, "what a salvage says")
    with open(c.ledger, "rb") as f:
        bench.check(f.read() == before, "the damaged file was written to")
    _, _, err = bench.run(*argv, "--salvage", new, code=3, name="twice", timeout=60)
    bench.has(err, "exists", "a salvage into a file that is there")
    c = ClusterAt(bench, new, name="new")
    c.wait_broker()
    c.client("submit", path, "--batch", "b")  # what is there is not run twice
    c.fake("w0")
    again = bench.path("bad-again.jsonl")
    c.client("results", "b", "-o", again, "--wait")
    answers = [cluster.common.read_results(name) for name in (out, again)]
    bench.same([cluster.common.answer(r) for r in answers[1]], [cluster.common.answer(r) for r in answers[0]],
               "answers after the salvage")
    wrong = [r["custom_id"] for line, r in zip(lines, answers[1])
             if r["custom_id"] not in (line["custom_id"], "", None)]
    bench.check(not wrong, f"other custom_ids: {wrong}")
    empty = sum(not r["custom_id"] for r in answers[1])
    bench.check(empty == 0 or f"by their line's number alone: {empty}\n" in said,
                f"{empty} results without custom_id")
    c.stop()


cluster.main([full_disk, no_right_to_write, damaged_page, salvaged])
