"""Networks of the user's as ONNX: the same numbers, any batch, quiet."""

from __future__ import annotations

import numpy as np
import onnxruntime
import own_networks as nets
import pytest
import torch
from torch import nn

from hwnas.errors import BuildError
from hwnas.nets.model.edits import Edits
from hwnas.nets.model.to_onnx import forms_onnx, module_onnx


def test_a_variant_as_onnx() -> None:
    whole = nets.own(nets.settle(nets.Wrapped(nets.Gated())), (3, 8, 12))
    name = next(p.name for p in whole.pieces if p.widths)
    variant = whole.variant(Edits(widths={name: 24}, repeats={name: 2}))
    images = torch.randn(3, 3, 8, 12, generator=torch.Generator().manual_seed(1))
    session = onnxruntime.InferenceSession(variant.onnx_bytes(None))
    with torch.no_grad():
        wanted = variant.module()(images).numpy()
    np.testing.assert_allclose(session.run(["scores"], {"input": images.numpy()})[0], wanted, atol=1e-5)


def test_forms_in_a_row_as_onnx() -> None:
    whole = nets.own(nets.Plain())
    forms = whole.variant(Edits(widths={"body.0": 8})).forms()[1:3]
    session = onnxruntime.InferenceSession(forms_onnx(forms, 2))
    assert session.get_inputs()[0].shape == [2, 32, 6, 6]
    assert session.get_outputs()[0].shape == [2, 32, 6, 6]


class NoOnnx(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = torch.special.bessel_j0(x)
        return out


def test_what_onnx_lacks_is_named() -> None:
    with pytest.raises(BuildError, match="bessel"):
        module_onnx(NoOnnx(), (3, 4, 4))
