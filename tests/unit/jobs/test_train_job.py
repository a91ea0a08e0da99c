"""`hwnas train` as a call: what a run folder holds, resuming, distilling, other classes."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hwnas import seals, store
from hwnas.documents import read_json
from hwnas.errors import DataFormatError, InputError
from hwnas.jobs import own_model, own_pixels
from hwnas.jobs import train as train_job
from hwnas.jobs.resolve import trained
from hwnas.jobs.resolve.pixels import recorded
from hwnas.jobs.resolve.trained import transferred
from hwnas.jobs.train import train
from hwnas.jobs.train_options import TrainOptions
from hwnas.nets.build import build, load_weights, read_weights
from hwnas.runs import RunFolder, read_manifest
from hwnas.spec import BlockSpec, NetworkSpec
from hwnas.store import write_json
from hwnas.train import loop, normalisation
from hwnas.train.data import load

RECIPE = {"batch": 64, "lr": 0.5, "checkpoint_s": 0.0, "threads": 1}


class Killed(Exception):
    pass


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HWNAS_HOME", str(tmp_path / "home"))
    spec = NetworkSpec(
        stem=BlockSpec(kind="conv", c_in=1, c_out=8, size_in=8),
        stages=((BlockSpec(kind="basic", c_in=8, c_out=8, size_in=8),),),
        head=BlockSpec(kind="classifier", c_in=8, c_out=10, size_in=8),
        name="tiny",
    )
    store.write_network(tmp_path / "tiny.json", spec)
    return tmp_path


def options(**more: Any) -> TrainOptions:
    return TrainOptions(**{"network": "tiny.json", "data": "digits", "epochs": 3, "recipe": RECIPE, **more})


def test_run_folder(place: Path) -> None:
    told: list[tuple[str, Mapping[str, Any]]] = []
    body = train(options(epochs=6), lambda kind, fields: told.append((kind, fields)))
    run = place / body["run"]
    assert run == place / "runs" / "train-0001"
    assert (place / "runs" / "latest").resolve() == run
    assert read_json(run / "result.json", "result", sealed=True) == body.as_json()
    assert body["schema"] == "hwnas.train/1"
    assert body["images"] == 6 * 1294
    assert body["epochs"] == 6
    assert body["test_reads"] == 1
    assert body["seconds"] > 0
    assert not (run / "checkpoint.safetensors").exists()
    # The accuracies are those of the weights and the network that lie there.
    spec = store.read_network(run / "network.json")
    module = build(spec, seed=0)
    load_weights(module, read_weights(run / "weights.safetensors"))
    data = load("digits", input_shape=(1, 8, 8))
    assert body["accuracy"]["val"] == loop.accuracy(module, data.val) > 0.5
    assert body["accuracy"]["test"] == loop.accuracy(module, data.test())
    assert any(kind == "progress" for kind, _ in told)
    events = [json.loads(line)["event"] for line in (run / "events.jsonl").read_text().splitlines()]
    assert events == ["note", "trained"]


def test_resumed_equals_unbroken(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "PROGRESS_S", 0.0)

    def kill(kind: str, fields: Mapping[str, Any]) -> None:
        if kind == "progress" and fields["done"] > 1000:
            raise Killed

    unbroken = train(options(out=Path("a")))
    with pytest.raises(Killed):
        train(options(out=Path("b")), kill)
    assert not (place / "b" / "result.json").exists()
    seen: list[int] = []
    resumed = train(options(out=Path("b")), lambda _, fields: seen.append(fields.get("done", 0)))
    assert min(s for s in seen if s) > 1000
    changing = {"run", "seconds", "images_per_s", "finished"}
    assert {k: v for k, v in resumed.as_json().items() if k not in changing} == {
        k: v for k, v in unbroken.as_json().items() if k not in changing
    }
    weights = [(place / name / "weights.safetensors").read_bytes() for name in "ab"]
    assert weights[0] == weights[1]
    assert train(options(out=Path("b"))) == resumed  # finished: nothing is done again
    with pytest.raises(InputError, match="epochs was 3, is 4"):
        train(options(out=Path("b"), epochs=4))


def test_goes_on_from_a_runs_weights(place: Path) -> None:
    first = train(options(epochs=8, out=Path("a")))
    further = train(options(network="a", epochs=0.05, out=Path("b")))
    scratch = train(options(network="a", epochs=0.05, out=Path("c"), start="scratch"))
    assert further["accuracy"]["val"] > first["accuracy"]["val"] - 0.2 > scratch["accuracy"]["val"]


def on_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run "a" whose weights saw pixels from 0 to 255, as a search for a user's model may leave it."""
    with monkeypatch.context() as patched:
        patched.setattr(
            train_job,
            "rescale",
            lambda data, trained: normalisation.use(data, normalisation.named(data, "bytes")),
        )
        first = train(options(epochs=8, out=Path("a")))
    assert (first["mean"], first["std"]) == ([0.0], [1 / 255])
    assert first["accuracy"]["val"] > 0.5


def test_weights_go_on_with_the_scale_of_pixels_that_they_were_trained_on(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_bytes(monkeypatch)
    goes_on: dict[str, dict[str, Any]] = {"on": {"network": "a"}, "init": {"init": "a", "seed": 0}}
    for name, more in goes_on.items():
        further = train(options(epochs=0.05, out=Path(name), **more))
        assert (further["mean"], further["std"]) == ([0.0], [1 / 255])
    scratch = train(options(network="a", epochs=0.05, out=Path("scratch"), start="scratch"))
    assert scratch["std"] != [1 / 255]
    found = own_model.space("a", input_shape=(1, 8, 8), classes=10)
    data = load("digits", input_shape=(1, 8, 8))
    (said,) = own_pixels.normalised(found, data, "auto")
    assert said == "pixels on the scale that a was trained on"
    assert (data.mean, data.std) == ((0.0,), (1 / 255,))


def test_a_teacher_sees_pixels_on_its_own_scale(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_bytes(monkeypatch)
    data = load("digits", input_shape=(1, 8, 8))
    teacher = trained.teacher_of(options(distill="a", seed=0), data)
    assert teacher is not None
    own = build(store.read_network(Path("a/network.json")), seed=0)
    load_weights(own, read_weights(Path("a/weights.safetensors")))
    images = data.val.images[:50]
    with torch.inference_mode():
        expected = own.eval()(images.float())
        assert torch.allclose(
            teacher.module.eval()(data.val.normalised(slice(0, 50))), expected, rtol=1e-3, atol=1e-3
        )
    taught = train(options(out=Path("b"), epochs=1, distill="a", seed=0))
    assert taught["std"] != [1 / 255]


@pytest.mark.parametrize(
    "wrong",
    [
        {"mean": [0.5]},
        {"mean": [0.5, 0.5], "std": [0.2, 0.2]},
        {"mean": [0.5], "std": [0.0]},
        {"mean": [7.0], "std": [0.2]},
        {"mean": ["0.5"], "std": [0.2]},
        {"mean": [True], "std": [0.2]},
        {"mean": 0.5, "std": 0.2},
    ],
)
def test_a_scale_that_cannot_be_is_refused(place: Path, wrong: dict[str, Any]) -> None:
    train(options(epochs=0.05, out=Path("a")))
    assert recorded(Path("a/network.json"), 1) is not None
    assert recorded(Path("tiny.json"), 1) is None
    result = Path("a/result.json")
    body = {k: v for k, v in json.loads(result.read_text()).items() if k not in ("mean", "std", seals.OBJECT)}
    result.write_text(json.dumps(body))
    assert recorded(Path("a/network.json"), 1) is None
    result.write_text(json.dumps({**body, **wrong}))
    with pytest.raises(DataFormatError, match="normalise no images of 1 channels"):
        train(options(network="a", epochs=0.05, out=Path("b")))


def test_distil_and_average(place: Path) -> None:
    train(options(epochs=8, out=Path("teacher")))
    plain = train(options(out=Path("a"), ema=True))
    taught = train(options(out=Path("b"), ema=True, distill="teacher"))
    assert taught["train_macs"] == pytest.approx(plain["train_macs"] * 4 / 3)
    assert (Path("a") / "weights.safetensors").read_bytes() != (
        Path("b") / "weights.safetensors"
    ).read_bytes()
    with pytest.raises(InputError, match=r"tiny\.json has no weights; give a trained run"):
        train(options(distill="tiny.json"))


def test_head_follows_the_data(place: Path) -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    images = rng.integers(0, 50, (60, 8, 8), dtype=np.uint8) + (labels * 60).astype(np.uint8)[:, None, None]
    np.savez(place / "three.npz", images=images, labels=labels, classes=["a", "b", "c"])
    told: list[str] = []
    body = train(options(data="npz:three.npz"), lambda _, fields: told.append(fields.get("text", "")))
    assert body["classes"] == ["a", "b", "c"]
    assert store.read_network(Path(body["run"]) / "network.json").classes == 3
    assert "the head of tiny.json now gives the data's 3 classes" in told


def test_dry_run_touches_nothing(place: Path) -> None:
    body = train(options(dry_run=True))
    assert (body["images"], body["starts_from"]) == (3 * 1294, "scratch")
    assert body["steps"] == 61  # 3882 / 64
    assert not (place / "runs").exists()


def test_wrong_options(place: Path) -> None:
    with pytest.raises(InputError, match="epochs 0 must be greater than zero"):
        options(epochs=0)
    with pytest.raises(InputError, match="unknown training option 'learning_rate'"):
        train(options(recipe={"learning_rate": 1.0}))
    with pytest.raises(InputError, match="unknown start 'weight'; did you mean 'weights'"):
        options(start="weight")
    RunFolder(Path("other"), "search", {})
    with pytest.raises(InputError, match="holds a 'search' run"):
        train(options(out=Path("other")))


def test_a_training_begins_with_weights_of_other_data_and_a_new_classifier(place: Path) -> None:
    first = train(options(epochs=1, out=Path("a")))
    data = noise(place / "noise.npz")
    told: list[str] = []
    made = options(data=data, epochs=0.05, init="a", recipe={**RECIPE, "lr": 1e-9}, out=Path("b"))
    body = train(made, lambda _, fields: told.append(fields.get("text", "")))
    assert any(text.endswith("with a new classifier") for text in told)
    before, after = (read_weights(Path(run) / "weights.safetensors") for run in (first["run"], body["run"]))
    assert np.allclose(before["stem.conv.weight"], after["stem.conv.weight"], atol=1e-6)
    assert before["head.linear.weight"].shape == (10, 8)
    assert after["head.linear.weight"].shape == (2, 8)
    with pytest.raises(InputError, match=r"1 of its arrays differ, such as stem\.conv\.bias"):
        transferred({"head.x": np.zeros(1, np.float32)}, {"stem.conv.bias": np.zeros(2, np.float32)})
    with pytest.raises(InputError, match="which are validation images here"):
        train(options(init="a", seed=7, out=Path("c")))
    with pytest.raises(InputError, match="leave one out"):
        options(init="a", start="scratch")


def noise(path: Path, seed: int = 0) -> str:
    """Sixty images of digits' shape, of two classes."""
    images = np.random.default_rng(seed).integers(0, 256, (60, 8, 8), dtype=np.uint8)
    np.savez(path, images=images, labels=np.arange(60) % 2)
    return f"npz:{path}"


def test_a_runs_weights_go_on_with_its_splits(place: Path) -> None:
    data = noise(place / "noise.npz")
    train(options(data=data, seed=3, limit=40, epochs=1, out=Path("a")))
    made = train(options(network="a", data=None, epochs=1, out=Path("b")))
    config = json.loads(Path("b/manifest.json").read_text())["config"]
    assert (config["data"], config["seed"], config["limit"]) == (data, 3, 40)
    assert made["data"] == data
    for wrong in ({"seed": 4}, {"limit": 50}):
        with pytest.raises(InputError, match=r"a was trained with .* draws another validation split"):
            train(options(network="a", data=None, epochs=1, **wrong))
    # The same images under another name are the same data; others are not.
    copy = noise(place / "copy.npz")
    train(options(network="a", data=copy, epochs=1, out=Path("c")))
    other = noise(place / "other.npz", 1)
    with pytest.raises(DataFormatError, match=r"other\.npz holds other images"):
        train(options(network="a", data=other, epochs=1))
    train(options(network="a", data=other, seed=5, epochs=1, start="scratch", out=Path("d")))
    noise(place / "noise.npz", 2)
    with pytest.raises(DataFormatError, match="which has changed since then"):
        train(options(network="a", data=None, epochs=1))


def test_code_named_by_a_run_is_not_run(place: Path) -> None:
    train(options(data=noise(place / "noise.npz"), epochs=1, out=Path("a")))
    body = read_manifest(Path("a"))
    body["config"]["data"] = "evil:load"
    write_json(Path("a/manifest.json"), body, sealed=True)
    with pytest.raises(InputError, match="Code that a file names is not run"):
        train(options(network="a", data=None, epochs=1))


def test_a_teacher_of_other_classes_is_refused(place: Path) -> None:
    train(options(data=noise(place / "noise.npz"), epochs=1, out=Path("a")))
    with pytest.raises(InputError, match="was trained on other classes"):
        train(options(distill="a", epochs=1))


def test_figures_by_class_and_the_learning_curve_are_in_the_result(place: Path) -> None:
    body = train(options(epochs=2))
    for split, images in (("val", 144), ("test", 359)):  # digits: 1797 - 359 = 1438, a tenth of which is 144
        found = body["by_class"][split]
        assert found["images"] == images == sum(map(sum, found["confusion_matrix"]))
        assert found["accuracy"] == body["accuracy"][split]
        recalls = [row["right"] / row["images"] for row in found["classes"]]
        assert body["balanced_accuracy"][split] == pytest.approx(sum(recalls) / 10)
        assert found["chance"] == 0.1
    curve = body["curve"]
    assert [row["images"] for row in curve] == sorted(row["images"] for row in curve)
    assert curve[-1]["images"] == 2 * 1294
    assert curve[-1]["accuracy"] == body["accuracy"]["val"]
    assert 1 < sum("accuracy" in row for row in curve) <= loop.WATCHED
    assert curve[-1]["loss"] < curve[0]["loss"]
