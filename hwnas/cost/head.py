"""The classifier of another number of classes than a table was made for: priced, not measured again.

Its cost is a few percent of a network's, and a table for every number of classes would be minutes of
measuring for it. The rule: a head costs what the measured one of the nearest number of classes and
otherwise equal shape costs, plus (or minus) its further multiply-accumulates at the mean time that one
takes in the table's blocks; never less than half of the measured one. The whole change counts as its own
standard deviation, so that the interval widens with it.
"""

from __future__ import annotations

import math

import numpy as np

from hwnas.measure.table import LatencyTable
from hwnas.nets.count import count_block
from hwnas.spec import BlockSpec

# Blocks that the mean time of a multiply-accumulate is taken over, evenly over the table.
_SAMPLE = 1_000


def priced(table: LatencyTable, head: BlockSpec) -> tuple[float, float] | None:
    """Time and its standard deviation in ms by the rule; None where no such head was measured."""
    row = table.head_like(head)
    if row is None:
        return None
    change_ms = (count_block(head).macs - count_block(row.block).macs) * _ms_a_mac(table)
    value_ms = max(row.value_ms + change_ms, 0.5 * row.value_ms)
    return value_ms, math.hypot(row.se_ms, value_ms - row.value_ms)


def _ms_a_mac(table: LatencyTable) -> float:
    rows = list(table.rows.values())
    rows = [rows[at] for at in np.unique(np.linspace(0, len(rows) - 1, _SAMPLE).astype(int))]
    return sum(row.value_ms for row in rows) / max(sum(count_block(row.block).macs for row in rows), 1)
