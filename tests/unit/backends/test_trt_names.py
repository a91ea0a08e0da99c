"""Every name of TensorRT's that hwnas uses exists in the versions where it is used.

The lists come from the real bindings (tests/sim/dump_names.py). A name that not all versions have may
only be reached by ``getattr`` with a name, never written as an attribute; a line that is only run by
older versions says so with ``# api:``. Numbers of enumeration members must not be written at all.
"""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
SOURCES = sorted((ROOT / "hwnas" / "backends" / "trt").glob("*.py"))


def name_table() -> dict[str, str]:
    lines = (ROOT / "tests" / "sim" / "trt_names.txt").read_text().splitlines()[1:]
    return {name: present for present, name in (line.split() for line in lines)}


NAMES = name_table()
EVERYWHERE = "yyy"
# Records of hwnas and numpy, whose names are also names of TensorRT's.
OURS = (["setting"], ["options"], ["np"])
# Attributes of anything: a member of some class of TensorRT, by its last part.
MEMBERS: dict[str, str] = {}
for full, present in NAMES.items():
    last = full.rsplit(".", 1)[-1]
    before = MEMBERS.get(last, "---")
    MEMBERS[last] = "".join("y" if "y" in pair else "-" for pair in zip(before, present))


def chain(node: ast.Attribute) -> list[str]:
    """``trt.A.B`` as ["trt", "A", "B"]; empty where it does not start with a name."""
    parts: list[str] = []
    inner: ast.expr = node
    while isinstance(inner, ast.Attribute):
        parts.append(inner.attr)
        inner = inner.value
    return [inner.id, *reversed(parts)] if isinstance(inner, ast.Name) else []


def findings(source: str) -> list[str]:
    """What is wrong in a source file, with line numbers."""
    lines, wrong = source.splitlines(), []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.BinOp(op=ast.LShift(), right=ast.Constant(value=int(by))) if by < 10:  # MiB: by 20
                wrong.append(f"line {node.lineno}: a literal flag bit")
        if not isinstance(node, ast.Attribute) or "# api:" in lines[node.lineno - 1]:
            continue
        path = chain(node)
        if any(part.startswith("__") for part in path) or path[:1] in OURS:
            continue
        if path and path[0] == "trt":
            full = ".".join(path[1:])
            if NAMES.get(full, "---") != EVERYWHERE:
                wrong.append(f"line {node.lineno}: trt.{full} is in {NAMES.get(full, '---')} of 8.6, 10, 11")
        elif MEMBERS.get(node.attr, EVERYWHERE) != EVERYWHERE:
            wrong.append(f"line {node.lineno}: .{node.attr} is in {MEMBERS[node.attr]} of 8.6, 10, 11")
    return wrong


def test_there_is_something_to_look_at() -> None:
    assert len(NAMES) > 2000
    assert len(SOURCES) >= 4
    assert NAMES["BuilderFlag.FP16"] == "yy-"
    assert NAMES["Builder.build_serialized_network"] == EVERYWHERE


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.name)
def test_names_exist_where_they_are_used(path: Path) -> None:
    assert findings(path.read_text()) == []


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("config.set_flag(trt.BuilderFlag.FP16)", "BuilderFlag.FP16"),
        ("flags = 1 << 1", "literal flag bit"),
        ("context.execute_async_v2(x, y)", "execute_async_v2"),
        ("n = engine.num_bindings", "num_bindings"),
        ("builder.max_batch_size = 1", "max_batch_size"),
        ("trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED", "STRONGLY_TYPED"),
        ("trt.Bilder(log)", "trt.Bilder"),
    ],
)
def test_mistakes_are_found(line: str, word: str) -> None:
    (found,) = findings(line)
    assert word in found


def test_what_is_looked_up_by_name_is_nobodys_fault() -> None:
    assert findings('config.set_flag(getattr(trt.BuilderFlag, "FP16"))') == []
    assert findings("size = 512 << 20") == []
