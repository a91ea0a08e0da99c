"""Pictures of the worst images: written, read, and refused where they are not what was written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from hwnas import top_losses
from hwnas.arrays import Uint8s
from hwnas.errors import DataFormatError

PICTURES = np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3)


def test_written_and_read(tmp_path: Path) -> None:
    top_losses.write(tmp_path, PICTURES)
    assert np.array_equal(top_losses.read(tmp_path, 2), PICTURES)


def test_missing_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataFormatError, match=r"top_losses\.safetensors cannot be read"):
        top_losses.read(tmp_path, 2)


@pytest.mark.parametrize(
    "wrong",
    [
        PICTURES[:1],
        PICTURES.astype(np.float32),
        PICTURES[..., :2],
        PICTURES[0],
        np.zeros((2, 0, 0, 3), np.uint8),
        np.zeros((2, top_losses.SIDE + 1, 1, 3), np.uint8),
    ],
    ids=["fewer", "floats", "two channels", "one picture", "empty", "large"],
)
def test_other_arrays_are_refused(tmp_path: Path, wrong: Uint8s) -> None:
    save_file({"images": np.ascontiguousarray(wrong)}, tmp_path / top_losses.FILE)
    with pytest.raises(DataFormatError, match="expected 2 pictures of at most 96 pixels a side"):
        top_losses.read(tmp_path, 2)


@pytest.mark.parametrize("damaged", [b"", b"no tensors", b"\xff" * 400_000], ids=["empty", "text", "large"])
def test_damaged_files_are_refused(tmp_path: Path, damaged: bytes) -> None:
    (tmp_path / top_losses.FILE).write_bytes(damaged)
    with pytest.raises(DataFormatError, match="cannot be read"):
        top_losses.read(tmp_path, 2)
