"""Is a table physically possible? Catches times in the wrong unit, which no schema can.

Users of an earlier tool asked for 25 ms and got 62, because its table was in seconds. Numbers off by
a factor of a thousand contradict each other, the clock, or what the device can compute.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from hwnas import backends
from hwnas.errors import DataFormatError
from hwnas.measure.rows import BlockRow, ChainRow, Header, NetworkRow
from hwnas.nets.count import count_block
from hwnas.records import Setting
from hwnas.spec import BlockSpec

# Two-sided allowance for what a whole network may cost against the sum of its blocks: the worst
# published ratio is 1.82 (one TensorRT engine per layer).
_SUM_RATIO = 10.0
# No CPU thread does more than this in fp32 (two 512-bit fused multiply-adds a cycle at 6 GHz are
# 0.4 TFLOP/s); matrix units in lower precision give up to ten times that.
_CPU_THREAD_FLOPS = {"fp32": 1e12, "fp16": 1e13, "bf16": 1e13, "int8": 2e13}
_ANY_DEVICE_FLOPS = 1e16


class Measured(Protocol):
    """What is looked at of a latency table."""

    @property
    def header(self) -> Header:
        """The conditions."""

    @property
    def setting(self) -> Setting:
        """The header's setting."""

    @property
    def rows(self) -> Mapping[BlockSpec, BlockRow]:
        """Blocks by what they are."""

    @property
    def networks(self) -> Sequence[NetworkRow]:
        """Whole networks."""

    @property
    def chains(self) -> Sequence[ChainRow]:
        """Chains of blocks."""

    @property
    def repeats(self) -> Mapping[str, float]:
        """Second measurements of held-out networks, by the network's key."""


def refuse_implausible(table: Measured, path: Path) -> None:
    """DataFormatError where a table's numbers cannot be milliseconds."""
    _refuse_disorder(table, path)
    ratios = [
        math.log(sum(table.rows[b].value_ms for b in net.spec.blocks) / net.measurement.floor_ms)
        for net in table.networks
        if all(block in table.rows for block in net.spec.blocks)
    ]
    ratio = math.exp(sum(ratios) / len(ratios)) if ratios else 1.0
    if not 1 / _SUM_RATIO < ratio < _SUM_RATIO:
        raise DataFormatError(
            f"table {path}: blocks add up to {ratio:.3g} times the networks made of them; one of the two is "
            "not in milliseconds"
        )
    if table.setting.provenance == "measured":
        # A device that is part of a backend has a clock of its own; its milliseconds may pass in no time.
        if not backends.is_own(table.setting.device):
            _refuse_slow(table, path)
        _refuse_fast(table, path)


def _refuse_disorder(table: Measured, path: Path) -> None:
    """Percentiles that do not rise, repeats of networks that are not there."""
    named = [(row.block.key, row.measurement) for row in table.rows.values()]
    named += [("a chain", row.measurement) for row in table.chains]
    named += [(f"network {row.spec.key}", row.measurement) for row in table.networks]
    for name, m in named:
        rising = m is None or m.p10_ms <= m.median_ms <= m.p90_ms <= m.p95_ms <= m.p99_ms
        if not rising:
            raise DataFormatError(
                f"table {path}: the percentiles of {name} are not in ascending order, so they are not "
                "measurements"
            )
    known = {row.spec.key for row in table.networks}
    strange = next((key for key in table.repeats if key not in known), None)
    if strange is not None:
        raise DataFormatError(f"table {path}: network {strange} has a repeated measurement but no first one")


def _refuse_slow(table: Measured, path: Path) -> None:
    timed = [row.measurement for row in table.rows.values() if row.measurement]
    timed += [row.measurement for row in table.chains]
    timed += [row.measurement for row in table.networks]
    spent_s = sum(m.samples * m.floor_ms for m in timed) / 1e3
    stamps = [
        datetime.datetime.fromisoformat(text) for text in (table.header.created, *(m.taken_at for m in timed))
    ]
    elapsed_s = (max(stamps) - min(stamps)).total_seconds()
    # A minute of grace: stamps are in whole seconds, and rows may be merged from another sitting.
    if spent_s > 2 * elapsed_s + 60:
        raise DataFormatError(
            f"table {path}: its timed calls add up to {spent_s:.0f} s, but it was taken within "
            f"{elapsed_s:.0f} s; "
            "its times are not in milliseconds"
        )


def _refuse_fast(table: Measured, path: Path) -> None:

    setting = table.setting
    ceiling = _ANY_DEVICE_FLOPS
    if setting.device == "cpu":
        ceiling = setting.threads * _CPU_THREAD_FLOPS[setting.precision]
    # The slowest row computes most, so that its rate is least touched by fixed overheads.
    row = max(table.rows.values(), key=lambda r: r.value_ms, default=None)
    if row is None:
        return
    rate = 2.0 * count_block(row.block, "torch").macs * setting.batch / (row.value_ms / 1e3)
    if rate > ceiling:
        raise DataFormatError(
            f"table {path}: {row.block.key} would run at {rate / 1e12:.3g} TFLOP/s, more than the "
            f"{ceiling / 1e12:.3g} TFLOP/s that its device can reach; its times are not in milliseconds"
        )
