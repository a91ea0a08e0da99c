"""Photographs of mixed size, made up: shapes on a noisy ground in four class folders, one file cut short."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

SHAPES = ("circle", "square", "star", "triangle")


def make(folder: Path, number: int, seed: int) -> Path:
    """Write so many photographs; the one that is corrupt is given."""
    rng = np.random.default_rng(seed)
    for at in range(number):
        place = folder / SHAPES[at % len(SHAPES)]
        place.mkdir(parents=True, exist_ok=True)
        _photograph(SHAPES[at % len(SHAPES)], rng).save(place / f"{at:04}.jpg", quality=90)
    corrupt = folder / "star" / f"{number - 2:04}.jpg"
    corrupt.write_bytes(corrupt.read_bytes()[:300])
    return corrupt


def _photograph(shape: str, rng: np.random.Generator) -> Image.Image:
    width, height = (int(side) for side in rng.integers(120, 480, 2))
    picture = Image.fromarray(rng.integers(0, 90, (height, width, 3), dtype=np.uint8))
    side = min(width, height)
    radius = side * rng.uniform(0.22, 0.38)
    x, y = width / 2 + rng.uniform(-0.08, 0.08) * side, height / 2 + rng.uniform(-0.08, 0.08) * side
    colour = tuple(int(level) for level in rng.integers(140, 255, 3))
    draw = ImageDraw.Draw(picture)
    box = [x - radius, y - radius, x + radius, y + radius]
    if shape == "circle":
        draw.ellipse(box, fill=colour)
    elif shape == "square":
        draw.rectangle(box, fill=colour)
    else:
        corners = 3 if shape == "triangle" else 10
        far = [radius if corners == 3 or k % 2 == 0 else 0.4 * radius for k in range(corners)]
        turn = [2 * np.pi * k / corners for k in range(corners)]
        draw.polygon(
            [(x + r * np.sin(a), y - r * np.cos(a)) for r, a in zip(far, turn, strict=True)], fill=colour
        )
    return picture
