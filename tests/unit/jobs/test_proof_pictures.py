"""A folder of photographs of mixed size: what is verified is what `Session` does with the files."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hwnas import seals
from hwnas.backends import images as prepared
from hwnas.deploy import preprocess
from hwnas.deploy.manifest import read_manifest
from hwnas.deploy.parity import at_least
from hwnas.deploy.session import Session
from hwnas.errors import DataFormatError, VerificationFailed
from hwnas.jobs.export import ExportOptions, ExportOutcome, export
from hwnas.jobs.export.samples import spread
from hwnas.jobs.train import train
from hwnas.jobs.train_options import TrainOptions
from hwnas.jobs.verify import VerifyOptions, verify
from hwnas.spec import BlockSpec, NetworkSpec
from hwnas.store import write_network

SPEC = NetworkSpec(
    stem=BlockSpec(kind="conv", c_in=3, c_out=8, size_in=16),
    stages=((BlockSpec(kind="basic", c_in=8, c_out=8, size_in=16),),),
    head=BlockSpec(kind="classifier", c_in=8, c_out=2, kernel=1, act="none", size_in=16),
    space="test",
)


def photographs(folder: Path, each: int) -> None:
    """Dark and bright pictures of 30x20 to 80x60; a frame outside the middle square has the other light."""
    rng = np.random.default_rng(0)
    for name, level in (("dark", 60), ("light", 190)):
        (folder / name).mkdir(parents=True)
        for number in range(each):
            height, width = int(rng.integers(20, 61)), int(rng.integers(62, 81))
            pixels = np.full((height, width, 3), 250 - level, dtype=np.float64)
            side, left = height, (width - height) // 2
            pixels[:, left : left + side] = level
            pixels += rng.normal(0, 12, pixels.shape)
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / name / f"{number:03}.png")


def run_on(home: Path, each: int) -> None:
    photographs(home / "photos", each)
    write_network(home / "net.json", SPEC)
    recipe = {"threads": 1, "batch": 8}
    train(TrainOptions("net.json", "folder:photos", epochs=8, out=Path("r"), recipe=recipe))


@pytest.fixture(scope="module")
def thirty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run on 30 photographs: 6 test images, 2 of validation (one a class), 22 of training."""
    home = tmp_path_factory.mktemp("thirty")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        run_on(home, 15)
        yield home


def by_name(body: Mapping[str, Any] | ExportOutcome) -> dict[str, dict[str, Any]]:
    return {check["name"]: check for check in body["checks"]}


def test_thirty_photographs_give_an_engine(thirty: Path) -> None:
    body = export(ExportOptions(run="r", device="fake", backend="fake", latency_budget=None))
    checks = by_name(body)
    assert body["passed"]
    assert checks["images"]["detail"] == "8 different images compared (8 needed for fp32)"
    assert checks["pictures"]["detail"].startswith("8 pictures in their own size (")
    assert "2 validation and 6 training images of photos, all in their own size" in checks["parity"]["detail"]
    assert "(2 labelled images: one may become wrong; too few" in checks["accuracy"]["detail"]
    assert body["by_class"]["images"] == 2  # training images say nothing about accuracy


def test_a_weaker_claim_is_said_and_no_claim_fails(thirty: Path) -> None:
    body = export(ExportOptions(run="r", backend="ort", device="cpu", precision="int8", format="onnx"))
    detail = by_name(body)["images"]["detail"]
    # 24 = 2 + 22 of 100. If all agree: 0.05 ** (1 / 24) = 0.883.
    assert detail.startswith("24 different images compared (100 needed for int8); so few show")
    assert "agree on 88 % of such images or more" in detail
    assert body["passed"]
    with pytest.raises(VerificationFailed, match=r"1 different images compared .* fewer than 8"):
        verify(VerifyOptions("r/engine-int8.onnx", images=1))


def test_the_engine_gives_for_the_files_what_was_compared(thirty: Path) -> None:
    export(ExportOptions(run="r", device="fake", backend="fake"))
    files = sorted((thirty / "photos").rglob("*.png"))
    pictures = [np.asarray(Image.open(file)) for file in files]
    with Session("r/engine.onnx") as session:
        assert session.manifest.classes == ("dark", "light")
        together = session.scores(pictures)
        one_by_one = np.concatenate([session.scores(picture) for picture in pictures])
        named = [session.top(picture)[0][0][0] for picture in pictures]
    np.testing.assert_array_equal(together, one_by_one)
    truth = [file.parent.name for file in files]
    assert np.mean([a == b for a, b in zip(named, truth)]) > 0.9


@pytest.mark.parametrize("fault", ["no crop", "other filter"])
def test_another_crop_or_filter_than_the_trainings_is_caught(
    thirty: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    export(ExportOptions(run="r", device="fake", backend="fake"))

    def corner(pictures: Any) -> Any:
        side = min(pictures.shape[1:3])
        return pictures[:, :side, :side]

    def nearest(pictures: Any, size: tuple[int, int]) -> Any:
        rows = np.arange(size[0]) * pictures.shape[1] // size[0]
        columns = np.arange(size[1]) * pictures.shape[2] // size[1]
        return pictures[:, rows][:, :, columns].astype(np.float32)

    def deployed(pictures: Any, manifest: Any, *, bgr: bool = False) -> Any:
        mean, std = manifest.normalisation
        if fault == "no crop":
            return prepared.prepare(corner(pictures), (16, 16), mean, std)
        levels = nearest(prepared.centred(pictures, (16, 16)), (16, 16)) / np.float32(255)
        return np.ascontiguousarray(((levels - mean) / std).transpose(0, 3, 1, 2))

    monkeypatch.setattr(preprocess, "ready", deployed)
    with pytest.raises(VerificationFailed) as caught:
        verify(VerifyOptions("r/engine.onnx"))
    assert caught.value.result is not None
    assert not by_name(dict(caught.value.result))["pictures"]["passed"]


def test_the_manifest_has_the_figures_by_class(thirty: Path) -> None:
    body = export(ExportOptions(run="r", device="fake", backend="fake"))
    assert read_manifest(Path("r/engine.onnx")).by_class is not None
    written = json.loads(Path("r/engine.onnx.manifest.json").read_text())
    assert written["by_class"] == body["by_class"]


def test_bounds_of_a_share() -> None:
    assert at_least(10, 10) == pytest.approx(0.05 ** (1 / 10))
    assert at_least(0, 10) == 0.0
    assert at_least(9, 10) == pytest.approx(0.6058, abs=1e-4)  # the published one-sided table


def test_some_of_a_split_are_from_all_over_it() -> None:
    """Folders lie in the order of their classes: the first few would be of one class."""
    assert spread(4, 10).tolist() == [0, 2, 5, 7]
    assert spread(3, 3).tolist() == [0, 1, 2]
    assert spread(0, 5).tolist() == []


@pytest.mark.parametrize(
    "change",
    [
        {"std": [1e-9, 0.2, 0.2]},
        {"parity": {"cosine_min": -7.0}},
        {"parity": {"top1_engine": 3.0}},
        {"by_class": {"images": 3}},
        {"by_class": {"confusion_matrix": [[2, 0]]}},
    ],
    ids=str,
)
def test_impossible_values_of_a_manifest_are_refused(
    thirty: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    export(ExportOptions(run="r", device="fake", backend="fake"))
    body = json.loads(Path("r/engine.onnx.manifest.json").read_text())
    for name, value in change.items():
        body[name] = {**body[name], **value} if isinstance(value, dict) else value
    path = tmp_path / "engine.onnx.manifest.json"
    del body["checksum"]
    path.write_text(json.dumps(seals.sealed(body)))
    with pytest.raises(DataFormatError, match="engine manifest"):
        read_manifest(path)


def test_pictures_in_their_own_size_are_bounded(thirty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Photographs of 12 megapixels take a second each: the others are taken as the training saw them."""
    monkeypatch.setattr("hwnas.jobs.export.samples.PIXELS", 3000)  # the first one has 20 x 62 at least
    body = export(ExportOptions(run="r", device="fake", backend="fake"))
    found = re.search(r"^(\d) pictures? in (?:its|their) own size", by_name(body)["pictures"]["detail"])
    assert found is not None
    assert 1 <= int(found.group(1)) <= 3
    assert f"{found.group(1)} of them in their own size" in by_name(body)["parity"]["detail"]
