"""Where channels lie when a tensor takes another shape: flattened, viewed, permuted, padded, concatenated."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import fx

from hwnas.nets.model.channel_atoms import Followed, Track, first_input, shape_read


def flat(seen: Followed, node: fx.Node, track: Track) -> Track | None:
    """All axes behind the batch become one."""
    shape = shape_read(node)
    if track.axis == 1:
        return Track(1, np.repeat(track.atoms, math.prod(shape[2:])))
    if track.axis == len(shape) - 1:
        return Track(1, np.tile(track.atoms, math.prod(shape[1:-1])))
    return seen.fix_inputs(node, "they are flattened with other axes")


def flatten(seen: Followed, node: fx.Node) -> Track | None:
    """From one axis to another."""
    track = seen.of(first_input(node))
    if track is None:
        return None
    given: dict[str, Any] = dict(zip(("start_dim", "end_dim"), node.args[1:])) | node.kwargs
    rank = len(shape_read(node))
    start, end = int(given.get("start_dim", 0)) % rank, int(given.get("end_dim", -1)) % rank
    if start > track.axis:
        return track
    if (start, end) == (1, rank - 1):
        return flat(seen, node, track)
    return seen.fix_inputs(node, "they are flattened with other axes")


def view(seen: Followed, node: fx.Node) -> Track | None:
    """Sizes that are written down, of which one may be open (-1)."""
    track = seen.of(first_input(node))
    if track is None:
        return None
    before, after = shape_read(node), node.meta["shape"]
    sizes: Sequence[Any] = node.args[1:]
    if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)):
        sizes = sizes[0]
    open_at = next((i for i, s in enumerate(sizes) if s == -1), None)
    if open_at is not None and after[open_at] == len(track.atoms) and _alone(track, before):
        return Track(open_at, track.atoms)
    if track.axis == 1 and open_at == 1 and len(after) > 2 and after[:2] == before[:2]:
        return track
    if track.axis == 1 and open_at == 1 and len(after) == 2 and after[0] == before[0]:
        return flat(seen, node, track)
    return seen.fix_inputs(node, "they are reshaped")


def squeeze(seen: Followed, node: fx.Node) -> Track | None:
    """Axes of length 1 come or go."""
    track = seen.of(first_input(node))
    if track is None:
        return None
    places = [i for i, s in enumerate(node.meta["shape"]) if s == len(track.atoms)]
    if len(places) == 1 and _alone(track, shape_read(node)):
        return Track(places[0], track.atoms)
    return seen.fix_inputs(node, "they are reshaped")


def _alone(track: Track, shape: tuple[int, ...]) -> bool:
    """Whether a tensor holds nothing but channels, or those of each image."""
    n = len(track.atoms)
    return math.prod(shape) in (n, n * shape[0])


def permute(seen: Followed, node: fx.Node) -> Track | None:
    """All axes in another order."""
    track = seen.of(first_input(node))
    if track is None:
        return None
    given: Any = node.args[1:] if len(node.args) > 1 else (node.kwargs["dims"],)
    order = list(given[0]) if len(given) == 1 else list(given)
    rank = len(node.meta["shape"])
    return Track([int(d) % rank for d in order].index(track.axis), track.atoms)


def transpose(seen: Followed, node: fx.Node) -> Track | None:
    """Two axes change places."""
    track = seen.of(first_input(node))
    if track is None or len(node.args) != 3:
        return seen.fix_inputs(node, "they are reshaped")
    rank = len(node.meta["shape"])
    given: Any = node.args[1:]
    a, b = (int(d) % rank for d in given)
    return Track({a: b, b: a}.get(track.axis, track.axis), track.atoms)


def pad(seen: Followed, node: fx.Node) -> Track | None:
    """The last axes become longer."""
    track = seen.of(first_input(node))
    given: Any = node.args[1] if len(node.args) > 1 else node.kwargs.get("pad", ())
    if track is not None and len(node.meta["shape"]) - len(given) // 2 > track.axis:
        return track
    return seen.fix_inputs(node, "they are padded")


def cat(seen: Followed, node: fx.Node) -> Track | None:
    """Tensors one behind the other."""
    parts: Any = first_input(node)
    if isinstance(parts, fx.Node):  # all that `chunk` gave, which has fixed what entered it
        return None
    tracks = [seen.of(p) for p in parts]
    known = [t for t in tracks if t is not None]
    if not known:
        return None
    named = node.kwargs.get("dim", node.kwargs.get("axis", 0))
    given: Any = node.args[1] if len(node.args) > 1 else named
    dim = int(given) % len(node.meta["shape"])
    if any(t.axis != dim for t in known):
        return seen.fix_inputs(node, "they are concatenated along another axis")
    vectors = []
    for part, track in zip(parts, tracks):
        if track is None:
            atoms = seen.atoms.fresh(part.meta["shape"][dim])
            seen.atoms.fix(atoms, "they enter the block")
            vectors.append(atoms)
        else:
            vectors.append(track.atoms)
    return Track(dim, np.concatenate(vectors))
