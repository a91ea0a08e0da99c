"""The one grammar of latency budgets."""

from __future__ import annotations

import pytest

from hwnas import budgets
from hwnas.budgets import WrittenBudget
from hwnas.errors import InputError
from hwnas.jobs.plan import PlanOptions
from hwnas.jobs.search import SearchOptions


@pytest.mark.parametrize("ms", [0.4, 1.0, 18.0, 1e-6, 5e-05, 1234567.0, 0.123456789, 1e6])
def test_a_latency_is_written_as_it_is_read(ms: float) -> None:
    text = budgets.written_ms(ms)
    assert budgets.parse_latency(text)[0] == pytest.approx(ms, rel=1e-12)
    assert text.removesuffix("ms").replace(".", "").isdecimal()


def test_what_can_be_written() -> None:
    assert budgets.parse("18ms") == (WrittenBudget("18ms", "p50", 18.0),)
    assert budgets.parse("850us@p95") == (WrittenBudget("850us@p95", "p95", 0.85),)
    assert [t.latency_ms for t in budgets.parse("0.6ms, 400us")] == [0.6, 0.4]
    assert budgets.parse("1.15x:resnet20") == (
        WrittenBudget("1.15x:resnet20", "p50", None, 1.15, "resnet20"),
    )
    assert budgets.parse("80%:resnet20@p95") == (
        WrittenBudget("80%:resnet20@p95", "p95", None, 0.8, "resnet20"),
    )
    assert budgets.parse("1x:a@b/network.json")[0].reference == "a@b/network.json"
    assert budgets.parse_latency("2.5s@p99") == (2500.0, "p99")


@pytest.mark.parametrize(
    "wrong",
    ["18", "18ms@", "18ms@mean", "18ms@p50,20ms@p95", "0x:resnet20", "x:resnet20", "", "1ms,", "-1ms"],
)
def test_what_is_refused(wrong: str) -> None:
    with pytest.raises(InputError, match="latency budget"):
        budgets.parse(wrong)


@pytest.mark.parametrize("several", ["1ms,2ms", "1x:resnet20"])
def test_one_latency_is_one(several: str) -> None:
    with pytest.raises(InputError, match="not one latency"):
        budgets.parse_latency(several)


def test_a_number_is_told_to_be_text() -> None:
    with pytest.raises(InputError, match=r'0.5 is not text with a unit; write for example "0.5ms"'):
        SearchOptions(latency_budget=0.5, data="digits")  # type: ignore[arg-type]  # what is tried here is wrong
    with pytest.raises(InputError, match=r'write for example "0.5ms"'):
        PlanOptions(latency_budget=0.5)  # type: ignore[arg-type]  # what is tried here is wrong
