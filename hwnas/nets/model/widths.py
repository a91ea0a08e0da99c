"""Which inner channels of a piece can be taken, and at which widths.

The operations of a piece are gone through once, in order; each says what becomes of the channels that enter
it (`channel_layers`, `channel_operations`). What enters and leaves a piece is fixed, and so is whatever
meets an operation that is not known there. A group is the layers whose channels are joined; its width is a
number of channels to keep.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import fx

from hwnas.arrays import Int64s
from hwnas.nets.model.channel_atoms import Followed, Slice, Track
from hwnas.nets.model.channel_layers import layer, parameter
from hwnas.nets.model.channel_operations import operation

STEP = 8  # channels; fewer make no kernel faster
SMALLEST = 16  # a group of fewer channels is left alone, such as the squeeze of a gate
MOST_FORMS = 8  # widths that a group is offered at, its own included


@dataclass(frozen=True)
class WidthGroup:
    """Layers whose output channels are taken together.

    Attributes:
        layers: nodes of the layers, in order; the first is the one that names the group.
        width: output channels of each.
        unit: channels that can only be taken together.
        atoms: for each set of channels that are taken together their atom.
    """

    layers: tuple[str, ...]
    width: int
    unit: int
    atoms: tuple[int, ...]


@dataclass(frozen=True)
class Channels:
    """What the channels of a piece depend on.

    Attributes:
        graph: of the piece alone.
        groups: those whose width can be chosen, the widest first.
        fixed: for each layer that makes channels that cannot be taken, why.
        slices: what has numbers of channels, by their atoms.
        producers: for each layer that makes channels their atoms.
    """

    graph: fx.GraphModule
    groups: tuple[WidthGroup, ...]
    fixed: Mapping[str, str]
    slices: tuple[Slice, ...]
    producers: Mapping[str, Int64s]


def channels(graph: fx.GraphModule, shared: frozenset[str] = frozenset()) -> Channels:
    """What the channels inside a piece depend on.

    Args:
        graph: of the piece alone, with shapes in the nodes' `meta`.
        shared: modules and parameters that other pieces use as well.
    """
    seen = Followed(graph, _used_twice(graph) | shared)
    for node in graph.graph.nodes:
        track = _follow(seen, node)
        if track is not None and not _fits(track, node):  # an activation that doubles its channels, ...
            seen.atoms.fix(track.atoms, f"they meet {node.name}, which changes their number")
            track = None
        seen.tracks[node] = track
    groups, fixed = _grouped(seen)
    slices = (Slice(s.node, s.what, seen.atoms.roots(s.atoms), s.axis) for s in seen.slices)
    return Channels(graph, groups, fixed, tuple(slices), _roots_of_layers(seen))


def steps(width: int, unit: int = 1) -> tuple[int, ...]:
    """Smaller widths that are offered: multiples of 8 channels and of `unit`, evenly spread, at most 7."""
    least = math.lcm(STEP, unit)
    if width < SMALLEST or width <= least:
        return ()
    step = least * max(1, math.ceil(width / least / MOST_FORMS))
    return tuple(range(step, width, step))


def _used_twice(graph: fx.GraphModule) -> frozenset[Any]:
    """Parameters, and modules with numbers of their own, that are used several times."""
    uses: Counter[Any] = Counter()
    for node in graph.graph.nodes:
        stateless = node.op == "call_module" and not graph.get_submodule(str(node.target)).state_dict()
        if node.op in ("call_module", "get_attr") and not stateless:
            uses[node.target] += 1
    return frozenset(target for target, n in uses.items() if n > 1)


def _follow(seen: Followed, node: fx.Node) -> Track | None:
    """The channels that leave a node, where they can be followed."""
    if node.op == "placeholder":
        return None
    if node.op == "get_attr":
        return parameter(seen, node)
    if node.op == "output":
        return seen.fix_inputs(node, "they leave the block")
    if node.op == "call_module":
        return layer(seen, node)
    return operation(seen, node)


def _fits(track: Track, node: fx.Node) -> bool:
    """Whether the trace saw as many channels on that axis."""
    shape = node.meta["shape"]
    return track.axis < len(shape) and shape[track.axis] == len(track.atoms)


def _roots_of_layers(seen: Followed) -> dict[str, Int64s]:
    return {name: seen.atoms.roots(atoms) for name, atoms in seen.producers.items()}


def _grouped(seen: Followed) -> tuple[tuple[WidthGroup, ...], dict[str, str]]:
    """Layers that share atoms are one group; those with a fixed atom are not offered, and why."""
    made = _roots_of_layers(seen)
    found, fixed = [], dict(seen.fixed)
    for layers in _joined({name: frozenset(map(int, roots)) for name, roots in made.items()}):
        own = {name: made[name] for name in layers}
        if why := _why_fixed(own, seen.atoms.why):
            fixed |= dict.fromkeys(layers, why)
        else:
            first = own[layers[0]]
            order = tuple(dict.fromkeys(map(int, first)))
            found.append(WidthGroup(tuple(layers), len(first), len(first) // len(order), order))
    return tuple(sorted(found, key=lambda g: -g.width)), fixed


def _joined(sets: Mapping[str, frozenset[int]]) -> list[list[str]]:
    """Names whose sets overlap, directly or through others."""
    groups: list[list[str]] = []
    for name, atoms in sets.items():
        joined = [g for g in groups if any(sets[other] & atoms for other in g)]
        groups = [g for g in groups if g not in joined] + [[*(n for g in joined for n in g), name]]
    return groups


def _why_fixed(made: Mapping[str, Int64s], why: Mapping[int, str]) -> str:
    """Why a group of layers, by the atoms of their channels, cannot be narrowed; empty where it can."""
    first = next(iter(made.values()))
    atoms = sorted({int(a) for roots in made.values() for a in roots})
    for a in atoms:
        if a in why:
            return why[a]
    if any(len(roots) != len(first) or not set(atoms) <= set(map(int, roots)) for roots in made.values()):
        return "they are joined with channels of other layers one by one"
    width, unit = len(first), len(first) // len(atoms)
    if any(int((first == a).sum()) != unit for a in atoms):
        return "their groups are of different sizes"
    if not steps(width, unit):
        return f"they are only {width}" if unit == 1 else f"they are only {width}, in groups of {unit}"
    return ""
