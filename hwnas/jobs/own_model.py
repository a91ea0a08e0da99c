"""A model of the user's own in the place of a space: loaded, traced, its variants the members."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwnas.protocols import SearchSpace

if TYPE_CHECKING:
    from hwnas.nets.model.space import ModelSpace


def space(
    source: str,
    weights: Path | None = None,
    *,
    input_shape: tuple[int, int, int] | None = None,
    classes: int | None = None,
    repeats: int = 1,
) -> ModelSpace:
    """The variants of a model.

    Args:
        source: see `hwnas.nets.model.sources.load`; its code runs.
        weights: of the model.
        input_shape: channels, height and width of an image; None takes what the model was made for.
        classes: a new head is put in where the model gives another number; None leaves its own.
        repeats: how often in a row a piece may stand.
    """
    from hwnas.nets.model.sources import load
    from hwnas.nets.model.space import ModelSpace

    own = load(source, weights=weights, input_shape=input_shape, classes=classes)
    return ModelSpace(own, repeats=repeats)


def stated_input(source: str, weights: Path | None) -> tuple[int, int, int]:
    """The size of images that a model says it is for."""
    from hwnas.nets.model.sources import load

    return load(source, weights=weights).input_shape


def identity(found: SearchSpace, weights: Path | None) -> dict[str, Any]:
    """What a run remembers of its model: another structure or other weights are another search."""
    from hwnas.nets.model.space import ModelSpace

    assert isinstance(found, ModelSpace)
    return {
        "weights": None if weights is None else str(weights),
        "model_graph": found.base.graph,
        "model_sha256": found.parent.own.sha256,
        "model_weights_sha256": found.parent.own.weights_sha256,
    }


def notes(found: SearchSpace) -> list[str]:
    """What is to be said of a model: its new head, what could not be traced."""
    from hwnas.nets.model.space import ModelSpace

    return list(found.notes) if isinstance(found, ModelSpace) else []
