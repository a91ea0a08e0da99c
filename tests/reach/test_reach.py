"""Libraries' networks come out as ``outcomes.json`` says: a dozen small ones; all with HWNAS_REACH=1."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import pytest
import reach

KNOWN: dict[str, dict[str, Any]] = json.loads(Path(__file__).with_name("outcomes.json").read_text())
# What took the least time, of different families.
SMALL = [
    "timm:convnext_zepto_rms_ols@64",
    "timm:ghostnet_100@64",
    "timm:lcnet_035@32",
    "timm:lcnet_100@32",
    "timm:mnasnet_small@32",
    "timm:mobilenetv1_100@32",
    "timm:mobilenetv2_075@32",
    "timm:resnet18d@32",
    "timm:tf_mobilenetv3_small_100@32",
    "torchvision:mnasnet0_5@64",
    "torchvision:resnet18@64",
    "torchvision:squeezenet1_0@64",
]
needs_timm = pytest.mark.skipif(
    importlib.util.find_spec("timm") is None, reason="pip install 'hwnas[timm]' for its networks"
)


def cases(names: list[str]) -> list[Any]:
    return [pytest.param(n, marks=needs_timm if n.startswith("timm:") else ()) for n in names]


def same(name: str) -> None:
    assert reach.outcome(name) == KNOWN[name]


@pytest.mark.parametrize("name", cases(SMALL))
def test_small_ones(name: str) -> None:
    same(name)


@pytest.mark.slow
@pytest.mark.skipif("HWNAS_REACH" not in os.environ, reason="takes an hour; HWNAS_REACH=1 asks for it")
@pytest.mark.parametrize("name", cases(sorted(set(KNOWN) - set(SMALL))))
def test_all_of_them(name: str) -> None:
    same(name)


def test_as_many_as_are_promised_are_shrunk() -> None:
    shrunk = [name.partition(":")[0] for name, found in KNOWN.items() if found["outcome"] == "shrunk"]
    assert shrunk.count("torchvision") >= 75
    assert shrunk.count("timm") >= 150


def test_what_is_not_shrunk_has_a_reason() -> None:
    assert all(found["reason"] for found in KNOWN.values() if found["outcome"] != "shrunk")
