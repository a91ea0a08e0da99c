"""A room imports only rooms to its left; the whole is light to import."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# Rooms on one line of the order do not know each other.
ORDER = [
    ["nets"],
    ["backends"],
    ["measure"],
    ["cost"],
    ["search", "train"],
    ["deploy"],
    ["report"],
    ["jobs"],
    ["cluster"],
]
RANK = {room: rank for rank, rooms in enumerate(ORDER, start=1) for room in rooms}
HEAVY = ("torch", "onnxruntime", "tensorrt", "openvino", "sklearn", "onnx", "pycuda", "ray")


def room_of(module: str) -> str | None:
    """The room of a dotted module name: None for a root file, "cli" for the command line."""
    parts = module.split(".")
    if parts[0] == "hwnas_cli":
        return "cli"
    return parts[1] if len(parts) > 1 and parts[1] in RANK else None


def imports(path: Path, package: str) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package.rsplit(".", node.level - 1)[0] if node.level else ""
            module = ".".join(p for p in (base, node.module or "") if p)
            found.add(module)
            found |= {f"{module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.split(".")[0] in ("hwnas", "hwnas_cli")}


def files() -> list[tuple[Path, str]]:
    library = [
        (p, ".".join(p.relative_to(ROOT).with_suffix("").parts[:-1])) for p in (ROOT / "hwnas").rglob("*.py")
    ]
    return library + [(p, "hwnas_cli") for p in (ROOT / "cli").rglob("*.py")]


def test_there_are_files() -> None:
    assert len(files()) > 15


@pytest.mark.parametrize(("path", "package"), files(), ids=lambda v: v.name if isinstance(v, Path) else "")
def test_imports_point_left(path: Path, package: str) -> None:
    here = room_of(package)
    for name in imports(path, package):
        there = room_of(name)
        if there is None or there == here:
            continue
        assert here is not None, f"{path}: a root file imports the room {there}"
        assert here == "cli" or (there != "cli" and RANK[there] < RANK[here]), (
            f"{path}: {here} imports {there}"
        )


@pytest.mark.parametrize("code", ["import hwnas", "import hwnas_cli.main"])
def test_import_is_light(code: str) -> None:
    probe = f"{code}; import sys; print([m for m in {HEAVY!r} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def circles() -> list[list[str]]:
    """Groups of modules that import each other, however late: inside functions and for types as well."""
    modules = {
        ".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): p
        for p in (ROOT / "hwnas").rglob("*.py")
    }
    edges: dict[str, set[str]] = {}
    for name, path in modules.items():
        found = imports(path, name if path.name == "__init__.py" else name.rpartition(".")[0])
        # `from hwnas.search import moves` is an arrow to the module, not to its package.
        exact = {one for one in found if one in modules}
        exact -= {one for one in exact if any(other.startswith(f"{one}.") for other in exact)}
        edges[name] = exact - {name}
    groups = strongly_connected(edges)
    return [sorted(group) for group in groups if len(group) > 1]


def strongly_connected(edges: dict[str, set[str]]) -> list[set[str]]:
    """The strongly connected components of a graph (Kosaraju)."""
    order: list[str] = []
    seen: set[str] = set()

    def walk(at: str, arrows: dict[str, set[str]], out: list[str]) -> None:
        stack = [(at, iter(sorted(arrows.get(at, ()))))]
        seen.add(at)
        while stack:
            here, rest = stack[-1]
            following = next((n for n in rest if n not in seen), None)
            if following is None:
                out.append(here)
                stack.pop()
            else:
                seen.add(following)
                stack.append((following, iter(sorted(arrows.get(following, ())))))

    for node in sorted(edges):
        if node not in seen:
            walk(node, edges, order)
    back: dict[str, set[str]] = {}
    for start, ends in edges.items():
        for end in ends:
            back.setdefault(end, set()).add(start)
    seen.clear()
    groups = []
    for node in reversed(order):
        if node not in seen:
            group: list[str] = []
            walk(node, back, group)
            groups.append(set(group))
    return groups


def test_a_planted_circle_is_found() -> None:
    found = strongly_connected({"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": set()})
    assert sorted(map(sorted, found)) == [["a", "b", "c"], ["d"]]


def test_there_is_no_import_circle() -> None:
    assert circles() == []
