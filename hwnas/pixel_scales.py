"""Names of the scales that trained models take their pixels on; `hwnas.train.normalisation` knows them."""

from __future__ import annotations

from typing import Literal, get_args

# auto: what a run recorded, else the one on which the model's loss is smallest.
PixelScaleName = Literal["auto", "data", "unit", "symmetric", "imagenet", "bytes"]
NAMES: tuple[str, ...] = get_args(PixelScaleName)
