"""What is written once: names of classes, schemas of documents."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@cache
def sources() -> dict[str, ast.Module]:
    """The modules of the library and the command line by path."""
    files = [*(ROOT / "hwnas").rglob("*.py"), *(ROOT / "cli").rglob("*.py")]
    return {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text()) for path in files}


def types_of(tree: ast.Module) -> Iterator[str]:
    """Classes of a module, and aliases of types, which are assigned to a name such as `Float32s`."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            yield node.name.lstrip("_")
        elif isinstance(node, ast.Assign) and isinstance(target := node.targets[0], ast.Name):
            variable = isinstance(node.value, ast.Call)  # TypeVar("T") is known where it is made alone
            if re.fullmatch(r"_?[A-Z][a-z]\w*", target.id) and not variable:
                yield target.id.lstrip("_")


def test_every_type_has_a_name_of_its_own() -> None:
    places = defaultdict(list)
    for path, tree in sources().items():
        for name in types_of(tree):
            places[name].append(path)
    assert len(places) > 100
    assert {name: where for name, where in places.items() if len(where) > 1} == {}


def test_a_schema_is_written_in_one_place() -> None:
    schema = re.compile(r"hwnas\.[a-z-]+/\d+")
    places = defaultdict(list)
    for path, tree in sources().items():
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Constant)
                and isinstance(node.value, str)
                and schema.fullmatch(node.value)
            ):
                places[node.value].append(path)
    assert len(places) > 20
    assert {name: where for name, where in places.items() if where != ["hwnas/schemas.py"]} == {}
