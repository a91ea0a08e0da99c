"""The kinds of blocks: one file and one line in `hwnas.plugins` each, or an entry point.

A recipe is the only definition of a block. The torch builder, the ONNX writer and the counters all
interpret it.
"""

from __future__ import annotations

from functools import lru_cache

from hwnas import plugins
from hwnas.errors import InputError
from hwnas.nets.draft import Dataflow, Draft
from hwnas.nets.kind import BlockKind, GrowthRule
from hwnas.spec import BlockSpec, Convention


def kind_of(name: str) -> BlockKind:
    """The registered kind of a name.

    Raises:
        InputError: for an unknown name, or where something else than a `BlockKind` is registered.
    """
    kind = plugins.load("blocks", name)
    if not isinstance(kind, BlockKind):
        raise InputError(f"block kind {name!r} is a {type(kind).__name__}; register a BlockKind")
    return kind


def growth_of(name: str) -> GrowthRule:
    """The growth rule of a kind.

    Raises:
        InputError: where it has none.
    """
    growth = kind_of(name).growth
    if growth is None:
        raise InputError(
            f"block kind {name!r} has no growth rule, so its weights cannot be handed on to another "
            "block; give its BlockKind a growth=GrowthRule(...) (docs/extending.md)"
        )
    return growth


@lru_cache(maxsize=65536)
def recipe(block: BlockSpec, convention: Convention = "torch") -> Dataflow:
    """The operations of a block.

    Args:
        block: what to build.
        convention: ``keras`` gives convolutions a bias and shortcuts no batch norm, ``torch`` the
            reverse (`hwnas.spec.NetworkSpec`).
    """
    draft = Draft(block, convention)
    kind_of(block.kind).write(draft, block)
    return Dataflow(tuple(draft.ops))
