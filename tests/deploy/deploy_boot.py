#!/usr/bin/env python3
"""What `meson install` puts where, and the installed systemd units as a machine runs them: systemd is booted in a
container over this machine's files (none of them is changed), broker and worker are started with keys, do a batch,
then one whose model the worker fetches, are reloaded, stand still until the watchdog ends them, and are stopped
together. Skipped where nobody may boot a container; one that boots must do all of it."""
import os
import re
import shutil
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "e2e"))

import common  # noqa: E402

SKIP = 77
BOOT_S, ALL_S = 40, 400  # the second is for what hangs
INSTALLED = ["bin/octoflow", "bin/octoflow-broker", "bin/octoflow-worker", "lib/systemd/system/octoflow-broker.service",
             "lib/systemd/system/octoflow-worker@.service", "share/octoflow/broker.env", "share/octoflow/worker.env"]
TARGET = """[Unit]
Requires=basic.target
After=basic.target
Wants=octoflow-test.service
"""
SERVICE = """[Unit]
Requires=basic.target
After=basic.target
[Service]
Type=oneshot
ExecStart=/bin/bash /etc/octoflow/test.sh
ExecStopPost=/bin/systemctl poweroff --force
StandardOutput=append:/out/log
StandardError=inherit
"""
# The broker's watchdog, and its next start, sooner than the unit has them.
SOON = "[Service]\nWatchdogSec=3\nRestartSec=0.2\n"
SCRIPT = """
export OCTOFLOW_BROKER=tcp://127.0.0.1:7420 PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin
export OCTOFLOW_CURVE_KEY=/etc/octoflow/alice.key OCTOFLOW_SERVER_KEY=/etc/octoflow/broker.key.pub
step() { name=$1; shift; if "$@"; then echo "STEP ok $name"; else echo "STEP FAILED $name"; fi; }
active() { for i in $(seq 100); do [ "$(systemctl is-active "$1")" = "$2" ] && return 0; sleep 0.2; done; return 1; }
soon() { for i in $(seq 100); do bash -c "$1" && return 0; sleep 0.2; done; false; }
no_files() { ! find "$@" -perm /077 -type f | grep .; }
groupadd -rf render
step start-broker systemctl start octoflow-broker
step start-worker systemctl start octoflow-worker@0
get() { exec 3<>/dev/tcp/127.0.0.1/9420; printf 'GET %s HTTP/1.0\\r\\n\\r\\n' "$1" >&3; grep -q "200 OK" <&3; }
joined() { for i in $(seq 60); do octoflow status --timeout 1 | grep -q " ready " && return 0; sleep 0.2; done; false; }
step probe get /readyz
step batch octoflow submit /etc/octoflow/in.jsonl --batch night --wait
step status soon 'systemctl status octoflow-broker | grep -q "Status: .*1 batches"'
head -1 /etc/octoflow/in.jsonl > /tmp/one.jsonl
step fetch timeout 120 octoflow submit /tmp/one.jsonl --batch other --model octo-tiny-q8_0 --wait
step state test -n "$(find /var/lib/octoflow-worker-0/ -name octo-tiny-q8_0.gguf)"
step backup octoflow backup one.db
step private no_files /var/lib/octoflow/
step cache test -n "$(ls /var/cache/octoflow-worker-0/)"
step reload systemctl reload octoflow-broker
step reloaded soon 'journalctl -u octoflow-broker | grep -q "list of keys read again"'
systemctl kill -s STOP octoflow-broker
step restarted joined
step watchdog soon 'journalctl -u octoflow-broker | grep -q "Watchdog timeout"'
step again octoflow submit /etc/octoflow/in.jsonl --batch again --wait
step stop systemctl stop octoflow-worker@0 octoflow-broker
step stopped active octoflow-worker@0 inactive
step worker-first bash -c 'journalctl -u "octoflow*" -o cat | grep -E " leaving | stopping " | head -1 | grep leaving'
journalctl --no-pager -u 'octoflow*' -o cat | sed 's/^/JOURNAL /'
"""


def install(bench):
    root = bench.path("root")
    bench.run("meson", "install", "-C", os.path.abspath(bench.options.build), "--no-rebuild", "--quiet", "--destdir",
              root, code=0)
    prefix = next(folder for folder, _, files in os.walk(root) if os.path.basename(folder) == "bin" and files)[:-4]
    for name in INSTALLED:
        bench.check(os.path.exists(os.path.join(prefix, name)), f"meson install: no {name}")
    return prefix


def configure(bench, prefix):
    """/etc/octoflow, as deploy/README.md says."""
    etc = bench.path("etc")
    os.mkdir(etc)
    allowed = ""
    for name, roles in (("broker", "admin"), ("worker", "work"), ("alice", "submit,admin")):
        allowed += bench.run(bench.octoflow, "keygen", "--out", f"{etc}/{name}.key", "--roles", roles, code=0)[1]
    bench.write("etc/allow.txt", allowed)
    bench.write("etc/in.jsonl", common.mixed_lines(bench, 10))
    bench.write("etc/test.sh", SCRIPT)
    with open(os.path.join(prefix, "share/octoflow/broker.env"), encoding="utf-8") as f:
        bench.write("etc/broker.env", f.read().replace("_OPTIONS=", "_OPTIONS=--models /srv/models "))
    bench.write("etc/worker.env", "OCTOFLOW_BROKER=tcp://127.0.0.1:7420\nOCTOFLOW_WORKER_OPTIONS=--governor off "
                                  "--models /var/lib/octoflow-worker-0/models\nOCTOFLOW_MODEL=/srv/octo-tiny.gguf\n")
    os.mkdir(bench.path("models"))
    shutil.copyfile(bench.model("q8_0"), bench.path("models/octo-tiny-q8_0.gguf"))
    for name, text in (("test.target", TARGET), ("test.service", SERVICE), ("soon.conf", SOON)):
        bench.write(f"octoflow-{name}", text)
    for folder, _, files in os.walk(prefix):  # the test's own folder is nobody else's to read
        for name in ["", *files]:
            os.chmod(os.path.join(folder, name), 0o755)
    for folder in (etc, bench.path("models")):
        os.chmod(folder, 0o755)


def container(bench, prefix, *argv):
    units = "/run/systemd/system"
    binds = [(prefix, "/usr/local"), (bench.path("etc"), "/etc/octoflow"), (bench.model(), "/srv/octo-tiny.gguf"),
             (bench.path("models"), "/srv/models"),
             (bench.path("octoflow-test.target"), f"{units}/octoflow-test.target"),
             (bench.path("octoflow-test.service"), f"{units}/octoflow-test.service"),
             (bench.path("octoflow-soon.conf"), f"{units}/octoflow-broker.service.d/soon.conf")]
    spawn = ["systemd-nspawn", f"--directory={bench.path('machine')}", "--volatile=overlay", "--register=no",
             "--keep-unit", "--private-network", "--quiet", "--console=pipe", f"--machine=octoflow-{os.getpid()}",
             f"--bind={bench.path('out')}:/out", *(f"--bind-ro={a}:{b}" for a, b in binds), *argv]
    script = 'mount --bind / "$0" && exec "$@"'
    return ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", script, bench.path("machine"), *spawn]


def skip(bench, why):
    print(f"SKIPPED: {why}")
    bench.close()
    sys.exit(SKIP if bench.failures == 0 else 1)


def test(bench, options):
    del options
    prefix = install(bench)
    configure(bench, prefix)
    for name in ("machine", "out"):
        os.mkdir(bench.path(name))
    if os.geteuid() != 0:
        skip(bench, "only root may boot a container")
    code, _, err = bench.run(*container(bench, prefix, "true"), name="probe")
    if code != 0:
        skip(bench, f"no container here: {common.tail(err, 3)}")
    machine = bench.start(container(bench, prefix, "--boot", "systemd.unit=octoflow-test.target"), "machine")
    log, end = bench.path("out/log"), time.monotonic() + BOOT_S
    while not os.path.exists(log) and machine.poll() is None and time.monotonic() < end:
        time.sleep(0.1)
    if not os.path.exists(log):
        bench.kill_group(machine)
        machine.wait()
        skip(bench, f"systemd does not boot in a container here: {common.tail(bench.output('machine.out'), 5)}")
    bench.finish(machine, ALL_S)
    said = bench.output("out/log")
    expected = re.findall(r"^step ([\w-]+)", SCRIPT, re.M)
    if not bench.same(re.findall(r"^STEP ok ([\w-]+)", said, re.M), expected, "steps that went well"):
        print(common.tail(said, 80))


common.main(test)
