"""`hwnas search --init`: begun from other weights, in one process, in several, and after a kill."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from killing import has_event, killed, needs_sigkill

from hwnas import seals
from hwnas.errors import DataFormatError, InputError
from hwnas.jobs.profile import ProfileOptions, profile
from hwnas.jobs.search import SearchOptions, search
from hwnas.jobs.train import train
from hwnas.jobs.train_options import TrainOptions
from hwnas.nets.build import build, read_weights, save, weights
from hwnas.nets.spaces import make
from hwnas.nets.weights import save_weights
from hwnas.report.collect import collect
from hwnas.report.record_sections import settings
from hwnas.store import read_network, write_network

SHAPE = (1, 8, 8)
RECIPE: dict[str, Any] = {"batch": 32, "lr": 0.1, "threads": 1, "checkpoint_s": 0.0}


@pytest.fixture(scope="module")
def earlier(levels: Path) -> Path:
    """A run of two blocks a stage on digits, and a table of the fake device."""
    profile(ProfileOptions(device="fake", space="resnet-cifar", preset="quick", input_shape=SHAPE))
    spec = make("resnet-cifar", input_shape=SHAPE, classes=10).smallest().grow(0).grow(1).grow(2)
    write_network(levels / "six.json", spec)
    run = levels / "earlier"
    train(TrainOptions(str(levels / "six.json"), data="digits", epochs=2, recipe=RECIPE, out=run))
    return run


@pytest.fixture
def options(earlier: Path, levels_search: SearchOptions) -> SearchOptions:
    return replace(
        levels_search,
        latency_budget="0.12ms",
        space="resnet-cifar",
        strategy="uniform",
        images=900,
        recipe=RECIPE,
        init=str(earlier),
    )


def first_trial(run: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Weights of the first trial, and what is kept of it."""
    return read_weights(run / "weights/trial-0000.safetensors"), json.loads(
        (run / "weights/trial-0000.json").read_text()
    )


def test_networks_begin_with_the_weights_of_the_run(options: SearchOptions, earlier: Path) -> None:
    asked = replace(options, recipe={**RECIPE, "lr": 1e-9, "optimizer": "sgd"})
    body = search(asked)
    run, given = Path(body["run"]), read_weights(earlier / "weights.safetensors")
    found, kept = first_trial(run)
    shared = [
        name
        for place in kept["taken_over"]
        for name in given
        if name.startswith(f"{place}.") and name in found
    ]
    learned = [name for name in shared if "running_" not in name and given[name].shape == found[name].shape]
    assert len(learned) > 10
    assert all(np.allclose(found[name], given[name], atol=1e-6) for name in learned)
    assert "head" not in kept["taken_over"]  # of digits: its classes are numbers, too, but of other data

    config = json.loads((run / "manifest.json").read_text())["config"]
    sha256 = seals.file_sha256(earlier / "weights.safetensors")
    assert (config["init"], config["init_sha256"]) == (str(earlier), sha256)
    assert config["init_network"] == read_network(earlier / "network.json").key
    assert config["init_classifier"] is False
    trained = json.loads((earlier / "result.json").read_text())
    assert (body["mean"], body["std"]) == (trained["mean"], trained["std"])
    assert body["began_from"].startswith(f"began from {earlier} (SHA-256 {sha256[:12]}): networks without")
    assert body["began_from"].endswith("the classifier is new")
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    assert body["began_from"] in [event.get("text") for event in events]
    rows = settings(collect(run)).tables[0].rows
    assert ("began from", f"{earlier} (SHA-256 {sha256})") in rows

    assert search(asked)["best"] == body["best"]
    for other in (None, str(earlier / "weights.safetensors")):
        with pytest.raises(InputError, match="with another configuration"):
            search(replace(asked, init=other))


def test_other_weights_under_the_same_name_are_another_search(options: SearchOptions, tmp_path: Path) -> None:
    spec = read_network(Path(str(options.init)) / "network.json")
    write_network(tmp_path / "network.json", spec)
    bare = tmp_path / "given.safetensors"
    save(bare, build(spec, seed=1))
    asked = replace(options, init=str(bare))
    search(asked)
    assert first_trial(tmp_path / "run")[1]["taken_over"]
    save(bare, build(spec, seed=2))
    with pytest.raises(InputError, match="init_sha256 was"):
        search(asked)


def test_a_bare_file_of_weights_fits_by_name_and_shape(options: SearchOptions, tmp_path: Path) -> None:
    spec = read_network(Path(str(options.init)) / "network.json")
    save(tmp_path / "bare.safetensors", build(spec, seed=1))
    body = search(replace(options, init=str(tmp_path / "bare.safetensors")))
    assert "blocks of the same name and shape" in body["began_from"]


@pytest.mark.slow
def test_in_other_processes_it_gives_the_same(options: SearchOptions, tmp_path: Path) -> None:
    asked = replace(options, measure=False, strategy="random", settings={"samples": 2})
    one = search(replace(asked, out=tmp_path / "one"))
    two = search(replace(asked, out=tmp_path / "two", jobs=2))
    assert one["best"]["accuracy"] == two["best"]["accuracy"]
    mine, other = (sorted((tmp_path / name / "weights").glob("*.safetensors")) for name in ("one", "two"))
    assert [path.name for path in mine] == [path.name for path in other]
    # Final trainings are shared by both processes, which adds the gradients in another order.
    assert mine[0].read_bytes() == other[0].read_bytes()


@pytest.mark.slow
@needs_sigkill
def test_a_killed_search_ends_as_an_unbroken_one(options: SearchOptions, tmp_path: Path) -> None:
    whole = search(replace(options, out=tmp_path / "whole"))
    path = tmp_path / "killed"

    def training() -> bool:
        return any(path.glob("weights/trial-*.checkpoint"))

    for reached in (training, partial(has_event, path, "trial", 1)):
        killed(search, replace(options, out=path), when=reached)
    again = search(replace(options, out=path))
    assert again["accuracy"] == whole["accuracy"]
    ends = [(run / "weights.safetensors").read_bytes() for run in (path, tmp_path / "whole")]
    assert ends[0] == ends[1]


def test_the_same_classes_keep_their_classifier(options: SearchOptions, earlier: Path) -> None:
    with pytest.raises(InputError, match="which are validation images here; use its --seed and --limit"):
        search(replace(options, data="digits", seed=1))
    body = search(replace(options, data="digits"))
    assert body["began_from"].endswith("the classifier is taken over, as the classes are the same")
    assert "head" in first_trial(Path(body["run"]))[1]["taken_over"]


@pytest.mark.parametrize("place", ["weights.safetensors", "weights/trial-0000.safetensors"])
def test_weights_in_the_folder_of_a_run_are_that_run_s(
    options: SearchOptions, earlier: Path, tmp_path: Path, place: str
) -> None:
    """Whatever file of it is named, what it trained on is known, by a search and by a training."""
    shutil.copytree(earlier, tmp_path / "run")
    (tmp_path / "run" / "weights").mkdir()
    file = tmp_path / "run" / place
    file.write_bytes((earlier / "weights.safetensors").read_bytes())
    with pytest.raises(InputError, match="which are validation images here"):
        search(replace(options, init=str(file), data="digits", seed=1))
    further = TrainOptions(str(earlier / "network.json"), data="digits", seed=1, init=str(file), epochs=1)
    with pytest.raises(InputError, match="which are validation images here"):
        train(further)


def test_what_cannot_be_begun_from_is_refused(options: SearchOptions, earlier: Path, tmp_path: Path) -> None:
    def refused(init: str, error: type[Exception], match: str, **change: Any) -> None:
        with pytest.raises(error, match=match):
            search(replace(options, init=init, **change))
        assert not (tmp_path / "run").exists()

    refused("nowhere.safetensors", InputError, "nowhere.safetensors do not exist")
    refused("nowhere", InputError, "nowhere")
    refused("resnet20", InputError, "resnet20 has no weights; give a trained run")
    (tmp_path / "torn.safetensors").write_bytes(b"torn")
    refused("torn.safetensors", DataFormatError, "are damaged")
    given = read_weights(earlier / "weights.safetensors")
    given["stem.conv.weight"][0, 0, 0, 0] = np.nan
    save_weights(tmp_path / "nan.safetensors", given)
    refused("nan.safetensors", DataFormatError, "1 of .* values of stem.conv.weight are NaN or infinite")
    mobile = make("mbv2-cifar", input_shape=SHAPE, classes=10).smallest()
    save(tmp_path / "mobile.safetensors", build(mobile, seed=0))
    refused("mobile.safetensors", InputError, "are of another network, and no network of resnet-cifar has a")
    write_network(tmp_path / "network.json", mobile)
    refused(
        "mobile.safetensors", InputError, r"are of 1-1-1-1 \(mbconv, conv\), and no network of resnet-cifar"
    )
    save_weights(tmp_path / "other.safetensors", weights(build(mobile.grow(0), seed=0)))
    refused("other.safetensors", DataFormatError, r"does not fit the network\.json beside it")
    colour = make("resnet-cifar", input_shape=(3, 8, 8), classes=10).smallest()
    write_network(tmp_path / "network.json", colour)
    save(tmp_path / "colour.safetensors", build(colour, seed=0))
    refused("colour.safetensors", InputError, "takes images of 3 channels, and those of this search have 1")
    with pytest.raises(InputError, match="leave --init out"):
        replace(options, model="torchvision:resnet18", space=None, strategy=None)


def test_a_dry_run_says_what_is_begun_from(options: SearchOptions, tmp_path: Path) -> None:
    body = search(replace(options, dry_run=True))
    assert any(note.startswith("began from") for note in body["notes"])
    assert not (tmp_path / "run").exists()
