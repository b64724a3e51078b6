#!/usr/bin/env python3
"""The rules that a compiler does not check: lint.py ROOT [--headers CC FLAG...]

Without --headers: the layer rule (who may include what), no include cycle, no sibling's private header, file
and line length, no tabs, no trailing blanks, no absolute paths of somebody's machine.
With --headers: every header compiles alone. Prints file:line: what, and exits 1 if anything is wrong."""
import concurrent.futures
import os
import re
import subprocess
import sys

# Folder -> folders whose headers it may include. The one place where the layers are written down for a machine.
LAYERS = {
    "base": set(),
    "proto": {"base"},
    "model": {"base"},
    "shaders": set(),
    "engine": {"base", "model", "shaders"},
    "broker": {"base", "proto"},
    "worker": {"base", "proto", "model", "engine"},
    "client": {"base", "proto", "model"},
    "bench": {"base", "model", "engine", "shaders"},
    "bench/broker": {"base", "proto"},
}
# Libraries: header pattern -> the only folders that may include it.
LIBRARIES = {
    r"vulkan/": {"engine"},
    r"zmq": {"proto"},
    r"msgpack": {"proto"},
    r"uv\.h": {"proto", "broker", "worker", "client", "bench/broker"},
    r"sqlite3": {"broker"},
    r"microhttpd": {"proto"},
    r"pcre2": {"model"},
    r"jansson": {"client", "bench"},
    r"xxhash": {"base"},
}
# Who may look at the wall clock, which jumps: to stamp what is stored or shown, and for times that
# users give. Nobody else decides by it.
WALL_CLOCK = {
    "base/clock.c", "base/clock.h", "base/log.c",  # the clock itself; stamps of log lines
    # stamps of batches, lines, results and events; hours and deadlines that users set
    "broker/server.c", "broker/server_op.c", "broker/server_keep.c", "broker/server_watch.c", "client/schedule.c",
    "worker/engine_thread.c", "worker/worker_loop.c",  # stamps in results
    "model/chat.c",  # chat templates may ask for today's date
    "bench/report.c",  # a report's date
}
WALL_CALL = re.compile(r"\b(clock_wall_ms|CLOCK_REALTIME\w*|gettimeofday|ftime|timespec_get|pthread_cond_clockwait)\b"
                       r"|(?<![\w.>])time\((NULL|0|&)")
# Pure parts that another folder may have as well: header pattern -> folders.
SHARED = {r"worker/(governor\w*|pacer|sensors/\w+)\.h$": {"bench"}, r"worker/governor_hours\.h$": {"client"}}
MAX_COLUMNS = 120
WARN_LINES = 500
MAX_LINES = 700
# A header named x_impl.h or x_private.h belongs to its folder.
PRIVATE = re.compile(r"_(impl|private)\.h$")
MACHINE_PATH = re.compile(r"""["'\s(=](/home/\w|/root/|/work/|/Users/\w)""")
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')
TEXT = (".c", ".h", ".comp", ".glsl", ".py", ".sh", ".build", ".txt", ".md", ".supp", ".ini")

problems, warnings = [], []


def problem(path, line, text):
    problems.append(f"{path}:{line}: {text}")


def sources(root):
    """Paths, relative to root, of every text file of ours (build folders and data are not)."""
    for folder, folders, files in os.walk(root):
        relative = os.path.relpath(folder, root)
        folders[:] = sorted(
            d for d in folders
            if d != "__pycache__" and not d.endswith(".octoflow") and not (relative == "." and
                d != ".ci" and (d.startswith(("build", ".")) or d in ("subprojects", "shared")))
        )
        for name in sorted(files):
            path = os.path.normpath(os.path.join(relative, name))
            if name.endswith(TEXT) or path in ("dev", ".ci/run"):
                yield path


def read(root, path):
    with open(os.path.join(root, path), encoding="utf-8") as f:
        return f.read()


def check_text(path, text):
    lines = text.split("\n")
    count = len(lines) - 1
    code = path.endswith((".c", ".h", ".comp", ".glsl", ".py"))
    if code and path.split("/")[0] in LAYERS and path not in WALL_CLOCK:
        for n, line in enumerate(lines, 1):
            if WALL_CALL.search(line):
                problem(path, n, "looks at the wall clock, which jumps (WALL_CLOCK in tests/lint/lint.py)")
    if code and count > MAX_LINES:
        problem(path, count, f"{count} lines; at most {MAX_LINES}: one idea a file")
    elif code and count > WARN_LINES:
        warnings.append(f"{path}: {count} lines; about {WARN_LINES} is the aim")
    if text and not text.endswith("\n"):
        problem(path, count + 1, "no newline at the end of the file")
    for n, line in enumerate(lines, 1):
        if path.startswith("shaders/") and "gl_SubgroupSize" in line:
            problem(path, n, "gl_SubgroupSize, which may be more than there are invocations (sample_row.glsl)")
        if "\t" in line:
            problem(path, n, "a tab")
        if line != line.rstrip():
            problem(path, n, "blanks at the end of the line")
        if len(line) > MAX_COLUMNS and "](" not in line and not path.endswith(".md"):
            problem(path, n, f"{len(line)} columns; at most {MAX_COLUMNS}")
        if MACHINE_PATH.search(" " + line) and path != "tests/lint/lint.py":
            problem(path, n, "an absolute path of one machine")


def check_includes(path, text, graph, headers):
    folder = os.path.dirname(path) if os.path.dirname(path) in LAYERS else path.split("/")[0]
    edges = graph.setdefault(path, [])
    for n, line in enumerate(text.split("\n"), 1):
        match = INCLUDE.match(line)
        if not match:
            continue
        quoted, name = match.group(1) == '"', match.group(2)
        for pattern, allowed in LIBRARIES.items():
            if re.match(pattern, name) and folder in LAYERS and folder not in allowed:
                problem(path, n, f"{folder}/ may not include <{name}>: only {', '.join(sorted(allowed))} may")
        if not quoted or name not in headers:
            continue
        edges.append((name, n))
        target = os.path.dirname(name) if os.path.dirname(name) in LAYERS else name.split("/")[0]
        if folder not in LAYERS or target == folder:
            continue
        shared = any(re.match(pattern, name) and folder in to for pattern, to in SHARED.items())
        if target not in LAYERS[folder] and not shared:
            allowed = ", ".join(sorted(LAYERS[folder])) or "nothing"
            problem(path, n, f'{folder}/ may not include "{name}": only its own headers and those of: {allowed}')
        elif PRIVATE.search(name):
            problem(path, n, f'"{name}" is private to {target}/')


def check_cycles(graph):
    state = {}

    def visit(path, trail):
        state[path] = "open"
        for name, n in graph.get(path, []):
            if state.get(name) == "open":
                problem(path, n, f"include cycle: {' -> '.join(trail[trail.index(name):] + [name])}")
            elif name not in state:
                visit(name, trail + [name])
        state[path] = "done"

    for path in sorted(graph):
        if path not in state:
            visit(path, [path])


def check_rules(root):
    texts = {path: read(root, path) for path in sources(root)}
    c_files = [path for path in texts if path.endswith((".c", ".h"))]
    if len(c_files) < 20:
        sys.exit(f"only {len(c_files)} C files under {root}: is this the project's root?")
    graph = {}
    for path, text in texts.items():
        check_text(path, text)
        if path in c_files:
            check_includes(path, text, graph, set(c_files))
    check_cycles(graph)
    return len(texts)


def check_headers(root, compiler):
    """Each header twice in one file: it brings what it needs, and its guard works."""
    headers = [p for p in sources(root) if p.endswith(".h")]

    def one(path):
        run = subprocess.run(
            compiler + ["-std=gnu17", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", "-Wno-unused-function",
                        "-Wno-unused-variable", "-fsyntax-only", "-I", root, "-I", os.path.join(root, "tests"),
                        "-x", "c", "-"],
            input=f'#include "{path}"\n#include "{path}"\n', capture_output=True, text=True)
        return path, run.returncode, run.stderr

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for path, code, err in pool.map(one, headers):
            if code != 0:
                problem(path, 1, "does not compile alone:\n" + err)
    return len(headers)


def main():
    root = os.path.abspath(sys.argv[1])
    if sys.argv[2:3] == ["--headers"]:
        count, what = check_headers(root, sys.argv[3:]), "headers"
    else:
        count, what = check_rules(root), "files"
    for text in warnings:
        print("warning:", text)
    for text in problems:
        print(text)
    print(f"{count} {what} checked, {len(problems)} problems")
    sys.exit(1 if problems or count == 0 else 0)


main()
