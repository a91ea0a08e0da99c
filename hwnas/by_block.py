"""Engines that compute some blocks of a network in int8 and some in float: which, and why."""

from __future__ import annotations

from pydantic import Field

from hwnas.record import Record
from hwnas.records import Precision
from hwnas.units import format_ms


class BlockPrecision(Record):
    """One block of an engine that computes some blocks in int8 and some in float.

    Attributes:
        block: its place in the network, or its first layer.
        precision: int8, or what the rest is computed in: fp32 or bf16.
        loss: share of the images that is thought to be lost where it is in int8.
        gain_ms: what it takes less in int8 than in float, without switches; None where it was not timed.
        returned: whether it went back to float because the whole lost too much.
    """

    block: str
    precision: Precision
    loss: float = Field(ge=0)
    gain_ms: float | None = None
    returned: bool = False


class Mixed(Record):
    """An int8 engine with blocks that stay in float, chosen by time and loss.

    Attributes:
        blocks: in order.
        switch_ms: what a change of precision costs at each border between two blocks.
        float_ms, int8_ms: the network all in float, all in int8, timed in turn.
        predicted_ms: this mix by the costs of its blocks and switches.
        lost_before, lost_after: share of the images compared that the engine all in int8 and this one got
            wrong beyond the network.
    """

    blocks: tuple[BlockPrecision, ...]
    switch_ms: tuple[float, ...] = ()
    float_ms: float | None = Field(default=None, gt=0)
    int8_ms: float | None = Field(default=None, gt=0)
    predicted_ms: float | None = None
    lost_before: float
    lost_after: float

    def describe(self) -> str:
        """What was chosen, in a sentence."""
        floats = [b.block for b in self.blocks if b.precision != "int8"]
        text = f"{len(floats)} of {len(self.blocks)} blocks stay in float ({', '.join(floats)})"
        if self.predicted_ms is not None and self.float_ms is not None and self.int8_ms is not None:
            text += (
                f"; {format_ms(self.predicted_ms)} predicted, {format_ms(self.int8_ms)} all in int8, "
                f"{format_ms(self.float_ms)} all in float"
            )
        return text + (
            f"; {100 * self.lost_before:.2f} points of top-1 lost before, {100 * self.lost_after:.2f} after"
        )
