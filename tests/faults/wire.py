"""The protocol of proto/PROTOCOL.md from the outside: msgpack, and one ZeroMQ DEALER over a plain socket (ZMTP 3.1,
mechanism NULL). Written against the specifications only, so that it can also say what a good peer never would.
Only the standard library."""
import errno
import select
import socket
import struct
import time

MORE, LONG, COMMAND = 1, 2, 4  # of a ZMTP frame's first byte


# ---- msgpack ----

def pack(value):
    out = bytearray()
    put(out, value)
    return bytes(out)


def put_head(out, count, small, small_most, wide):
    """A header: one byte with the count in it, or one of `wide` = [(type byte, struct format, bits)]."""
    if small is not None and count <= small_most:
        out.append(small | count)
        return
    for kind, form, bits in wide:
        if count < 1 << bits:
            out.append(kind)
            out += struct.pack(form, count)
            return
    raise ValueError(f"{count} does not fit")


def put(out, v):
    if v is None:
        out.append(0xC0)
    elif v is True or v is False:
        out.append(0xC3 if v else 0xC2)
    elif isinstance(v, int):
        if v < 0:
            out.append(0xD3)
            out += struct.pack(">q", v)
        else:
            put_head(out, v, 0, 127, ((0xCC, ">B", 8), (0xCD, ">H", 16), (0xCE, ">I", 32), (0xCF, ">Q", 64)))
    elif isinstance(v, float):
        out.append(0xCB)
        out += struct.pack(">d", v)
    elif isinstance(v, str):
        raw = v.encode()
        put_head(out, len(raw), 0xA0, 31, ((0xD9, ">B", 8), (0xDA, ">H", 16), (0xDB, ">I", 32)))
        out += raw
    elif isinstance(v, (bytes, bytearray)):
        put_head(out, len(v), None, 0, ((0xC4, ">B", 8), (0xC5, ">H", 16), (0xC6, ">I", 32)))
        out += v
    elif isinstance(v, dict):
        put_head(out, len(v), 0x80, 15, ((0xDE, ">H", 16), (0xDF, ">I", 32)))
        for key, item in v.items():
            put(out, key)
            put(out, item)
    else:
        put_head(out, len(v), 0x90, 15, ((0xDC, ">H", 16), (0xDD, ">I", 32)))
        for item in v:
            put(out, item)


NUMBERS = {0xCA: ">f", 0xCB: ">d", 0xCC: ">B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q", 0xD0: ">b", 0xD1: ">h", 0xD2: ">i",
           0xD3: ">q"}
LENGTHS = {0xC4: ">B", 0xC5: ">H", 0xC6: ">I", 0xD9: ">B", 0xDA: ">H", 0xDB: ">I", 0xDC: ">H", 0xDD: ">I",
           0xDE: ">H", 0xDF: ">I"}


def unpack(data):
    value, at = take(data, 0)
    if at != len(data):
        raise ValueError("bytes behind the value")
    return value


def take(d, at):
    b = d[at]
    at += 1
    if b < 0x80:
        return b, at
    if b >= 0xE0:
        return b - 256, at
    if b < 0x90:
        return take_map(d, at, b & 15)
    if b < 0xA0:
        return take_list(d, at, b & 15)
    if b < 0xC0:
        n = b & 31
        return d[at:at + n].decode(), at + n
    if b in (0xC0, 0xC2, 0xC3):
        return {0xC0: None, 0xC2: False, 0xC3: True}[b], at
    if b in NUMBERS:
        form = NUMBERS[b]
        return struct.unpack_from(form, d, at)[0], at + struct.calcsize(form)
    form = LENGTHS[b]
    n = struct.unpack_from(form, d, at)[0]
    at += struct.calcsize(form)
    if b <= 0xC6:
        return bytes(d[at:at + n]), at + n
    if b <= 0xDB:
        return d[at:at + n].decode(), at + n
    return take_list(d, at, n) if b <= 0xDD else take_map(d, at, n)


def take_list(d, at, n):
    items = []
    for _ in range(n):
        item, at = take(d, at)
        items.append(item)
    return items, at


def take_map(d, at, n):
    items = {}
    for _ in range(n):
        key, at = take(d, at)
        items[key], at = take(d, at)
    return items, at


def message(name, **fields):
    return pack({"v": 1, "t": name, **fields})


# ---- ZMTP ----

def frame(body, flags=0):
    if len(body) < 256:
        return struct.pack(">BB", flags, len(body)) + body
    return struct.pack(">BQ", flags | LONG, len(body)) + body


GREETING = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x01" + b"NULL".ljust(20, b"\0") + bytes(32)
READY, READY_ROUTER = (frame(b"\x05READY" + b"\x0bSocket-Type" + struct.pack(">I", 6) + kind, COMMAND)
                       for kind in (b"DEALER", b"ROUTER"))


class Lost(Exception):
    """The connection is gone, or there was none."""


def connect(endpoint, timeout=5):
    kind, _, rest = endpoint.partition("://")
    end = time.monotonic() + timeout
    try:
        if kind == "ipc":
            s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            s.settimeout(timeout)
            while s.connect_ex(rest) == errno.EAGAIN and time.monotonic() < end:
                time.sleep(0.002)  # the queue of connections to be accepted is full
            s.getpeername()
        else:
            host, _, port = rest.rpartition(":")
            s = socket.create_connection((host, int(port)), timeout)
            s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except OSError as e:
        raise Lost(str(e)) from e
    return s


class Dealer:
    """One connection. It does not come back by itself: whoever uses it makes a new one."""

    def __init__(self, endpoint, timeout=5):
        self.socket = connect(endpoint, timeout)
        self.inbox = bytearray()
        self.socket.settimeout(timeout)
        self.send_raw(GREETING)
        while len(self.inbox) < 64:
            self.fill()
        del self.inbox[:64]
        self.send_raw(READY)
        self.socket.settimeout(20)

    def close(self):
        self.socket.close()

    def fileno(self):
        return self.socket.fileno()

    def fill(self):
        try:
            data = self.socket.recv(1 << 18)
        except OSError as e:
            raise Lost(str(e)) from e
        if not data:
            raise Lost("closed by the other side")
        self.inbox += data

    def send_raw(self, data):
        try:
            self.socket.sendall(data)
        except OSError as e:
            raise Lost(str(e)) from e

    def send(self, name, **fields):
        self.send_raw(frame(message(name, **fields)))

    def next_frame(self):
        """The next frame that is there already: (flags, body), or None."""
        d = self.inbox
        if len(d) < 2 or (d[0] & LONG and len(d) < 9):
            return None
        head, n = (9, struct.unpack_from(">Q", d, 1)[0]) if d[0] & LONG else (2, d[1])
        if len(d) < head + n:
            return None
        flags, body = d[0], bytes(d[head:head + n])
        del d[:head + n]
        return flags, body

    def poll(self):
        """The next message that is there already, as a map; None: none. Answers ZeroMQ's own heartbeats."""
        while True:
            got = self.next_frame()
            if got is None:
                return None
            flags, body = got
            if not flags & COMMAND:
                return unpack(body)
            if body.startswith(b"\x04PING"):
                self.send_raw(frame(b"\x04PONG" + body[7:], COMMAND))

    def receive(self, timeout):
        """The next message within `timeout` seconds; None: none came."""
        end = time.monotonic() + timeout
        while True:
            m = self.poll()
            if m is not None:
                return m
            if not select.select([self.socket], [], [], max(0, end - time.monotonic()))[0]:
                return None
            self.fill()

    def expect(self, name, timeout=10):
        """The next message of that name; others before it are dropped."""
        end = time.monotonic() + timeout
        while True:
            m = self.receive(max(0, end - time.monotonic()))
            if m is None:
                raise Lost(f"no {name} within {timeout} s")
            if m["t"] == name:
                return m


class Caller:
    """A client's calls, for tests that look at single answers."""

    def __init__(self, endpoint):
        self.endpoint, self.seq = endpoint, 0
        self.dealer = Dealer(endpoint)

    def close(self):
        self.dealer.close()

    def call(self, name, timeout=10, **fields):
        """The reply to this request, ERROR too."""
        self.seq += 1
        self.dealer.send(name, seq=self.seq, **fields)
        end = time.monotonic() + timeout
        while True:
            m = self.dealer.receive(max(0, end - time.monotonic()))
            if m is None:
                raise Lost(f"no answer to {name} within {timeout} s")
            if m.get("seq") == self.seq:
                return m

    def fetch_all(self, batch):
        results, after = [], 0
        while True:
            part = self.call("FETCH", batch=batch, by_line=True, after=after, max=512)["results"]
            if not part:
                return results
            results += part
            after = part[-1]["line"]


def a_worker(endpoint, name, holding=(), **more):
    """A connected worker that has said HELLO. Returns (dealer, its WELCOME)."""
    d = Dealer(endpoint)
    d.send("HELLO", **hello(name, holding, **more))
    return d, d.expect("WELCOME")


def hello(name, holding=(), numeric_class="fake", model="octo-tiny-q4_k_m", max_jobs=64, process=0, ledger=""):
    return {"worker": name, "process": process, "ledger": ledger, "host": "test", "build": "test", "device": "test",
            "driver": "test", "numeric_class": numeric_class, "models": [{"name": model, "hash": "00ff"}],
            "max_jobs": max_jobs, "kv_tokens": 1 << 20, "holding": [{"job": j, "epoch": e} for j, e in holding]}
