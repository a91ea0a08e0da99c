"""Damage to tensors that training goes on from is noticed, whatever byte it is in."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from hwnas import seals
from hwnas.errors import DataFormatError, InputError
from hwnas.train.checkpoint import read_tensors, write_tensors


@dataclass
class Progress:
    step: int = 0


TENSORS = {
    "a": torch.arange(6.0).reshape(2, 3),
    "n": torch.tensor(7),
    "half": torch.ones(2, dtype=torch.bfloat16),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_tensors(tmp_path / "c", TENSORS, "x/1", "mine", Progress(4))
    return tmp_path / "c"


def test_what_was_written_is_read(path: Path) -> None:
    tensors, body = read_tensors(path, "x/1", "mine", Progress)
    assert body == Progress(4)
    assert {n: t.tolist() for n, t in tensors.items()} == {n: t.tolist() for n, t in TENSORS.items()}
    for schema, identity in (("x/2", "mine"), ("x/1", "yours")):
        with pytest.raises(InputError, match="of another training"):
            read_tensors(path, schema, identity, Progress)


def test_every_changed_byte_is_found(path: Path) -> None:
    whole = path.read_bytes()
    start = 8 + int.from_bytes(whole[:8], "little")
    assert json.loads(whole[8:start])["__metadata__"]
    told = 0
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        try:
            tensors, body = read_tensors(path, "x/1", "mine", Progress)
        except DataFormatError:
            told += 1
            continue
        # Bytes that say nothing: blanks of the header's padding.
        assert {n: t.tolist() for n, t in tensors.items()} == {n: t.tolist() for n, t in TENSORS.items()}
        assert body == Progress(4)
    assert told >= len(whole) - 8


@pytest.mark.parametrize("cut", [0, 7, 8, 50, -1])
def test_a_file_cut_short_is_damaged(path: Path, cut: int) -> None:
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(DataFormatError, match=r"damaged: .*remove it to start again"):
        read_tensors(path, "x/1", "mine", Progress)


def test_the_hash_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"abc")
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, appendix B.1
    seals.check_file(tmp_path / "f", known, "")
    with pytest.raises(DataFormatError, match="train again"):
        seals.check_file(tmp_path / "f", "0" * 64, "train again")
