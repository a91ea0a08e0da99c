"""Paths, modules and names that documents, docstrings and comments speak of are there."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from hwnas.plugins import BUILT_IN

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = "hwnas|cli|tests|docs|benchmarks|profiles|kernels|examples"
PATH = re.compile(rf"(?<![\w/.-])(?:{FOLDERS})/[\w./-]*\w\.(?:py|md|cuh?|jsonl?|html|css)\b")
DOTTED = re.compile(r"`~?((?:hwnas|benchmarks|tests)(?:\.\w+)+)(?:\(\))?`")
CLASS = re.compile(r"`((?:[a-z_]+\.)+[A-Z][a-z]\w*)(?:\.\w+)*(?:\(\))?`")
COMMAND = re.compile(r"python -m ((?:benchmarks|hwnas)(?:\.\w+)+)")
# Placeholders and what is written later: a folder NAME, a run, a package of the reader's own.
MADE_UP = re.compile(r"[A-Z]{3,}|/my_|/x\.|results/|^hwnas\.yaml$")
# Classes of other libraries, and full names, which are looked up as such.
FOREIGN = ("torch", "np", "onnx", "ort", "hwnas")


def texts() -> list[Path]:
    """Documents that are kept up to date (not the history) and all code."""
    pages = [*(ROOT / "docs").rglob("*.md"), ROOT / "README.md"]
    code = [p for name in ("hwnas", "cli", "benchmarks", "examples") for p in (ROOT / name).rglob("*.py")]
    return sorted([*pages, *code])


@cache
def names_of(path: Path) -> dict[str, set[str]]:
    """Names at the top of a module, each with the names inside it (of a class)."""
    found: dict[str, set[str]] = {}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ClassDef):
            found[node.name] = {n for one in node.body for n in assigned(one)}
        elif isinstance(node, ast.FunctionDef | ast.Assign | ast.AnnAssign | ast.ImportFrom | ast.Import):
            found |= {name: set() for name in assigned(node)}
    return found


def assigned(node: ast.stmt) -> Iterator[str]:
    """Names that a statement makes."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        yield node.name
    elif isinstance(node, ast.Assign):
        yield from (n.id for target in node.targets for n in ast.walk(target) if isinstance(n, ast.Name))
    elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        yield node.target.id
    elif isinstance(node, ast.Import | ast.ImportFrom):
        yield from (alias.asname or alias.name.split(".")[0] for alias in node.names)


def module_of(dotted: str) -> tuple[Path, list[str]] | None:
    """The file of the longest part of a dotted name that is a module or a package, and what is left."""
    parts = dotted.split(".")
    for n in range(len(parts), 0, -1):
        place = ROOT.joinpath(*parts[:n])
        if place.with_suffix(".py").is_file():
            return place.with_suffix(".py"), parts[n:]
        if (place / "__init__.py").is_file():
            return place / "__init__.py", parts[n:]
    return None


def is_there(dotted: str) -> bool:
    """Whether a dotted name leads to a module, or to something in it."""
    found = module_of(dotted)
    if found is None:
        return False
    path, rest = found
    if not rest or rest[0] in names_of(path):
        return True
    # An entry point's group; a name that the package loads when it is asked for.
    return dotted.removeprefix("hwnas.") in BUILT_IN or f'"{rest[0]}"' in path.read_text()


@cache
def classes() -> dict[str, set[str]]:
    """Modules that have a class or alias of each name, by their last names."""
    found: dict[str, set[str]] = {}
    for path in [*(ROOT / "hwnas").rglob("*.py"), *(ROOT / "cli").rglob("*.py")]:
        for name in names_of(path):
            found.setdefault(name, set()).add(path.parent.name if path.stem == "__init__" else path.stem)
    return found


def stale(text: str) -> Iterator[str]:
    """What a text speaks of that is not there."""
    for match in PATH.finditer(text):
        if not MADE_UP.search(match[0]) and not (ROOT / match[0]).exists():
            yield match[0]
    for pattern in (DOTTED, COMMAND):
        yield from (m[1] for m in pattern.finditer(text) if not MADE_UP.search(m[1]) and not is_there(m[1]))
    for match in CLASS.finditer(text):
        module, _, name = match[1].rpartition(".")
        own = module.split(".")[-1]
        if module.split(".")[0] not in FOREIGN and name in classes() and own not in classes()[name]:
            yield match[1]


def test_what_is_stale_is_found() -> None:
    text = (
        "see hwnas/nets/gone.py and `hwnas.nets.ops.Gone`, not hwnas/nets/ops.py or `hwnas.nets.ops.Conv`; "
        "`count.Conv` is elsewhere, `ops.Conv` is not; python -m benchmarks.gone"
    )
    assert list(stale(text)) == ["hwnas/nets/gone.py", "hwnas.nets.ops.Gone", "benchmarks.gone"] + [
        one for one in ["count.Conv"] if "count" not in classes()["Conv"]
    ]


@pytest.mark.parametrize("path", texts(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_nothing_stale_is_spoken_of(path: Path) -> None:
    assert list(stale(path.read_text())) == []
