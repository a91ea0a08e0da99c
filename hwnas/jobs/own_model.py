"""A model of the user's own in the place of a space: loaded, traced, its variants the members."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwnas.protocols import SearchSpace

if TYPE_CHECKING:
    from hwnas.nets.model.space import ModelSpace
    from hwnas.train.data import Dataset


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


def normalised(found: SearchSpace, dataset: Dataset, asked: str, weights: Path | None = None) -> list[str]:
    """Give images to a model on the scale that it was trained on.

    A run has recorded it; of another model it is found by trying.

    Args:
        found: its variants.
        dataset: changed.
        asked: a name of `normalisation.scales`, or "auto".
        weights: of the model, where they are not the source's own.

    Returns:
        what was done and why, in words.

    Raises:
        InputError: there is no such scale for these images.
        DataFormatError: the run that the model is of is damaged.
    """
    from hwnas.jobs.resolve.pixels import recorded
    from hwnas.nets.build import build
    from hwnas.nets.model.bases import network_file
    from hwnas.nets.model.space import ModelSpace
    from hwnas.train import normalisation

    assert isinstance(found, ModelSpace)
    if asked != "auto":
        normalisation.use(dataset, normalisation.named(dataset, asked))
        return [f"pixels on the scale {asked}, as --normalise says"]
    network = network_file(found.parent.own.source) if weights is None else None
    if network is not None and (scale := recorded(network, len(dataset.mean))) is not None:
        normalisation.use(dataset, scale)
        return [f"pixels on the scale that {found.parent.own.source} was trained on"]
    if found.new_head:  # which knows nothing on any scale
        return [
            "pixels with the mean and spread of the data; if the model was trained on others: --normalise"
        ]
    scores = normalisation.of_module(build(found.variant(), seed=0).eval())
    best = normalisation.find(scores, dataset, "the model")
    normalisation.use(dataset, best.scale)
    return [f"{best.why} (--normalise says otherwise)"] if best.why else []


def notes(found: SearchSpace) -> list[str]:
    """What is to be said of a model: its new head, what could not be traced."""
    from hwnas.nets.model.space import ModelSpace

    return list(found.notes) if isinstance(found, ModelSpace) else []
