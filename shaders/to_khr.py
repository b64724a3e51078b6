#!/usr/bin/env python3
"""SPIR-V with VK_NV_cooperative_matrix to the same with VK_KHR_cooperative_matrix, as a C array.

    to_khr.py IN.spv NAME OUT.h

Debian 12's glslang knows the NV extension only. The KHR one says of each matrix whether it is A, B or C, so that the
driver keeps it the way the unit reads it; of the NV one's B it cannot know, and transposes it before each product
(bench/NOTES.md). Shapes tell which is which: f16 16 x 16 is A, f16 16 x 8 is B, f32 is C. Numbers: SPIR-V 1.6 and
SPV_KHR_cooperative_matrix."""
import struct
import sys

CAPABILITY, EXTENSION, TYPE_INT, TYPE_FLOAT, CONSTANT = 17, 10, 21, 22, 43
NV_CAPABILITY, KHR_CAPABILITY = 5357, 6022
NV_TYPE, NV_LOAD, NV_STORE, NV_MUL_ADD, NV_LENGTH = 5358, 5359, 5360, 5361, 5362
KHR_TYPE, KHR_MUL_ADD, KHR_LENGTH = 4456, 4459, 4460
NV_NAME, KHR_NAME = b"SPV_NV_cooperative_matrix", b"SPV_KHR_cooperative_matrix"
USE_A, USE_B, USE_C = 0, 1, 2


def instructions(words):
    at = 5
    while at < len(words):
        count = words[at] >> 16
        yield words[at] & 0xffff, list(words[at + 1:at + count])
        at += count


def text_of(operands):
    return struct.pack("<%dI" % len(operands), *operands).split(b"\0")[0]


def words_of(text):
    text += b"\0" * (4 - len(text) % 4)
    return struct.unpack("<%dI" % (len(text) // 4), text)


def convert(words):
    """The module with every NV instruction replaced. Fails on those that the shaders do not use."""
    bound, float_bits, constants, uses, out = words[3], {}, {}, {}, []
    uint_type = None

    def emit(op, operands):
        out.append((len(operands) + 1) << 16 | op)
        out.extend(operands)

    for op, operands in instructions(words):
        if op == CAPABILITY and operands[0] == NV_CAPABILITY:
            operands = [KHR_CAPABILITY]
        elif op == EXTENSION and text_of(operands) == NV_NAME:
            operands = words_of(KHR_NAME)
        elif op == NV_TYPE:
            result, component, _scope, _rows, columns = operands
            use = USE_C if float_bits[component] == 32 else USE_A if constants[columns] == 16 else USE_B
            op, operands = KHR_TYPE, operands + [uses[use]]
        elif op == NV_MUL_ADD:
            op = KHR_MUL_ADD
        elif op == NV_LENGTH:
            op = KHR_LENGTH
        elif op in (NV_LOAD, NV_STORE):
            sys.exit("to_khr.py: a cooperative matrix is loaded or stored: not converted")
        emit(op, operands)
        if op == TYPE_FLOAT:
            float_bits[operands[0]] = operands[1]
        elif op == CONSTANT:
            constants[operands[1]] = operands[2]
        elif op == TYPE_INT and operands[1:] == [32, 0] and uint_type is None:
            uint_type = operands[0]
            for use in (USE_A, USE_B, USE_C):
                uses[use] = bound
                emit(CONSTANT, [uint_type, bound, use])
                bound += 1
    return list(words[:3]) + [bound, words[4]] + out


def main():
    source, name, target = sys.argv[1:]
    with open(source, "rb") as f:
        data = f.read()
    words = convert(struct.unpack("<%dI" % (len(data) // 4), data))
    with open(target, "w", encoding="ascii") as f:
        f.write("const uint32_t %s[] = {\n" % name)
        for i in range(0, len(words), 8):
            f.write("\t%s,\n" % ",".join("0x%08x" % w for w in words[i:i + 8]))
        f.write("};\n")


main()
