"""Seeded damage to files: bits, cuts, lines, values of JSON and YAML, and lies with the right hashes."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

from hwnas import seals

Mutation = Callable[[bytes, random.Random], bytes]
# What breaks parsers: another type, a number without bounds, text that is none, nesting.
TOKENS = [
    b"null", b"[]", b"{}", b"-1", b"0", b"1e308", b"1e999", b"NaN", b"9" * 30, b"9" * 5000, b'"x"', b"true",
    b"\xff\xfe", b"\x00", b'"\\ud800"', b'"\\u0000"', b"[" * 3000, b"{" * 300, b"&a [*a]", b"2000-01-01",
]  # fmt: skip
VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 2**63, 10**12, 1e300, -1e-300, 1e-30, 0.5, "", "x", "../x", "/etc/passwd",
    "\x1b[2J", "a" * 5000, [], {}, [[]], {"a": {}}, [None] * 3, "fp16", "cpu", 3.0000001,
]  # fmt: skip


def mutated(data: bytes, rng: random.Random) -> bytes:
    """One to three changes to any file."""
    for _ in range(rng.randint(1, 3)):
        data = rng.choice(ANY)(data, rng)
    return data


def lied(data: bytes, rng: random.Random, *, lines: bool) -> bytes:
    """A JSON document (of `lines`) with other values, and with seals that are right for them."""
    parts = data.decode().splitlines() if lines else [data.decode()]
    bodies = [json.loads(part) for part in parts]
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(bodies))
        if lines and rng.random() < 0.2:
            bodies.insert(rng.randrange(len(bodies) + 1), bodies[at])
        elif lines and rng.random() < 0.2 and len(bodies) > 1:
            del bodies[at]
        else:
            bodies[at] = _changed(bodies[at], rng)
    if not lines:
        body = {name: value for name, value in bodies[0].items() if name != seals.OBJECT}
        return json.dumps(seals.sealed(body) if seals.OBJECT in bodies[0] else body).encode()
    before, out = "", []
    for body in bodies:
        before, line = seals.line(before, {name: v for name, v in body.items() if name != seals.LINE})
        out.append(line)
    return ("\n".join(out) + "\n").encode()


def _changed(body: Any, rng: random.Random) -> Any:
    """A copy with one value replaced, left out, scaled or changed for its neighbour's."""
    body = json.loads(json.dumps(body))
    places = _places(body)
    if not places:
        return body
    holder, key = rng.choice(places)
    value, how = holder[key], rng.randrange(5)
    if how == 0 and isinstance(holder, dict):
        del holder[key]
    elif how == 1 and isinstance(value, (int, float)) and not isinstance(value, bool):
        holder[key] = value * rng.choice([-1, 0, 2, 10, 1000, 1e6, 1e12])
    elif how == 2:
        other, name = rng.choice(places)
        holder[key], other[name] = other[name], holder[key]
    elif how == 3 and isinstance(value, list):
        holder[key] = value * rng.choice([0, 2, 3])
    else:
        holder[key] = rng.choice(VALUES)
    try:
        json.dumps(body, allow_nan=False)
    except (ValueError, RecursionError):  # a list within itself
        return {}
    return body


def _places(body: Any) -> list[tuple[Any, Any]]:
    """Every member of every object and list, with what holds it."""
    found, todo = [], [body]
    while todo:
        now = todo.pop()
        keys = list(now) if isinstance(now, dict) else range(len(now)) if isinstance(now, list) else ()
        for key in keys:
            found.append((now, key))
            todo.append(now[key])
    return found


def _bit(data: bytes, rng: random.Random) -> bytes:
    if not data:
        return data
    at = rng.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]


def _cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _token(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.choice(TOKENS) + data[at:]


def _twice(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data) + 1)
    end = at + rng.randrange(1, 60)
    return data[:end] + data[at:end] + data[end:]


def _left_out(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + data[at + rng.randrange(1, 60) :]


def _digit(data: bytes, rng: random.Random) -> bytes:
    """A digit for another: what stays valid and is hardest to see."""
    at = [i for i, byte in enumerate(data[:200_000]) if 48 <= byte < 58]
    if not at:
        return _bit(data, rng)
    place = rng.choice(at)
    return data[:place] + bytes([48 + (data[place] - 47) % 10]) + data[place + 1 :]


def _value(data: bytes, rng: random.Random) -> bytes:
    """A whole value of JSON or YAML for a token."""
    at = rng.randrange(len(data) + 1)
    start = data.find(b":", at) + 1 or at
    stops = [p for p in (data.find(c, start) for c in (b",", b"\n", b"}")) if p >= 0]
    return data[:start] + b" " + rng.choice(TOKENS) + data[min(stops, default=len(data)) :]


def _lines(data: bytes, rng: random.Random) -> bytes:
    """A line twice, left out, or changed for another."""
    lines = data.split(b"\n")
    a, b, how = rng.randrange(len(lines)), rng.randrange(len(lines)), rng.randrange(3)
    if how == 0:
        lines.insert(b, lines[a])
    elif how == 1:
        del lines[a]
    else:
        lines[a], lines[b] = lines[b], lines[a]
    return b"\n".join(lines)


def _empty(data: bytes, rng: random.Random) -> bytes:
    return rng.choice([b"", b"\n", b"\x00" * 64, b"null", b"{}", b"[]", data[:1]])


def _whole_value(data: bytes, rng: random.Random) -> bytes:
    """A value within a JSON document; what is no JSON gets a bit instead."""
    try:
        return json.dumps(_changed(json.loads(data), rng)).encode()
    except (ValueError, RecursionError):
        return _bit(data, rng)


ANY: list[Mutation] = [
    _bit, _bit, _cut, _token, _twice, _left_out, _digit, _digit, _value, _lines, _empty, _whole_value,
    _whole_value,
]  # fmt: skip
