#!/usr/bin/env python3
"""Wrong input of every kind: model files, options, paths, request lines. Each gets one clear line that names what is
wrong, the right exit code, and the good lines beside it run."""
import gzip
import json
import os
import random
import re
import shutil

import common

USAGE, FATAL = 2, 3


def one_line(bench, what, result, code, *parts):
    """The program ended with `code`, and said so in a line or two that name `parts`."""
    got, stdout, stderr = result
    bench.same(got, code, f"{what}: exit code ({common.short(stderr)})")
    lines = [line for line in stderr.splitlines() if line.strip()]
    bench.check(1 <= len(lines) <= 3, f"{what}: {len(lines)} lines on standard error: {common.short(stderr, 1000)}")
    for part in parts:
        bench.has(stderr, part, what)


def bad_models(bench, good_line):
    with open(bench.model(), "rb") as f:
        model = f.read()
    rng = random.Random(1)
    files = {
        "empty": b"",
        "text": b"this is no model\n" * 100,
        "random": rng.randbytes(100000),
        "magic-only": model[:4],
        "version-99": model[:4] + (99).to_bytes(4, "little") + model[8:],
        "tensors-2-to-60": model[:8] + (1 << 60).to_bytes(8, "little") + model[16:],
        "keys-2-to-63": model[:16] + (1 << 63).to_bytes(8, "little") + model[24:],
        "header-cut": model[:5000],
        "data-cut": model[: len(model) - 100000],
        "architecture": model.replace(b"\x05\0\0\0\0\0\0\0qwen2", b"\x05\0\0\0\0\0\0\0otter", 1),
    }
    bench.check(files["architecture"] != model, "the architecture key was found in the file")
    for name, content in files.items():
        path = bench.write(f"{name}.gguf", content)
        out = bench.path(f"{name}.jsonl")
        one_line(bench, f"model {name}", bench.run_batch(good_line, out, model=path, code=None), FATAL, f"{name}.gguf")
        bench.check(not os.path.exists(out), f"model {name}: a result file was written")
        bench.no_processes(f"model {name}")
    vocab = os.path.join(bench.source, "tests", "golden", "vocab", "ggml-vocab-qwen2.gguf")
    one_line(bench, "vocabulary only", bench.run_batch(good_line, bench.path("v.jsonl"), model=vocab, code=None), FATAL,
             "ggml-vocab-qwen2.gguf")
    # The same files through inspect: it may print what it can read of a sound container, never crash.
    for name in files:
        code, _, err = bench.run(bench.octoflow, "inspect", bench.path(f"{name}.gguf"))
        wanted = (0,) if name == "architecture" else (FATAL,)
        bench.check(code in wanted, f"inspect {name}: exit code {code}: {common.short(err)}")


def bad_options(bench, good_line):
    out, flow, model = bench.path("o.jsonl"), bench.octoflow, bench.model()
    run = [flow, "run", "-m", model, good_line, "-o", out]
    with open(good_line, "rb") as f:
        packed = bench.write("packed.jsonl.gz", gzip.compress(f.read()))
    array = bench.write("array.json", json.dumps([request()], indent=1))
    cases = [
        ("no command", [flow], USAGE, []),
        ("unknown command", [flow, "fly"], USAGE, ["fly"]),
        ("unknown option", [*run, "--max-tokns", "5"], USAGE, ["max-tokns", "max-tokens"]),
        ("no value", [*run, "--max-tokens"], USAGE, ["max-tokens"]),
        ("no number", [*run, "--max-tokens", "many"], USAGE, ["max-tokens", "many"]),
        ("out of range", [*run, "--max-tokens", "-1"], USAGE, ["max-tokens", "-1"]),
        ("no model", [flow, "run", good_line, "-o", out], USAGE, ["model"]),
        ("no input", [flow, "run", "-m", model, "-o", out], USAGE, []),
        ("two inputs", [*run, "another.jsonl"], USAGE, ["another.jsonl"]),
        ("no such device", [*run, "--device", "no-such-card"], FATAL, ["no-such-card"]),
        ("no such number", [bench.worker, "--broker", "ipc://" + out, "-m", model, "--device", "99"], FATAL,
         ["no device 99", "devices: 0"]),
        ("no such sensor file", [bench.worker, "--broker", "ipc://" + out, "-m", model, "--sensor", "fake:nowhere"],
         FATAL, ["--sensor fake:nowhere: nowhere: cannot read"]),
        ("no output", [flow, "run", "-m", model, good_line, "-o", ""], USAGE, ["--output"]),
        ("no such pre-tokenizer", [*run, "--pre-tokenizer", "nope"], FATAL, ["nope", "gpt-2"]),
        ("no such law", [*run, "--governor", "fast"], USAGE, ["fast", "pi, ramp or off"]),
        ("no quiet hours", [*run, "--quiet-hours", "22-7=70C"], USAGE, ["--quiet-hours", "22-7=70C", "22:00-07:00"]),
        ("no such sensor", [*run, "--sensor", "foo"], USAGE, ["--sensor", "foo", "nvidia-smi"]),
        ("no such level", [*run, "--log-level", "foo"], USAGE, ["--log-level", "foo", "debug"]),
        ("standard output", [*run, "-o", "-"], USAGE, ["--output -", "not supported"]),
        ("no such model", [flow, "run", "-m", "nowhere.gguf", good_line, "-o", out], FATAL, ["nowhere.gguf"]),
        ("model is a folder", [flow, "run", "-m", bench.dir, good_line, "-o", out], FATAL, [bench.dir]),
        ("no such input", [flow, "run", "-m", model, "nowhere.jsonl", "-o", out], FATAL, ["nowhere.jsonl"]),
        ("compressed input", [flow, "run", "-m", model, packed, "-o", out], FATAL,
         ["packed.jsonl.gz: is compressed (gzip)"]),
        ("a list over lines", [flow, "run", "-m", model, array, "-o", out], FATAL, ["array.json: is a list in JSON"]),
        ("input is a folder", [flow, "run", "-m", model, bench.dir, "-o", out], FATAL, [bench.dir]),
        ("no such output folder", [flow, "run", "-m", model, good_line, "-o", bench.path("no/such/o.jsonl")], FATAL,
         ["no/such"]),
        ("output below a file", [flow, "run", "-m", model, good_line, "-o", good_line + "/o.jsonl"], FATAL,
         ["o.jsonl"]),
        ("output is a folder", [flow, "run", "-m", model, good_line, "-o", bench.dir], FATAL, [bench.dir]),
        ("output is the input", [flow, "run", "-m", model, good_line, "-o", good_line], None, ["good.jsonl"]),
        ("status without broker", [flow, "status", "--broker", "ipc://" + bench.path("none"), "--timeout", "1"], None,
         ["none"]),
        ("bad endpoint", [flow, "status", "--broker", "carrier-pigeon"], USAGE, ["carrier-pigeon"]),
        ("inspect nothing", [flow, "inspect"], USAGE, []),
        ("tokenize without model", [flow, "tokenize"], USAGE, ["model"]),
    ]
    for what, argv, code, parts in cases:
        result = bench.run(*argv, timeout=60)
        if code is None:
            bench.check(result[0] in (USAGE, FATAL), f"{what}: exit code {result[0]}")
            code = result[0]
        one_line(bench, what, result, code, *parts)
        bench.no_processes(what)
        if code == USAGE:
            bench.check(not os.path.exists(out + ".octoflow"), f"{what}: a folder was made")
        shutil.rmtree(out + ".octoflow", ignore_errors=True)
    before = dict(bench.env)
    bench.env.update(VK_ICD_FILENAMES="/nowhere/driver.json", VK_DRIVER_FILES="/nowhere/driver.json")
    one_line(bench, "no driver", bench.run(*run, timeout=20), FATAL, "no Vulkan driver found", "mesa-vulkan-drivers")
    bench.env = before
    for argv in ([flow, "--help"], [flow, "run", "--help"], [bench.broker, "--help"], [bench.worker, "--help"]):
        _, stdout, _ = bench.run(*argv, code=0)
        bench.check(len(stdout.splitlines()) > 5, f"{argv}: the help is short")
    example = re.search(r"echo '(\d+)' \| octoflow detokenize", bench.run(flow, "--help")[1])
    bench.run(flow, "detokenize", "-m", model, input=example[1].encode(), code=0)


def request(**body):
    return {"messages": [{"role": "user", "content": "What is 1 + 1?"}], "temperature": 0, **body}


def batch_line(**changed):
    line = {"custom_id": "x", "method": "POST", "url": "/v1/chat/completions", "body": request()}
    line.update(changed)
    return line


def bad_lines():
    """(name, bytes of the line, what the message must hold besides its line number)."""
    raw = [
        ("not json", b"What is 1 + 1?", ""), ("half", b'{"prompt": "a', ""), ("number", b"7", ""),
        ("array", b'[{"prompt": "a"}]', ""), ("string", b'"prompt"', ""), ("null", b"null", ""), ("empty", b"{}", ""),
        ("two values", b'{"prompt": "a"} {"prompt": "b"}', ""), ("not utf-8", b'{"prompt": "\xff\xfe"}', ""),
        ("overlong utf-8", b'{"prompt": "\xc0\xaf"}', ""), ("lone surrogate", b'{"prompt": "\\ud800"}', "prompt"),
        ("twice", b'{"prompt": "a", "prompt": "b"}', "prompt"), ("nan", b'{"prompt": "a", "temperature": NaN}', ""),
        ("huge number", b'{"prompt": "a", "temperature": 1e999}', "temperature is 1e999"),
        ("deep", b'{"prompt": ' + b"[" * 20000 + b"]" * 20000 + b"}", ""),
        ("control character", b'{"prompt": "a\x01b"}', ""),
    ]
    user = request()["messages"][0]
    image = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}
    fields = [
        ("prompt number", {"prompt": 7}, "prompt"),
        ("both", {"prompt": "a", "messages": [user]}, ""),
        ("neither", {"custom_id": "n", "temperature": 0}, ""),
        ("no messages", request(messages=[]), "messages"),
        ("messages text", request(messages="hi"), "messages"),
        ("message text", request(messages=["hi"]), "messages"),
        ("no role", request(messages=[{"content": "a"}]), "role"),
        ("role", request(messages=[{"role": "wizard", "content": "a"}]), "wizard"),
        ("no content", request(messages=[{"role": "user"}]), "content"),
        ("content number", request(messages=[{"role": "user", "content": 7}]), "content"),
        ("image", request(messages=[image]), "content"),
        ("temperature text", request(temperature="hot"), "temperature"),
        ("temperature -1", request(temperature=-1), "temperature"),
        ("top_p 2", request(top_p=2), "top_p"),
        ("top_k -5", request(top_k=-5), "top_k"),
        ("min_p 2", request(min_p=2), "min_p"),
        ("max_tokens 0", request(max_tokens=0), "max_tokens"),
        ("max_tokens -1", request(max_tokens=-1), "max_tokens"),
        ("max_tokens 1.5", request(max_tokens=1.5), "max_tokens"),
        ("seed text", request(seed="x"), "seed"),
        ("seed 1.5", request(seed=1.5), "seed"),
        ("stop number", request(stop=7), "stop"),
        ("stop list", request(stop=[7]), "stop"),
        ("many stops", request(stop=[str(i) for i in range(17)]), "stop"),
        ("n 0", request(n=0), "n"),
        ("tools", request(tools=[{"type": "function"}]), "tools"),
        ("logprobs", request(logprobs=2), "logprobs"),
        ("top_logprobs alone", request(top_logprobs=2), "top_logprobs"),
        ("response_format", request(response_format={"type": "json_object"}), "response_format"),
        ("logit_bias", request(logit_bias={"the": 1}), "logit_bias"),
        ("logit_bias outside", request(logit_bias={"4096": 1}), "4096"),
        ("bad_words text", request(bad_words="x"), "bad_words"),
        ("presence_penalty 3", request(presence_penalty=3), "presence_penalty"),
        ("stream", request(stream=True), "stream"),
        ("unknown field", request(temprature=0), "temprature"),
        ("ignore_eos", request(ignore_eos="yes"), "ignore_eos"),
        ("custom_id number", batch_line(custom_id=5), "custom_id"),
        ("custom_id long", batch_line(custom_id="x" * 600), "custom_id"),
        ("method", batch_line(custom_id="m", method="GET"), "GET"),
        ("url", batch_line(custom_id="u", url="/v1/embeddings"), "/v1/embeddings"),
        ("body", batch_line(custom_id="b", body="text"), "body"),
        ("used twice", batch_line(custom_id="good-0"), "good-0"),
        ("too long", {"prompt": "fox " * 3000}, "context"),
        ("a megabyte", {"prompt": "x" * 1000000}, "context"),
    ]
    return raw + [(name, json.dumps(line).encode(), part) for name, line, part in fields]


def hostile_lines(bench):
    bad = bad_lines()
    content, where = [], {}
    for n, (name, raw, part) in enumerate(bad):
        if n % 4 == 0:
            content.append(json.dumps(dict(request(), custom_id=f"good-{n}")).encode())
        content.append(raw)
        where[len(content)] = name, part
    content.append(json.dumps(dict(request(), custom_id="crlf")).encode() + b"\r")
    content.append(json.dumps(dict(request(), custom_id="no newline at the end")).encode())
    inputs, out = bench.write("hostile.jsonl", b"\n".join(content)), bench.path("hostile-out.jsonl")
    bench.run_batch(inputs, out, code=1)
    results = common.read_results(out)
    if not bench.same(len(results), len(content), "hostile: lines"):
        return
    for n, result in enumerate(results, 1):
        if n in where:
            name, part = where[n]
            text = common.error_text(result) or ""
            bench.same(common.status_code(result), 400, f"line {n} ({name}): status_code")
            bench.has(text, f"line {n}", f"line {n} ({name}): message")
            bench.has(text, part, f"line {n} ({name}): message")
            bench.check("\n" not in text and len(text) < 500, f"line {n} ({name}): not one line: {common.short(text)}")
        else:
            bench.same(common.answer(result), "2", f"line {n}: a good line's answer")
    bench.same(len({r["id"] for r in results}), len(results), "hostile: different ids")


def submits(bench, good_line):
    """To a broker: what is wrong with the lines and with the batch's name is said at once, and a pipe is read once."""
    endpoint = "ipc://" + bench.path("s")
    broker = bench.start([bench.broker, "--ledger", bench.path("l.db"), "--listen", endpoint, "--backups", "nowhere",
                          "--models", "nothing"], "broker")
    for said in ("no backup can be made until that is mended folder=nowhere error=\"No such file or directory\"",
                 "the models stay as they were error=\"nothing: cannot read the folder: No such file or directory\""):
        bench.wait_for("a warning of the broker", lambda text=said: text in bench.output("broker.err"), 30)
    nowhere = "ipc://" + bench.path("nowhere")
    alone = bench.start([bench.worker, "--broker", nowhere, "-m", bench.model(), "--sensor", "none"], "alone")
    with open(good_line, "rb") as f:
        good = f.read()
    bad = bench.write("second.jsonl", good + b'{"prompt": 7}\n')
    given = bench.write("given.jsonl", [{"prompt": "a", "custom_id": "line-2"}, {"prompt": "b"}, {"prompt": "c"},
                                        {"prompt": "d", "custom_id": "line-3"}])
    for what, arguments, code, part in (
            ("a bad line", [bad], 0, "1 are not valid requests, the first: line 2: prompt: found a number"),
            ("good lines", [good_line], 0, "0 are not valid requests\n"),
            ("names like those that are given", [given], 0, "4 lines: 4 new, 0 were there, 0 are not valid requests\n"),
            ("no name", [good_line, "--batch", ""], USAGE, "--batch: expected 1 to 128 bytes"),
            ("a long name", [good_line, "--batch", "x" * 129], USAGE, "--batch: expected 1 to 128 bytes"),
            ("a pipe without a name", ["/dev/stdin"], USAGE, "--batch NAME"),
            ("a pipe", ["/dev/stdin", "--batch", "piped"], 0, "1 lines: 1 new")):
        one_line(bench, what, bench.run(bench.octoflow, "submit", "--broker", endpoint, *arguments, input=good,
                                        timeout=60), code, part)
    cancel = [bench.octoflow, "cancel", "--broker", endpoint, "piped"]
    for line in ("99999999999999999999", "18446744073709551615", "1-18446744073709551615", "4294967296", "0", "3-2",
                 "1-"):
        one_line(bench, f"cancel {line}", bench.run(*cancel, line, timeout=60), USAGE, line, "no line number")
    one_line(bench, "cancel too many", bench.run(*cancel, "1-65537", timeout=60), USAGE, "at most 65536 lines")
    one_line(bench, "cancel a line that is not there", bench.run(*cancel, "1", "7-9", "2", timeout=60), 1,
             "piped has no line 7-9", "piped has no line 2")
    code, out, err = bench.run(*cancel, "1", "1-9", timeout=60)
    bench.same((code, out, err), (0, "0 lines of piped cancelled\n", ""), "cancel again, of a range that has one line")
    submit = [bench.octoflow, "submit", "--broker", endpoint]
    again = bench.run(*submit, "/dev/stdin", "--batch", "piped", "--wait", input=good)
    one_line(bench, "a cancelled batch again", again, 1, "1 of piped's lines were cancelled, and stay so",
             "piped is complete: 0 done, 0 failed, 1 cancelled of 1")
    named = bench.run(*submit, good_line, "--batch", "m", "-m", "octo.gguf", code=0)
    bench.has(named[2], 'taken as "octo"', "a model's file name")
    status = bench.run(bench.octoflow, "status", "--broker", endpoint, "m", "--json")[1]
    bench.has(status, '"model":"octo"', "its batch")
    nothing = bench.run(*submit, bench.write("no.jsonl", b"\n \n"), code=0)
    bench.has(nothing[2], "no.jsonl has no lines", "an input of blank lines")
    packed = bench.run(*submit, bench.path("packed.jsonl.gz"), "--batch", "packed")
    one_line(bench, "submit compressed", packed, FATAL, "is compressed (gzip)")
    bench.run(bench.octoflow, "status", "--broker", endpoint, "packed", code=FATAL)
    writes(bench, endpoint, bad, good_line)
    broker.terminate()
    bench.same(bench.finish(broker, 30)[0], 0, "the broker's exit code")
    bench.wait_for("a worker says why it does not join", lambda: f'no broker, trying again broker={nowhere} reason="No '
                   'such file or directory"' in bench.output("alone.err"), 60)
    alone.terminate()
    bench.same(bench.finish(alone, 30)[0], 0, "the worker's exit code")


def writes(bench, endpoint, bad, good_line):
    """Results go over results of the same batch; over anything else only when that is said."""
    name = bench.run(bench.octoflow, "submit", "--broker", endpoint, bad, code=0)[1].strip()
    other = bench.run(bench.octoflow, "submit", "--broker", endpoint, good_line, code=0)[1].strip()
    results = [bench.octoflow, "results", "--broker", endpoint]
    for content in (b"notes\n", b'{"octoflow": {"batch": "another"}}\n', b"\x1f\x8b", b"\n\n7"):
        out = bench.write("there", content)
        one_line(bench, f"results over {content}", bench.run(*results, name, "-o", out), FATAL, "there is there", name,
                 "--overwrite")
        with open(out, "rb") as f:
            bench.same(f.read(), content, "what was there")
    said = bench.run(*results, name, "-o", out, "--overwrite", code=1)[2]
    bench.has(said, "  line 2: prompt: found a number", "why a line has no answer")
    bench.same(len(common.read_results(out)), 1, "results over it")
    bench.run(*results, name, "-o", out, code=1)
    bench.run(*results, other, "-o", out, code=FATAL)
    bench.run(*results, name, "-o", bench.write("none", b""), code=1)
    with open(out, encoding="utf-8") as f:
        bench.same(bench.run(*results, name, "-o", "-", code=1)[1], f.read(), "results to standard output")


def overwrites(bench):
    """An output of a run that is done: edited lines, other options and another input begin anew with --overwrite,
    and are refused without, with what differs."""
    inputs, out = bench.write("over.jsonl", [dict(request(), custom_id="first")]), bench.path("over-out.jsonl")
    bench.run_batch(inputs, out, code=0)

    def both(what, path, more, *parts):
        with open(out, "rb") as f:
            before = f.read()
        refused = bench.run_batch(path, out, *more, code=None)
        one_line(bench, what, refused, FATAL, "--overwrite", *parts)
        with open(out, "rb") as f:
            bench.same(f.read(), before, f"{what}: the results")
        said = bench.run_batch(path, out, *more, "--overwrite", code=0)[2]
        bench.check("--overwrite to" not in said, f"{what}: {said}")
        with open(path, encoding="utf-8") as f:
            want = [json.loads(line)["custom_id"] for line in f]
        bench.same([r["custom_id"] for r in common.read_results(out)], want, f"{what}: whose results they are")
        return refused[2]

    bench.write("over.jsonl", [dict(request(), custom_id="second")])
    both("an edited line", inputs, [], "over.jsonl:1", "restore it")
    bench.write("over.jsonl", [dict(request(), custom_id="second"), dict(request(), custom_id="third")])
    both("one line more", inputs, [], "over.jsonl:2")
    said = both("another option", inputs, ["--max-tokens", "50"], "max_tokens=2048, now it is max_tokens=50; say that")
    bench.check("seed=" not in said and "restore" not in said, f"another option: more than that: {said}")
    both("another input", bench.write("over2.jsonl", [dict(request(), custom_id="fourth")]), ["--max-tokens", "50"])
    bench.no_processes("after --overwrite")


def test(bench, options):
    good_line = bench.write("good.jsonl", [dict(request(), custom_id="good")])
    bad_models(bench, good_line)
    bad_options(bench, good_line)
    hostile_lines(bench)
    submits(bench, good_line)
    empty = bench.write("empty.jsonl", b"")
    out = bench.path("empty-out.jsonl")
    code, _, err = bench.run_batch(empty, out, code=None)
    bench.same(code, 0, "an empty input: exit code")
    bench.has(err, "empty.jsonl has no lines", "an empty input")
    one_line(bench, "another input", bench.run_batch(good_line, out, code=None), FATAL, '"empty.jsonl"', '"good.jsonl"',
             "--overwrite")
    with open(out, "rb") as f:
        bench.same(f.read(), b"", "the first input's results")
    overwrites(bench)


common.main(test)
