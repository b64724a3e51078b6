#!/usr/bin/env python3
"""What Jinja2 itself makes of templates, for test_jinja.c: jinja_reference.py TEMPLATES_DIR SEED

Prints JSON lines: {"name", "template", "variables", "out"} or, where Jinja2 raises, "error" instead of "out"
("raised" besides it when it was raise_exception). The environment is the one that Hugging Face's transformers
builds for chat templates. Needs python3-jinja2."""
import datetime
import functools
import json
import os
import random
import sys
import warnings

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

from jinja_snippets import SNIPPETS, VARIABLES

warnings.simplefilter("ignore")
NOW = datetime.datetime(2025, 3, 9, 14, 5, 7)


class Generation(jinja2.ext.Extension):
    """{% generation %} ... {% endgeneration %}: the text as it is, in a scope of its own."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_text"), [], [], body).set_lineno(line)

    @staticmethod
    def _text(caller):
        return caller()


class Raised(jinja2.exceptions.TemplateError):
    pass


def raise_exception(message):
    raise Raised(message)


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def environment():
    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[
        Generation, jinja2.ext.loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = NOW.strftime
    for name in ("lipsum", "cycler", "joiner"):
        del env.globals[name]
    return env


ENV = environment()
# Without constant folding, which turns some errors of constants into undefined: for expressions made at random.
PLAIN = ENV.overlay(optimized=False)


@functools.lru_cache(maxsize=4)
def compiled(env, template):
    return env.from_string(template)


def emit(name, template, variables, env=ENV):
    case = {"name": name, "template": template, "variables": variables}
    try:
        case["out"] = compiled(env, template).render(**variables)
    except Raised as e:
        case["error"] = str(e)
        case["raised"] = True
    except Exception as e:  # whatever Python raises: an error must be one in ours, too
        case["error"] = f"{type(e).__name__}: {e}"
    if " at 0x" not in case.get("out", ""):
        print(json.dumps(case, ensure_ascii=False))


WORDS = [
    'Hello', 'what is', 'the sum of 2 + 2?', '\n', '\n\n', '  ', '\t', 'caf\xe9', '\u4f60\u597d', '\U0001f600',
    '\xa0', '<|im_end|>', '</s>', '[INST]', '<think>', '</think>', '<think>\nhm\n</think>\n\nyes', '/think',
    '/no_think', '{{ x }}', '{% if %}', "'", '"', '\\n', '&<>', '\u0130', '\xdf', '\u2028', '\x0b', 'e\u0301',
    '<tool_response>', '</tool_response>', "'s", 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa', '\r\n',
    '\x1f', '0', '{', '}',
]


def text(rng):
    return "".join(rng.choice(WORDS) for _ in range(rng.choice([0, 1, 1, 2, 3, 5, 9])))


def conversation(rng):
    messages = []
    kind = rng.random()
    if rng.random() < 0.5:
        messages.append({"role": "system", "content": text(rng)})
    for i in range(rng.choice([0, 1, 1, 1, 2, 3, 4, 5, 7])):
        role = ["user", "assistant"][i % 2] if kind < 0.8 else rng.choice(["user", "assistant", "system"])
        messages.append({"role": role, "content": text(rng)})
    return messages


def templates(folder, rng):
    for name in sorted(os.listdir(folder)):
        with open(os.path.join(folder, name), encoding="utf-8", newline="") as f:
            source = f.read()
        for i in range(60):
            variables = {"messages": conversation(rng), "add_generation_prompt": rng.random() < 0.7}
            if rng.random() < 0.9:
                variables |= {"bos_token": "<s>", "eos_token": "</s>"}
            if rng.random() < 0.7:
                variables |= {"tools": None, "documents": None}
            elif rng.random() < 0.3:
                variables["tools"] = [{"type": "function", "function": {
                    "name": "add", "description": text(rng), "parameters": {"type": "object", "properties": {
                        "a": {"type": "number"}, "b": {"enum": [1, 2.5, None, True]}}}}}]
            if rng.random() < 0.2:
                variables["enable_thinking"] = rng.random() < 0.5
            emit(f"{name} {i}", source, variables)


ATOMS = [
    's', 'empty', 'u', 'n', 'neg', 'f', 'yes', 'no', 'nothing', 'blank', 'num', 'list', 'words', 'nested', 'd',
    'people', 'messages', 'missing', "'a'", "''", '1', '0', '-1', '2.5', '[]', '{}', "(1, 'x')", 'messages[0]',
    'messages[-1].content', 'd.a', 'd.a.x',
]
AFTER = [
    '|trim', '|upper', '|length', '|string', '|list', '|first', '|last', "|join('-')", "|join(', ', 'name')",
    '|tojson', "|default('D')", '|int', '|float', '|reverse|list', '|sort', '|title', '|capitalize', '|abs',
    '|round(1)', '|items|list', "|map('string')|list", '|select|list', '|unique|list', "|replace('a', 'bb')",
    '|indent(2)', '|dictsort', '|max', '|sum', '[0]', '[-1]', '[1:]', '[::-1]', '[:2]', "['a']", '.name', '.role',
    '.content', '.strip()', '.split()', ".split('l')", '.upper()', '.title()', '.items()|list', ".get('b')",
    ".startswith('H')", ".replace('l', '')", ' is defined', ' is string', ' is mapping', ' is none', ' is iterable',
    ' is number', ' is sequence', ' is odd', ' is true',
]
BETWEEN = [
    '+', '-', '*', '/', '//', '%', '~', '==', '!=', '<', '>=', 'in', 'not in', 'and', 'or',
]


def expression(rng, depth):
    kind = rng.random()
    if depth == 0 or kind < 0.15:
        return rng.choice(ATOMS)
    if kind < 0.5:
        return expression(rng, depth - 1) + rng.choice(AFTER)
    if kind < 0.8:
        return f"{expression(rng, depth - 1)} {rng.choice(BETWEEN)} {expression(rng, depth - 1)}"
    if kind < 0.87:
        return f"({expression(rng, depth - 1)})"
    if kind < 0.92:
        return f"not {expression(rng, depth - 1)}"
    if kind < 0.96:
        return f"({expression(rng, depth - 1)} if {expression(rng, depth - 1)} else {expression(rng, depth - 1)})"
    return f"[{expression(rng, depth - 1)}, {expression(rng, depth - 1)}]"


def expressions(rng, count):
    """Random ones, which may be errors."""
    for _ in range(count):
        source = "{% set r = " + expression(rng, rng.choice([1, 2, 3, 4])) + " %}{{ r }}"
        emit(source[:100], source, VARIABLES, PLAIN)


def main():
    rng = random.Random(int(sys.argv[2]))
    templates(sys.argv[1], rng)
    for snippet in SNIPPETS:
        emit(snippet[:60], snippet, VARIABLES)
    expressions(rng, 1500)


main()
