"""The shipped networks are what the script writes."""

import importlib.util
import sys
from pathlib import Path

import pytest

from hwnas.nets import spaces
from hwnas.store import read_network

ROOT = Path(__file__).resolve().parents[3]


def written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    location = importlib.util.spec_from_file_location("make_networks", ROOT / "examples" / "make_networks.py")
    assert location is not None
    assert location.loader is not None
    script = importlib.util.module_from_spec(location)
    location.loader.exec_module(script)
    monkeypatch.setattr(sys, "argv", ["make_networks.py", str(folder)])
    script.main()
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_shipped_files_are_what_the_script_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = {path.name: path.read_text() for path in (ROOT / "examples" / "networks").iterdir()}
    assert written(tmp_path, monkeypatch) == shipped


def test_examples_are_members_of_their_spaces() -> None:
    folder = ROOT / "examples" / "networks"
    residual = spaces.make("resnet-cifar")
    mobile = spaces.make("mbv2-imagenet", input_shape=(3, 224, 224), classes=1000)
    wide = spaces.make("resnet-cifar-wide")
    for name in ("resnet20", "resnet110", "stagewise-it5"):
        assert read_network(folder / f"{name}.json") in residual
    for name in ("densenas-a", "densenas-b", "densenas-c"):
        assert read_network(folder / f"{name}.json") in mobile
    assert read_network(folder / "resnet20.json") in wide
    assert read_network(folder / "resnet20.json") not in mobile
    assert read_network(folder / "hournas-f.json") not in mobile
