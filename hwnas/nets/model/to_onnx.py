"""Modules as ONNX, through torch's exporter of recorded operations, which needs no further package."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from hwnas.errors import BuildError
from hwnas.nets.onnx import INPUT_NAME, OPSET, OUTPUT_NAME

if TYPE_CHECKING:
    from hwnas.nets.model.cut import Form


def forms_onnx(forms: Sequence[Form], batch: int | None = 1) -> bytes:
    """Consecutive forms as one graph, from ``input`` to ``scores``; BuildError where it cannot be written."""
    chain = nn.Sequential(*(form.module() for form in forms))
    return module_onnx(chain, forms[0].shape_in, batch)


def module_onnx(module: nn.Module, input_shape: Sequence[int], batch: int | None = 1) -> bytes:
    """A module of one tensor as ONNX, in eval mode, batch norm folded.

    Args:
        module: left as it is.
        input_shape: without the batch.
        batch: None leaves it open.

    Raises:
        BuildError: an operation has no form in ONNX.
    """
    file, example = io.BytesIO(), torch.zeros(batch or 2, *input_shape)
    axes = {INPUT_NAME: {0: "batch"}, OUTPUT_NAME: {0: "batch"}} if batch is None else None
    training = module.training
    try:
        # Its successor needs onnxscript and takes seconds for a block; the warning says that it exists.
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                module.eval(),
                (example,),
                file,  # type: ignore[arg-type]  # torch's types know of paths alone
                dynamo=False,
                opset_version=OPSET,
                input_names=[INPUT_NAME],
                output_names=[OUTPUT_NAME],
                dynamic_axes=axes,
            )
    except Exception as exc:
        raise BuildError(
            f"the network cannot be written as ONNX: {' '.join(str(exc).split())[:300]}"
        ) from exc
    finally:
        module.train(training)
    return file.getvalue()
