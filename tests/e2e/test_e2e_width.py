"""At 80 columns no line is wider, but for a word that must stay whole: a path, or a hash."""

from __future__ import annotations

from collections.abc import Iterator

import click
import pytest
from e2e_house import BUDGET, SMALL, TINY, House

from hwnas_cli.main import COMMANDS, command_of

LONGEST_WORD = 24


def all_commands() -> Iterator[tuple[str, ...]]:
    for name in COMMANDS:
        yield (name,)
        found = command_of(name)
        if isinstance(found, click.Group):
            yield from ((name, sub) for sub in found.commands)


def check(text: str) -> None:
    """No line above 80 that could have been folded."""
    for line in text.splitlines():
        words = sorted(map(len, line.split()), reverse=True)
        assert len(line) <= 80 or words[0] > LONGEST_WORD, line
        assert "\r" not in line
        assert "\x1b" not in line


@pytest.fixture(autouse=True)
def eighty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


@pytest.mark.parametrize("command", [(), *all_commands()], ids=" ".join)
def test_help(fake: House, command: tuple[str, ...]) -> None:
    lines = fake.run(*command, "--help").stdout.splitlines()
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize(
    "command",
    [
        "doctor --no-noise",
        "table list",
        "table show",
        "count resnet20 resnet56",
        "bench resnet20 resnet56 --device fake --preset quick",
        "devices",
        "devices show titanxp",
        "spaces",
        "spaces show resnet-cifar",
        "strategies",
        "backends",
        "backends show ort",
    ],
)
def test_output(fake: House, command: str) -> None:
    result = fake.run(*command.split())
    check(result.stdout)
    check(result.stderr)


def test_search_and_what_follows(fake: House) -> None:
    for args in (
        ("search", *BUDGET, *TINY, "--dry-run"),
        ("search", *BUDGET, *TINY, "--out", "runs/one"),
        ("train", "runs/one", "--epochs", "1", "--recipe", "threads=1", "--out", "runs/two"),
        ("predict", "runs/one/network.json", *SMALL[:2]),
        ("export", "runs/one"),
        ("verify", "runs/one/engine.onnx"),
        ("runs", "list"),
        ("runs", "show", "runs/one"),
        ("runs", "compare", "one", "two"),
        ("report", "one"),
    ):
        result = fake.run(*args)
        check(result.stdout)
        check(result.stderr)


def test_errors(fake: House) -> None:
    for args in (
        ("search", "--latency-budget", "18"),
        ("report", "a-run-that-does-not-exist"),
        ("serach",),
        ("train", "resnet20"),
    ):
        check(fake.refused(*args, status=2))


def test_lists_have_what_tells_runs_and_tables_apart(fake: House) -> None:
    (row,) = fake.json("table", "list")["tables"]
    assert (row["space"], row["input"]) == ("resnet-cifar", [3, 16, 16])
    assert 0 < row["error_percent"] < 10
    shown = fake.run("table", "list").stdout
    assert "3x16x16" in shown
    assert row["path"] in shown.splitlines()[-1]
    run = next(r for r in fake.json("runs", "list")["runs"] if r["name"] == "one")
    assert (run["data"], run["space"], run["strategy"]) == ("digits", "resnet-cifar", "uniform")
    assert (run["device"], run["precision"], run["budget_ms"]) == ("fake", "fp32", 0.15)
    assert 0 <= run["test_accuracy"] <= 1
    head, *lines = fake.run("runs", "list").stdout.splitlines()
    assert head.split()[:5] == ["run", "date", "what", "on", "budget"]
    assert {"ms", "val", "test"} <= set(head.split())
    assert any("digits" in line for line in lines)
