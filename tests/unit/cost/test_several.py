"""The count of a network on several devices."""

from __future__ import annotations

from typing import Any

import pytest

from hwnas.cost.several import DeviceCost, SeveralDevices, count
from hwnas.estimates import Budget, Estimate
from hwnas.nets.spaces import make
from hwnas.records import Measurement
from hwnas.spec import NetworkSpec


@pytest.mark.parametrize(
    ("loads", "expected"),
    [
        ([0.5, 0.2], 0.5),  # all fit: the largest load
        ([1.0, 0.2], 1.0),
        ([1.3, 0.4], 1 + 0.3 / (0.3 + 0.6)),  # one over by 0.3, the other has 0.6 left: a third of the way
        ([1.3, 1.0], 2.0),
        ([1.5, 1.2], 2 * 1.2),  # none fits
        ([2.0, 1.5, 0.5], 2 + 0.5 / (0.5 + 0.5)),  # of three two are over, the nearer by 0.5
        ([0.7], 0.7),
        ([1.7], 1.7),
    ],
)
def test_the_count_tells_how_many_devices_are_over(loads: list[float], expected: float) -> None:
    assert count(loads) == pytest.approx(expected)
    assert count(loads[::-1]) == pytest.approx(expected)


def test_the_count_never_falls_where_a_load_rises() -> None:
    steps = [0.3 + 0.02 * n for n in range(60)]
    for other in (0.4, 0.99, 1.2):
        counts = [count([load, other]) for load in steps]
        assert counts == sorted(counts)


class Cost:
    """As many milliseconds a block as it is told."""

    setting, table_id = None, ""

    def __init__(self, ms: float) -> None:
        self.ms, self.seen = ms, 0.0

    def estimate(self, spec: NetworkSpec) -> Estimate:
        ms = self.ms * len(spec.blocks)
        return Estimate(
            latency_ms=ms, low_ms=0.9 * ms, high_ms=1.1 * ms, coverage=0.9,
            macs=1, params=1, activation_bytes=1, weight_bytes=1, by_stage_ms={"stem": ms},
            provenance="imported",
        )  # fmt: skip

    def observe(self, spec: NetworkSpec, measured: Measurement) -> None:
        self.seen = measured.floor_ms


def test_each_budget_is_that_of_its_device() -> None:
    spec = make("resnet-cifar").smallest()
    blocks = len(spec.blocks)
    # 2 and 3 ms a block; bounds 10 % above: 2.2 and 3.3 ms a block, budgets 2.2 and 3.0 ms a block.
    costs = {"a": Cost(2.0), "b": Cost(3.0)}
    limits = {"a": 2.2001 * blocks, "b": 3.0 * blocks}
    together = SeveralDevices({n: DeviceCost(c.estimate, c, limits[n]) for n, c in costs.items()})  # type: ignore[arg-type]
    found = together.estimate(spec)
    assert {n: i.high_ms for n, i in found.by_device.items()} == pytest.approx(
        {"a": 2.2 * blocks, "b": 3.3 * blocks}
    )
    a, both = Budget(latency_ms=1.0, by_device_ms={"a": limits["a"]}), Budget(by_device_ms=limits)
    assert a.fits(found)
    assert not both.fits(found)
    assert both.excess(found) == pytest.approx(0.1)  # 3.3 of 3.0 ms
    assert list(both.overruns(found)) == ["--latency-budget"]
    assert "on b" in both.overruns(found)["--latency-budget"]
    assert 1 < found.high_ms < 2  # one of two is over
    assert both.on("b") == Budget(latency_ms=limits["b"])
    assert found.on("b").latency_ms == pytest.approx(3.0 * blocks)
    ms: dict[str, Any] = dict.fromkeys(("floor_ms", "median_ms", "p10_ms", "p90_ms", "p95_ms", "p99_ms"), 4.0)
    one = Measurement(**ms, samples=5)
    together.observe(spec, one.model_copy(update={"by_device": {"b": one}}))
    assert [cost.seen for cost in costs.values()] == [0.0, 4.0]


def test_what_is_of_one_device_writes_nothing_of_several() -> None:
    assert "by_device_ms" not in Budget(latency_ms=1.0).model_dump()
    again = Budget.model_validate_json(Budget(by_device_ms={"a": 2.0}).model_dump_json())
    assert again.by_device_ms == {"a": 2.0}
