"""How large a feature map is: the side of a square in pixels, or its height and width.

A square is always its side alone, so that equal shapes are equal, and keys and files of square networks
say one number.
"""

from __future__ import annotations

import math
from numbers import Integral
from typing import Annotated, Union

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Strict, Tag

# Sizes come from files, and are not believed before they could be built.
MOST_PIXELS = 1 << 14

Sides = tuple[int, int]  # height, width
MapSize = Union[int, Sides]  # noqa: UP007


def of(height: int, width: int) -> MapSize:
    """The size of so many rows and columns."""
    return height if height == width else (height, width)


def sides(size: MapSize) -> Sides:
    """Height and width."""
    return size if isinstance(size, tuple) else (size, size)


def pixels(size: MapSize) -> int:
    """Number of pixels."""
    height, width = sides(size)
    return height * width


def mean_side(size: MapSize) -> float:
    """Side of the square of as many pixels."""
    return math.sqrt(pixels(size))


def divided(size: MapSize, stride: int) -> MapSize:
    """What a stride leaves of a size: each side divided, rounded up."""
    height, width = sides(size)
    return of(-(-height // stride), -(-width // stride))


def text(size: MapSize) -> str:
    """Height and width as people read them: ``32x64``."""
    height, width = sides(size)
    return f"{height}x{width}"


def brief(size: MapSize) -> str:
    """As keys have it: ``32`` of a square, ``32x64``."""
    return text(size) if isinstance(size, tuple) else str(size)


# A size in a file is a number, or a list of height and width.
SQUARE, RECTANGLE = "square", "rectangle"
_which = Discriminator(lambda value: RECTANGLE if isinstance(value, (list, tuple)) else SQUARE)


def whole(value: object) -> object:
    """An integer of any kind, numpy's too, as Python's; anything else as it is, for the check."""
    return int(value) if isinstance(value, Integral) and not isinstance(value, bool) else value


# What is no number in a file, as "32" or true, is not taken for one.
Whole = Annotated[int, Strict(), BeforeValidator(whole)]
_Side = Annotated[int, Field(gt=0, le=MOST_PIXELS, strict=True), BeforeValidator(whole)]
_Square = Annotated[_Side, Tag(SQUARE)]
_Rectangle = Annotated[tuple[_Side, _Side], AfterValidator(lambda two: of(*two)), Tag(RECTANGLE)]
# Written with Union: files that hold them are read on targets of ssh, too (`measure.remote`), where Python
# 3.9 has no `|` of types.
SizeField = Annotated[Union[_Square, _Rectangle], _which]  # noqa: UP007
# The same, or 0 where there is nothing.
SizeOrZero = Annotated[
    Union[  # noqa: UP007
        Annotated[int, Field(ge=0, le=MOST_PIXELS, strict=True), BeforeValidator(whole), Tag(SQUARE)],
        _Rectangle,
    ],
    _which,
]
