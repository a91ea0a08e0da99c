"""What a user asks of an engine besides precision and batch: checked before any runtime sees it."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest
from click import BadParameter
from pydantic import ValidationError

from hwnas import plugins
from hwnas.arrays import Float32s
from hwnas.backends import formats
from hwnas.backends.ort import Ort
from hwnas.backends.trt import compat
from hwnas.deploy import engine as engines
from hwnas.errors import InputError
from hwnas.jobs.export import ExportOptions
from hwnas.measure import device
from hwnas.protocols import Choosy
from hwnas.records import BuildChoices, Compatible, Setting
from hwnas_cli import param_types

HERE = Setting(
    device="rtx3090",
    device_arch="NVIDIA GeForce RTX 3090, compute capability 8.6",
    backend="trt",
    backend_version="10.13.3.9",
    precision="fp16",
)


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        (BuildChoices(batches=(1, 8)), "--batch with several sizes"),
        (BuildChoices(compatible=("version",)), "--compatible"),
        (BuildChoices(dla=0), "--dla"),
        (BuildChoices(dla=1, compatible=("ampere",)), "--compatible, --dla"),
    ],
)
def test_a_runtime_that_has_no_choice_says_which_has(choices: BuildChoices, words: str) -> None:
    with pytest.raises(InputError, match=f"^{words}: backend 'ort' does not offer that; --backend trt does$"):
        device.with_choices(Ort(), HERE, choices)


def test_what_another_machine_is_not_asked_over_ssh_is_said() -> None:
    """Not "backend 'trt' does not offer that; --backend trt does"."""
    there = HERE.model_copy(update={"device": "ssh://nano@orin/rtx3090"})
    words = "^--dla: not over ssh; run hwnas on that machine, or leave it out$"
    with pytest.raises(InputError, match=words):
        device.with_choices(Ort(), there, BuildChoices(dla=0))


def test_no_choice_changes_nothing() -> None:
    assert device.with_choices(Ort(), HERE, BuildChoices()) is HERE
    assert device.with_choices(Ort(), HERE, None) is HERE
    assert not HERE.choices


def test_every_format_of_several_sizes_is_built_by_a_runtime_that_has_them() -> None:
    for one in formats.every():
        if one.many_batches:
            assert isinstance(plugins.load("backends", one.backend or "")(), Choosy)


@pytest.mark.parametrize(
    ("built", "may"),
    [
        ({}, ()),
        ({"compatible": ("version",)}, ("backend_version",)),
        # One version of before, and one of after, which this one cannot read.
        ({"compatible": ("version",), "backend_version": "8.6.1"}, ("backend_version",)),
        ({"compatible": ("version",), "backend_version": "10.14.0"}, ()),
        ({"compatible": ("version",), "backend_version": "8.5.3"}, ()),
        ({"compatible": ("capability",)}, ("device_arch",)),
        (
            {"compatible": ("capability",), "device_arch": "NVIDIA A40, compute capability 8.6"},
            ("device_arch",),
        ),
        ({"compatible": ("capability",), "device_arch": "NVIDIA A100, compute capability 8.0"}, ()),
        ({"compatible": ("ampere",), "device_arch": "NVIDIA A100, compute capability 8.0"}, ("device_arch",)),
        ({"compatible": ("ampere",), "device_arch": "unknown"}, ()),
    ],
)
def test_in_what_a_plan_may_differ_from_this_machine(built: dict[str, Any], may: tuple[str, ...]) -> None:
    assert compat.reads(HERE.model_copy(update=built), HERE) == may


def test_a_plan_for_ampere_and_later_is_none_for_turing() -> None:
    turing = HERE.model_copy(update={"device_arch": "NVIDIA T4, compute capability 7.5"})
    assert compat.reads(HERE.model_copy(update={"compatible": ("ampere",)}), turing) == ()


@pytest.mark.parametrize("wrong", [(0, 8), (8, 1), (1, 1, 8), (1, 4)])
def test_sizes_of_a_foreign_file_are_checked(wrong: tuple[int, ...]) -> None:
    with pytest.raises(ValidationError, match="expected ascending numbers from 1, 8 among them"):
        Setting(**{**HERE.model_dump(), "batch": 8, "batches": wrong})


class _Sized:
    """An engine for 1, 4 or 8 images at once, which notes how many it gets."""

    setting = HERE.model_copy(update={"batch": 8, "batches": (1, 4, 8)})

    def __init__(self) -> None:
        self.got: list[int] = []

    def run(self, images: Float32s) -> Float32s:
        self.got.append(len(images))
        return images[:, 0, 0, :1]


@pytest.mark.parametrize(
    ("images", "got"), [(1, [1]), (2, [4]), (4, [4]), (5, [8]), (8, [8]), (9, [8, 1]), (20, [8, 8, 4])]
)
def test_the_last_images_go_in_the_next_size(images: int, got: list[int]) -> None:
    engine: Any = _Sized()
    numbered = np.arange(images, dtype=np.float32).reshape(-1, 1, 1, 1)
    assert engines.run_all(engine, numbered)[:, 0].tolist() == list(range(images))
    assert engine.got == got


def test_a_format_of_one_size_refuses_several() -> None:
    with pytest.raises(InputError, match="onnx files are built for one; formats that take several: trt"):
        ExportOptions(format="onnx", batches=(1, 8))
    assert ExportOptions(format="trt", batches=(1, 8)).batches == (1, 8)


def test_kinds_of_compatibility_as_they_are_written() -> None:
    assert get_args(Compatible) == param_types.COMPATIBLE
    read = param_types.Machines().convert
    assert read("version, capability,version", None, None) == ("version", "capability")
    assert read(["ampere"], None, None) == ("ampere",)
    with pytest.raises(BadParameter, match="did you mean 'version'"):
        read("versoin", None, None)
