#!/usr/bin/env python3
"""make_quantized over all types: the file is whole, says what it is, and keeps everything that it should.
quant_files.py MAKE_QUANTIZED IN_F16.gguf"""
import os
import subprocess
import sys
import tempfile

import gguf_read

CHANGED = {"general.file_type", "general.quantization_version"}


def check(program, source, kind, bits, folder):
    path = os.path.join(folder, kind + ".gguf")
    subprocess.run([program, source, kind, path], check=True)
    old, new = gguf_read.read(source), gguf_read.read(path)
    assert set(old.keys) | CHANGED == set(new.keys), "keys"
    for key in set(old.keys) - CHANGED:
        assert (old.kinds[key], old.keys[key]) == (new.kinds[key], new.keys[key]), key
    assert list(old.tensors) == list(new.tensors), "tensors"
    values = matrix_bytes = 0
    for name, t in new.tensors.items():
        was = old.tensors[name]
        assert t.dims == was.dims, name
        if len(t.dims) > 1:
            assert t.type == kind, f"{name} has type {t.type}"
            values += t.dims[0] * t.dims[1]
            matrix_bytes += t.bytes
        else:
            assert t.type == was.type and new.content(t) == old.content(was), name
    assert abs(matrix_bytes * 8 / values - bits) < 1e-9, "bits a weight"
    if kind == "F16":
        assert all(new.content(t) == old.content(old.tensors[n]) for n, t in new.tensors.items()), "F16 to F16"
    print(f"{kind}: {os.path.getsize(path)} bytes")
    os.remove(path)


def refuses(program, *arguments):
    run = subprocess.run([program, *arguments], capture_output=True, text=True)
    assert run.returncode != 0 and run.stderr.startswith(("make_quantized: ", "Usage: ")), run


def main():
    program, source = sys.argv[1:3]
    listed = subprocess.run([program, "--list"], check=True, capture_output=True, text=True).stdout.split()
    kinds = dict(zip(listed[::2], map(float, listed[1::2])))
    assert set(kinds) == {name for name, _, _ in gguf_read.TYPES.values()}, kinds
    with tempfile.TemporaryDirectory() as folder:
        for kind, bits in kinds.items():
            check(program, source, kind, bits, folder)
        refuses(program, source, "Q9_Z", os.path.join(folder, "x"))
        refuses(program, os.path.join(folder, "none"), "F16", os.path.join(folder, "x"))
        refuses(program, source, "F16", os.path.join(folder, "no", "folder"))
        refuses(program)
        assert os.listdir(folder) == [], os.listdir(folder)


main()
