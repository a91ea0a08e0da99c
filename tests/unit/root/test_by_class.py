"""Figures class by class; every expected one is counted by hand."""

from __future__ import annotations

import numpy as np

from hwnas.by_class import MISTAKES, WHOLE_MATRIX, ByClass, Mistake, by_class

# 10 images: 7 cats, 2 dogs, 1 cow. Of the cats 6 are right and one is taken for a cow; both dogs for cats;
# the cow is right. Nothing was labelled "owl".
LABELS = np.array([0, 0, 0, 0, 0, 0, 0, 1, 1, 2])
NAMED = np.array([0, 0, 0, 0, 0, 0, 2, 0, 0, 2])
FOUND = by_class(LABELS, NAMED, ("cat", "dog", "cow", "owl"))


def test_accuracy_hides_what_the_balanced_one_shows() -> None:
    assert FOUND.images == 10
    assert FOUND.accuracy == 0.7
    assert abs(FOUND.balanced_accuracy - (6 / 7 + 0 + 1) / 3) < 1e-12  # the owl has no images


def test_base_lines() -> None:
    assert (FOUND.largest_class, FOUND.largest_share, FOUND.chance) == ("cat", 0.7, 0.25)
    assert FOUND.base_line == 0.7


def test_rows_by_class() -> None:
    cat, dog, cow, owl = FOUND.classes
    assert (cat.images, cat.right, cat.named, cat.recall, cat.precision) == (7, 6, 8, 6 / 7, 6 / 8)
    assert (dog.images, dog.right, dog.named, dog.recall, dog.precision) == (2, 0, 0, 0.0, None)
    assert (cow.images, cow.right, cow.named, cow.recall, cow.precision) == (1, 1, 2, 1.0, 0.5)
    assert (owl.images, owl.recall, owl.precision) == (0, None, None)
    assert [row.name for row in FOUND.weakest] == ["dog", "cat", "cow"]


def test_mistakes_and_matrix() -> None:
    assert FOUND.confusion_matrix == ((6, 0, 1, 0), (2, 0, 0, 0), (0, 0, 1, 0), (0, 0, 0, 0))
    assert FOUND.mistakes == (
        Mistake(true="dog", named="cat", images=2),
        Mistake(true="cat", named="cow", images=1),
    )


def test_many_classes_keep_the_rows_but_not_the_square() -> None:
    count = WHOLE_MATRIX + 1
    labels = np.arange(count)
    found = by_class(labels, (labels + 1) % count, [str(n) for n in range(count)])
    assert found.confusion_matrix is None
    assert len(found.mistakes) == MISTAKES
    assert len(found.classes) == count


def test_top5_by_hand() -> None:
    # Seven classes. The first image's class is second, the second's fifth, the third's sixth; for the fourth
    # all score alike, so that no other is above its own.
    scores = np.array(
        [
            [6.0, 7.0, 1.0, 2.0, 3.0, 4.0, 5.0],
            [3.0, 7.0, 6.0, 5.0, 4.0, 1.0, 2.0],
            [2.0, 7.0, 6.0, 5.0, 4.0, 3.0, 1.0],
            [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0],
        ]
    )
    labels, names = np.array([0, 0, 0, 6]), list("abcdefg")
    assert by_class(labels, scores.argmax(axis=1), names, scores).top5_accuracy == 0.75
    assert by_class(labels, scores.argmax(axis=1), names).top5_accuracy is None  # no scores are known
    five = scores[:2, :5]
    assert by_class(labels[:2], five.argmax(axis=1), names[:5], five).top5_accuracy is None  # always 100 %


def test_written_and_read() -> None:
    assert ByClass.model_validate(FOUND.model_dump(mode="json")) == FOUND
