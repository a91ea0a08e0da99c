"""What figures of documents are made of: a table, a picture, the command that measured."""

from __future__ import annotations

from typing import Any


def source(body: dict[str, Any]) -> str:
    day = body["taken_at"][:10]
    return f"`{body['command']}`, {day}, one-minute load {body['machine']['load']:g} at the end."


def picture(name: str) -> str:
    return f"\n\n![{name}](figures/{name}.svg)\n\n"


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
