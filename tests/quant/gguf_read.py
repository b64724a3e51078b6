"""A reader of GGUF files (version 3), written from the format's description for tests: strict, shares nothing with
model/gguf.c. read(path) -> File with .keys {name: value}, .kinds {name: number}, .tensors {name: Tensor}."""
import collections
import mmap
import struct

# number: (name, values a block, bytes a block)
TYPES = {0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22),
         7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110),
         12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 20: ("IQ4_NL", 32, 18),
         23: ("IQ4_XS", 256, 136), 30: ("BF16", 1, 2), 39: ("MXFP4", 32, 17)}
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 10: "Q", 11: "q", 12: "d"}
BOOL, STRING, ARRAY = 7, 8, 9
Tensor = collections.namedtuple("Tensor", "name type dims offset bytes")


class Bad(Exception):
    pass


class File:
    def __init__(self, path):
        with open(path, "rb") as f:
            self.data = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)
        self.at, self.keys, self.kinds, self.tensors = 0, {}, {}, {}
        if self.take(4) != b"GGUF" or self.number("I") != 3:
            raise Bad("no GGUF file of version 3")
        tensor_count, key_count = self.number("Q"), self.number("Q")
        for _ in range(key_count):
            key = self.string()
            kind = self.number("I")
            if key in self.keys:
                raise Bad(f"{key} is there twice")
            self.keys[key], self.kinds[key] = self.value(kind), kind
        rows = [self.tensor() for _ in range(tensor_count)]
        self.start = -(-self.at // 32) * 32
        if any(self.data[self.at:self.start]):
            raise Bad("padding after the header is not zero")
        self.place(rows)

    def take(self, n):
        piece = self.data[self.at:self.at + n]
        if len(piece) != n:
            raise Bad(f"ends within {n} bytes at {self.at}")
        self.at += n
        return piece

    def number(self, form):
        return struct.unpack("<" + form, self.take(struct.calcsize("<" + form)))[0]

    def string(self):
        return self.take(self.number("Q")).decode("utf-8")

    def value(self, kind):
        if kind == STRING:
            return self.string()
        if kind == BOOL:
            byte = self.number("B")
            if byte > 1:
                raise Bad(f"a bool of {byte}")
            return bool(byte)
        if kind == ARRAY:
            of, count = self.number("I"), self.number("Q")
            if of in SCALARS:
                form = f"<{count}{SCALARS[of]}"
                return list(struct.unpack(form, self.take(struct.calcsize(form))))
            return [self.value(of) for _ in range(count)]
        return self.number(SCALARS[kind])

    def tensor(self):
        name = self.string()
        dims = [self.number("Q") for _ in range(self.number("I"))]
        kind, offset = self.number("I"), self.number("Q")
        type_name, values, size = TYPES[kind]
        if name in self.tensors or not 1 <= len(dims) <= 4 or dims[0] % values:
            raise Bad(f"{name}: twice, or its shape {dims} does not fit {type_name}")
        total = 1
        for d in dims:
            total *= d
        self.tensors[name] = Tensor(name, type_name, dims, offset, total // values * size)
        return self.tensors[name]

    def place(self, rows):
        """Tensors lie one after the other, each at a multiple of 32, and end with the file's padding."""
        end = 0
        for t in rows:
            if t.offset != end:
                raise Bad(f"{t.name} at {t.offset}, expected {end}")
            end += -(-t.bytes // 32) * 32
        if self.start + end != len(self.data) and rows:
            raise Bad(f"{len(self.data)} bytes, expected {self.start + end}")

    def content(self, t):
        return self.data[self.start + t.offset:self.start + t.offset + t.bytes]


def read(path):
    return File(path)
