"""One count for a network on several devices, each with its latency budget.

A search grows along one number, so that the latencies become one: the *load* of a device is latency over
budget, and with the loads in descending order the count is at most 1 exactly where all devices keep their
budgets, at most 2 where all but one do, and so on. It is continuous, and never falls where a load rises:

    no load above 1:      the largest load
    j of n loads above 1: j + x / (x + y), x = the smallest of these - 1, y = 1 - the next smaller load
    all n above 1:        n times the smallest load

So a search whose budget is n, with 1, 2, ... as smaller budgets, passes on one path of growth the networks
that all devices can hold, and goes on while any of them has room.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from hwnas.estimates import Estimate, Interval
from hwnas.protocols import CostModel
from hwnas.records import Measurement
from hwnas.spec import NetworkSpec


def count(loads: Sequence[float]) -> float:
    """The count of a network by the loads of its devices."""
    ordered = sorted(loads, reverse=True)
    over = sum(load > 1.0 for load in ordered)
    if over == 0:
        return ordered[0]
    if over == len(ordered):
        return over * ordered[-1]
    beyond, room = ordered[over - 1] - 1.0, 1.0 - ordered[over]
    return over + beyond / (beyond + room)


@dataclass(frozen=True)
class DeviceCost:
    """One of the devices.

    Attributes:
        estimate: latency of a network there, at the budget's percentile.
        model: learns from what is measured there.
        budget_ms: what is allowed there.
    """

    estimate: Callable[[NetworkSpec], Estimate]
    model: CostModel
    budget_ms: float


@dataclass(frozen=True)
class SeveralDevices:
    """Estimates and observations of several devices, by their names.

    The first device's counts of memory stand for all, as precision and batch are the same, and the costs by
    stage are those of the first.
    """

    devices: Mapping[str, DeviceCost]

    def estimate(self, spec: NetworkSpec) -> Estimate:
        """The count in the place of milliseconds, and the latency on each device."""
        found = {name: one.estimate(spec) for name, one in self.devices.items()}

        def counted(field: str) -> float:
            return count([getattr(found[name], field) / one.budget_ms for name, one in self.devices.items()])

        first = next(iter(found.values()))
        latency, low, high = map(counted, ("latency_ms", "low_ms", "high_ms"))
        return first.model_copy(
            update={
                "latency_ms": latency,
                "low_ms": low,
                "high_ms": high,
                "extrapolated": tuple(sorted({key for one in found.values() for key in one.extrapolated})),
                "by_device": {
                    name: Interval(latency_ms=one.latency_ms, low_ms=one.low_ms, high_ms=one.high_ms)
                    for name, one in found.items()
                },
            }
        )

    def observe(self, spec: NetworkSpec, measured: Measurement) -> None:
        """Learn on each device from what was measured there."""
        for name, one in measured.by_device.items():
            self.devices[name].model.observe(spec, one)
