"""What is written once: names of classes, schemas of documents; and nothing is there that nobody uses."""

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


# Called from outside: by a library that is handed the object, or by those who use hwnas as one.
CALLED_BY_OTHERS = {
    "forward": "torch calls it",
    "list_commands": "click calls it",
    "get_command": "click calls it",
    "format_commands": "click calls it",
    "get_metavar": "click calls it",
    "shell_complete": "click calls it",
    "report_layer_time": "TensorRT calls it",
    "faulty": "a fake device with planted faults, for tests of hwnas and of plug-ins",
}
# Decorators that leave it to others whether the function is called.
PLAIN = {"property", "cached_property", "staticmethod", "classmethod", "contextmanager", "cache", "lru_cache"}
PLAIN |= {"dataclass", "no_grad", "abstractmethod", "runtime_checkable", "total_ordering"}

Definition = ast.FunctionDef | ast.ClassDef


def definitions(tree: ast.Module) -> Iterator[str]:
    """Functions, classes, methods and constants that somebody has to use."""
    for node in tree.body:
        if isinstance(node, Definition):
            yield from _defined(node)
        elif isinstance(node, ast.Assign):
            yield from (target.id for target in node.targets if isinstance(target, ast.Name))


def _defined(node: Definition) -> Iterator[str]:
    decorators = {name for one in node.decorator_list for name in _last_names(one)}
    if decorators <= PLAIN and not node.name.startswith("__"):
        yield node.name
    if isinstance(node, ast.ClassDef):
        for member in node.body:
            if isinstance(member, Definition):
                yield from _defined(member)


def _last_names(decorator: ast.expr) -> Iterator[str]:
    called = decorator.func if isinstance(decorator, ast.Call) else decorator
    yield called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "?")


def uses(tree: ast.Module) -> Iterator[str]:
    """Names that a module reads; an import alone uses nothing, an entry of a registry does."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            entry = re.fullmatch(r"[\w.]+:(\w+)", node.value)
            if entry or node.value.isidentifier():  # "package.module:Name"; getattr(x, "name")
                yield entry[1] if entry else node.value


def test_nothing_is_defined_that_nobody_uses() -> None:
    used = {name for tree in sources().values() for name in uses(tree)} | {"__all__"}
    defined = [(path, name) for path, tree in sources().items() for name in definitions(tree)]
    assert len(defined) > 1000
    unused = {(path, name) for path, name in defined if name not in used | CALLED_BY_OTHERS.keys()}
    assert unused == set()
    assert {name for name in CALLED_BY_OTHERS if name in used} <= {"forward"}  # the list holds no more
