"""Small tables for tests: values by hand, no measuring."""

from __future__ import annotations

from typing import Any

from hwnas.measure.rows import BlockRow, Header, NetworkRow
from hwnas.measure.table import LatencyTable
from hwnas.records import Measurement, Setting
from hwnas.spec import BlockSpec, NetworkSpec

STEM = BlockSpec(kind="conv", c_in=3, c_out=16, size_in=32)
REST = BlockSpec(kind="basic", c_in=16, c_out=16, size_in=32)
DOWN = BlockSpec(kind="basic", c_in=16, c_out=32, stride=2, size_in=32)
NEXT = BlockSpec(kind="basic", c_in=32, c_out=32, size_in=16)
HEAD = BlockSpec(kind="classifier", c_in=32, c_out=10, kernel=1, act="none", size_in=16)
TIMES = {STEM: 0.010, REST: 0.060, DOWN: 0.040, NEXT: 0.050, HEAD: 0.003}


def network(first: int, second: int) -> NetworkSpec:
    return NetworkSpec(stem=STEM, stages=((REST,) * first, (DOWN, *(NEXT,) * second)), head=HEAD)


def measurement(ms: float, **more: Any) -> Measurement:
    body = dict.fromkeys(("floor_ms", "median_ms", "p10_ms", "p90_ms", "p95_ms", "p99_ms"), ms)
    stamp = {"samples": 100, "taken_at": "2026-01-02T03:04:06+00:00"}
    return Measurement(**{**body, **stamp, **more})


def setting(**more: Any) -> Setting:
    body = {"device": "cpu", "device_arch": "test", "backend": "ort", "backend_version": "1.0"}
    return Setting(**{**body, **more})


def header(**more: Any) -> Header:
    body = {"setting": setting(), "space": "test", "created": "2026-01-02T03:04:05+00:00"}
    return Header(**{**body, **more})


def block_row(block: BlockSpec, ms: float | None = None) -> BlockRow:
    value = TIMES[block] if ms is None else ms
    return BlockRow(block=block, value_ms=value, se_ms=0.01 * value, measurement=measurement(value))


def network_row(spec: NetworkSpec, ms: float, role: Any = "calibration", campaign: int = 1) -> NetworkRow:
    return NetworkRow(spec=spec, role=role, measurement=measurement(ms), campaign=campaign)


def table(scale: float = 1.0, **more: Any) -> LatencyTable:
    out = LatencyTable(header(**more))
    for block, ms in TIMES.items():
        out.add(block_row(block, scale * ms))
    return out
