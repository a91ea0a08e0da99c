"""Looking at a user's own network: its blocks, and what of them can be dropped, narrowed and repeated."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hwnas.arrays import ImageShape
from hwnas.nets.model.cut import Piece
from hwnas.nets.model.parent import Parent, parent
from hwnas.nets.model.sources import load


@dataclass(frozen=True)
class InspectOptions:
    """What is looked at.

    Attributes:
        model: ``FILE.py:function``, ``package.module:function``, ``torchvision:NAME``, ``timm:NAME``,
            ``FILE.onnx``, ``FILE.pt2``, a run or a network.json.
        weights: a state dict of it.
        input_shape: channels, height, width of an image; None takes what the model says.
    """

    model: str
    weights: Path | None = None
    input_shape: ImageShape | None = None


def inspect(options: InspectOptions) -> dict[str, Any]:
    """Blocks of a network with what can be done to each, as ``hwnas model inspect --json`` prints it.

    Raises:
        InputError: there is no such model, or it cannot be traced.
        DataFormatError: the weights do not fit.
        BackendUnavailable: the library that the model is of is not installed.
    """
    own = load(options.model, weights=options.weights, input_shape=options.input_shape)
    found = parent(own)
    return {
        "model": options.model,
        "kind": own.kind,
        "input": list(own.input_shape),
        "params": found.params,
        "macs": found.macs,
        "blocks": [_block(piece) for piece in found.pieces],
        "leaves": [{"name": leaf.name, "reason": leaf.reason} for leaf in found.leaves],
        "notes": [*found.notes, *_nothing(found)],
    }


def _block(piece: Piece) -> dict[str, Any]:
    return {
        "name": piece.name,
        "key": piece.key,
        "in": list(piece.shape_in),
        "out": list(piece.shape_out),
        "macs": piece.macs,
        "params": piece.params,
        "droppable": piece.droppable,
        "repeatable": piece.repeatable,
        "width": piece.width,
        "widths": list(piece.widths),
        "reasons": piece.reasons,
    }


def _nothing(found: Parent) -> list[str]:
    return [found.unchangeable] if found.unchangeable else []
