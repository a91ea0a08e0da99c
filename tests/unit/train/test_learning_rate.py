"""Rates that are too high are found in the first steps; a training that learned nothing says so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from hwnas.errors import TrainingFailed
from hwnas.nets import spaces
from hwnas.nets.build import build
from hwnas.train import plan
from hwnas.train.data import Dataset, Split
from hwnas.train.loop import train
from hwnas.train.options import Recipe

SPEC = spaces.make("resnet-cifar", input_shape=(3, 8, 8), classes=2).smallest()
SHORT = Recipe(images=9_600, batch=64, lr=0.1, flip=False, shift=0)  # 150 steps; 30 are 1,920 images


HIGH = replace(SHORT, lr=20.0)


def dataset(seed: int = 0) -> Dataset:
    """Dark and light squares."""
    rng = np.random.default_rng(seed)
    labels = torch.from_numpy(np.arange(64) % 2)
    noise = torch.from_numpy(rng.integers(0, 60, (64, 3, 8, 8)).astype(np.uint8))
    images = noise + (labels * 120).byte()[:, None, None, None]
    split = Split(images.contiguous(memory_format=torch.channels_last), labels, (0.4,) * 3, (0.3,) * 3)
    return Dataset("squares", "squares", ("dark", "light"), split, split, split, False, "f")


def events(options: Recipe, data: Dataset, *, final: bool = True) -> list[str]:
    said: list[str] = []

    def emit(kind: str, fields: Mapping[str, Any]) -> None:
        if kind == "restored":
            said.append(str(fields["text"]))

    train(build(SPEC, seed=0), SPEC, data, options, emit=emit, final=final)
    return said


def test_a_rate_that_learns_is_left_alone() -> None:
    assert events(SHORT, dataset()) == []


def test_a_rate_that_is_far_too_high_is_lowered_in_the_first_steps() -> None:
    """The first 30 of 150 steps rise to the peak; then the loss is above ln(2), and the rate is halved.

    Whether it then learns differs between processors: at such rates rounding decides.
    """
    said = events(HIGH, dataset(), final=False)
    assert any("that of guessing" in text and "starts again" in text for text in said)


def test_a_final_training_that_learned_nothing_is_an_error() -> None:
    """Every image is the same: no network can do better than guessing."""
    data = dataset()
    data.train.images.fill_(100)
    with pytest.raises(TrainingFailed, match=r"guessing gives ln\(2\) = 0.693.*--recipe lr="):
        train(build(SPEC, seed=0), SPEC, data, SHORT, final=True)
    assert train(build(SPEC, seed=0), SPEC, data, SHORT).accuracy <= 0.5, "a candidate is no final training"


def test_the_test_comes_once_the_rate_was_at_its_peak() -> None:
    assert plan.tested_at(Recipe(), 150, 10) == 30
    assert plan.tested_at(Recipe(), 101, 10) == 30
    assert plan.tested_at(Recipe(warmup=0.5), 1_000, 10) == 500
    assert plan.tested_at(Recipe(schedule="cosine"), 1_000, 10) == 100


def test_the_loss_of_few_images_is_no_reason_to_begin_again() -> None:
    """Of 128 a step, 30 steps are 3,840 images and say it; of 8, 240, and only twice the loss does."""
    many, few = Recipe(images=150 * 128), Recipe(images=150 * 8)
    guessing = 2.303
    assert plan.too_high(many, 150, 30, 2.4, guessing)
    assert not plan.too_high(many, 150, 30, 2.3, guessing)
    assert not plan.too_high(few, 150, 30, 4.6, guessing)
    assert plan.too_high(few, 150, 30, 4.61, guessing)
    assert plan.too_high(few, 150, 30, float("nan"), guessing)


def test_halving_is_said_and_its_steps_are_counted() -> None:
    said: list[str] = []

    def emit(kind: str, fields: Mapping[str, Any]) -> None:
        if kind == "restored":
            said.append(str(fields["text"]))

    found = train(build(SPEC, seed=0), SPEC, dataset(), HIGH, emit=emit)
    tested = [text for text in said if "that of guessing" in text]
    assert 1 <= len(tested) <= 3
    assert "training starts again at" in tested[0]
    usual = train(build(SPEC, seed=0), SPEC, dataset(), SHORT)
    # Each test is 30 steps of 150, a fifth of the training.
    assert found.train_macs == pytest.approx(usual.train_macs * (1 + 0.2 * len(tested)))
