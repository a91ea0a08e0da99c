"""What is written once: names of classes, schemas of documents; and nothing is there that nobody uses."""

from __future__ import annotations

import ast
import re
import sys
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
    "chain_hash": "for whoever writes tables without hwnas",
    "onnx_bytes": "for users of `hwnas.nets.model`",
    "save_result": "for users of `hwnas.nets.model`",
    "forget": "for tests that register something",
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


# Whether the library loads is the question there, or it draws what few commands show.
IMPORTED_LATE = {
    "hwnas/backends/cuda/by_cuda_python.py": {"cuda.bindings"},
    "hwnas/backends/cuda/by_pycuda.py": {"pycuda.driver"},
    "hwnas/backends/trt/compat.py": {"tensorrt"},
    "cli/progress.py": {"rich.console", "rich.markup", "rich.progress", "rich.table"},
    "cli/param_types.py": {"click.shell_completion"},
}


def late_imports(tree: ast.Module) -> Iterator[ast.Import | ast.ImportFrom]:
    """Imports inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            yield from (n for n in ast.walk(node) if isinstance(n, ast.Import | ast.ImportFrom))


def test_libraries_are_declared_at_the_top_of_a_module() -> None:
    late: dict[str, set[str]] = defaultdict(set)
    for path, tree in sources().items():
        for node in late_imports(tree):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            own = isinstance(node, ast.ImportFrom) and node.level
            late[path] |= {name for name in names if not own and name.split(".")[0] != "hwnas"}
    assert {path: names for path, names in late.items() if names} == IMPORTED_LATE


def loaded_with(modules: dict[str, ast.Module]) -> dict[str, set[str]]:
    """For each module all that is imported when it is, by the imports that stand outside functions."""
    direct: dict[str, set[str]] = {}
    for name, tree in modules.items():
        found = set()
        for node in outer_imports(tree.body):
            found |= set(imported(node, modules))
        parts = name.split(".")
        direct[name] = found | {".".join(parts[:n]) for n in range(1, len(parts))}

    def closure(name: str) -> set[str]:
        seen, todo = set(), [name]
        while todo:
            if (at := todo.pop()) not in seen:
                seen.add(at)
                todo += direct.get(at, ())
        return seen

    return {name: closure(name) for name in modules}


def outer_imports(body: list[ast.stmt]) -> Iterator[ast.Import | ast.ImportFrom]:
    """Imports that run with their module; not those for the type checker."""
    for node in body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif isinstance(node, ast.If):
            typing = ast.unparse(node.test) == "TYPE_CHECKING"
            yield from outer_imports(node.orelse if typing else node.body + node.orelse)


def imported(node: ast.Import | ast.ImportFrom, modules: dict[str, ast.Module]) -> Iterator[str]:
    """Modules that an import names."""
    for alias in node.names:
        if isinstance(node, ast.Import):
            yield alias.name
        else:
            whole = f"{node.module}.{alias.name}"
            yield whole if whole in modules else node.module or ""


def test_only_what_is_heavier_than_the_module_is_imported_late() -> None:
    """A command imports its job when it runs; a module of the library what brings torch, and nothing else."""
    trees = {p: tree for p, tree in sources().items() if p.startswith("hwnas/")}
    dotted = {p: p.removesuffix(".py").replace("/", ".").removesuffix(".__init__") for p in trees}
    modules = {dotted[p]: tree for p, tree in trees.items()}
    loaded = loaded_with(modules)

    def libraries(name: str) -> set[str]:
        return {at.split(".")[0] for at in loaded[name]} - {"hwnas"} - sys.stdlib_module_names

    assert "torch" in libraries("hwnas.train.loop")
    early = set()
    for path, name in dotted.items():
        for node in late_imports(trees[path]):
            there = [one for one in imported(node, modules) if one in modules]
            if there and not any(libraries(one) - libraries(name) for one in there):
                early.add((path, node.lineno, *there))
    assert early == set()
