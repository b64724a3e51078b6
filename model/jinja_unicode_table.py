#!/usr/bin/env python3
"""Writes jinja_unicode_table.h: what Python's str methods know about characters, as runs. Made once with Python 3.11
(Unicode 14), the version that the tests compare with:
python3 model/jinja_unicode_table.py > model/jinja_unicode_table.h"""
import sys

MAX = 0x110000
CHARS = [chr(c) for c in range(MAX)]


def runs(points):
    """(code point, value) in order -> [first, last, step, value] with step 1 or 2."""
    out = []
    for c, value in points:
        if out and out[-1][3] == value:
            first, last, step, _ = out[-1]
            if first == last and c - last in (1, 2) or first != last and c - last == step:
                out[-1][1:3] = c, c - last
                continue
        out.append([c, c, 1, value])
    return out


def emit(name, rows, mapping=False):
    print(f"static const struct unicode_{'map' if mapping else 'set'} unicode_{name}[] = {{")
    line = "   "
    for first, last, step, value in rows:
        item = f"{{{first},{last},{step},{value}}}," if mapping else f"{{{first},{last},{step}}},"
        if len(line) + len(item) > 118:
            print(line)
            line = "   "
        line += item
    print(line + "\n};")


def members(test):
    return runs((c, 0) for c in range(MAX) if not 0xD800 <= c < 0xE000 and test(CHARS[c]))


print("""/* Made by jinja_unicode_table.py from Unicode 14; not for editing. */
/* clang-format off */
#ifndef OCTO_MODEL_JINJA_UNICODE_TABLE_H
#define OCTO_MODEL_JINJA_UNICODE_TABLE_H

#include <stdint.h>

/* first, first + step, ... last; a mapping adds delta. */
struct unicode_set {
    uint32_t first, last, step;
};
struct unicode_map {
    uint32_t first, last, step;
    int32_t delta;
};

/* A character that maps to several. */
struct unicode_many {
    uint32_t from;
    uint32_t to[3];
};
""")
many = {}
for name in ("upper", "lower", "title"):
    points = []
    many[name] = []
    for c in range(MAX):
        to = getattr(CHARS[c], name)()
        if len(to) > 1:
            many[name].append((c, [ord(x) for x in to]))
        elif to != CHARS[c]:
            points.append((c, ord(to) - c))
    emit("to_" + name, runs(points), True)
    print(f"static const struct unicode_many unicode_many_{name}[] = {{")
    for i in range(0, len(many[name]), 4):
        print("    " + " ".join("{%d, {%s}}," % (c, ", ".join(map(str, to))) for c, to in many[name][i:i + 4]))
    print("};")
emit("alpha", members(str.isalpha))
emit("digit", members(str.isdigit))
emit("is_upper", members(str.isupper))
emit("is_lower", members(str.islower))
emit("is_title", members(lambda x: x.istitle() and not x.isupper()))
emit("printable", members(str.isprintable))
print("\n#endif")
