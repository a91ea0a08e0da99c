"""How a trained model of the user's own wants its pixels: by trying, or as it is told.

A network trained elsewhere saw its images on some scale, which neither its code nor its weights say. On
another scale it is a far worse network, and a worse teacher: a ResNet-18 of torchvision, trained on digits in
[0, 1] to 91 %, names 47 % of them when they come with zero mean and unit spread. Of the usual scales, the one
on which its loss is smallest is the one it was trained on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from hwnas.errors import InputError
from hwnas.train.data import Dataset, Split, normalise

# What a network takes off pixels and divides them by, for each channel, on the scale where 255 is 1.
PixelScale = tuple[tuple[float, ...], tuple[float, ...]]
ScoresOf = Callable[[torch.Tensor], torch.Tensor]
# Training images that are looked at on each scale, and at once.
LOOKED_AT, PART = 256, 64
# Part of the loss on the data's own scale that another one must get below: noise is no reason.
BETTER = 0.9
IMAGENET: PixelScale = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # torchvision's, timm's


def scales(dataset: Dataset) -> dict[str, PixelScale]:
    """The usual scales, by name: ``data`` is that of the data itself, which hwnas trains on."""
    channels = len(dataset.mean)
    found: dict[str, PixelScale] = {
        "data": (dataset.mean, dataset.std),
        "unit": ((0.0,) * channels, (1.0,) * channels),
        "symmetric": ((0.5,) * channels, (0.5,) * channels),
        "bytes": ((0.0,) * channels, (1 / 255,) * channels),
    }
    if channels == len(IMAGENET[0]):
        found["imagenet"] = IMAGENET
    return found


def losses(scores: ScoresOf, dataset: Dataset, most: int = LOOKED_AT) -> dict[str, float]:
    """Loss of a network on training images, on each scale.

    Args:
        scores: of normalised images (n, C, H, W), (n, classes), in evaluation mode.
        dataset: the images.
        most: how many are looked at, evenly over the split.
    """
    at = torch.linspace(0, len(dataset.train) - 1, min(most, len(dataset.train))).long()
    images, labels = dataset.train.pixels[at], dataset.train.labels[at]
    return {
        name: float(cross_entropy(scores(normalise(images, mean, std)), labels))
        for name, (mean, std) in scales(dataset).items()
    }


def of_module(module: nn.Module) -> ScoresOf:
    """A module as a function of images, in parts."""

    def scores(images: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            return torch.cat([module(part) for part in torch.split(images, PART)])

    return scores


def suited(found: Mapping[str, float], classes: int) -> str:
    """The scale that a module was trained on, by its losses; ``data`` where they do not say."""
    best = min(found, key=lambda name: found[name] if math.isfinite(found[name]) else math.inf)
    own = found["data"]
    told = found[best] < math.log(classes) and not found[best] >= BETTER * own
    return best if told else "data"


@dataclass(frozen=True)
class Suited:
    """The scale of pixels that suits a network.

    Attributes:
        name: of `scales`.
        scale: mean and spread.
        why: in words; empty where it is the data's own.
    """

    name: str
    scale: PixelScale
    why: str = ""


def find(scores: ScoresOf, dataset: Dataset, of: str, most: int = LOOKED_AT) -> Suited:
    """Look on every scale for the one that a network was trained on.

    Args:
        scores, dataset, most: as of `losses`.
        of: what the network is, for the words: "the model".
    """
    found, known = losses(scores, dataset, most), scales(dataset)
    name = suited(found, len(dataset.classes))
    if name == "data":
        return Suited(name, known[name])
    why = (
        f"pixels on the scale {name}, on which {of}'s loss is {found[name]:.3f}; with the mean and spread of "
        f"the data it is {found['data']:.3f}"
    )
    return Suited(name, known[name], why)


def named(dataset: Dataset, name: str) -> PixelScale:
    """The scale of a name, for the images of a data set.

    Raises:
        InputError: there is no such scale for these images.
    """
    known = scales(dataset)
    if name not in known:
        raise InputError(
            f"--normalise {name} is for images of 3 channels, and {dataset.name} has {len(dataset.mean)}; "
            f"expected one of {', '.join(known)}"
        )
    return known[name]


def use(dataset: Dataset, scale: PixelScale) -> None:
    """Give the images of a data set to networks on another scale, from now on."""
    mean, std = scale

    def on_scale(split: Split) -> Split:
        return replace(split, mean=mean, std=std)

    dataset.train, dataset.val, dataset._test = map(on_scale, (dataset.train, dataset.val, dataset._test))


class Rescaled(nn.Module):
    """A network trained on one scale of pixels for images that come on another."""

    factor: torch.Tensor
    shift: torch.Tensor

    def __init__(self, network: nn.Module, own: PixelScale, given: PixelScale) -> None:
        super().__init__()
        self.network = network
        (mean, std), (given_mean, given_std) = (map(torch.tensor, scale) for scale in (own, given))
        self.register_buffer("factor", (given_std / std)[:, None, None], persistent=False)
        self.register_buffer("shift", ((given_mean - mean) / std)[:, None, None], persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Scores of images (n, C, H, W) on the scale `given`."""
        scores: torch.Tensor = self.network(images * self.factor + self.shift)
        return scores
