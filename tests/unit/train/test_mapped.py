"""Images that stay on disk are those in memory: the same splits, batches and trained weights."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from hwnas.errors import InputError
from hwnas.nets.build import build, weights
from hwnas.spec import NetworkSpec
from hwnas.train import images as image_files
from hwnas.train import mapped, memory
from hwnas.train.data import Dataset, load
from hwnas.train.loop import train
from hwnas.train.mapped import MappedImages
from hwnas.train.options import Recipe
from hwnas.train.score import judge


@pytest.fixture
def uri(tmp_path: Path) -> str:
    """Ten classes of twelve noisy pictures of 8x8, one of which is no picture."""
    rng = np.random.default_rng(0)
    for label in range(10):
        folder = tmp_path / "pictures" / f"level{label}"
        folder.mkdir(parents=True)
        for at in range(12):
            pixels = (rng.integers(0, 60, (8, 8)) + 19 * label).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{at}.png")
    (tmp_path / "pictures" / "level3" / "5.png").write_bytes(b"torn")
    return f"folder:{tmp_path / 'pictures'}"


@pytest.fixture
def both(uri: str, monkeypatch: pytest.MonkeyPatch) -> tuple[Dataset, Dataset]:
    """In memory, and beyond a limit of 4 KiB, 16 images at a time."""
    inside = load(uri, input_shape=(1, 8, 8), limit=80)
    monkeypatch.setenv(memory.IMAGE_MEMORY, "4KiB")
    monkeypatch.setattr(mapped, "PART", 1024)
    return inside, load(uri, input_shape=(1, 8, 8), limit=80)


def test_splits_and_batches_are_equal(both: tuple[Dataset, Dataset], monkeypatch: pytest.MonkeyPatch) -> None:
    inside, outside = both
    assert isinstance(inside.train.pixels, torch.Tensor)
    assert isinstance(outside.train.pixels, MappedImages)
    assert (outside.fingerprint, outside.mean, outside.std) == (inside.fingerprint, inside.mean, inside.std)
    assert outside.notes[:-1] == inside.notes
    assert any("level3/5.png" in note for note in outside.notes)
    assert "of images are more than the memory for them (" in outside.notes[-1]
    pairs = ((inside.train, outside.train), (inside.val, outside.val), (inside.test(), outside.test()))
    mask = np.arange(len(inside.train)) % 3 == 0
    for one, other in pairs:
        assert one.pixels.shape == other.pixels.shape
        assert torch.equal(one.images, other.images)
        assert other.images.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(one.labels, other.labels)
        assert torch.equal(one.normalised(), other.normalised())
        for at in (
            3,
            slice(1, 7, 2),
            torch.tensor([5, 0, 5]),
            np.array([2, 1]),
            torch.tensor([True] * len(one)),
        ):
            assert torch.equal(one.pixels[at], other.pixels[at])
        assert torch.equal(other.pixels[0], pickle.loads(pickle.dumps(other)).pixels[0])  # noqa: S301 (our own)
    assert torch.equal(inside.train.pixels[mask], outside.train.pixels[mask])
    assert len(outside.portable()._test.pixels) == 0


def test_trained_weights_are_equal(both: tuple[Dataset, Dataset], tiny: NetworkSpec) -> None:
    recipe = Recipe(images=400, batch=16, shift=1, flip=True, mixup=0.1, cutout=2)
    ends = []
    for dataset in both:
        module = build(tiny, seed=0)
        train(module, tiny, dataset, recipe)
        ends.append((weights(module), judge(module, dataset.val, dataset.classes)))
    (one, judged), (other, judged_too) = ends
    assert all(np.array_equal(one[name], other[name]) for name in one)
    assert (judged.score, judged.top_losses) == (judged_too.score, judged_too.top_losses)
    assert np.array_equal(judged.pictures, judged_too.pictures)


@pytest.mark.slow
def test_several_processes_read_the_same_file(both: tuple[Dataset, Dataset], tiny: NetworkSpec) -> None:
    ends = []
    for dataset in both:
        module = build(tiny, seed=0)
        train(module, tiny, dataset, Recipe(images=64, batch=16), jobs=2)
        ends.append(weights(module))
    assert all(np.array_equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_it_is_decoded_once_and_made_again_where_it_is_damaged(
    uri: str, both: tuple[Dataset, Dataset], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (kept,) = (home / "cache").glob("*.raw")
    assert kept.stat().st_size == 120 * 64
    decode = image_files._decode_all
    monkeypatch.setattr(image_files, "_decode_all", None)  # decoding again would fail
    again = load(uri, input_shape=(1, 8, 8), limit=80)
    assert again.fingerprint == both[0].fingerprint
    assert again.notes == both[1].notes
    monkeypatch.setattr(image_files, "_decode_all", decode)
    whole = kept.read_bytes()
    record = kept.with_suffix(".json")
    for damage in (whole[:-1], bytes([whole[0] ^ 1]) + whole[1:], None):
        kept.unlink()
        if damage is None:  # as a process that was killed in between leaves it
            record.unlink()
        else:
            kept.write_bytes(damage)
        mapped._opened.cache_clear()
        assert load(uri, input_shape=(1, 8, 8), limit=80).fingerprint == both[0].fingerprint
        assert kept.read_bytes() == whole


def test_a_full_disk_is_said(uri: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(memory.IMAGE_MEMORY, "4KiB")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=100 * 64))
    with pytest.raises(
        InputError, match=r"120 images of 1x8x8 need .* \(No space left on device\); choose a"
    ):
        load(uri, input_shape=(1, 8, 8))
    assert not list((home / "cache").glob("*"))
    monkeypatch.setenv(memory.IMAGE_MEMORY, "much")
    with pytest.raises(
        InputError, match="HWNAS_IMAGE_MEMORY is 'much'; expected the memory for decoded images"
    ):
        load(uri, input_shape=(1, 8, 8))


def test_the_limit_is_half_of_the_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(memory.IMAGE_MEMORY, raising=False)
    monkeypatch.setattr(memory, "free_bytes", lambda: 1000)
    assert memory.image_limit() == 500
    monkeypatch.setattr(memory, "free_bytes", lambda: None)
    assert memory.image_limit() is None
    monkeypatch.setenv(memory.IMAGE_MEMORY, "2KiB")
    assert memory.image_limit() == 2048
