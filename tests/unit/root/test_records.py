"""Budgets are hard, records refuse nonsense, reports need every check."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from hwnas.estimates import Budget, Estimate
from hwnas.records import Check, Measurement, Report, Setting


def estimate(high_ms: float = 1.0, macs: int = 100, params: int = 10, memory: int = 64) -> Estimate:
    return Estimate(
        latency_ms=high_ms * 0.995,
        low_ms=high_ms * 0.8,
        high_ms=high_ms,
        coverage=0.95,
        macs=macs,
        params=params,
        activation_bytes=memory // 2,
        weight_bytes=memory - memory // 2,
    )


def test_the_upper_bound_is_what_must_fit() -> None:
    assert Budget(latency_ms=1.0).fits(estimate(high_ms=1.0))
    assert not Budget(latency_ms=0.997).fits(estimate(high_ms=1.0))  # though 0.995 ms is expected


@pytest.mark.parametrize("limit", [{"macs": 99}, {"params": 9}, {"memory_bytes": 63}, {"latency_ms": 0.99}])
def test_every_limit_counts(limit: dict[str, Any]) -> None:
    assert not Budget(**limit).fits(estimate())
    assert Budget(**{k: v * 1.2 for k, v in limit.items()}).fits(estimate())


def test_excess_is_the_worst_overrun() -> None:
    budget = Budget(latency_ms=2.0, macs=80, params=10)
    assert budget.excess(estimate()) == pytest.approx(0.25)  # 100 of 80 MACs
    assert Budget().excess(estimate()) == -1.0


@given(st.floats(0.01, 100), st.floats(0.01, 100), st.floats(1.0, 3.0))
def test_a_larger_budget_never_refuses_what_a_smaller_one_took(
    limit: float, high: float, factor: float
) -> None:
    if Budget(latency_ms=limit).fits(estimate(high)):
        assert Budget(latency_ms=limit * factor).fits(estimate(high))


def measurement(**change: object) -> Measurement:
    values = {
        "floor_ms": 1.0,
        "median_ms": 1.1,
        "p10_ms": 1.0,
        "p90_ms": 1.3,
        "p95_ms": 1.4,
        "p99_ms": 2.0,
        "samples": 9,
    }
    return Measurement.model_validate({**values, **change})


def test_missing_is_an_error_never_zero() -> None:
    for value in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValidationError):
            measurement(floor_ms=value)
    assert measurement().at("p95") == 1.4
    assert measurement().taken_at.endswith("+00:00")


def test_setting_in_words() -> None:
    setting = Setting(device="cpu", backend="ort", backend_version="1.2", threads=2)
    assert setting.describe() == "cpu, ort 1.2, fp32, batch 1, 2 threads"
    assert setting.model_copy(update={"provenance": "estimated"}).describe().endswith("estimated")


def test_a_report_passes_only_if_every_check_does() -> None:
    setting = Setting(device="fake", backend="fake")
    good, bad = Check(name="a", passed=True, detail=""), Check(name="b", passed=False, detail="")

    def report(*checks: Check) -> Report:
        return Report(
            network="n", setting=setting, max_abs_err=0, cosine_min=1, top1_agreement=1, checks=checks
        )

    assert report(good).passed
    assert not report(good, bad).passed
    assert not report().passed  # nothing was looked at
