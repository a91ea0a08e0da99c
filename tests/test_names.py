"""Names of runtimes stay in ``hwnas/backends``: everything else asks the registry or a backend."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from hwnas import plugins
from hwnas.backends.formats import PORTABLE

ROOT = Path(__file__).resolve().parent.parent
# The registry itself is the one other place. Plain ONNX and torch.export's
# programs are files of networks, not runtimes.
FILES = sorted(
    path
    for folder in ("hwnas", "cli")
    for path in (ROOT / folder).rglob("*.py")
    if not path.is_relative_to(ROOT / "hwnas" / "backends") and path != ROOT / "hwnas" / "plugins.py"
)
RUNTIMES = {*plugins.names("backends"), *plugins.names("formats"), "onnxruntime", "tensorrt"} - {
    PORTABLE,
    "pt2",
}
WORD = re.compile(rf"(?<![\w-])({'|'.join(sorted(map(re.escape, RUNTIMES), reverse=True))})(?![\w-])")


def named(source: str) -> Iterator[tuple[int, str]]:
    """Line and name of every runtime in a string of the code; docstrings are excepted."""
    tree = ast.parse(source)
    documents = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documents:
            for found in WORD.finditer(node.value):
                yield node.lineno, found.group()


def test_a_planted_name_is_found() -> None:
    source = (
        '"""By trt."""\nx = f"use {y} or ort-cuda"\ndef f():\n    """ort"""\n    return "trt", "trtexec"\n'
    )
    assert sorted(named(source)) == [(2, "ort-cuda"), (5, "trt")]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_string_outside_the_backends_names_a_runtime(path: Path) -> None:
    assert list(named(path.read_text(encoding="utf-8"))) == []
