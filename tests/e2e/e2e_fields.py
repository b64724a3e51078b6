#!/usr/bin/env python3
"""The sampling fields through the whole system: n, logit_bias, bad_words, penalties, logprobs. What each does to
an answer is read from the answers themselves, and from the log-probabilities beside them."""
import math

import common

STORY = [{"role": "user", "content": "Tell me a story about a fox."}]
BIASED = 777


def choices(result):
    return result["response"]["body"]["choices"]


def text(choice):
    return choice["message"]["content"]


def tokens(choice):
    """The choice's tokens, as bytes."""
    return [bytes(t["bytes"]) for t in choice["logprobs"]["content"]]


def repeats(values):
    return len(values) - len(set(values))


def lines():
    sampled = {"temperature": 1, "seed": 11, "max_tokens": 24}
    greedy = {"temperature": 0, "max_tokens": 40, "logprobs": True}
    completion = {"prompt": "Once upon a time", "max_tokens": 8, "temperature": 0}
    return [
        common.chat_line("one", STORY, **sampled),
        common.chat_line("four", STORY, n=4, **sampled),
        # more than a software device runs at a time
        common.chat_line("forty", STORY, n=40, **{**sampled, "max_tokens": 2}),
        common.chat_line("greedy", STORY, top_logprobs=20, **greedy),
        common.chat_line("biased", STORY, logit_bias={str(BIASED): 100}, top_logprobs=2, **greedy),
        common.chat_line("away", STORY, logit_bias={str(BIASED): -100}, **greedy),
        common.chat_line("presence", STORY, presence_penalty=2, frequency_penalty=2, **greedy),
        common.chat_line("repetition", STORY, repetition_penalty=100, **greedy),
        common.chat_line("reward", STORY, frequency_penalty=-2, ignore_eos=True, **greedy),
        common.chat_line("bad", STORY, bad_words=["fox", "the", "was"], **greedy),
        common.chat_line("sampled", STORY, logprobs=True, top_logprobs=20, **sampled),
        {"custom_id": "c2", "logprobs": 2, **completion},
        {"custom_id": "c0", "logprobs": 0, **completion},
        {"custom_id": "cn", "n": 2, **completion},
        {"custom_id": "outside", "logit_bias": {"4096": 1}, **completion},
        {"custom_id": "large", "logprobs": 5, "n": 128, **{**completion, "max_tokens": 2000}},
        {"custom_id": "best_of", "best_of": 2, **completion},
    ]


def check_choices(bench, by_id):
    one, four, forty = (choices(by_id[name]) for name in ("one", "four", "forty"))
    bench.same([c["index"] for c in four], [0, 1, 2, 3], "indices")
    bench.same(len({text(c) for c in four}), 4, "different texts of four sampled choices")
    bench.same({k: v for k, v in four[0].items()}, one[0], "the first choice and the answer without n")
    bench.same([c["index"] for c in forty], list(range(40)), "indices of forty choices")
    bench.check(len({text(c) for c in forty}) > 3, "forty sampled choices differ")
    bench.check(all(text(a).startswith(text(b).rstrip("\ufffd")) for a, b in zip(four, forty)),
                "a choice depends on its number, not on how many there are")
    usage = by_id["four"]["response"]["body"]["usage"]
    bench.check(usage["completion_tokens"] > by_id["one"]["response"]["body"]["usage"]["completion_tokens"]
                and usage["prompt_tokens"] == by_id["one"]["response"]["body"]["usage"]["prompt_tokens"], "usage")
    twice = choices(by_id["cn"])
    bench.check(len(twice) == 2 and twice[0]["text"] == twice[1]["text"], "two greedy choices are equal")


def check_logprobs(bench, by_id):
    for name in ("greedy", "sampled", "biased"):
        result = by_id[name]
        content = choices(result)[0]["logprobs"]["content"]
        bench.same(len(content), result["response"]["body"]["usage"]["completion_tokens"], f"{name}: entries")
        for t in content:
            top = t["top_logprobs"]
            values = [e["logprob"] for e in top]
            bench.check(values == sorted(values, reverse=True), f"{name}: top_logprobs are sorted")
            bench.check(sum(math.exp(v) for v in values) < 1.0001, f"{name}: probabilities sum to at most 1")
            own = [e["logprob"] for e in top if e["bytes"] == t["bytes"]]
            bench.check(t["logprob"] in own or t["logprob"] <= values[-1], f"{name}: the token and those above it")
            if name == "greedy":
                bench.check(t["bytes"] == top[0]["bytes"] and t["logprob"] == top[0]["logprob"],
                            "greedy: the token is the likeliest")
                bench.check(sum(math.exp(v) for v in values) > 0.5, "greedy: the twenty likeliest weigh something")
    body = "".join(b.decode() for b in tokens(choices(by_id["greedy"])[0]) if not b.startswith(b"<|"))
    bench.same(body, text(choices(by_id["greedy"])[0]), "the tokens' bytes make the text")

    two, none = (choices(by_id[name])[0] for name in ("c2", "c0"))
    bench.same(two["text"], none["text"], "logprobs change nothing")
    logprobs = two["logprobs"]
    bench.same([len(logprobs[k]) for k in ("tokens", "token_logprobs", "top_logprobs", "text_offset")], [8] * 4,
               "a completion's lists")
    for token, value, top, offset in zip(*(logprobs[k] for k in ("tokens", "token_logprobs", "top_logprobs",
                                                                 "text_offset"))):
        bench.check(len(top) == 2 and top.get(token) == value == max(top.values()), "a completion's likeliest")
        bench.same(two["text"][offset:offset + len(token)], token, "text_offset")
    bench.same(none["logprobs"]["top_logprobs"], None, "logprobs 0")
    bench.same(none["logprobs"]["token_logprobs"], logprobs["token_logprobs"], "logprobs 0 and 2")


def check_logits(bench, by_id):
    plain = choices(by_id["greedy"])[0]
    biased = choices(by_id["biased"])[0]
    bench.same(len(set(tokens(biased))), 1, "tokens of a bias of 100")
    first = biased["logprobs"]["content"][0]
    bench.check(first["bytes"] != first["top_logprobs"][0]["bytes"]
                and first["top_logprobs"][0] == plain["logprobs"]["content"][0]["top_logprobs"][0],
                "logprobs are those before the bias")
    bench.check(tokens(biased)[0] not in tokens(choices(by_id["away"])[0]), "a bias of -100")
    bench.check(repeats(tokens(choices(by_id["repetition"])[0])) < repeats(tokens(plain)),
                "a repetition penalty: fewer repeats")
    bench.check(repeats(tokens(choices(by_id["presence"])[0])) < repeats(tokens(plain)),
                "presence and frequency penalties: fewer repeats")
    bench.check(repeats(tokens(choices(by_id["reward"])[0])) > repeats(tokens(plain)),
                "a negative penalty: more repeats")
    bad = choices(by_id["bad"])[0]
    bench.has(text(plain), "fox", "the plain story")
    for word in (b"fox", b"the", b"was"):
        bench.check(word not in tokens(bad) and b" " + word not in tokens(bad), f"bad word {word}")
    bench.check("fox" not in text(bad), "the bad story has no fox")


def test(bench, options):
    requests = lines()
    inputs, out, again = bench.write("in.jsonl", requests), bench.path("out.jsonl"), bench.path("again.jsonl")
    bench.run_batch(inputs, out, code=1)
    results = common.read_results(out)
    by_id = {r["custom_id"]: r for r in results}
    bench.same([r["custom_id"] for r in results], [line["custom_id"] for line in requests], "order")
    refused = {"outside": "4096", "large": "128 choices", "best_of": "best_of"}
    for name, result in by_id.items():
        bench.same(common.status_code(result), 400 if name in refused else 200, f"{name}: status")
        if name in refused:
            bench.has(common.error_text(result), refused[name], f"{name}: message")
    if bench.failures:
        return
    check_choices(bench, by_id)
    check_logprobs(bench, by_id)
    check_logits(bench, by_id)
    # Beside other requests, in another order: the same answers.
    bench.write("reversed.jsonl", requests[::-1])
    bench.run_batch(bench.path("reversed.jsonl"), again, code=1)
    for result in common.read_results(again):
        want, got = (r["response"]["body"] for r in (by_id[result["custom_id"]], result))
        bench.same(got.get("choices"), want.get("choices"), f"{result['custom_id']}: answered again")


common.main(test)
