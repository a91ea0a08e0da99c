"""How the images of a source become training, validation and test images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from hwnas.arrays import Int64s
from hwnas.errors import InputError
from hwnas.train.raw import LabelledImages, Raw, chosen_of

# Shares of the whole: test where the source has none of its own, validation of what then remains.
TEST_SHARE = 0.2
VAL_SHARE = 0.1
# The test split is the same for every seed: else one seed would train on another's test images.
_TEST_SEED = 20_010_109

Parts = tuple[LabelledImages, LabelledImages, LabelledImages]  # train, validation, test


def divide(raw: Raw, seed: int, limit: int | None) -> tuple[Parts, list[str]]:
    """The three splits, and what is to be said of them."""
    labels, notes = raw.train.labels, list(raw.notes)
    pool = np.arange(len(labels))
    own_val, test = raw.val, raw.test
    if test is None and own_val is not None:
        notes.append(f"{raw.where} has no test images: its validation images are the test split")
        own_val, test = None, own_val
    if test is None:
        test_at, pool = draw(labels, pool, TEST_SHARE, np.random.default_rng(_TEST_SEED))
        test = _at(raw.train, test_at)
    rng = np.random.default_rng([seed, 0])
    if limit is not None:
        if limit < 2 * len(raw.classes):
            raise InputError(
                f"a limit of {limit} images is too small for {len(raw.classes)} classes; "
                f"at least {2 * len(raw.classes)} leave one a class for training and for validation"
            )
        whole = len(pool) + (len(own_val.labels) if own_val is not None else 0)
        if limit < whole:
            least = 2 if own_val is None else 1
            pool, _ = draw(labels, pool, limit / whole, rng, least=least, keep=0)
            if own_val is not None:
                kept, _ = draw(own_val.labels, np.arange(len(own_val.labels)), limit / whole, rng, keep=0)
                own_val = _at(own_val, kept)
    if own_val is None:
        val_at, pool = draw(labels, pool, VAL_SHARE, rng)
        own_val = _at(raw.train, val_at)
    return (_at(raw.train, pool), own_val, test), notes


def _at(part: LabelledImages, places: Int64s) -> LabelledImages:
    whole = part.originals
    originals = None if whole is None else lambda place: whole(int(places[place]))
    chosen = chosen_of(part.images, torch.from_numpy(places))
    return LabelledImages(chosen, part.labels[places], originals)


def draw(
    labels: Int64s, pool: Int64s, share: float, rng: np.random.Generator, *, least: int = 1, keep: int = 1
) -> tuple[Int64s, Int64s]:
    """Draw a share of the pool at random, with the proportions of its classes.

    Args:
        labels: class of every image of the source.
        pool: places in `labels` to draw from.
        share: fraction drawn.
        rng: decides which.
        least: smallest number drawn from any class.
        keep: smallest number left in any class, which comes before `least`.

    Returns:
        The places drawn and those left, each sorted.
    """
    counts = np.bincount(labels[pool])
    wanted = apportion([int(c) for c in counts], round(share * len(pool)), least=least, keep=keep)
    drawn = [rng.permutation(pool[labels[pool] == label])[:number] for label, number in enumerate(wanted)]
    taken = np.sort(np.concatenate(drawn))
    return taken, np.setdiff1d(pool, taken, assume_unique=True)


def apportion(counts: Sequence[int], total: int, *, least: int = 1, keep: int = 1) -> list[int]:
    """Share `total` out in proportion to `counts` by largest remainders (Hamilton's method).

    Every class gives at least `least`, even where that exceeds the total, and keeps at least `keep`.
    """
    whole = sum(counts)
    shares = [total * count // whole for count in counts]
    remainders = [total * count % whole for count in counts]
    for at in sorted(range(len(counts)), key=lambda i: -remainders[i])[: total - sum(shares)]:
        shares[at] += 1
    # What `least` adds is taken from the largest shares, so that the total is kept where it can be.
    lifted = [min(max(share, least), max(count - keep, 0)) for share, count in zip(shares, counts)]
    for _ in range(sum(lifted) - total):
        largest = max(range(len(lifted)), key=lambda i: lifted[i])
        if lifted[largest] <= least:
            break
        lifted[largest] -= 1
    return lifted
