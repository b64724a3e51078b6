#!/usr/bin/env python3
"""Shows a few lines of a finished run beside their prompts: show.py PROMPTS RESULTS [HOW_MANY]"""
import json
import sys


def prompt_of(line):
    """What the last user turn of an input line says; the line itself when it is no request."""
    try:
        request = json.loads(line)
        body = request.get("body", request)
        messages = body.get("messages")
        if isinstance(messages, list):
            return messages[-1]["content"]
        return str(body["prompt"] if "prompt" in body else messages)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        return line


def answer_of(result):
    """(text, True) for an answer, (reason, False) for an error line."""
    body = (result.get("response") or {}).get("body") or {}
    for choice in body.get("choices", []):
        return choice["message"]["content"] if "message" in choice else choice["text"], True
    error = body.get("error") or result.get("error") or {}
    return f"error: {error.get('message', '?')}", False


def cut(text, width):
    text = " ".join(text.split())
    return text if len(text) <= width else text[: width - 1] + "…"


def main():
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    how_many = int(sys.argv[3]) if len(sys.argv) == 4 else 16
    with open(sys.argv[1], encoding="utf-8", errors="replace") as f:
        prompts = [line for line in f if line.strip()]
    with open(sys.argv[2], encoding="utf-8") as f:
        results = [json.loads(line) for line in f]
    answers = [answer_of(r) for r in results]
    step = max(1, len(results) // how_many)
    rows = [i for i in range(len(results)) if i % step == 0 or not answers[i][1]]
    print(f"\n{'prompt':<52} answer\n{'-' * 51}  {'-' * 62}")
    for i in rows:
        print(f"{cut(prompt_of(prompts[i]), 51):<52} {cut(answers[i][0], 62)}")
    good = sum(ok for _, ok in answers)
    print(f"\n{len(results)} lines: {good} answered, {len(results) - good} refused or failed")


main()
