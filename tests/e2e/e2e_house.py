"""Commands through click's runner, in a folder and a HWNAS_HOME of their own."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from hwnas_cli.main import cli

# Small images and few of them: the chain is what is tested here, not how well it learns.
SMALL = ("--device", "fake", "--input", "3x16x16", "--space", "resnet-cifar")
BUDGET = ("--latency-budget", "0.15ms", *SMALL)
TINY = (
    *("--data", "digits", "--limit", "200", "--images", "400", "--strategy", "uniform"),
    *("--recipe", "batch=32", "--recipe", "threads=1"),
)


@dataclass(frozen=True)
class House:
    """A working folder with its own home for tables; commands run in it."""

    folder: Path

    def run(self, *args: str, status: int = 0) -> Result:
        """Run a command and hold its exit status."""
        result = CliRunner().invoke(cli, [str(a) for a in args])
        assert result.exit_code == status, f"{args}: {result.output}\n{result.exception!r}"
        return result

    def json(self, *args: str, status: int = 0) -> dict[str, Any]:
        """Run a command with --json: its one object, which has a schema."""
        body = json.loads(self.run(*args, "--json", status=status).stdout)
        assert isinstance(body, dict)
        assert str(body["schema"]).startswith("hwnas.")
        return body

    def refused(self, *args: str, status: int) -> str:
        """Run a command that must fail: the words on stderr; no traceback, nothing on stdout."""
        result = self.run(*args, status=status)
        assert "Traceback" not in result.output
        assert result.stdout == ""
        return str(result.stderr)


def house(folder: Path, patch: pytest.MonkeyPatch) -> House:
    patch.chdir(folder)
    patch.setenv("HWNAS_HOME", str(folder / "home"))
    patch.setenv("CI", "1")
    return House(folder)
