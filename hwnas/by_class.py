"""How right a classifier is, class by class: what one accuracy hides where classes differ.

Beside the accuracy stand its baselines: what always naming the largest class, or a name by chance, would
give.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from hwnas.record import Record

# Up to so many classes the whole confusion matrix is kept: it grows with their square.
WHOLE_MATRIX = 100
# So many kinds of mistakes are kept, the most frequent ones.
MISTAKES = 20
# A class counts as found where it is among so many that score highest.
_FIRST = 5


class ClassRow(Record):
    """One class: how many images it has, how many of them are right, how many images were taken for it.

    `recall` is right / images, `precision` right / named; None where there is nothing to divide by.
    """

    name: str
    images: int = Field(ge=0)
    right: int = Field(ge=0)
    named: int = Field(ge=0)
    recall: float | None = Field(default=None, ge=0, le=1)
    precision: float | None = Field(default=None, ge=0, le=1)


class Mistake(Record):
    """So many images of the class `true` were taken for the class `named`."""

    true: str
    named: str
    images: int = Field(gt=0)


class ByClass(Record):
    """Figures of one classifier on some labelled images.

    Attributes:
        images: how many.
        accuracy: fraction of them that is right.
        balanced_accuracy: mean recall of the classes that have images: a class of ten images counts as
            much as one of a thousand.
        largest_class, largest_share: the class with most images and its share: as right is who names
            it always.
        chance: as right on average is who names a class by chance, each as often.
        top5_accuracy: fraction whose class is among the five with the highest scores; None with five
            classes or fewer, and where scores are not known.
        classes: one row per class, in their order.
        mistakes: which class was taken for which, the most frequent first, at most `MISTAKES`.
        confusion_matrix: images by true class (rows) and class named (columns), in the order of
            `classes`; None above `WHOLE_MATRIX` classes.
    """

    images: int = Field(gt=0)
    accuracy: float = Field(ge=0, le=1)
    balanced_accuracy: float = Field(ge=0, le=1)
    largest_class: str
    largest_share: float = Field(gt=0, le=1)
    chance: float = Field(gt=0, le=1)
    top5_accuracy: float | None = Field(default=None, ge=0, le=1)
    classes: tuple[ClassRow, ...]
    mistakes: tuple[Mistake, ...]
    confusion_matrix: tuple[tuple[int, ...], ...] | None = None

    @model_validator(mode="after")
    def _check(self) -> ByClass:
        if sum(row.images for row in self.classes) != self.images:
            raise ValueError(f"the classes have other numbers of images than {self.images} in all")
        if self.confusion_matrix is not None:
            rows = [sum(row) for row in self.confusion_matrix]
            square = all(len(row) == len(rows) for row in self.confusion_matrix)
            if not square or rows != [row.images for row in self.classes]:
                raise ValueError("the rows of the confusion matrix are not the images of the classes")
        return self

    @property
    def weakest(self) -> tuple[ClassRow, ...]:
        """The classes that have images, least recall first."""
        shown = [row for row in self.classes if row.recall is not None]
        return tuple(sorted(shown, key=lambda row: (row.recall or 0.0, -row.images)))

    @property
    def base_line(self) -> float:
        """What a classifier must be above to have learned anything."""
        return max(self.largest_share, self.chance)


def by_class(
    labels: NDArray[Any], named: NDArray[Any], classes: Sequence[str], scores: NDArray[Any] | None = None
) -> ByClass:
    """Figures of classes `named` against the true ones.

    Args:
        labels, named: (n,) places in `classes`; at least one image.
        classes: their names.
        scores: (n, classes), from which the class was named.
    """
    count = len(classes)
    matrix = np.bincount(np.asarray(labels) * count + np.asarray(named), minlength=count * count)
    matrix = matrix.reshape(count, count)
    images, taken, right = matrix.sum(axis=1), matrix.sum(axis=0), matrix.diagonal()
    rows = tuple(
        ClassRow(
            name=name,
            images=int(images[at]),
            right=int(right[at]),
            named=int(taken[at]),
            recall=_share(right[at], images[at]),
            precision=_share(right[at], taken[at]),
        )
        for at, name in enumerate(classes)
    )
    recalls = [row.recall for row in rows if row.recall is not None]
    wrong = np.where(np.eye(count, dtype=bool), 0, matrix)
    true, as_named = np.nonzero(wrong)
    order = np.argsort(-wrong[true, as_named], kind="stable")[:MISTAKES]
    return ByClass(
        images=int(images.sum()),
        accuracy=float(right.sum() / images.sum()),
        balanced_accuracy=float(np.mean(recalls)),
        largest_class=classes[int(images.argmax())],
        largest_share=float(images.max() / images.sum()),
        chance=1.0 / count,
        top5_accuracy=None if scores is None or count <= _FIRST else _top5(np.asarray(labels), scores),
        classes=rows,
        mistakes=tuple(
            Mistake(
                true=classes[true[i]], named=classes[as_named[i]], images=int(wrong[true[i], as_named[i]])
            )
            for i in order
        ),
        confusion_matrix=tuple(tuple(row) for row in matrix.tolist()) if count <= WHOLE_MATRIX else None,
    )


def _top5(labels: NDArray[Any], scores: NDArray[Any]) -> float:
    """Fraction of the images of whose class fewer than five others score higher."""
    own = np.take_along_axis(scores, labels[:, None], axis=1)
    return float(((scores > own).sum(axis=1) < _FIRST).mean())


def _share(part: int, whole: int) -> float | None:
    return float(part / whole) if whole else None
