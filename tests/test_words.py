"""Messages, help, docstrings and documents are in plain technical English: mended idioms stay out."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# What not to write, and what to write in its place.
BANNED = {
    r"(is|are) (not )?to be (had|seen|found)\b": "available, found",
    r"cannot be had\b": "not available",
    r"nowhere to be\b": "not found",
    r"goes? by (its|their) name": "is named",
    r"so be it": "",
    r"see the module\b(?!'s)": "say what the class does",
    r"\bcalm(ly)?\b": "idle machine, undisturbed session",
    r"\banew\b": "again, new",
    r"\bbearable\b": "limited",
    r"\bastray\b": "diverged",
    r"\b(dearest|dearer)\b": "most expensive",
    r"\bstrangers?\b": "someone else, unknown source",
    r"\b(whence|hither|thither|lest|upon|nought|betwixt|withal)\b": "plain words",
    r"\bbase lines?\b": "baseline",
    r"\bwhole numbers?\b": "integer",
    r"nothing more fits": "no further growth fits the budget",
    r"no importance is known": "not judged yet",
    r"nothing (that was learned|in it) is believed": "the learned scores are not reliable",
    r"is not this machine's": "is not in this machine",
    r"\bgo(es)? on (where|from)\b": "continue",
    r"\bcrown(s|ed)?\b": "choose the winner",
    r"without a word\b": "silently",
    r"\bin want of\b": "without",
}
PATTERN = re.compile("|".join(f"(?:{one})" for one in BANNED))


def prose(path: Path) -> list[tuple[int, str]]:
    """Lines of a document without its code blocks; of a Python file the text that people read."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        parts = re.split(r"(?m)^ *```.*$", text)
        return [(1, re.sub(r"`[^`]*`", "", part)) for part in parts[::2]]
    tree = ast.parse(text)
    found = [
        (node.lineno, node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value
    ]
    comments = re.findall(r"(?m)^\s*#\s(.*)$", text)
    return [*found, *((0, one) for one in comments)]


def sources() -> list[Path]:
    code = [p for room in ("hwnas", "cli") for p in sorted((ROOT / room).rglob("*.py"))]
    return [*code, ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_plain_words(path: Path) -> None:
    for line, text in prose(path):
        found = PATTERN.search(" ".join(text.split()))
        assert found is None, (
            f"{path.relative_to(ROOT)}:{line}: {found.group()!r} is on the list of tests/test_words.py"
        )


def test_the_list_finds_what_it_is_for() -> None:
    for text in ("no NVIDIA GPU is to be seen", "The engine is loaded anew", "Grow; see the module."):
        assert PATTERN.search(text), text
