"""Block costs by differences of chains: latency taken in context, without any whole network.

    tau_rest(k)  = (T(k k k k) - T(k k)) / 2                        blocks that can follow themselves
    tau_first(k) = T(p k r) - T(p) - tau_rest(r)                    blocks that change shape

with p a block that gives k its input and r the block that repeats after k. Stem and classifier keep
their times alone. The rival of the posterior in `benchmarks.predictors`.
"""

from __future__ import annotations

from hwnas.measure.sweep import Sweep
from hwnas.protocols import SearchSpace
from hwnas.spec import BlockSpec


def in_context(task: Sweep, space: SearchSpace) -> dict[BlockSpec, float]:
    """Cost of every block of a space in ms; blocks that no chain gives keep their times alone.

    Args:
        task: a sweep whose table has every block's time alone; chains are added to it.
        space: whose blocks.
    """
    table = task.writer.table
    blocks = [b for b in space.blocks() if b.kind not in ("conv", "classifier")]
    rest = [b for b in blocks if b.joins_identity]
    before = {b: _giving(b, blocks) for b in blocks if not b.joins_identity}
    moving = [(p, b, b.repeated()) for b, p in before.items() if p is not None and b.repeated() in rest]
    repeats: list[tuple[BlockSpec, ...]] = [chain for b in rest for chain in ((b,) * 2, (b,) * 4)]
    task.chains([*repeats, *moving])
    times = {chain.blocks: chain.measurement.floor_ms for chain in table.chains}
    cost = {block: row.value_ms for block, row in table.rows.items()}
    for b in rest:
        cost[b] = (times[(b,) * 4] - times[(b,) * 2]) / 2.0
    for chain in moving:
        p, b, r = chain
        cost[b] = times[chain] - table[p].value_ms - cost[r]
    return cost


def _giving(block: BlockSpec, blocks: list[BlockSpec]) -> BlockSpec | None:
    """A block whose output is this one's input, one that keeps its shape if there is one."""
    fits = [b for b in blocks if (b.c_out, b.size_out) == (block.c_in, block.size_in)]
    return min(fits, key=lambda b: (not b.joins_identity, b.key), default=None)
