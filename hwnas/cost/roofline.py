"""Planning without the device: block times from a device's published figures.

The roofline (Williams, Waterman & Patterson 2009): an operation takes as long as its arithmetic at
the rate that its kind reaches, or its memory traffic, whichever is longer, plus the cost of starting
it. Batch norm and activations are taken as fused into the convolution before them. What comes out is
marked `estimated` wherever it is shown: its
order of networks is useful, its milliseconds are not (docs/latency.md has both against a published table).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from hwnas import sizes, store
from hwnas.documents import read_json
from hwnas.errors import InputError
from hwnas.measure.rows import BlockRow, Header
from hwnas.measure.table import LatencyTable
from hwnas.nets.blocks import recipe
from hwnas.nets.op import INPUT, SKIP, Arithmetic, Op
from hwnas.nets.ops import Activation, Conv
from hwnas.records import Precision, Setting
from hwnas.spec import BlockSpec

BITS = {"fp32": 32, "fp16": 16, "bf16": 16, "int8": 8}
# Share of the peak that a kind of convolution reaches when arithmetic limits it, and share of the
# memory bandwidth that any operation reaches: usual values for tuned libraries. Depthwise was set to
# half its first value after a look at DenseNAS's table; nothing else was fitted to any measurement.
DENSE, POINTWISE, GROUPED, LINEAR, STREAM = 0.6, 0.5, 0.05, 0.3, 0.75
# Winograd's F(2x2, 3x3) needs 36 multiplications for 16 (Lavin & Gray 2016); fp32 libraries take it.
WINOGRAD = 2.25
EFFICIENCY: dict[Arithmetic, float] = {
    "winograd": DENSE * WINOGRAD,
    "dense": DENSE,
    "pointwise": POINTWISE,
    "grouped": GROUPED,
    "linear": LINEAR,
    "none": 1.0,
}


@dataclass(frozen=True)
class DeviceProfile:
    """What planning needs of a device; read from ``profiles/devices/*.json``.

    Attributes:
        name, label: for the setting, for display.
        kind: "gpu" or "cpu".
        peak_ops_per_s: by precision, operations a second (a MAC is two).
        bytes_per_s: memory bandwidth.
        l2_bytes: last cache that is fast enough to count.
        launch_us: cost of starting one operation.
        multiprocessors: units that a kernel is spread over.
        support: which versions of TensorRT, CUDA, driver and PyTorch still serve it, and why.
        sources: where each figure comes from.
    """

    name: str
    label: str
    kind: str
    peak_ops_per_s: dict[str, float]
    bytes_per_s: float
    l2_bytes: int
    launch_us: float
    multiprocessors: int
    support: dict[str, Any]
    sources: dict[str, str]


def describe(name: str) -> DeviceProfile:
    """The description of a device; InputError names those there are."""
    folder = store.data_dir("profiles") / "devices"
    path = folder / f"{name}.json"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in folder.glob("*.json")))
        raise InputError(f"no description of device {name!r}, which an estimate needs (known: {known})")
    body = read_json(path, "device description")
    return DeviceProfile(
        name=body["name"],
        label=body["label"],
        kind=body["kind"],
        peak_ops_per_s={k: v * 1e12 for k, v in body["peak_tera_ops"].items()},
        bytes_per_s=body["memory_gb_per_s"] * 1e9,
        l2_bytes=body["l2_bytes"],
        launch_us=body["launch_us"],
        multiprocessors=body["multiprocessors"],
        support=body["support"],
        sources=body["sources"],
    )


def block_ms(
    block: BlockSpec,
    device: DeviceProfile,
    *,
    precision: Precision = "fp32",
    batch: int = 1,
    threads: int = 1,
    fused: bool = True,
) -> float:
    """Estimated time of one block in ms.

    Args:
        block, device: what on what.
        precision, batch, threads: the conditions.
        fused: whether batch norm and activations are part of the operation before them (compiled
            runtimes) or operations of their own (eager frameworks).

    Raises:
        InputError: the device does not offer the precision.
    """
    if precision not in device.peak_ops_per_s:
        offered = ", ".join(device.peak_ops_per_s)
        raise InputError(
            f"--precision {precision}: {device.label} does not support it at a useful speed; use one of "
            f"{offered}"
        )
    item = batch * BITS[precision] / 8
    peak = device.peak_ops_per_s[precision] * (threads if device.kind == "cpu" else 1)
    stream = STREAM * device.bytes_per_s
    ops = recipe(block)
    elements = {INPUT: block.elements_in, SKIP: block.elements_skip}
    elements |= {o.name: o.channels * sizes.pixels(o.size) for o in ops.ops}
    total_s = 0.0
    for op in ops.ops:
        if fused and isinstance(op, Activation):
            continue
        macs, efficiency, weights = work(op)
        used = _occupancy(batch * elements[op.name], device) if device.kind == "gpu" else 1.0
        moved = item * (sum(elements[i] for i in op.inputs) + elements[op.name]) + item / batch * weights
        total_s += max(2.0 * batch * macs / (peak * efficiency * used), moved / stream)
        total_s += device.launch_us * 1e-6
        if not fused and isinstance(op, Conv) and op.norm:
            total_s += 2 * item * elements[op.name] / stream + device.launch_us * 1e-6
    return total_s * 1e3


def work(op: Op) -> tuple[int, float, int]:
    """MACs of one image, the share of the peak that they run at, and the weights read (without biases)."""
    read = sum(math.prod(shape) for shape in op.weights().values() if len(shape) > 1)
    return op.macs, EFFICIENCY[op.arithmetic], read


def _occupancy(outputs: int, device: DeviceProfile) -> float:
    """Share of a GPU that an operation with few outputs can use.

    A thread block makes about 128 x 32 outputs, and a multiprocessor wants two of them.
    """
    tiles = outputs / (128 * 32)
    return min(1.0, tiles / (2 * device.multiprocessors))


def table(
    device: DeviceProfile,
    blocks: Iterable[BlockSpec],
    *,
    precision: Precision = "fp32",
    batch: int = 1,
    threads: int = 1,
) -> LatencyTable:
    """A table of estimated blocks, provenance ``estimated``; their error is taken as 30 %."""
    setting = Setting(
        device=device.name,
        backend="roofline",
        precision=precision,
        batch=batch,
        threads=threads,
        provenance="estimated",
    )
    out = LatencyTable(Header(setting=setting, device={"label": device.label}, source="published figures"))
    for block in blocks:
        value = block_ms(block, device, precision=precision, batch=batch, threads=threads)
        out.add(BlockRow(block=block, value_ms=value, se_ms=0.3 * value, method="estimated"))
    return out
