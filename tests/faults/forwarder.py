"""A TCP forwarder in the test's own process, between a program and the broker: it can be cut, plugged, slowed down,
and cut in the middle of a frame. It copies bytes and makes none of its own, so what a network could not do it cannot
do either. Only the standard library."""
import selectors
import socket
import struct
import threading
import time

import wire

PIECE = 1 << 16
SLICE = 4096  # at a time, of a wire with a rate


class Pair:
    """One connection and its continuation to the broker; queues hold (due time, bytes)."""

    def __init__(self, near, far):
        self.ends = (near, far)
        self.queues = {near: [], far: []}  # what is to be written to that end
        self.free_at = {near: 0.0, far: 0.0}  # when the wire that way is free again, with a rate
        self.ends_soon = False  # cut within a frame: what waits is written, then it ends

    def other(self, end):
        return self.ends[1] if end is self.ends[0] else self.ends[0]


class Forwarder:
    def __init__(self, target, bytes_per_s=None):
        self.target = target  # an endpoint
        self.bytes_per_s = bytes_per_s  # each way, of each connection; None: as fast as it goes
        self.most_waiting = 64 * PIECE
        self.listener = socket.create_server(("127.0.0.1", 0))
        if bytes_per_s:  # what waits is to wait at the sender's, not in buffers of ours
            self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, PIECE)
            self.most_waiting = PIECE
        self.listener.setblocking(False)
        self.endpoint = "tcp://127.0.0.1:%d" % self.listener.getsockname()[1]
        self.lock = threading.Lock()
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.listener, selectors.EVENT_READ)
        self.pairs = {}  # socket -> Pair
        self.mode, self.delay_s, self.cut_after = "open", 0.0, None
        self.forwarded = self.accepted = 0
        self.stopping = False
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    # ---- what the test calls ----

    def heal(self):
        with self.lock:
            self.mode, self.delay_s, self.cut_after = "open", 0.0, None

    def cut(self):
        """Both sides see the connection end; new ones end at once."""
        with self.lock:
            self.mode = "cut"
            self.drop_all()

    def blink(self):
        """Cut, and open for new connections at once."""
        with self.lock:
            self.drop_all()

    def plug(self):
        """Nothing passes any more, and nobody is told."""
        with self.lock:
            self.mode = "plugged"

    def delay(self, seconds):
        with self.lock:
            self.delay_s = seconds

    def cut_within(self, count):
        """Cuts after that many more bytes, wherever in a frame that is."""
        with self.lock:
            self.cut_after = count

    def close(self):
        self.stopping = True
        self.thread.join(5)
        with self.lock:
            self.drop_all()
        self.listener.close()
        self.selector.close()

    # ---- the thread ----

    def drop(self, pair):
        for end in pair.ends:
            if self.pairs.pop(end, None) is not None:
                self.selector.unregister(end)
            end.close()

    def drop_all(self):
        for pair in set(self.pairs.values()):
            self.drop(pair)

    def accept(self):
        try:
            near, _ = self.listener.accept()
        except OSError:
            return
        if self.mode == "cut":
            near.close()
            return
        try:
            far = wire.connect(self.target, 2)
        except wire.Lost:
            near.close()
            return
        self.accepted += 1
        pair = Pair(near, far)
        for end in pair.ends:
            end.setblocking(False)
            self.pairs[end] = pair
            self.selector.register(end, selectors.EVENT_READ)

    def read(self, end):
        pair = self.pairs.get(end)
        if pair is None:
            return
        try:
            data = end.recv(PIECE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.drop(pair)
            return
        if pair.ends_soon:
            return
        if self.cut_after is not None:
            data = data[:self.cut_after]
            self.cut_after -= len(data)
            if self.cut_after == 0:
                self.cut_after, pair.ends_soon = None, True
        pair.queues[pair.other(end)].append((time.monotonic() + self.delay_s, data))

    def write(self, pair):
        now = time.monotonic()
        for end, queue in pair.queues.items():
            while queue and queue[0][0] <= now:
                data = queue[0][1]
                if self.bytes_per_s:
                    if now < pair.free_at[end]:
                        break
                    data = data[:SLICE]
                try:
                    sent = end.send(data)
                except BlockingIOError:
                    break
                except OSError:
                    self.drop(pair)
                    return
                self.forwarded += sent
                if self.bytes_per_s:  # a moment's delay of ours is made up for, an idle wire is not
                    pair.free_at[end] = max(pair.free_at[end], now - 0.05) + sent / self.bytes_per_s
                due, data = queue[0]
                queue[0] = (due, data[sent:])
                if sent == len(data):
                    queue.pop(0)
                else:
                    break
        if pair.ends_soon and not any(pair.queues.values()):
            self.drop(pair)

    def run(self):
        while not self.stopping:
            with self.lock:
                busy = any(any(p.queues.values()) for p in self.pairs.values())
            ready = self.selector.select(0.002 if busy else 0.02)
            with self.lock:
                if self.mode == "plugged":
                    ready = [r for r in ready if r[0].fileobj is self.listener]
                for key, _ in ready:
                    if key.fileobj is self.listener:
                        self.accept()
                    elif key.fileobj in self.pairs and self.read_more(key.fileobj):
                        self.read(key.fileobj)
                if self.mode != "plugged":
                    for pair in set(self.pairs.values()):
                        self.write(pair)
            if self.mode == "plugged":
                time.sleep(0.01)  # what is not read stays readable

    def read_more(self, end):
        """Not while much waits on the other side: a slow reader slows its writer down, as on a network."""
        pair = self.pairs[end]
        return sum(len(d) for _, d in pair.queues[pair.other(end)]) < self.most_waiting


class Stranger:
    """Something else at the broker's address: says `what` to whoever connects."""

    def __init__(self, path, what):
        self.endpoint, self.what, self.met = "ipc://" + path, what, 0
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(path)
        self.listener.listen()
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        while True:
            s, _ = self.listener.accept()
            self.met += 1
            s.settimeout(0.3)
            try:
                s.recv(1000)
                s.sendall(self.what)
                while s.recv(1000):
                    pass
            except OSError:
                pass
            s.close()


STRANGERS = {
    "HTTP": b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n" + b"x" * 100,
    "noise": bytes(range(256)),
    "an early ZeroMQ": b"\x01\x00",
    "another mechanism": wire.GREETING.replace(b"NULL".ljust(20, b"\0"), b"CURVE".ljust(20, b"\0")),
    "a socket of another kind": wire.GREETING + wire.READY.replace(struct.pack(">I", 6) + b"DEALER",
                                                                   struct.pack(">I", 6) + b"XXXXXX"),
    "a giant frame": wire.GREETING + wire.READY_ROUTER + struct.pack(">BQ", wire.LONG, 1 << 40),
}
