"""What a budget is held against, by hand."""

from __future__ import annotations

import pytest

from hwnas.estimates import Budget, Estimate, Interval


def estimate(high_ms: float, provenance: str = "measured", **more: object) -> Estimate:
    return Estimate.model_validate(
        {
            "latency_ms": 1.0,
            "low_ms": 0.8,
            "high_ms": high_ms,
            "coverage": 0.95,
            "macs": 1,
            "params": 1,
            "activation_bytes": 1,
            "weight_bytes": 1,
            "provenance": provenance,
            **more,
        }
    )


def test_a_narrow_interval_counts_whole() -> None:
    assert estimate(1.005).bound_ms == 1.005


def test_a_wide_one_counts_one_percent() -> None:
    """A table of a disturbed machine: +- 20 %. The measurement before a training decides."""
    assert estimate(1.2).bound_ms == pytest.approx(1.01)
    assert Budget(latency_ms=1.02).fits(estimate(1.2))
    assert not Budget(latency_ms=1.005).fits(estimate(1.2))


@pytest.mark.parametrize("provenance", ["imported", "estimated"])
def test_what_nobody_measured_counts_whole(provenance: str) -> None:
    assert estimate(1.2, provenance).bound_ms == 1.2
    assert not Budget(latency_ms=1.05).fits(estimate(1.2, provenance))


def test_each_of_several_devices_alike() -> None:
    pair = {
        "a": Interval(latency_ms=1.0, low_ms=0.8, high_ms=1.2),
        "b": Interval(latency_ms=2.0, low_ms=1.9, high_ms=2.02),
    }
    found = estimate(1.2, by_device=pair)
    assert Budget(by_device_ms={"a": 1.02, "b": 2.02}).fits(found)
    assert Budget(by_device_ms={"a": 1.0, "b": 3.0}).overruns(found) == {
        "--latency-budget": "1.01 ms, 1 ms allowed on a"
    }
