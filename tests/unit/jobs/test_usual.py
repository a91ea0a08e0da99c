"""What a device is usually asked for stands in for what the user leaves out."""

import json
from pathlib import Path
from typing import Any

import pytest

from hwnas.errors import DataFormatError, InputError
from hwnas.jobs.profile import ProfileOptions, profile
from hwnas.jobs.search import SearchOptions, search
from hwnas.measure import device
from hwnas.measure import table as tables
from hwnas.store import data_dir


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HWNAS_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def estimated(**given: Any) -> tuple[str, int, tuple[int, ...] | None, list[str]]:
    """Space, batch and images of a planning table for the TITAN Xp, and what was said."""
    notes: list[str] = []
    options = ProfileOptions(device="titanxp", estimate=True, **given)
    body = profile(options, lambda _, fields: notes.append(fields["text"])).as_json()
    shape = tables.load(Path(body["table"])).header.input_shape
    return body["space"], body["setting"]["batch"], shape, notes


def test_the_titan_xp_is_asked_for_imagenet_at_batch_32() -> None:
    """As in its published table, in which 18 ms means something (DenseNAS-C: 17.9)."""
    space, batch, shape, notes = estimated()
    assert (space, batch, shape) == ("densenas-mbv2", 32, (3, 224, 224))
    assert "no --space given: densenas-mbv2 at batch 32" in notes[0]
    assert "17.9 ms" in notes[0]


def test_what_the_user_names_is_taken() -> None:
    assert estimated(space="mbv2-cifar") == ("mbv2-cifar", 1, (3, 32, 32), [])
    assert estimated(input_shape=(3, 32, 32)) == ("mbv2-cifar", 1, (3, 32, 32), [])
    assert estimated(batch=8)[:2] == ("densenas-mbv2", 8)


def test_a_device_without_such_a_thing_has_the_usual_space() -> None:
    assert device.usual("cpu") is None
    assert device.usual("titanxp") == device.usual("TITAN Xp")


def planned(**given: Any) -> tuple[str, list[str]]:
    """The file that a profile without a space would write, and what was said."""
    notes: list[str] = []
    options = ProfileOptions(device="fake", preset="quick", dry_run=True, **given)
    body = profile(options, lambda _, fields: notes.append(fields["text"])).as_json()
    return Path(body["table"]).name, notes


@pytest.mark.parametrize("given", [{}, {"input_shape": (3, 40, 40)}])
def test_small_images_are_profiled_for_all_families(given: dict[str, Any]) -> None:
    name, notes = planned(**given)
    assert "-auto-" in name
    assert "no --space given: all families of networks (auto)" in notes[0]


def test_large_images_are_profiled_for_one_family() -> None:
    name, notes = planned(input_shape=(3, 128, 128))
    assert "-mbv2-imagenet-3x128x128" in name
    assert not notes


def test_near_a_latency_all_families_are_profiled_whatever_is_usual() -> None:
    name, notes = planned(near_ms=0.5)
    assert "-auto-" in name
    assert not notes
    with pytest.raises(InputError, match=r"near one latency is of all families.* resnet-cifar is one"):
        planned(near_ms=0.5, space="resnet-cifar")


def test_a_damaged_description_is_named(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    described = json.loads((data_dir("profiles") / "devices" / "titanxp.json").read_text())
    described["usual"] = {"space": "mbv2-cifar"}
    monkeypatch.setattr(device, "_descriptions", lambda: [described])
    with pytest.raises(DataFormatError, match="needs space, batch and why"):
        device.usual("titanxp")


def test_a_search_without_data_takes_digits_of_the_size_that_was_profiled() -> None:
    body = profile(
        ProfileOptions(device="fake", space="resnet-cifar", preset="quick", input_shape=(3, 12, 12))
    )
    notes: list[str] = []
    options = SearchOptions(latency_budget="2x:smallest", device="fake", dry_run=True)
    planned = search(options, lambda _, fields: notes.append(fields["text"])).as_json()
    assert planned["table"] == body.as_json()["table"]
    assert "3x12x12" in planned["data"]
    assert "no --data given: searching on the built-in digits" in notes[0]
    assert "resized to 3x12x12" in notes[0]
