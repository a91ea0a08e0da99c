"""The Python of the pages runs, on the fake device and with few images."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import hwnas
from hwnas.errors import InputError

DOCS = Path(__file__).resolve().parent.parent / "docs"
IMAGES = np.random.default_rng(0).integers(0, 256, (2, 40, 48, 3), dtype=np.uint8)
# What is shown -> what runs here: the simulated device, small and few images.
SMALL = {
    'ProfileOptions(device="cpu", ': 'ProfileOptions(device="fake", input_shape=(3, 16, 16), ',
    'latency_budget="0.9x:resnet20",': (
        'latency_budget="0.15ms", input_shape=(3, 16, 16), limit=200, images=300,'
    ),
    'strategy="auto"': 'strategy="uniform", recipe={"threads": 1}',
    'device="cpu"': 'device="fake"',
    'latency_budget="1us",': 'latency_budget="1us", input_shape=(3, 16, 16), limit=200,',
    "input_shape=(3, 32, 32)": "input_shape=(3, 16, 16)",
}


def blocks(page: str) -> list[str]:
    text = (DOCS / page).read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def small(code: str) -> str:
    for shown, run in SMALL.items():
        code = code.replace(shown, run)
    return code


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("home")
        patch.setenv("HWNAS_HOME", str(folder))
        patch.chdir(folder)
        yield folder


@pytest.fixture(scope="module")
def names(home: Path) -> dict[str, Any]:
    """What the blocks of the Python page leave behind, run one after another."""
    said: list[tuple[Any, ...]] = []
    names: dict[str, Any] = {"images": IMAGES, "print": lambda *words: said.append(words)}
    for code in blocks("python.md"):
        exec(compile(small(code), "docs/python.md", "exec"), names)
    return {**names, "said": said}


def test_the_page_leads_to_a_verified_engine(names: dict[str, Any], home: Path) -> None:
    assert Path(names["exported"].engine).is_file()
    assert names["checked"].passed
    assert json.loads((home / "found.json").read_text()) == names["found"].as_json()
    assert names["planned"].dry_run
    assert names["probabilities"].shape == (2, 10)
    assert names["probabilities"].sum(axis=1) == pytest.approx([1.0, 1.0], abs=1e-5)
    said = [" ".join(map(str, words)) for words in names["said"]]
    (infeasible,) = [line for line in said if line.startswith("nothing is that fast")]
    assert float(infeasible.split()[-2]) > 0.001  # more than the budget of 1 us
    assert any(re.fullmatch(r"\d deeper \(\d+, \d+, \d+\)", line) for line in said)


def test_the_source_of_the_page_is_a_data_set(names: dict[str, Any]) -> None:
    made = names["load"]()
    assert made["images"].shape == (20, 32, 32, 3)
    assert set(made["labels"]) == {0, 1}


def test_an_option_that_does_not_exist_is_refused(names: dict[str, Any]) -> None:
    with pytest.raises(TypeError):
        names["SearchOptions"](latency_budget="1ms", data="digits", stategy="auto")
    with pytest.raises(InputError):
        names["SearchOptions"](latency_budget="1ms", data="digits", strategy="autoo")


def test_the_engine_without_hwnas_gives_what_a_session_gives(
    names: dict[str, Any], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page's ONNX Runtime and Pillow lines: name, layout, range, RGB, crop and filter are as stated."""
    monkeypatch.chdir(home)
    Image.fromarray(IMAGES[0]).save(home / "photo.png")
    first, second = blocks("how-to/deploy.md")
    top: list[str] = []
    exec(first, {"image": IMAGES[0], "print": top.append})
    assert len(top) == 3
    alone: dict[str, Any] = {"print": lambda word: top.append(str(word))}
    exec(second.replace("photo.jpg", "photo.png"), alone)
    with hwnas.Session("runs/latest") as session:
        np.testing.assert_allclose(alone["scores"], session.scores(IMAGES[0])[0], atol=2e-2)
    assert top[-1] == top[0].split(":")[0]
    manifest = json.loads((home / "runs/latest/engine.onnx.manifest.json").read_text(encoding="utf-8"))
    assert top[-1] in manifest["classes"]


@pytest.mark.parametrize("page", sorted(str(p.relative_to(DOCS)) for p in DOCS.rglob("*.md")))
def test_python_on_a_page_is_python(page: str) -> None:
    """Every block compiles, and what it imports from hwnas is there."""
    for code in blocks(page):
        compile(code, page, "exec")
        for line in re.findall(r"^(?:from hwnas[\w.]* import \(?[\w, ]+|import hwnas)", code, re.MULTILINE):
            exec(line, {})
