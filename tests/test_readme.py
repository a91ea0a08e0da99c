"""The README's commands are what the tool takes, and its main path runs."""

from __future__ import annotations

import re
import shlex
from itertools import pairwise
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner

from hwnas_cli.main import cli, command_of

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
COMMANDS = [
    shlex.split(line.removeprefix("$ "), comments=True)[1:]
    for kind, text in BLOCKS
    if kind == "sh"
    for line in text.splitlines()
    if line.removeprefix("$ ").startswith("hwnas ")
]
# So that the path through the README takes seconds: the fake device, few and small images.
TINY = [
    *("--device", "fake", "--input", "3x16x16", "--limit", "200", "--images", "400"),
    *("--strategy", "uniform", "--recipe", "threads=1"),
]


def test_there_are_commands() -> None:
    assert {args[0] for args in COMMANDS} >= {"profile", "search", "export", "verify", "report", "count"}


@pytest.mark.parametrize("args", COMMANDS, ids=" ".join)
def test_a_command_parses(args: list[str]) -> None:
    """Every option exists and takes the value that is shown."""
    parent = click.Context(cli, info_name="hwnas")
    command, rest = command_of(args[0]), args[1:]
    while isinstance(command, click.Group):
        command, rest = command.commands[rest[0]], rest[1:]
    command.make_context(args[0], rest, parent=parent).close()


@pytest.mark.parametrize("verb", sorted(set(re.findall(r"`hwnas (\w+)", README))))
def test_a_command_that_is_named_exists(verb: str) -> None:
    assert command_of(verb).name == verb


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^make ([\w-]+)", README, re.MULTILINE) + re.findall(
        r"`make ([\w-]+)`", README
    ):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_extras_exist() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for extra in re.findall(r"\.\[(\w+)\]", README):
        assert re.search(rf"^{extra} = \[", project, re.MULTILINE), extra


@pytest.mark.slow
def test_the_path_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands of the README in their order on the fake device, then its lines of Python."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HWNAS_HOME", str(tmp_path / "home"))
    small = ["--device", "fake", "--input", "3x16x16"]
    own = [args for args in COMMANDS if "--model" not in args]  # a model of the reader's is not here
    path = [args for args in own if args[0] in ("profile", "search", "export", "verify", "report")][:5]
    assert [args[0] for args in path] == ["profile", "search", "export", "verify", "report"]
    for args in path:
        more = {"profile": small, "search": TINY}.get(args[0], [])
        fitting = ["0.15ms" if before == "--latency-budget" else arg for before, arg in pairwise(["", *args])]
        done = CliRunner().invoke(cli, [*fitting, *more])
        assert done.exit_code == 0, f"{args}: {done.output}\n{done.exception!r}"
    for name in ("report.html", "engine.onnx", "engine.onnx.manifest.json", "weights.safetensors"):
        assert (tmp_path / "runs" / "latest" / name).is_file()
    (code,) = [text for kind, text in BLOCKS if kind == "python"]
    image = np.random.default_rng(0).integers(0, 256, (40, 32, 3), dtype=np.uint8)
    printed: list[str] = []
    exec(code, {"image": image, "print": printed.append})
    assert len(printed) == 3
    assert all(re.fullmatch(r"\S+: \d+\.\d%", line) for line in printed)


@pytest.mark.parametrize("args", [a for a in COMMANDS if a[0] in ("count", "spaces")], ids=" ".join)
def test_a_quick_command_runs(args: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(cli, args)
    assert done.exit_code == 0, done.output


def test_the_foreign_device_is_refused_as_the_readme_says() -> None:
    assert CliRunner().invoke(cli, ["profile", "--device", "titanxp"]).exit_code == 4
