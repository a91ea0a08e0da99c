"""Over a real sshd: every command gives the same kinds of rows as on this machine."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from click.testing import CliRunner
from remote_server import Sshd

from hwnas_cli.main import cli


def run(*arguments: str, exit_status: int = 0) -> dict[str, Any]:
    """What a command prints with ``--json``."""
    found = CliRunner().invoke(cli, [*arguments, "--json"], catch_exceptions=False)
    assert found.exit_code == exit_status, found.stderr
    body: dict[str, Any] = json.loads(found.stdout)
    return body


def test_bench_gives_the_figures_of_this_machine(sshd: Sshd) -> None:
    there = run("bench", "resnet20", "--device", sshd.address("fake"))["networks"][0]
    here = run("bench", "resnet20", "--device", "fake")["networks"][0]
    assert there["setting"].pop("device") == sshd.address("fake")
    assert here["setting"].pop("device") == "fake"
    there.pop("taken_at"), here.pop("taken_at")
    assert there == here  # the fake device has a clock of its own


def test_no_key_is_said(sshd: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    known = f"-o StrictHostKeyChecking=no -o UserKnownHostsFile={sshd.folder}/other_hosts"
    monkeypatch.setenv("HWNAS_SSH", f"ssh -F /dev/null -i /dev/null -o ControlPath=none {known}")
    text = run("bench", "resnet20", "--device", sshd.address(), exit_status=4)
    assert "none of your keys" in json.dumps(text)


@pytest.mark.parametrize(
    ("python", "why"),
    [("/nowhere/python3", "has no /nowhere/python3"), ("/bin/true", "ended before it began")],
)
def test_no_python_is_said(sshd: Sshd, python: str, why: str) -> None:
    assert why in json.dumps(
        run("bench", "resnet20", "--device", sshd.address("fake", python), exit_status=4)
    )


def test_the_second_is_told(sshd: Sshd) -> None:
    from hwnas.measure.remote.target import target

    target(sshd.address()).claim("fake")
    other = subprocess.run(
        [sys.executable, "-m", "hwnas_cli.main", "bench", "resnet20", "--device", sshd.address()],
        capture_output=True,
        text=True,
        check=False,
    )
    assert other.returncode == 4
    assert "another process measures on fake" in other.stderr
