"""What goes over the link: one line of JSON a message, and as many bytes behind it as it says.

Both ends use this file, so it must run on Python 3.9. A message is bounded on both ends: a link that brings
something else is broken, and what it brings is not read any further.
"""

from __future__ import annotations

import json
from typing import IO, Any

LINE_BYTES = 1 << 20
PAYLOAD_BYTES = 1 << 31  # an ONNX model, an engine
TEXT = 4000  # characters of an error that are passed on


class WireError(Exception):
    """What came is no message."""


class LinkClosed(WireError):
    """Nothing came: the other end is gone."""


def send(out: IO[bytes], body: dict[str, Any], payload: bytes = b"") -> None:
    """Write one message."""
    head = json.dumps({**body, "bytes": len(payload)}, allow_nan=False)
    out.write(head.encode() + b"\n")
    if payload:
        out.write(payload)
    out.flush()


def receive(source: IO[bytes], most_bytes: int = PAYLOAD_BYTES) -> tuple[dict[str, Any], bytes]:
    """Read one message.

    Raises:
        LinkClosed: the stream is at its end, or ended in the middle of a message.
        WireError: it is no message, or too long.
    """
    line = source.readline(LINE_BYTES)
    if not line.endswith(b"\n"):
        if len(line) == LINE_BYTES:
            raise WireError(f"a message begins with a line of more than {LINE_BYTES} bytes")
        raise LinkClosed("the stream ended")
    try:
        body = json.loads(line.decode())
    except (UnicodeDecodeError, ValueError, RecursionError) as exc:
        raise WireError(f"a message is not JSON: {line[:80]!s}") from exc
    length = body.get("bytes", 0) if isinstance(body, dict) else None
    if type(length) is not int or not 0 <= length <= most_bytes:
        raise WireError(f"a message has no length that can be believed: {length!r}")
    payload = source.read(length) if length else b""
    if len(payload) < length:
        raise LinkClosed("the stream ended within a message")
    return body, payload
