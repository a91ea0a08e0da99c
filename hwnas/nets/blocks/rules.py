"""Conditions of growth that several kinds share."""

from __future__ import annotations

from hwnas.nets.blocks import kind_of
from hwnas.nets.kind import IDEMPOTENT
from hwnas.spec import BlockSpec


def activated(before: BlockSpec, act: str) -> bool:
    """Whether an activation changes nothing in what the block `before` gives."""
    ends_in_act = kind_of(before.kind).ends_in_act and before.act == act
    return act == "none" or (act in IDEMPOTENT and ends_in_act)


def behind_activation(before: BlockSpec, block: BlockSpec, after: BlockSpec) -> bool:
    """An inserted block that ends in an activation, which finds a value that went through it already."""
    return activated(before, block.act)


def always(before: BlockSpec, block: BlockSpec, after: BlockSpec) -> bool:
    """An inserted block that ends in a residual sum."""
    return True


def no_new_identity(old: BlockSpec, new: BlockSpec, before: BlockSpec) -> bool:
    """A shortcut with weights stays one, or takes the place of an identity."""
    return old.joins_identity or not new.joins_identity
