"""Two tables against each other: is the device still the same? And several into one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from hwnas.arrays import Float64s
from hwnas.errors import DataFormatError, InputError
from hwnas.measure.rows import CAMPAIGNS, BlockRow, ChainRow, FailureRow, NetworkRow, RepeatRow, Row, SlotRow
from hwnas.measure.table import LatencyTable
from hwnas.spec import BlockSpec

# Two profiles of one machine agree within this (median over keys).
SAME = 0.02
# A common factor explains the difference when what is left of the spread is below this.
COMMON = 0.03


Sameness = Literal["same", "slower", "faster", "different"]


@dataclass(frozen=True)
class Difference:
    """How table b differs from table a, over the keys that both have.

    Attributes:
        verdict: "same" within `SAME`; "slower" or "faster" by one common factor; else "different".
        state_ratio: how much slower the machine was for b, by the sentinel of both tables; divided out
            of everything here. 1 where a table has none.
        keys: number of common keys.
        median_ratio: median of b over a.
        median_abs_percent: median of how far keys are apart.
        spread_percent: half the distance between the 16th and 84th percentile of the ratio.
        worst: the keys furthest apart, with their ratio.
        only_a, only_b: keys that one has alone.
        conditions: fields of the settings that differ.
    """

    verdict: Sameness
    state_ratio: float
    keys: int
    median_ratio: float
    median_abs_percent: float
    spread_percent: float
    worst: tuple[tuple[str, float], ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    conditions: tuple[str, ...]


def diff(a: LatencyTable, b: LatencyTable) -> Difference:
    """Compare two tables key by key; InputError if they have no key in common."""
    common = sorted(set(a.rows) & set(b.rows))
    if not common:
        raise InputError("the two tables have no block in common; there is nothing to compare")
    state = _state(b, a)
    ratio = np.array([b.rows[k].value_ms / a.rows[k].value_ms for k in common]) / state
    verdict, median, spread = judge(ratio)
    order = np.argsort(-np.abs(np.log(ratio)))[:5]
    one, two = a.setting.model_dump(mode="json"), b.setting.model_dump(mode="json")
    return Difference(
        verdict=verdict,
        state_ratio=state,
        keys=len(common),
        median_ratio=median,
        median_abs_percent=100.0 * float(np.median(np.abs(ratio - 1.0))),
        spread_percent=100.0 * spread,
        worst=tuple((common[i].key, float(ratio[i])) for i in order),
        only_a=_keys(set(a.rows) - set(b.rows)),
        only_b=_keys(set(b.rows) - set(a.rows)),
        conditions=tuple(f"{k}: {one[k]} -> {two[k]}" for k in one if one[k] != two[k]),
    )


def _state(table: LatencyTable, other: LatencyTable) -> float:
    """How much slower the machine was for a table than for another, by the sentinel that both have."""
    if not table.sentinel_ms or not other.sentinel_ms or table.header.sentinels != other.header.sentinels:
        return 1.0
    return table.sentinel_ms / other.sentinel_ms


def judge(ratio: Float64s) -> tuple[Sameness, float, float]:
    """Verdict, median and spread of ratios of new to old times."""
    median = float(np.median(ratio))
    low, high = np.percentile(ratio, [16, 84])
    spread = float(high - low) / 2.0 / median
    if float(np.median(np.abs(ratio - 1.0))) <= SAME:
        return "same", median, spread
    if spread > COMMON:
        return "different", median, spread
    return ("slower" if median > 1 else "faster"), median, spread


def _keys(blocks: set[BlockSpec]) -> tuple[str, ...]:
    return tuple(sorted(block.key for block in blocks))


def merge(tables: Sequence[LatencyTable]) -> LatencyTable:
    """Rows of several tables of the same conditions; of a block that several have, the newest row.

    Raises:
        InputError: fewer than two tables.
        DataFormatError: their settings differ; names the fields.
    """
    if len(tables) < 2:
        raise InputError("merge needs at least two tables")
    first = tables[0]
    for other in tables[1:]:
        one, two = first.setting.model_dump(), other.setting.model_dump()
        changed = [f"{k} is {one[k]!r} and {two[k]!r}" for k in one if one[k] != two[k]]
        if changed:
            raise DataFormatError(
                f"tables {first.table_id} and {other.table_id} were taken under different conditions "
                f"({'; '.join(changed)}); only tables of the same conditions can be merged"
            )
    ordered = sorted(tables, key=lambda t: t.header.created, reverse=True)
    spaces = {t.header.space for t in tables}
    header = ordered[0].header.model_copy(
        update={
            "space": spaces.pop() if len(spaces) == 1 else "",
            "created": min(t.header.created for t in tables),
            "source": "merged from " + ", ".join(t.table_id for t in ordered),
            "parent": ordered[0].table_id,
        }
    )
    out = LatencyTable(header)
    for number, table in enumerate(ordered):
        for row in table:
            if isinstance(row, NetworkRow):  # campaigns of different tables stay apart
                row = row.model_copy(update={"campaign": row.campaign + (CAMPAIGNS + 1) * number})
            if not _present(out, row):
                out.add(_referred(row, 1.0 / _state(table, ordered[0]), ordered[0].sentinel_ms))
    return out


def _referred(row: Row, factor: float, sentinel_ms: float | None) -> Row:
    """A row in the state of the machine that another table's floors are referred to."""
    if factor == 1.0:
        return row
    update = dict[str, Any]()
    if isinstance(row, (BlockRow, RepeatRow)):
        update["value_ms"] = row.value_ms * factor
    if isinstance(row, BlockRow):
        update["se_ms"] = row.se_ms * factor
    if isinstance(row, (BlockRow, ChainRow, NetworkRow)) and row.measurement is not None:
        m = row.measurement
        update["measurement"] = m.model_copy(
            update={"floor_ms": m.floor_ms * factor, "se_ms": m.se_ms * factor, "sentinel_ms": sentinel_ms}
        )
    return row.model_copy(update=update)


def _present(out: LatencyTable, row: Row) -> bool:
    """Whether a newer table gave this row already."""
    match row:
        case BlockRow():
            return row.block in out
        case ChainRow():
            return out.has_chain(row.blocks)
        case SlotRow():
            return any((slot.width, slot.size) == (row.width, row.size) for slot in out.slots)
        case RepeatRow():
            return row.network in out.repeats
        case FailureRow():
            return set(row.blocks) <= set(out.rows)
        case _:
            return False
