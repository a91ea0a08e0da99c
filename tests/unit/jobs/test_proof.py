"""What `verify` and `export` prove is what `Session` does with the network that was trained."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from hwnas.deploy.manifest import read_manifest
from hwnas.deploy.session import Session
from hwnas.errors import DataFormatError, InputError, VerificationFailed
from hwnas.jobs.export import ExportOptions, export
from hwnas.jobs.export.samples import by_name
from hwnas.jobs.train import train
from hwnas.jobs.train_options import TrainOptions
from hwnas.jobs.verify import VerifyOptions, verify
from hwnas.nets.weights import read_weights, save_weights
from hwnas.spec import BlockSpec, NetworkSpec
from hwnas.store import write_json, write_network

SPEC = NetworkSpec(
    stem=BlockSpec(kind="conv", c_in=3, c_out=8, size_in=16),
    stages=((BlockSpec(kind="basic", c_in=8, c_out=8, size_in=16),),),
    head=BlockSpec(kind="classifier", c_in=8, c_out=2, kernel=1, act="none", size_in=16),
    space="test",
)


def pictures(path: Path, dark: int, bright: int, names: tuple[str, str] = ("cat", "dog")) -> None:
    """300 grey pictures: every second one bright, which is a dog. 24 of them are validation images."""
    rng = np.random.default_rng(0)
    is_dog = np.arange(300) % 2
    levels = np.where(is_dog, bright, dark)[:, None, None] + rng.normal(0, 8, (300, 16, 16))
    labels = is_dog if names == ("cat", "dog") else 1 - is_dog
    images = np.clip(levels, 0, 255).astype(np.uint8)
    np.savez(path, images=images, labels=labels, classes=np.array(names))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, a training on it and its engine."""
    home = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        pictures(home / "a.npz", 60, 180)
        write_network(home / "net.json", SPEC)
        recipe = {"threads": 1, "batch": 32}
        train(TrainOptions("net.json", "npz:a.npz", epochs=6, out=Path("r"), recipe=recipe))
        assert json.loads(Path("r/result.json").read_text())["accuracy"]["val"] == 1.0
        export(ExportOptions(run="r", device="fake", backend="fake"))
    return home


@pytest.fixture
def home(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy that a test may change."""
    shutil.copytree(trained, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return tmp_path / "copy"


def edited(path: str, change: Callable[[dict[str, Any]], object]) -> None:
    body = json.loads(Path(path).read_text())
    body.pop("checksum", None)  # a seal is no signature: anybody can make one
    change(body)
    write_json(Path(path), body, sealed=True)


def failed(call: Callable[[], object]) -> set[str]:
    """Names of the checks that did not pass."""
    with pytest.raises(VerificationFailed) as caught:
        call()
    assert caught.value.result is not None
    return {check["name"] for check in caught.value.result["checks"] if not check["passed"]}


ENGINE = VerifyOptions("r/engine.onnx")


def test_what_was_trained_passes_every_check(home: Path) -> None:
    names = {check["name"] for check in verify(ENGINE)["checks"]}
    assert {"source", "images", "parity", "data", "classes", "normalisation", "training"} <= names


def test_other_data_are_judged_as_the_session_would(home: Path) -> None:
    """Under-exposed, all pictures are dark: cats, by the mean of the training. Half of them are dogs."""
    pictures(home / "dark.npz", 20, 50)
    body = verify(VerifyOptions("r/engine.onnx", data="npz:dark.npz"))
    assert body["parity"]["top1_engine"] == 0.5
    shots = np.repeat(np.load(home / "dark.npz")["images"][..., None], 3, axis=3)
    with Session(home / "r") as session:
        assert {name for ((name, _),) in session.top(shots)} == {"cat"}
    data = next(check for check in body["checks"] if check["name"] == "data")
    assert "is not the data that the network was trained on" in data["detail"]


def test_data_that_changed_since_the_training_fail(home: Path) -> None:
    pictures(home / "a.npz", 20, 50)
    assert failed(lambda: verify(ENGINE)) == {"data"}
    assert verify(VerifyOptions("r/engine.onnx", data="npz:a.npz"))["passed"] is True


def test_classes_are_mapped_by_name(home: Path) -> None:
    pictures(home / "b.npz", 60, 180, names=("dog", "cat"))
    assert verify(VerifyOptions("r/engine.onnx", data="npz:b.npz"))["parity"]["top1_engine"] == 1.0
    pictures(home / "c.npz", 60, 180, names=("cat", "cow"))
    with pytest.raises(DataFormatError, match="do not include cow"):
        verify(VerifyOptions("r/engine.onnx", data="npz:c.npz"))
    # 0 is b, which stands at 2 of those wanted; 1 is a, at 0.
    assert by_name(np.array([0, 1, 0]), ("b", "a"), ("a", "c", "b"), "x").tolist() == [2, 0, 2]
    with pytest.raises(DataFormatError, match="not all different"):
        by_name(np.array([0]), ("a", "a"), ("a", "b"), "x")


@pytest.mark.parametrize(
    ("change", "check"),
    [
        (lambda m: m.update(classes=m["classes"][::-1]), "classes"),
        (lambda m: m.update(std=[1.0, 1.0, 1.0]), "normalisation"),
        (lambda m: m.update(mean=[0.0, 0.0, 0.0]), "normalisation"),
    ],
)
def test_a_manifest_that_differs_from_the_training_fails(
    home: Path, change: Callable[[dict[str, Any]], object], check: str
) -> None:
    edited("r/engine.onnx.manifest.json", change)
    assert check in failed(lambda: verify(ENGINE))


def test_one_flipped_bit_of_the_weights_is_found(home: Path) -> None:
    weights = Path("r/weights.safetensors")
    data = bytearray(weights.read_bytes())
    data[-3] ^= 0x40
    weights.write_bytes(data)
    calls: tuple[Callable[[], object], ...] = (
        lambda: export(ExportOptions(run="r")),
        lambda: verify(ENGINE),
    )
    for call in calls:
        with pytest.raises(DataFormatError, match="differ from those that the training wrote"):
            call()


def test_weights_without_a_digest_are_held_to_the_accuracy_of_the_training(home: Path) -> None:
    """A classifier that names the other class is right for none, 100 % are recorded."""
    edited("r/result.json", lambda body: body.pop("weights_sha256"))
    found = read_weights(Path("r/weights.safetensors"))
    turned = {n: -v if n.startswith("head") and "norm" not in n else v for n, v in found.items()}
    save_weights(Path("r/weights.safetensors"), turned)
    assert failed(lambda: export(ExportOptions(run="r", device="fake", backend="fake"))) == {"training"}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e35])
def test_weights_that_no_training_gives_are_refused(home: Path, value: float) -> None:
    edited("r/result.json", lambda body: [body.pop("weights_sha256"), body.pop("accuracy")])
    found = read_weights(Path("r/weights.safetensors"))
    name = next(n for n in found if n.startswith("head") and found[n].ndim == 1)
    found[name] = np.full_like(found[name], value)
    save_weights(Path("r/weights.safetensors"), found)
    if np.isfinite(value):
        assert "parity" in failed(lambda: export(ExportOptions(run="r", device="fake", backend="fake")))
    else:
        with pytest.raises(DataFormatError, match="are NaN or infinite"):
            export(ExportOptions(run="r", verify=False))


def test_one_image_proves_nothing(home: Path) -> None:
    assert failed(lambda: verify(VerifyOptions("r/engine.onnx", images=1))) == {"images"}
    assert "images" in failed(lambda: export(ExportOptions(run="r", precision="int8", images=1)))


def test_the_onnx_says_how_it_is_fed_and_takes_any_batch(home: Path) -> None:
    body = export(ExportOptions(run="r", backend="ort", device="cpu", dynamic_batch=True, out=Path("d")))
    model = onnx.load("d/engine.onnx")
    told = {entry.key: entry.value for entry in model.metadata_props}
    manifest = read_manifest(Path("d/engine.onnx"))
    assert (told["input"], told["layout"], told["channels"]) == ("input", "NCHW", "RGB")
    assert json.loads(told["classes"]) == ["cat", "dog"]
    assert tuple(json.loads(told["mean"])) == manifest.mean
    assert tuple(json.loads(told["std"])) == manifest.std
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    assert manifest.dynamic_batch
    assert body["preprocessing"]["width"] == 640
    assert body["preprocessing"]["median_ms"] > 0
    with pytest.raises(InputError, match="built for one batch"):
        ExportOptions(format="ort", dynamic_batch=True)
