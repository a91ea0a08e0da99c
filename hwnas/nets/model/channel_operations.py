"""What operations without weights do to channels: carry them on, join those of two tensors, or fix them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import fx

from hwnas.arrays import Int64s
from hwnas.nets.model.channel_atoms import Followed, Track, first_input, shape_read
from hwnas.nets.model.channel_shapes import cat, flatten, pad, permute, squeeze, transpose, view

# Each number by itself.
_BY_NUMBER = frozenset((
    "relu", "relu_", "relu6", "silu", "gelu", "sigmoid", "tanh", "hardtanh", "hardswish", "hardsigmoid",
    "leaky_relu", "elu", "selu", "mish", "softplus", "hard_swish", "hard_sigmoid", "swish", "hard_mish",
    "dropout", "contiguous", "clone", "float", "type_as", "to", "clamp", "clamp_", "sigmoid_", "tanh_",
    "silu_", "stochastic_depth", "neg", "abs", "sqrt", "exp", "pow", "square", "detach", "drop_path",
))  # fmt: skip
# Along the last two axes; torch calls its max pooling "boolean_dispatch" or "fn".
_BY_PLACE = frozenset((
    "max_pool2d", "_max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d",
    "boolean_dispatch", "fn", "interpolate",
))  # fmt: skip
_TYPE_OF_SECOND = frozenset(("type_as", "to"))  # of a second tensor they read the type alone
_TWO = frozenset((
    "add", "iadd", "sub", "isub", "mul", "imul", "truediv", "div", "add_", "sub_", "mul_", "div_",
    "maximum", "minimum",
))  # fmt: skip
# What of channels cannot be computed from fewer of them, by the operation; a sum can.
_REDUCED = {
    "mean": "their mean is taken",
    "amax": "their largest value is taken",
    "amin": "their smallest value is taken",
    "sum": "",
}


def operation(seen: Followed, node: fx.Node) -> Track | None:
    """The channels that leave a function or a method."""
    name = str(node.target if node.op == "call_method" else getattr(node.target, "__name__", ""))
    if name == "size":
        return None
    unknown = f"they meet {name}, which is not known to keep channels apart"
    if "shape" not in node.meta:  # several tensors; or a number, which nothing followed enters
        return seen.fix_inputs(node, unknown)
    if name in _BY_NUMBER and _lonely(seen, node, name):
        return seen.of(first_input(node))
    if name in _BY_PLACE and _lonely(seen, node, name):
        return by_place(seen, node, seen.of(first_input(node)))
    if name in _TWO:
        return _two(seen, node)
    if name in _REDUCED:
        return _reduced(seen, node, _REDUCED[name])
    rule = _RULES.get(name)
    return rule(seen, node) if rule is not None else seen.fix_inputs(node, unknown)


def _lonely(seen: Followed, node: fx.Node, name: str) -> bool:
    """Whether one tensor alone decides the numbers, whose channels are followed."""
    first = first_input(node)
    others = [n for n in node.all_input_nodes if n is not first and math.prod(n.meta.get("shape", ())) > 1]
    return seen.of(first) is not None and (not others or name in _TYPE_OF_SECOND)


def by_place(seen: Followed, node: fx.Node, track: Track | None) -> Track | None:
    """Pooled, padded or scaled along the last two axes, where those are not the channels."""
    if track is None or track.axis < len(node.meta["shape"]) - 2:
        return track
    return seen.fix_inputs(node, "they are pooled, padded or scaled as places of an image")


def _two(seen: Followed, node: fx.Node) -> Track | None:
    """Two operands, broadcast: places on the same axis are joined."""
    rank = len(node.meta["shape"])
    sides = [a for a in node.args[:2] if isinstance(a, fx.Node)]
    if "out" in node.kwargs or any(isinstance(v, fx.Node) for v in node.kwargs.values()):
        return seen.fix_inputs(node, "they meet an operation with further inputs")
    found: list[tuple[int, Int64s]] = []
    for side in sides:
        track, shape = seen.of(side), side.meta.get("shape")
        if track is not None and shape is not None:
            found.append((track.axis + rank - len(shape), track.atoms))
    if not found:
        return None
    axis, atoms = found[0]
    for side in sides:
        shape, track = side.meta.get("shape"), seen.of(side)
        if shape is None:
            continue
        at = axis - (rank - len(shape))
        if track is None:
            if at >= 0 and shape[at] > 1:
                return seen.fix_inputs(node, "they are joined with what enters the block")
        elif track.axis != at or len(track.atoms) != len(atoms):
            return seen.fix_inputs(node, "they meet channels of another axis")
        else:
            seen.atoms.join_each(atoms, track.atoms)
    return Track(axis, atoms)


def _dims(node: fx.Node) -> list[int]:
    """The axes that an operation works along; all where it names none."""
    rank = len(shape_read(node))
    given: Any = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", node.kwargs.get("axis"))
    dims = list(range(rank)) if given is None else [given] if isinstance(given, int) else list(given)
    return [int(d) % rank for d in dims]


def _reduced(seen: Followed, node: fx.Node, of_channels: str) -> Track | None:
    """Some axes become one number."""
    track = seen.of(first_input(node))
    if track is None:
        return None
    dims = _dims(node)
    keep = bool(node.args[2] if len(node.args) > 2 else node.kwargs.get("keepdim", False))
    if track.axis in dims:
        return seen.fix_inputs(node, of_channels) if of_channels else None
    return Track(track.axis - (0 if keep else sum(d < track.axis for d in dims)), track.atoms)


def _softmax(seen: Followed, node: fx.Node) -> Track | None:
    track = seen.of(first_input(node))
    if track is not None and track.axis in _dims(node):
        return seen.fix_inputs(node, "a softmax is taken over them")
    return track


def _expand(seen: Followed, node: fx.Node) -> Track | None:
    """To the shape of another tensor."""
    other: Any = node.args[1] if len(node.args) > 1 else node.kwargs.get("other")
    a, b = seen.of(first_input(node)), seen.of(other)
    same = len(shape_read(node)) == len(node.meta["shape"])
    if a is None or b is None or not same or a.axis != b.axis or len(a.atoms) != len(b.atoms):
        return seen.fix_inputs(node, "they are joined with what enters the block")
    seen.atoms.join_each(a.atoms, b.atoms)
    return a


_RULES: dict[str, Callable[[Followed, fx.Node], Track | None]] = {
    "cat": cat, "concat": cat, "flatten": flatten, "view": view, "reshape": view, "permute": permute,
    "transpose": transpose, "pad": pad, "softmax": _softmax, "expand_as": _expand, "squeeze": squeeze,
    "unsqueeze": squeeze,
}  # fmt: skip
