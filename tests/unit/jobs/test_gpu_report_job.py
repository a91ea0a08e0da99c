"""What `hwnas doctor --gpu-report` prints once its steps are done."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from hwnas.backends import gpu_report
from hwnas_cli.main import cli


def _sound() -> dict[str, float]:
    return {"ms": 1.5}


def _broken() -> dict[str, float]:
    raise gpu_report.StepFailed("a kernel gives other values", {"off": 2.0})


def test_the_steps_are_printed_and_the_file_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_report, "STEPS", {"load": _sound, "kernels": _broken})
    monkeypatch.setattr("hwnas.backends.trt.backend.Trt.unavailable", lambda self: None)
    path = tmp_path / "report.json"
    done = CliRunner().invoke(cli, ["doctor", "--gpu-report", str(path)])
    assert done.exit_code == 0, done.output
    assert "passed" in done.output
    assert "a kernel gives other values" in done.output
    told = json.loads(path.read_text())["steps"]
    assert (told["load"]["figures"], told["kernels"]["figures"]) == ({"ms": 1.5}, {"off": 2.0})
    printed = CliRunner().invoke(cli, ["doctor", "--gpu-report", str(path), "--json", "-q"])
    steps = json.loads(printed.stdout)["steps"]
    assert (steps["load"]["passed"], steps["kernels"]["passed"]) == (True, False)
