"""ONNX files that parse but are no network."""

from __future__ import annotations

from pathlib import Path

import pytest
from onnx import helper

from hwnas.backends.onnx_file import read_model
from hwnas.errors import DataFormatError


@pytest.mark.parametrize(
    "data", [b"", helper.make_model(helper.make_graph([], "g", [], [])).SerializeToString()]
)
def test_a_model_without_input_or_output_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.onnx").write_bytes(data)
    with pytest.raises(
        DataFormatError, match=r"a\.onnx is not a whole ONNX model: it has no input or no output"
    ):
        read_model(tmp_path / "a.onnx")
