"""Where a new user begins: what lies here, how large the images are, and which space and input suit them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hwnas.arrays import ImageShape
from hwnas.nets import families, spaces
from hwnas.units import format_ms

# A budget to begin with for images of 32 pixels: some network of every family keeps it on a machine of the
# last ten years. Time goes with the number of pixels.
BUDGET_MS, SIDE = 0.5, 32


@dataclass(frozen=True)
class Start:
    """What a pipeline for some images begins with.

    Attributes:
        data: the source, as ``--data`` takes it.
        shape: of the network's input.
        space: that suits it.
        why: it does, in some words.
        budget: of latency, to begin with.
        notes: what was found, for people.
    """

    data: str
    shape: ImageShape
    space: str
    why: str
    budget: str
    notes: tuple[str, ...]


def look(data: str | None = None, place: Path | None = None) -> Start:
    """Look at a source, or for one, without decoding its images.

    Args:
        data: the source; None looks for class folders of images.
        place: where to look, the working directory by default: class folders are its own, or those of a
            folder in it; where there are none, the embedded digits are taken.

    Raises:
        InputError: the source does not exist.
        DataFormatError: it does not hold what it should.
    """
    from hwnas.train.outline import outline

    found = data or find(place or Path())
    told = outline(found)
    shape, notes = told.input_shape, (told.describe(), *told.notes)
    if not spaces.is_small(shape):
        return Start(
            found, shape, spaces.advised(shape), "this one suits images of that size", "2x:smallest", notes
        )
    pixels = shape[1] * shape[2] / SIDE**2
    budget = format_ms(round(BUDGET_MS * pixels, 1)).replace(" ", "")
    return Start(found, shape, families.NAME, "in auto all families of networks compete", budget, notes)


def find(place: Path) -> str:
    """``folder:PATH`` of class folders here or one level below; ``digits`` where there are none."""
    for folder in (place, *_folders(place)):
        inside = _folders(folder)
        if len(inside) >= 2 and all(map(_holds_images, inside)):
            return f"folder:{folder}"
        roles = [one for one in inside if one.name in ("train", "training")]
        if roles and all(map(_holds_images, _folders(roles[0]))) and _folders(roles[0]):
            return f"folder:{folder}"
    return "digits"


def _folders(place: Path) -> list[Path]:
    return sorted(p for p in _inside(place) if p.is_dir() and not p.name.startswith((".", "_")))


def _inside(folder: Path) -> list[Path]:
    """What a folder holds; nothing of one that cannot be read, which is no reason not to look elsewhere."""
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def _holds_images(folder: Path) -> bool:
    from hwnas.train.images import suffixes

    known = suffixes()
    return any(path.suffix.lower() in known for path in _inside(folder))
