"""A network of hosts on one machine: network namespaces with addresses of their own, their cables in one switch (a
bridge). Cables are cut and plugged (ip link), lose packets (nftables), or are narrow (tc tbf).

private() first puts the whole test into namespaces of its own (mounts, processes, network), so that nothing of this
machine's network is touched and that nothing is left, however the test ends: the kernel takes it all back. Needs
iproute2, nftables and util-linux. Only the standard library."""
import contextlib
import ctypes
import os
import re
import socket
import struct
import subprocess
import sys

INSIDE = "OCTO_HOSTS_INSIDE"
SKIP = 77
UNSHARE = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
CLONE_NEWNET = 0x40000000
SWITCH = "switch"
libc = ctypes.CDLL(None, use_errno=True)


def private():
    """Runs this program again in namespaces of its own; skips (77) only when the system refuses to make any."""
    if os.environ.get(INSIDE):
        run("mount", "-t", "tmpfs", "none", "/run")  # where ip keeps the names of namespaces
        run("ip", "link", "set", "lo", "up")
        return
    argv = UNSHARE + ([] if os.geteuid() == 0 else ["--map-root-user"])
    probe = subprocess.run([*argv, "true"], capture_output=True, text=True)
    if probe.returncode != 0:
        print(f"SKIPPED: this system makes no namespaces: {' '.join(argv)}: {probe.stderr.strip()}")
        sys.exit(SKIP)
    sys.stdout.flush()
    os.environ[INSIDE] = "1"
    os.execvp(argv[0], [*argv, sys.executable, *sys.argv])


def run(*argv, input=None):
    """A tool of the network; raises with what it said when it fails. Returns its output."""
    done = subprocess.run(argv, input=input, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(argv)}: exit code {done.returncode}: {done.stderr.strip()}")
    return done.stdout


class Host:
    def __init__(self, name):
        self.name = name
        run("ip", "netns", "add", name)
        run("ip", "-n", name, "link", "set", "lo", "up")

    def ip(self, *argv):
        return run("ip", "-n", self.name, *argv)

    def nft(self, rules):
        return run("nsenter", f"--net=/run/netns/{self.name}", "nft", "-f", "-", input=rules)

    def argv(self, *argv):
        """To run a program there, under the host's name."""
        script = 'hostname "$0" && exec "$@"'
        return ["nsenter", f"--net=/run/netns/{self.name}", "unshare", "--uts", "sh", "-c", script, self.name, *argv]

    @contextlib.contextmanager
    def here(self):
        """This thread is on that host: sockets that it opens, and threads that it starts, stay there."""
        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        there = os.open(f"/run/netns/{self.name}", os.O_RDONLY)
        try:
            enter(there)
            yield
        finally:
            enter(before)
            os.close(before)
            os.close(there)


def enter(namespace):
    if libc.setns(namespace, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


class Lan:
    def __init__(self):
        self.switch, self.hosts = Host(SWITCH), {}
        self.switch.ip("link", "add", "bridge", "type", "bridge")
        self.switch.ip("link", "set", "bridge", "up")

    def add(self, name, address):
        """A host at an IPv4 address of the /24, its cable in the switch's port of its name."""
        host = self.hosts[name] = Host(name)
        self.switch.ip("link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name)
        self.switch.ip("link", "set", name, "master", "bridge", "up")
        host.ip("address", "add", address + "/24", "dev", "eth0")
        host.ip("link", "set", "eth0", "up")
        return host

    def take(self, name, address):
        self.hosts[name].ip("address", "del", address + "/24", "dev", "eth0")

    def has_carrier(self, name):
        return "state forwarding" in self.switch.ip("-d", "link", "show", name)

    def announce(self, name, address):
        """Tells all whose address it is now, as `arping -U` does: those who knew another would ask it for a minute."""
        with self.hosts[name].here(), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as s:
            s.bind(("eth0", 0x0806))
            mac, ip = s.getsockname()[4], socket.inet_aton(address)
            asks = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1)
            s.send(b"\xff" * 6 + mac + b"\x08\x06" + asks + mac + ip + b"\0" * 6 + ip)

    # ---- cables ----

    def cut(self, name):
        """The cable is out: no carrier, and nobody is told."""
        self.switch.ip("link", "set", name, "down")

    def plug(self, name):
        self.switch.ip("link", "set", name, "up")

    def off(self, name):
        """The host's own interface is down: it has no route any more."""
        self.hosts[name].ip("link", "set", "eth0", "down")

    def on(self, name):
        self.hosts[name].ip("link", "set", "eth0", "up")

    def lose(self, percent):
        """Every host loses so many of the TCP packets that come in."""
        for host in self.hosts.values():
            host.nft("add table inet loss\n"
                     "add chain inet loss in { type filter hook input priority 0; }\n"
                     'add rule inet loss in iifname "eth0" meta l4proto tcp numgen random mod 100 '
                     f"<= {percent - 1} counter drop\n")

    def lost(self):
        """So many were, until now."""
        return sum(int(re.search(r"counter packets (\d+)", host.nft("list table inet loss\n")).group(1))
                   for host in self.hosts.values())

    def lose_none(self):
        for host in self.hosts.values():
            host.nft("delete table inet loss\n")

    def narrow(self, name, rate):
        """The host's cable has this rate (as tc has it: 1mbit), each way."""
        for at, device in ((self.hosts[name], "eth0"), (self.switch, name)):
            run("tc", "-n", at.name, "qdisc", "add", "dev", device, "root", "tbf", "rate", rate, "burst", "8kb",
                "latency", "400ms")

    def widen(self, name):
        """As fast as it goes again. Returns how often something had to wait, sent by the host."""
        said = run("tc", "-n", name, "-s", "qdisc", "show", "dev", "eth0")
        for at, device in ((self.hosts[name], "eth0"), (self.switch, name)):
            run("tc", "-n", at.name, "qdisc", "del", "dev", device, "root")
        return int(re.search(r"overlimits (\d+)", said).group(1))
