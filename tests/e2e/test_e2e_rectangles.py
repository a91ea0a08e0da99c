"""Images that are not square, from a folder to scores: height before width at every door."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from e2e_house import House, house
from PIL import Image

import hwnas
from hwnas.backends.fake_price import FakeDevice, price_ms
from hwnas.nets.onnx import network
from hwnas.store import read_network

# 12 high and 20 wide; the network is given 3x12x20.
HEIGHT, WIDTH = 12, 20
pytestmark = pytest.mark.slow  # a profile and a search
SPACE = ("--device", "fake", "--space", "resnet-cifar")
SEARCH = ("search", *SPACE, "--strategy", "uniform", "--latency-budget", "1.5x:smallest", "--images", "800")


def picture(bright: str, height: int, width: int, seed: int) -> np.ndarray:
    """Noise with its upper or lower half bright."""
    pixels = np.random.default_rng(seed).integers(0, 80, (height, width, 3)).astype(np.uint8)
    rows = slice(0, height // 2) if bright == "upper" else slice(height // 2, height)
    pixels[rows] += 120
    return pixels


def write(folder: Path) -> None:
    for name in ("lower", "upper"):
        (folder / name).mkdir(parents=True)
        for seed in range(40):
            Image.fromarray(picture(name, HEIGHT, WIDTH, seed)).save(folder / name / f"{seed}.png")


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with pytest.MonkeyPatch.context() as patch:
        found = house(tmp_path_factory.mktemp("rectangles"), patch)
        write(found.folder / "halves")
        yield found


@pytest.fixture(scope="module")
def found(here: House) -> dict[str, Any]:
    """A search that follows the data: no --input, no table."""
    return here.json(*SEARCH, "--data", "folder:halves", "--recipe", "batch=16", "--out", "run")


def test_the_search_is_of_the_images_as_they_are(here: House, found: dict[str, Any]) -> None:
    spec = json.loads((here.folder / "run" / "network.json").read_text())
    assert spec["stem"]["size_in"] == [HEIGHT, WIDTH]
    assert found["best"]["accuracy"] > 0.9
    (table,) = (here.folder / "home" / "tables").glob("*.jsonl")
    assert "-3x12x20-" in table.name
    assert here.json("table", "list")["tables"][0]["input"] == [3, HEIGHT, WIDTH]
    counted = here.json("count", "run")["networks"][0]
    assert counted["input"] == [3, HEIGHT, WIDTH]
    assert "3x12x20" in here.run("count", "run").stdout


def test_latency_is_that_of_the_shape(here: House, found: dict[str, Any]) -> None:
    """A table serves no turned images, and says of which it is."""
    turned = here.json("spaces", "sample", "--space", "resnet-cifar", "--input", "3x20x12", "--out", "turned")
    words = here.refused("predict", turned["paths"][0], "--device", "fake", status=6)
    assert "3x20x12" in words
    spec = read_network(here.folder / "run" / "network.json")
    price = price_ms(network(spec), FakeDevice(), "fp32", 1, 1)
    predicted = here.json("predict", "run", "--device", "fake")["networks"][0]["latency_ms"]
    assert predicted == pytest.approx(price, rel=0.02)
    assert found["best"]["predicted_ms"] == pytest.approx(price, rel=0.02)


def test_engine_and_session(here: House, found: dict[str, Any]) -> None:
    body = here.json("export", "run", "--format", "onnx")
    model = onnx.load(here.folder / body["engine"])
    dims = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
    assert dims == [1, 3, HEIGHT, WIDTH]
    assert {p.key: p.value for p in model.metadata_props}["size"] == "[12, 20]"
    with hwnas.Session(here.folder / body["engine"]) as session:
        for name in ("lower", "upper"):
            # Its own size, twice that, and wider: only the middle is looked at.
            for height, width in ((HEIGHT, WIDTH), (2 * HEIGHT, 2 * WIDTH), (HEIGHT, 3 * WIDTH)):
                ((first, _),) = session.top(picture(name, height, width, 99), 1)[0]
                assert first == name


def test_what_a_space_holds(here: House) -> None:
    body = here.json("spaces", "show", "resnet-cifar", "--input", "3x12x20")
    assert body["input_shape"] == [3, HEIGHT, WIDTH]
    assert [stage["sizes"] for stage in body["stages"]] == [[[12, 20]], [[6, 10]], [[3, 5]]]
    told = here.run("spaces", "show", "resnet-cifar", "--input", "3x12x20").stdout
    assert all(text in told for text in ("3x12x20", "6x10", "3x5"))


def test_the_pipeline_file(here: House) -> None:
    here.run("init", "--data", "folder:halves", "pipeline.yaml")
    assert "input: 3x12x20 " in (here.folder / "pipeline.yaml").read_text()


def test_the_report(here: House, found: dict[str, Any]) -> None:
    here.run("report", "run")
    assert "3x12x20" in (here.folder / "run" / "report.html").read_text()
