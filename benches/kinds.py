#!/usr/bin/env python3
"""Writes requests of one kind, as people send them, besides those of `batchline generate`.

    benches/kinds.py code 100MB > code.jsonl
    benches/kinds.py --list

The same kind and size always give the same bytes. What matters to a reader of JSON differs from kind to kind: how long lines
are, how many strings and escapes they have, how many bytes a character, how much white space.
"""

import base64
import json
import random
import sys

MODEL = "openai/gpt-oss-20b"
WORDS = "the of and to in is that for it as was with be by on not he his but at are this have from or had an they which one you".split()
HAN = [chr(code) for code in range(0x4E00, 0x5400)]
CODE = 'def read(path):\n\twith open(path, "rb") as file:\n\t\treturn json.loads(file.read())["it\'s \\"quoted\\""]\n'
UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}
# Bodies that are repeated, each with another id.
POOL = 64


def prose(rng, size):
    words = []
    while size > 0:
        words.append(rng.choice(WORDS))
        size -= len(words[-1]) + 1
    return " ".join(words)


def han(rng, size):
    return "".join(rng.choices(HAN, k=size)) + rng.choice("。？！😀")


def code(rng, size):
    lines = CODE.splitlines(keepends=True)
    return "".join(rng.choice(lines) for _ in range(size // 40))


def image(rng, size):
    data = base64.b64encode(rng.randbytes(size * 3 // 4)).decode()
    return [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": "data:image/png;base64," + data}}]


def chat(content):
    system = {"role": "system", "content": "You answer briefly."}
    return {"model": MODEL, "messages": [system, {"role": "user", "content": content}], "max_tokens": 200, "temperature": 0.5}


def escaped(value):
    return json.dumps(value, separators=(",", ":"))


def raw(value):
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def pretty(value):
    """On one line, with a space, a tab or several wherever JSON allows them."""
    text = json.dumps(value, indent="\t", separators=(" ,", " : "), ensure_ascii=False)
    return text.replace("\n", " ")


# Each kind: what makes a body, and what writes it.
KINDS = {
    "chats": (lambda rng: chat(prose(rng, 8000)), raw),
    "short": (lambda rng: {"model": MODEL, "prompt": prose(rng, 12)}, raw),
    "images": (lambda rng: chat(image(rng, 1_000_000)), raw),
    "code": (lambda rng: chat(code(rng, 3000)), escaped),
    "cjk": (lambda rng: chat(han(rng, 700)), raw),
    "cjk-escaped": (lambda rng: chat(han(rng, 700)), escaped),
    "pretty": (lambda rng: chat(prose(rng, 300)), pretty),
    "openai": (lambda rng: chat(prose(rng, 900)), raw),
    "bodies": (lambda rng: chat(prose(rng, 900)), raw),
    "escaped-keys": (lambda rng: chat(prose(rng, 900)), raw),
}

# What `batchline check` has to be told of a kind.
OPTIONS = {"openai": ["--provider", "openai"], "bodies": ["--assign-ids"]}


def line(kind, number, body):
    """A line around a body that is already written."""
    if kind == "bodies":
        return body
    if kind == "openai":
        return f'{{"custom_id":"request-{number}","method":"POST","url":"/v1/chat/completions","body":{body}}}'
    if kind == "pretty":
        return f'\t{{ "custom_id" :\t"request-{number}" ,\t"body" : {body} }} '
    if kind == "escaped-keys":
        return f'{{"custom\\u005fid":"request-{number}","b\\u006fdy":{body}}}'.replace('"model"', '"mod\\u0065l"', 1)
    return f'{{"custom_id":"request-{number}","body":{body}}}'


def write(kind, size, out):
    make, dump = KINDS[kind]
    rng = random.Random(7)
    bodies = [dump(make(rng)) for _ in range(POOL)]
    number = 0
    while size > 0:
        batch = "".join(line(kind, number + place, body) + "\n" for place, body in enumerate(bodies)).encode()
        number += len(bodies)
        out.write(batch)
        size -= len(batch)


def bytes_of(text):
    number = text.rstrip("KMGB")
    return int(float(number) * UNITS[text[len(number) :] or "B"])


def main():
    if sys.argv[1:] == ["--list"]:
        print("\n".join(KINDS))
        return
    if len(sys.argv) != 3 or sys.argv[1] not in KINDS:
        raise SystemExit(__doc__)
    write(sys.argv[1], bytes_of(sys.argv[2]), sys.stdout.buffer)


if __name__ == "__main__":
    main()
