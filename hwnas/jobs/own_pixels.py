"""The scale of pixels for a model of the user's own: as it is told, as its run recorded it, or by trying."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hwnas.jobs.resolve.pixels import recorded
from hwnas.protocols import SearchSpace

if TYPE_CHECKING:
    from hwnas.train.data import Dataset


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
