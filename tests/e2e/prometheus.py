"""Prometheus' text format 0.0.4, read strictly (what `promtool check metrics` would complain of, and more):
problems(text) gives a list of them, values(text) the samples as {(name, ((label, value), ...)): number}."""
import re

NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*$")
SAMPLE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(\{.*\})? (\S+)$")
LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\[\\"n])*)"(,|$)')
UNITS = ("_seconds", "_bytes", "_celsius", "_watts", "_joules", "_ratio", "_per_second")
NOT_BASE = ("_ms", "_milliseconds", "_mib", "_percent", "_kilo")


def read_labels(text):
    """The pairs between the braces; None: broken."""
    pairs, at = [], 0
    inner = text[1:-1]
    while at < len(inner):
        match = LABEL.match(inner, at)
        if not match:
            return None
        pairs.append((match.group(1), match.group(2)))
        at = match.end()
    return None if inner.endswith(",") or len({k for k, _ in pairs}) < len(pairs) else tuple(pairs)


def family_of(name, kinds):
    for end in ("_bucket", "_sum", "_count"):
        if name.endswith(end) and kinds.get(name[:-len(end)]) == "histogram":
            return name[:-len(end)]
    return name


def read(text):
    """(problems, samples)"""
    found, samples, kinds, helps, done, current = [], {}, {}, set(), set(), None
    if not text.endswith("\n"):
        found.append("the last line has no end")
    for n, line in enumerate(text.split("\n")[:-1], 1):
        if line.startswith("#"):
            parts = line.split(" ", 3)
            if len(parts) < 4 or parts[1] not in ("HELP", "TYPE") or not NAME.match(parts[2]) or not parts[3].strip():
                found.append(f"{n}: no HELP or TYPE: {line}")
                continue
            name = parts[2]
            if name in done or (parts[1] == "HELP" and name in helps) or (parts[1] == "TYPE" and name in kinds):
                found.append(f"{n}: {name} for the second time")
            if parts[1] == "HELP":
                helps.add(name)
            else:
                kinds[name] = parts[3]
                if parts[3] not in ("counter", "gauge", "histogram"):
                    found.append(f"{n}: type {parts[3]}")
            continue
        match = SAMPLE.match(line)
        labels = () if match and not match.group(2) else read_labels(match.group(2)) if match else None
        if labels is None:
            found.append(f"{n}: no sample: {line}")
            continue
        name, family = match.group(1), family_of(match.group(1), kinds)
        if family != current:
            if family in done:
                found.append(f"{n}: {family} is torn apart")
            if current:
                done.add(current)
            current = family
        if family not in kinds or family not in helps:
            found.append(f"{n}: {family} without HELP or TYPE before it")
        try:
            value = float(match.group(3))
        except ValueError:
            found.append(f"{n}: no number: {line}")
            continue
        if (name, labels) in samples:
            found.append(f"{n}: a sample twice: {line}")
        samples[name, labels] = value
        if kinds.get(family) == "counter" and value < 0:
            found.append(f"{n}: a counter below 0")
    for name, kind in kinds.items():
        if (kind == "counter") != name.endswith("_total"):
            found.append(f"{name}: a {kind}; counters, and only they, end in _total")
        if any(unit in name for unit in NOT_BASE):
            found.append(f"{name}: not in a base unit")
        if kind == "histogram":
            found += histogram_problems(name, samples)
    return found, samples


def histogram_problems(name, samples):
    buckets = [(float(dict(labels)["le"]), v) for (n, labels), v in samples.items() if n == name + "_bucket"]
    counts = [v for _, v in sorted(buckets)]
    if not buckets or buckets[-1][0] != float("inf") or sorted(buckets) != buckets:
        return [f"{name}: its buckets are not ascending up to +Inf"]
    if counts != sorted(counts) or samples.get((name + "_count", ())) != counts[-1]:
        return [f"{name}: its buckets are not cumulative"]
    return [] if (name + "_sum", ()) in samples else [f"{name}: no sum"]


def problems(text):
    return read(text)[0]


def values(text):
    return read(text)[1]
