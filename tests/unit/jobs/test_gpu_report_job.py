"""What `hwnas doctor --gpu-report` prints once its steps are done."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from hwnas.backends.gpu_report import engines, report
from hwnas.backends.gpu_report.trial import StepFailed
from hwnas_cli.main import cli


def _sound() -> dict[str, float]:
    return {"ms": 1.5}


def _broken() -> dict[str, float]:
    raise StepFailed("a kernel gives other values", {"off": 2.0})


def test_the_steps_are_printed_and_the_file_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "STEPS", {"load": _sound, "kernels": _broken})
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


def test_scores_that_are_no_numbers_differ() -> None:
    rows: dict[str, dict[str, Any]] = {
        "fp32": {"relative_error": 1e-4, "allowed": 1e-3},
        "fp16": {"relative_error": math.nan, "allowed": 2e-2},
        "int8": {"relative_error": 0.3, "allowed": 0.2},
        "bf16": {"refused": "this card is slow in bf16"},
    }
    assert engines.differing(rows) == ["fp16", "int8"]
