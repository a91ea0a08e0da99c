"""Which space and images a search takes where the user names none."""

from __future__ import annotations

from dataclasses import replace

from hwnas.arrays import ImageShape
from hwnas.jobs.search import first_table
from hwnas.jobs.search.options import FAMILIES, STRATEGY, SearchOptions
from hwnas.measure import device as devices
from hwnas.measure.table import LatencyTable
from hwnas.nets import families, spaces
from hwnas.protocols import Emit, SearchSpace


def usual(options: SearchOptions, shape: ImageShape) -> str:
    """All families, where a profile near one latency can price them; else one space for such images."""
    raced = options.strategy in (STRATEGY, FAMILIES) and options.profile and not options.further
    if raced and first_table.near_ms(options.latency_budget) is not None:
        return families.NAME
    return spaces.advised(shape)


def one_family(
    options: SearchOptions, space: SearchSpace, early: LatencyTable | None, *, resumed: bool
) -> list[str]:
    """Where the newest table has decided that one family is searched, and not the user: that there are more.

    Args:
        options: as the user gave them, without the space that was chosen.
        space: that was chosen.
        early: the newest table.
        resumed: whether the run was begun before, with this space.
    """
    decided = early is not None and early.header.space == space.name != families.NAME
    named = options.space is not None or options.model is not None
    if named or not decided or resumed or first_table.near_ms(options.latency_budget) is None:
        return []
    return [
        f"the space {space.name} is that of the newest table; with --space auto all families of networks "
        "compete, by a table near this budget"
    ]


def on_digits(options: SearchOptions, early: LatencyTable | None, emit: Emit) -> SearchOptions:
    """The built-in images, in the size that was profiled or that the device is usually asked for."""
    o, text = options, "no --data given: searching on the built-in digits data set"
    if o.input_shape is None and o.model is None:
        found = devices.usual(o.device) if early is None and o.space is None and o.device else None
        if early is not None and o.space in (None, early.header.space):
            o = replace(o, input_shape=early.header.input_shape)
        elif found is not None:
            shape = spaces.make(found.space).smallest().input_shape
            o = replace(o, space=found.space, batch=o.batch or found.batch, input_shape=shape)
        if o.input_shape is not None:
            text += f", resized to {'x'.join(map(str, o.input_shape))}, the images that were profiled"
    emit("note", {"text": f"{text}; name your images with --data"})
    return replace(o, data="digits")
