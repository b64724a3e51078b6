#!/usr/bin/env python3
"""octoflow-bench synth: every shape and every type, read back by a reader of its own. Are the tensors and types what
that model's files have, the values finite and sane, the vocabulary whole; does the project itself open them?
synth_files.py OCTOFLOW_BENCH OCTOFLOW"""
import math
import os
import struct
import subprocess
import sys
import tempfile

import gguf_read

SHAPES = ["qwen2.5-0.5b", "qwen2.5-1.5b", "qwen2.5-7b", "qwen3-0.6b", "llama-3.2-1b", "tinyllama-1.1b", "smollm2-135m",
          "mixtral-tiny", "qwen2-tiny", "qwen3-tiny", "qwen3moe-tiny", "llama-tiny", "llama3-tiny", "gemma2-tiny",
          "gemma3-tiny", "phi3-tiny", "phi3.5-tiny"]
ONE_LAYER = {"qwen2.5-1.5b", "qwen2.5-7b", "qwen3-0.6b"}  # large
# Where a block's scales are: halves at these places.
SCALES = {"Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q2_K": [80, 82], "Q3_K": [108],
          "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208], "IQ4_NL": [0], "IQ4_XS": [0]}
SPM, BPE = "llama", "gpt2"


class Tester:
    def __init__(self, bench, octoflow, folder):
        self.bench, self.octoflow, self.folder = bench, octoflow, folder

    def synth(self, shape, *more, name="x.gguf"):
        path = os.path.join(self.folder, name)
        subprocess.run([self.bench, "synth", "--shape", shape, "-o", path, *more], check=True,
                       stdout=subprocess.DEVNULL)
        return path

    def refuses(self, code, part, *arguments):
        run = subprocess.run([self.bench, "synth", *arguments], capture_output=True, text=True)
        assert run.returncode == code and part in run.stderr and run.stderr.count("\n") == 1, (arguments, run)

    def inspect(self, path, tokenizer):
        run = subprocess.run([self.octoflow, "inspect", "--no-tensors", path], capture_output=True, text=True)
        assert run.returncode == 0, run
        supported = "tokenizer: yes" in run.stdout
        assert supported or tokenizer != BPE, run.stdout
        if supported:
            text = "the cat  sat\n\u00e9\u4e2d<|im_end|>".encode()
            ids = subprocess.run([self.octoflow, "tokenize", "--no-bos", "-m", path], input=text, capture_output=True,
                                 check=True).stdout
            back = subprocess.run([self.octoflow, "detokenize", "-m", path], input=ids, capture_output=True, check=True)
            got = back.stdout.rstrip(b"\n").removeprefix(b" " if tokenizer == SPM else b"")
            assert got in (text, text.replace(b"<|im_end|>", b"")), (ids, got)


def check_scales(f, t):
    """The first and last 64 KiB of a tensor: scales and values finite and not tiny or huge."""
    content = f.content(t)
    if t.type in ("F32", "F16", "BF16"):
        width = 4 if t.type == "F32" else 2
        piece = content[:65536 // width * width]
        if t.type == "BF16":
            piece = b"".join(b"\0\0" + piece[i:i + 2] for i in range(0, len(piece), 2))
        form = "e" if t.type == "F16" else "f"
        values = [v for v, in struct.iter_unpack("<" + form, piece)]
        assert all(map(math.isfinite, values)), t.name
        assert 1e-4 < max(map(abs, values)) < 64, (t.name, max(map(abs, values)))
        return
    size = next(b for name, _, b in gguf_read.TYPES.values() if name == t.type)
    blocks = [content[i:i + size] for i in range(0, min(len(content), 65536 // size * size), size)]
    assert len(set(blocks)) > len(blocks) // 2, f"{t.name}: not random"
    for block in blocks:
        if t.type == "MXFP4":
            assert 110 < block[0] < 130, (t.name, block[0])
        for at in SCALES.get(t.type, []):
            scale = abs(struct.unpack_from("<e", block, at)[0])
            assert math.isfinite(scale) and 1e-7 < scale < 4, (t.name, scale)


def byte_chars():
    other, chars = 256, {}
    for b in range(256):
        if 0x21 <= b <= 0x7e or 0xa1 <= b <= 0xac or b >= 0xae:
            chars[b] = chr(b)
        else:
            chars[b] = chr(other)
            other += 1
    return chars


def check_vocab(keys, n_vocab):
    tokens, types = keys["tokenizer.ggml.tokens"], keys["tokenizer.ggml.token_type"]
    ids = {t: i for i, t in enumerate(tokens)}
    assert len(tokens) == len(ids) == len(types) == n_vocab, "tokens are not unique, or not as many as rows"
    assert all(1 <= t <= 6 for t in types) and all(tokens), "a type or an empty token"
    for name in ("bos", "eos"):
        assert types[keys[f"tokenizer.ggml.{name}_token_id"]] == 3, name
    if keys["tokenizer.ggml.model"] == BPE:
        assert all(types[ids[c]] == 1 for c in byte_chars().values()), "bytes"
        merges = keys["tokenizer.ggml.merges"]
        assert len(set(merges)) == len(merges) == types.count(1) - 256, "merges"
        rank = {}
        for n, merge in enumerate(merges):
            left, right = merge.split(" ")
            made = left + right
            assert types[ids[made]] == 1 and made not in rank, merge
            assert all(part in rank or len(part) == 1 for part in (left, right)), f"{merge}: a part comes later"
            rank[made] = n
    else:
        scores = keys["tokenizer.ggml.scores"]
        assert keys["tokenizer.ggml.model"] == SPM and len(scores) == n_vocab
        at = ids["<0x00>"]
        assert tokens[at:at + 256] == [f"<0x{b:02X}>" for b in range(256)] and set(types[at:at + 256]) == {6}
        normal = [i for i in range(n_vocab) if types[i] == 1]
        assert [scores[i] for i in normal] == [-float(n) for n in range(len(normal))], "scores"
        assert all(c in ids for c in "\u2581abcxyz019!"), "single characters"
        assert types.count(2) == 1 and types[keys["tokenizer.ggml.unknown_token_id"]] == 2, "unknown"


def check_keys(f, shape, layers):
    keys, arch = f.keys, f.keys["general.architecture"]
    need = ["block_count", "context_length", "embedding_length", "feed_forward_length", "attention.head_count",
            "attention.head_count_kv", "attention.layer_norm_rms_epsilon", "rope.freq_base"]
    for key in need:
        assert f"{arch}.{key}" in keys, key
    assert keys[f"{arch}.block_count"] == layers and keys["general.alignment"] == 32, shape
    embd = f.tensors["token_embd.weight"]
    assert embd.dims[0] == keys[f"{arch}.embedding_length"], shape
    check_vocab(keys, embd.dims[1])
    return arch


# Types of q4_k_m; of four layers (more bits in layers 2 and 3: 4/8 = 0, (i - 0) % 3 == 2, i >= 3).
MIX = {
    "qwen2.5-0.5b": {"token_embd": "Q8_0", "attn_q": "Q5_0", "attn_k": "Q5_0", "attn_output": "Q5_0",
                     "ffn_gate": "Q5_0", "ffn_up": "Q5_0", "attn_v": ["Q5_0", "Q5_0", "Q8_0", "Q8_0"],
                     "ffn_down": ["Q4_K", "Q4_K", "Q6_K", "Q6_K"]},
    "qwen2.5-7b": {"token_embd": "Q4_K", "output": "Q6_K", "attn_v": "Q6_K", "attn_q": "Q4_K"},
    "llama-3.2-1b": {"token_embd": "Q6_K", "attn_k": "Q4_K", "ffn_down": ["Q4_K", "Q4_K", "Q6_K", "Q6_K"]},
    "mixtral-tiny": {"attn_k": "Q8_0", "attn_v": "Q8_0", "attn_output": "Q5_K", "ffn_gate_inp": "F32",
                     "ffn_gate_exps": "Q4_K"},
    "phi3-tiny": {"attn_qkv": "Q5_1", "ffn_up": "Q5_0", "output": "Q8_0"},
}


def check_mix(f, shape, layers):
    for name, want in MIX.get(shape, {}).items():
        for layer in range(layers):
            full = f"{name}.weight" if name in ("token_embd", "output") else f"blk.{layer}.{name}.weight"
            assert f.tensors[full].type == (want[layer] if isinstance(want, list) else want), (full, f.tensors[full])


def check_single(f, kind):
    """One type for every matrix, and the types that rows too short for its blocks fall back to."""
    for name, t in f.tensors.items():
        if len(t.dims) == 1 or "ffn_gate_inp" in name:
            assert t.type == "F32", name
        elif t.dims[0] % next(v for n, v, _ in gguf_read.TYPES.values() if n == kind) == 0:
            assert t.type == kind, (name, t.type)
        else:
            assert t.type != kind, name


def count_values(f):
    return sum(math.prod(t.dims) for t in f.tensors.values())


def main():
    bench, octoflow = sys.argv[1:3]
    with tempfile.TemporaryDirectory() as folder:
        tester = Tester(bench, octoflow, folder)
        for shape in SHAPES:
            layers = 1 if shape in ONE_LAYER else 4
            f = gguf_read.read(tester.synth(shape, "--layers", str(layers)))
            arch = check_keys(f, shape, layers)
            check_mix(f, shape, layers)
            for t in f.tensors.values():
                check_scales(f, t)
            tester.inspect(os.path.join(folder, "x.gguf"), f.keys["tokenizer.ggml.model"])
            print(f"{shape}: {arch}, {len(f.tensors)} tensors, {len(f.data)} bytes")
        for kind in [name for name, _, _ in gguf_read.TYPES.values()]:
            for shape in ("qwen2-tiny", "phi3-tiny"):
                f = gguf_read.read(tester.synth(shape, "--type", kind.lower()))
                check_single(f, kind)
                for t in f.tensors.values():
                    check_scales(f, t)
        # All layers: the parameters that the model's makers state.
        assert count_values(gguf_read.read(tester.synth("smollm2-135m"))) == 134515008
        assert count_values(gguf_read.read(tester.synth("qwen2.5-0.5b"))) == 494032768
        one, again = tester.synth("qwen2-tiny", name="a"), tester.synth("qwen2-tiny", name="b")
        other = tester.synth("qwen2-tiny", "--seed", "2", "--ctx", "77", name="c")
        contents = [open(p, "rb").read() for p in (one, again, other)]
        assert contents[0] == contents[1] and contents[0] != contents[2], "seeds"
        assert gguf_read.read(other).keys["qwen2.context_length"] == 77
        out = os.path.join(folder, "none.gguf")
        tester.refuses(2, "gemma3-tiny", "--shape", "gpt-5", "-o", out)
        tester.refuses(2, "--type q9", "--shape", "qwen2-tiny", "--type", "q9", "-o", out)
        tester.refuses(2, "-o FILE", "--shape", "qwen2-tiny")
        tester.refuses(3, "cannot create", "--shape", "qwen2-tiny", "-o", os.path.join(folder, "no", "x"))
        assert not os.path.exists(out) and not os.path.exists(out + ".tmp")


main()
