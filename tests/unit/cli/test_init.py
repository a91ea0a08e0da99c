"""`init` looks at what lies there; `run` gives the profile what the search needs."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from PIL import Image

from hwnas.jobs import start
from hwnas_cli import chain
from hwnas_cli.main import cli


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HWNAS_HOME", str(tmp_path / "home"))
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return work


def photographs(folder: Path, side: int) -> None:
    for name, level in (("dark", 40), ("light", 200)):
        (folder / name).mkdir(parents=True)
        for at in range(6):
            Image.new("RGB", (side + at, side), (level, level, at)).save(folder / name / f"{at}.png")


def written(*words: str) -> dict[str, dict[str, str]]:
    done = CliRunner().invoke(cli, ["init", *words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    body: dict[str, dict[str, str]] = yaml.safe_load(Path("hwnas.yaml").read_text())
    return body


# 0.5 ms for 32 x 32 pixels: 1.5625 times as many are 0.8 ms, four times as many 2 ms.
@pytest.mark.parametrize(("side", "shape", "budget"), [(40, "3x40x40", "0.8ms"), (300, "3x64x64", "2ms")])
def test_class_folders_are_found_and_suited(here: Path, side: int, shape: str, budget: str) -> None:
    photographs(here / "photos of mine: #1", side)
    search = written()["search"]
    assert search["data"] == "folder:photos of mine: #1"
    assert (search["input"], search["space"], search["strategy"]) == (shape, "auto", "auto")
    assert search["latency-budget"] == budget


def test_a_named_source_wins_and_without_any_it_is_the_digits(here: Path) -> None:
    assert written()["search"]["data"] == "digits"
    photographs(here / "a", 40)
    photographs(here / "b", 40)
    assert written("--force", "--data", "folder:b")["search"]["data"] == "folder:b"


def profiled(space: str, *words: str) -> list[str]:
    """The words of the command that a profile on the fake device names as the next one."""
    given = ["profile", "--device", "fake", "--space", space, "--preset", "quick", "--max-time", "1ms"]
    done = CliRunner().invoke(cli, [*given, *words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return shlex.split(done.stderr.splitlines()[-1].removeprefix("Next: "))


def test_after_a_profile_the_search_is_of_the_images_that_lie_here(here: Path) -> None:
    words = profiled("resnet-cifar")
    assert words[:6] == ["hwnas", "search", "--latency-budget", "1x:resnet20", "--data", "digits"]
    assert "--input" not in words
    photographs(here / "my photos", 40)
    words = profiled("resnet-cifar")
    assert words[4:6] == ["--data", "folder:my photos"]
    assert words[-2:] == ["--input", "3x32x32"], "the table is of this size, the pictures are larger"
    words = profiled("mbv2-cifar", "--input", "3x40x40")
    assert words[2:6] == ["--latency-budget", "2x:smallest", "--data", "folder:my photos"]
    assert words[-2:] == ["--input", "3x40x40"]


def test_a_folder_that_cannot_be_read_is_passed_over(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photographs(here / "photos", 40)
    (here / "closed").mkdir()
    usual = Path.iterdir

    def iterdir(path: Path) -> Iterator[Path]:
        if path.name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return usual(path)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    assert start.find(here) == f"folder:{here / 'photos'}"


def test_folders_that_are_no_classes_are_not_taken(here: Path) -> None:
    photographs(here / "photos", 40)
    (here / "runs" / "search-0001").mkdir(parents=True)
    assert start.find(here) == f"folder:{here / 'photos'}"
    (here / "photos" / "notes").mkdir()
    assert start.find(here) == "digits", "a folder without images is no class"


def profile_words(body: dict[str, dict[str, str]]) -> list[str]:
    _, steps = chain.plan(body, Path("hwnas.yaml"))
    words: list[str] = steps[0][1:-4]
    return words


def test_the_profile_takes_input_and_space_of_the_search(here: Path) -> None:
    photographs(here / "photos", 40)
    search = {"latency-budget": "2x:smallest", "data": "folder:photos"}
    suited = ["--input", "3x40x40", "--space", "mbv2-cifar"]
    assert profile_words({"profile": {}, "search": search}) == suited
    own = {**search, "space": "resnet-cifar", "input": "3x48x48"}
    assert profile_words({"profile": {}, "search": own}) == ["--input", "3x48x48", "--space", "resnet-cifar"]
    assert profile_words({"profile": {"space": "resnet-cifar"}, "search": search}) == ["--input", "3x40x40"]


def test_the_profile_of_a_search_without_a_space_is_near_its_budget(here: Path) -> None:
    """Of all families, which compete in such a search; not where one is searched or no latency is named."""
    photographs(here / "photos", 40)
    search = {"latency-budget": "0.8ms,1ms", "data": "folder:photos"}
    near = ["--input", "3x40x40", "--space", "auto", "--latency-budget", "1ms"]
    assert profile_words({"profile": {}, "search": search}) == near
    assert profile_words({"profile": {}, "search": {**search, "strategy": "auto"}}) == near
    assert profile_words({"profile": {}, "search": {**search, "space": "auto"}}) == near
    one = ["--input", "3x40x40", "--space", "mbv2-cifar"]
    assert profile_words({"profile": {}, "search": {**search, "strategy": "hournas"}}) == one
    # no profile is near both
    assert profile_words({"profile": {}, "search": {**search, "latency-budget": "0.3ms,1ms"}}) == one
    assert profile_words({"profile": {"space": "resnet-cifar"}, "search": search}) == ["--input", "3x40x40"]
