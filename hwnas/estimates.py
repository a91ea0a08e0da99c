"""What a network is predicted to cost, and the limits that it is held against."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from pydantic import Field

from hwnas.budgets import Percentile
from hwnas.record import OfDevices, Provenance, Record
from hwnas.units import format_count, format_ms


class Interval(Record):
    """A predicted latency on one of several devices, with its interval."""

    latency_ms: float = Field(gt=0)
    low_ms: float = Field(gt=0)
    high_ms: float = Field(gt=0)


# Part by which a prediction may be too low, at most, that a search sets aside of a budget.
ROOM = 0.01


class Estimate(OfDevices):
    """A predicted latency with its interval, and what else a network costs.

    `low_ms` to `high_ms` hold the truth with probability `coverage`. `extrapolated` lists the
    table keys that were not measured; `by_stage_ms` splits the prediction over stem, stages, head. Where a
    search is for several devices, `by_device` has the times of each, and the others are what all of them
    together are counted by (`cost.several`).
    """

    latency_ms: float = Field(gt=0)
    low_ms: float = Field(gt=0)
    high_ms: float = Field(gt=0)
    coverage: float = Field(gt=0, lt=1)
    macs: int
    params: int
    activation_bytes: int
    weight_bytes: int
    by_stage_ms: dict[str, float] = Field(default_factory=dict)
    extrapolated: tuple[str, ...] = ()
    provenance: Provenance = "measured"
    by_device: dict[str, Interval] = Field(default_factory=dict)

    @property
    def bound_ms(self) -> float:
        """What a budget is held against: the interval's upper end, at most `ROOM` above the prediction.

        Of a table measured while the machine was disturbed the intervals are wide, and a search that kept
        below their upper ends would leave a third of the budget. There each candidate is measured whole
        before it is trained, and that decides. What nobody measured, as in an imported table, is held by the
        whole interval.
        """
        return self.bound_of(self)

    def bound_of(self, one: Estimate | Interval) -> float:
        """The same for one of its devices."""
        if self.provenance != "measured":
            return one.high_ms
        return min(one.high_ms, (1.0 + ROOM) * one.latency_ms)

    @property
    def shown(self) -> Estimate | Interval:
        """The times to show where there is room for one: the first device's, where there are several."""
        return next(iter(self.by_device.values()), self)

    def on(self, device: str) -> Estimate:
        """The estimate of one of its devices alone; the same where it is not one of several."""
        found = self.by_device.get(device)
        return self if found is None else self.model_copy(update={**dict(found), "by_device": {}})


class Budget(OfDevices):
    """Hard limits. A network fits when `Estimate.bound_ms` and every count are within.

    `by_device_ms` limits the latency on each of several devices, or on one of them; it then counts in the
    place of `latency_ms`, which is that of the first of them.
    """

    latency_ms: float | None = Field(default=None, gt=0)
    percentile: Percentile = "p50"
    macs: float | None = Field(default=None, gt=0)
    params: float | None = Field(default=None, gt=0)
    memory_bytes: float | None = Field(default=None, gt=0)
    by_device_ms: dict[str, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)

    def excess(self, estimate: Estimate) -> float:
        """Largest relative overrun over all limits; zero or less means that it fits.

        The memory of a network is its weights plus the largest sum of activations alive at once.
        """
        pairs: tuple[tuple[float | None, float], ...] = (
            *((limit, estimate.bound_of(interval)) for _, limit, interval in self._latencies(estimate)),
            (self.macs, estimate.macs),
            (self.params, estimate.params),
            (self.memory_bytes, estimate.activation_bytes + estimate.weight_bytes),
        )
        return max((value / limit - 1.0 for limit, value in pairs if limit is not None), default=-1.0)

    def _latencies(self, estimate: Estimate) -> list[tuple[str, float | None, Estimate | Interval]]:
        """Device, limit and prediction of each latency that is limited."""
        if not self.by_device_ms:
            return [("", self.latency_ms, estimate)]
        return [(name, ms, estimate.by_device[name]) for name, ms in self.by_device_ms.items()]

    def load(self, estimate: Estimate) -> float:
        """Predicted latency as a part of its limit, on the device that has the least room."""
        rows = self._latencies(estimate)
        return max(interval.latency_ms / (limit or 1.0) for _, limit, interval in rows)

    def tightest(self, estimate: Estimate) -> Estimate | Interval:
        """The times on the device that has the least room."""
        rows = self._latencies(estimate)
        return max(rows, key=lambda row: estimate.bound_of(row[2]) / (row[1] or 1.0))[2]

    def fits(self, estimate: Estimate) -> bool:
        """Whether every limit holds."""
        return self.excess(estimate) <= 0.0

    def on(self, device: str) -> Budget:
        """The budget of one of its devices alone, as that of a search for no other; else the same."""
        ms = self.by_device_ms.get(device)
        return self if ms is None else self.model_copy(update={"latency_ms": ms, "by_device_ms": {}})

    def overruns(self, estimate: Estimate) -> dict[str, str]:
        """The limits that an estimate overruns, in words ("60 kparam, 50 kparam allowed"), by option."""
        memory_bytes = estimate.activation_bytes + estimate.weight_bytes
        rows: list[tuple[str, float | None, float, Callable[[float], str]]] = [
            ("--max-macs", self.macs, estimate.macs, lambda value: format_count(value, "MAC")),
            ("--max-params", self.params, estimate.params, lambda value: format_count(value, "param")),
            ("--max-memory", self.memory_bytes, memory_bytes, lambda value: f"{value / 2**20:.3g} MiB"),
        ]
        times = [
            f"{format_ms(estimate.bound_of(interval))}, {format_ms(limit)} allowed"
            + (f" on {name}" if name else "")
            for name, limit, interval in self._latencies(estimate)
            if limit is not None and estimate.bound_of(interval) > limit
        ]
        return {
            **({"--latency-budget": "; ".join(times)} if times else {}),
            **{
                option: f"{show(value)}, {show(limit)} allowed"
                for option, limit, value, show in rows
                if limit is not None and value > limit
            },
        }

    def scaled(self, share: float) -> Budget:
        """The budget with a part of its latency; without a limit on latency the same."""
        if self.latency_ms is None or share == 1.0:
            return self
        return self.model_copy(update={"latency_ms": self.latency_ms * share})

    def describe(self) -> str:
        """The limits as a user would write them."""
        parts = [f"{ms:.4g}ms@{self.percentile} on {name}" for name, ms in self.by_device_ms.items()]
        if self.latency_ms is not None and not parts:
            parts.append(f"{self.latency_ms:.4g}ms@{self.percentile}")
        parts += [f"{self.macs / 1e6:g}MMAC"] if self.macs else []
        parts += [f"{self.params / 1e3:g}kparam"] if self.params else []
        parts += [f"{self.memory_bytes / 2**20:g}MiB"] if self.memory_bytes else []
        return ", ".join(parts) or "no limit"
