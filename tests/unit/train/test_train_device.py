"""Which device a training runs on: a GPU only where the installed torch has code for it."""

import warnings
from dataclasses import replace
from typing import Any

import pytest
import torch

from hwnas.errors import DeviceUnavailable
from hwnas.train import precision
from hwnas.train.options import Recipe

# What wheels for CUDA 13 and CUDA 12.6 are built for (torch.cuda.get_arch_list of torch 2.14).
CU130 = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"]
CU126 = ["sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90"]
AUTO = Recipe(precision="fp32")


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Pretend a card and a build of torch."""

    def pretend(capability: tuple[int, int], built: list[str]) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA TITAN Xp")
        monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: built)
        monkeypatch.setattr(torch.version, "cuda", "13.0")
        monkeypatch.setattr(precision, "_said", set())

    return pretend


@pytest.mark.parametrize(
    ("capability", "built", "device"),
    [
        ((6, 1), CU130, "cpu"),
        ((7, 0), CU130, "cpu"),
        ((6, 1), CU126, "cuda"),  # code for 6.0 runs on 6.1
        ((7, 5), CU130, "cuda"),
        ((8, 9), CU130, "cuda"),  # by code for 8.6
        ((5, 2), ["compute_50"], "cuda"),  # PTX is compiled when it is loaded
        ((9, 0), ["sm_80", "sm_90a"], "cuda"),
        ((9, 1), ["sm_80", "sm_90a"], "cpu"),  # code with an a is for one chip
        ((6, 1), [], "cuda"),  # a build that does not tell
    ],
)
def test_b2_a_gpu_is_used_where_torch_has_code_for_it(
    card: Any, capability: tuple[int, int], built: list[str], device: str
) -> None:
    card(capability, built)
    assert precision.choose(AUTO).device.type == device


def test_b2_a_card_that_torch_does_not_serve_is_said_once(card: Any) -> None:
    card((6, 1), CU130)
    told: list[Any] = []
    for _ in range(3):
        precision.say(precision.choose(AUTO), lambda kind, fields: told.append((kind, fields["text"])))
    ((kind, text),) = told
    assert kind == "note"
    assert "runs on the CPU: torch" in text
    assert "NVIDIA TITAN Xp (compute capability 6.1; it has sm_75" in text
    with pytest.raises(DeviceUnavailable, match="has no code for NVIDIA TITAN Xp"):
        precision.choose(replace(AUTO, device="cuda"))
    assert precision.choose(replace(AUTO, device="cpu")).note == ""


def test_b2_a_driver_that_torch_cannot_use_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused() -> bool:
        warnings.warn("CUDA initialization: The NVIDIA driver on your system is too old", stacklevel=1)
        return False

    monkeypatch.setattr(torch.cuda, "is_available", refused)
    found = precision.choose(AUTO)
    assert found.device.type == "cpu"
    assert "training runs on the CPU: torch" in found.note
    assert "driver on your system is too old" in found.note
    with pytest.raises(DeviceUnavailable, match="too old"):
        precision.choose(replace(AUTO, device="cuda"))
    assert precision.choose(replace(AUTO, device="cpu")).note == ""
