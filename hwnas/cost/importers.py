"""Published latency tables of other projects, read into hwnas's own format.

DenseNAS (Fang et al. 2020): a text file with one Python literal, nested lists without keys, where the
position is the key; read by its authors with ``eval``, here with `ast.literal_eval`. Once-for-all
(Cai et al. 2020): a YAML file of long string keys, read by its authors with an unsafe loader, here
with `hwnas.documents.parse_yaml`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hwnas import plugins, sizes
from hwnas.documents import parse_yaml, read_text
from hwnas.errors import DataFormatError, InputError
from hwnas.measure.rows import BlockRow, Header, SlotRow
from hwnas.measure.table import LatencyTable
from hwnas.nets.densenas.graph import SKIP, DenseSpace, densenas_mbv2, densenas_resnet
from hwnas.records import LEAST_MS, MOST_MS, Precision, Setting
from hwnas.spec import BlockSpec

# The largest published file has 1 MiB, and Python's parser takes some hundred times a file's size.
MOST_BYTES = 16 << 20


def read(
    path: Path,
    fmt: str,
    *,
    device: str | None = None,
    batch: int | None = None,
    precision: Precision = "fp32",
    backend: str = "",
) -> LatencyTable:
    """Read a published table by a registered reader; see `densenas` and `ofa`.

    Conditions that are not given are what the reader knows of the published measurement.

    Raises:
        InputError: the format is unknown or the file does not exist.
        DataFormatError: the file does not hold what the format says; names the place.
    """
    reader: Callable[[str], LatencyTable] = plugins.load("importers", fmt)
    text = read_text(path, "table", MOST_BYTES)
    try:
        with plugins.blamed("importers", fmt, f"cannot read {path}"):
            table = reader(text)
    except DataFormatError as exc:
        raise DataFormatError(f"{path}: {exc}") from exc
    if not isinstance(table, LatencyTable):
        raise InputError(
            f"the table format {fmt!r} gives {type(table).__name__}; expected "
            "hwnas.measure.table.LatencyTable"
        )
    setting = Setting(
        device=device or table.setting.device,
        backend=backend or table.setting.backend,
        precision=precision,
        batch=batch or table.setting.batch,
        provenance="imported",
    )
    header = table.header.model_copy(update={"setting": setting, "source": f"{fmt}: {path.name}"})
    table.header = header
    return table


def densenas(text: str) -> LatencyTable:
    """A DenseNAS latency list of either published space (told apart by its number of blocks).

    The list is ``[stem, blocks, last, fc]``; a block is ``[heads, stack]`` with one
    head list per incoming edge (nearest predecessor first) and one list per stack layer, each with one
    time in ms per operator (skip last in the stack). Times are of a batch of 32 at 224x224 on a TITAN Xp,
    eager PyTorch, a mean of 4,900 runs. What is made of it:

    * the operators of one layer were timed once a stack slot; a block's row is their mean, its
      standard error their spread;
    * the stem's time covers the stem convolution and, in the MobileNetV2 space, the fixed block
      after it; it is shared out by activation traffic, which leaves every sum as it was;
    * the classifier of 100 classes stands for the one of 1000 as well;
    * skips become slots, which cost what they were measured at for every layer left out.

    Raises:
        DataFormatError: wrong shape, naming the block; or a time that is not a positive number.
    """
    try:
        body = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError) as exc:
        raise DataFormatError(
            "not a Python literal of nested lists of numbers, which is what DenseNAS's own profiler writes"
        ) from exc
    stem, blocks, last, fc = _list(body, "the table", 4)
    spaces = {len(s.routing) - 2: s for s in (densenas_mbv2(), densenas_resnet())}
    if not isinstance(blocks, list) or len(blocks) not in spaces:
        found = len(blocks) if isinstance(blocks, list) else type(blocks).__name__
        raise DataFormatError(
            f"{found} routing blocks; a DenseNAS table has {' or '.join(str(n) for n in spaces)}"
        )
    space = spaces[len(blocks)]
    times: dict[BlockSpec, list[float]] = {}
    table = LatencyTable(
        Header(
            setting=Setting(
                device="titanxp", backend="pytorch-eager", precision="fp32", batch=32, provenance="imported"
            ),
            space=space.name,
            input_shape=(3, 224, 224),
            classes=100,
            source="densenas",
        )
    )
    _stem(space, _time(stem, "stem"), times)
    for j, body in enumerate(blocks, start=1):
        _routing_block(space, j, body, times, table)
    where = f"last layer (block {space.sink})"
    for i, costs in zip(space.in_edges[space.sink], _list(last, where, len(space.in_edges[space.sink]))):
        one = costs[0] if isinstance(costs, list) and len(costs) == 1 else costs
        times.setdefault(space.head_block(i, space.sink, SKIP), []).append(_time(one, where))
    _classifier(space, _time(fc, "classifier"), times)
    for block, values in times.items():
        table.add(_block_row(block, values))
    return table


def _stem(space: DenseSpace, total: float, times: dict[BlockSpec, list[float]]) -> None:
    # Activation traffic: read the input, write the output, of each block.
    traffic = [b.elements_in + b.elements_out for b in space.stem]
    for block, share in zip(space.stem, traffic):
        times[block] = [total * share / sum(traffic)]


def _classifier(space: DenseSpace, value: float, times: dict[BlockSpec, list[float]]) -> None:
    width, size = space.routing[space.sink].width, space.routing[space.sink].size
    inputs = (
        {width} if space.tail_in_network else {space.routing[i].width for i in space.in_edges[space.sink]}
    )
    for c_in in sorted(inputs):
        for classes in (100, 1000):
            head = BlockSpec(kind="classifier", c_in=c_in, c_out=classes, kernel=1, act="none", size_in=size)
            times.setdefault(head, []).append(value)


def _routing_block(
    space: DenseSpace, j: int, body: Any, times: dict[BlockSpec, list[float]], table: LatencyTable
) -> None:
    block = space.routing[j]
    where = f"block {j} ({block.width} channels)"
    heads, stack = _list(body, where, 2)
    sources = space.in_edges[j]
    for i, costs in zip(sources, _list(heads, f"{where}, heads", len(sources))):
        edge = f"{where}, head from {space.routing[i].width} channels"
        for op, cost in zip(space.head_ops, _list(costs, edge, len(space.head_ops))):
            times.setdefault(space.head_block(i, j, op), []).append(_time(cost, edge))
    if not isinstance(stack, list) or len(stack) < block.stack:
        found = len(stack) if isinstance(stack, list) else type(stack).__name__
        raise DataFormatError(f"{where}, stack: expected {block.stack} layers, found {found}")
    skips = []
    # The published list holds stack times also where the space declares no stack: they are unused.
    for slot, costs in enumerate(stack[: block.stack]):
        place = f"{where}, stack layer {slot}"
        for op, cost in zip(space.stack_ops, _list(costs, place, len(space.stack_ops))):
            if op == SKIP:
                skips.append(_time(cost, place))
            else:
                times.setdefault(space.stack_block(j, op), []).append(_time(cost, place))
    if skips:
        table.add(
            SlotRow(width=block.width, size=block.size, slots=len(skips), value_ms=sum(skips) / len(skips))
        )


def _block_row(block: BlockSpec, values: Sequence[float]) -> BlockRow:
    n, mean = len(values), sum(values) / len(values)
    spread = (sum((v - mean) ** 2 for v in values) / max(n - 1, 1)) ** 0.5
    return BlockRow(block=block, value_ms=mean, se_ms=spread / n**0.5, method="imported")


def _list(body: Any, where: str, length: int) -> list[Any]:
    if not isinstance(body, list):
        raise DataFormatError(f"{where}: expected a list of {length}, found {body!r}"[:200])
    if len(body) != length:
        raise DataFormatError(f"{where}: expected {length} entries, found {len(body)}")
    return body


def _time(value: Any, where: str) -> float:
    return _number(value, where, "a time in ms greater than zero", low=LEAST_MS, high=MOST_MS)


def _number(value: Any, where: str, what: str, *, low: float, high: float) -> float:
    # bool is an int to Python; NaN is in no range.
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise DataFormatError(f"{where}: {value!r} is not {what} (from {low:g} to {high:g})"[:300])
    return float(value)


_OFA_FIELD = re.compile(r"(input|output|expand|kernel|stride|idskip|se|hs):([\dx]+)")


def ofa(text: str) -> LatencyTable:
    """A Once-for-All or ProxylessNAS table: YAML of ``layer-input:HxWxC-output:...`` keys.

    ``expanded_conv`` becomes an MBConv block, ``Conv`` the stem, ``Conv_1`` a 1x1 convolution,
    ``Logits`` of a feature map the classifier. In the MobileNetV3 tables ``expand`` holds hidden
    channels; layers whose hidden width is no whole multiple of their input, and the parts of its
    three-piece head, have no block here and are listed in the header as not imported.

    Raises:
        DataFormatError: not YAML, an entry without count and mean, or no entry that could be read.
    """
    body = parse_yaml(text, "the table")
    if not isinstance(body, dict) or not body:
        raise DataFormatError("expected a mapping of layer keys to {count, mean}")
    rows, skipped = [], []
    for key, entry in body.items():
        if not isinstance(entry, dict) or not {"count", "mean"} <= entry.keys():
            raise DataFormatError(f"{key}: expected {{count, mean}}, found {entry!r}"[:200])
        mean = _time(entry["mean"], str(key))
        count = max(_number(entry["count"], str(key), "a count of samples", low=0, high=1e12), 1.0)
        variance = _number(entry.get("var", 0.0), str(key), "a variance in ms^2", low=0.0, high=MOST_MS**2)
        try:
            block = _ofa_block(str(key))
        except (ValueError, IndexError, KeyError, ZeroDivisionError) as exc:
            # pydantic's ValidationError is a ValueError: a kernel of 0, an even one, ...
            raise DataFormatError(
                f"{str(key)[:160]}: this key does not describe a layer that can be built"
            ) from exc
        if block is None:
            skipped.append(str(key))
            continue
        rows.append(BlockRow(block=block, value_ms=mean, se_ms=(variance / count) ** 0.5, method="imported"))
    if not rows:
        raise DataFormatError(f"none of its {len(body)} entries describes a layer that hwnas supports")
    stem = next((r.block for r in rows if r.block.kind == "conv" and r.block.c_in == 3), None)
    table = LatencyTable(
        Header(
            setting=Setting(device="pixel1", backend="tflite", batch=1, provenance="imported"),
            space="ofa",
            input_shape=(3, *sizes.sides(stem.size_in)) if stem else None,
            protocol={"not_imported": skipped},
        )
    )
    for row in rows:
        table.add(row)
    return table


def _ofa_block(key: str) -> BlockSpec | None:
    """The block of a key, or None where hwnas has no such block."""
    kind = key.split("-", 1)[0]
    fields = {name: [int(n) for n in value.split("x")] for name, value in _OFA_FIELD.findall(key)}
    if len(fields.get("input", ())) != 3 or "output" not in fields:
        return None
    height, width, c_in = fields["input"]
    size = sizes.of(height, width)
    c_out = fields["output"][-1]
    stride = -(-height // fields["output"][0]) if len(fields["output"]) == 3 else 1
    v3 = "se" in fields
    shape: dict[str, Any] = {"c_in": c_in, "c_out": c_out, "size_in": size, "stride": stride}
    shape["act"] = ("hswish" if fields["hs"][0] else "relu") if v3 else "relu6"
    if kind == "expanded_conv" and {"expand", "kernel"} <= fields.keys():
        expand, rest = divmod(fields["expand"][0], c_in) if v3 else (fields["expand"][0], 0)
        if rest or expand < 1 or (fields["idskip"][0] == 1) != (stride == 1 and c_in == c_out):
            return None
        shape |= {
            "kernel": fields["kernel"][0],
            "expand": expand,
            "se": 0.25 if v3 and fields["se"][0] else 0.0,
        }
        return BlockSpec(kind="mbconv", **shape)
    if kind == "Conv":
        return BlockSpec(kind="conv", **shape)
    if kind == "Conv_1":
        return BlockSpec(kind="conv", kernel=1, **shape)
    if kind == "Logits" and sizes.pixels(size) > 1:
        return BlockSpec(kind="classifier", kernel=1, **{**shape, "stride": 1, "act": "none"})
    return None
