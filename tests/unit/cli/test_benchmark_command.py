"""``hwnas benchmark``: the table, the object, and shares with a unit."""

from __future__ import annotations

import json

import pytest

from hwnas.errors import InputError
from hwnas_cli.main import cli
from hwnas_cli.param_types import parse_share


def run(*args: str) -> int:
    status = cli(args=list(args), prog_name="hwnas", standalone_mode=False)
    assert isinstance(status, int)
    return status


def test_table_and_object(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("benchmark", "resnet20", "--device", "fake", "-q") == 0
    text = capsys.readouterr().out
    assert "fastest" in text
    assert "fp16" in text
    assert run("benchmark", "resnet20", "--device", "fake", "--json") == 0
    body = json.loads(capsys.readouterr().out)
    assert body["schema"] == "hwnas.benchmark/1"
    wanted = {"backend", "precision", "format", "bytes", "floor_ms", "median_ms", "p95_ms", "accuracy"}
    assert wanted <= set(body["engines"][0])
    assert {"fastest", "fastest_within_loss", "max_loss"} <= set(body)


def test_bad_input_ends_as_documented(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("benchmark", "resnet20", "--device", "cpu", "--backend", "trt") == 4
    assert run("benchmark", "resnet20", "--backend", "openvno") == 2
    assert "did you mean 'openvino'" in capsys.readouterr().err
    assert run("benchmark", "resnet20", "--max-loss", "0.5") == 2
    assert run("benchmark", "no-such-network") == 2


def test_shares_carry_a_unit() -> None:
    assert parse_share("0.5%") == pytest.approx(0.005)
    assert parse_share("1 points") == pytest.approx(0.01)
    for text in ("0.5", "x%", "-1%", "200%"):
        with pytest.raises(InputError, match=r"write for example 0\.5%"):
            parse_share(text)
