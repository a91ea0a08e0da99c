"""A search for several devices: their tables and budgets, and the measurements on all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from hwnas.cost.several import DeviceCost
from hwnas.errors import InputError
from hwnas.estimates import Budget
from hwnas.measure.table import LatencyTable
from hwnas.records import Measurement, Promise, SearchedDevice
from hwnas.search.strategy import find
from hwnas.spec import NetworkSpec

# Said where a search begins, as what its strategy decides is told in this count.
SCALE = (
    "for several devices the growth path counts by their budgets: up to 1 ms all devices keep theirs, up to "
    "2 ms all but one, and so on"
)
# The worst verdict on one device is that on all.
_ORDER = ("broken", "ambiguous", "kept")


@dataclass(frozen=True)
class OneDevice:
    """One of the devices: its table, its predictions, its budget."""

    table: LatencyTable
    cost: DeviceCost
    budget: Budget

    @property
    def name(self) -> str:
        """As it is written in the table's setting."""
        return self.table.setting.device

    def record(self) -> SearchedDevice:
        """For the result."""
        return SearchedDevice(
            setting=self.table.setting, table_id=self.table.table_id, budget_ms=self.cost.budget_ms
        )


def check(devices: Sequence[OneDevice], strategy: str) -> None:
    """InputError where a search for these devices makes no sense."""
    names = [one.name for one in devices]
    if len(set(names)) < len(names):
        raise InputError(f"a device is named twice: {', '.join(names)}; name each once")
    if find(strategy).preparation is not None:
        raise InputError(
            f"strategy {strategy} learns from the table of one device; for several take stagewise, auto, "
            "uniform, random or tpe"
        )


def goals(devices: Sequence[OneDevice]) -> list[Budget]:
    """The budget of each device alone, and that of all together."""
    first = devices[0].budget
    limits = {one.name: one.cost.budget_ms for one in devices}
    alone = [
        one.budget.model_copy(update={"by_device_ms": {one.name: one.cost.budget_ms}}) for one in devices
    ]
    return [*alone, first.model_copy(update={"by_device_ms": limits})]


def steps(devices: Sequence[OneDevice]) -> list[Budget]:
    """What the growth path aims at in turn: all devices, all but one, ..., any one (`cost.several`)."""
    first = devices[0].budget
    return [first.model_copy(update={"latency_ms": float(n)}) for n in range(1, len(devices) + 1)]


class Measures(Protocol):
    """What measures networks whole on one device: `parts.Here`, `spread.Bencher`."""

    def measure(self, spec: NetworkSpec) -> Measurement:
        """A quick measurement."""
        ...

    def confirm(self, spec: NetworkSpec, weights: Path | None, budget: Budget) -> tuple[Promise, Measurement]:
        """The test of a budget."""
        ...


@dataclass(frozen=True)
class Together:
    """Measures networks whole on each of several devices, one after the other."""

    devices: Mapping[str, Measures]
    known: dict[tuple[str, str, Path | None], tuple[Promise, Measurement]] = field(default_factory=dict)

    def measure(self, spec: NetworkSpec) -> Measurement:
        """See `parts.NetworkBuilder.measure`."""
        return _joined({name: one.measure(spec) for name, one in self.devices.items()})

    def confirm(self, spec: NetworkSpec, weights: Path | None, budget: Budget) -> tuple[Promise, Measurement]:
        """The test of the budget on each of its devices; what one search has decided is not tested again."""
        found: dict[str, tuple[Promise, Measurement]] = {}
        for name in budget.by_device_ms:
            key = (name, spec.key, weights)
            found[name] = self.known.get(key) or self.devices[name].confirm(spec, weights, budget.on(name))
            if not found[name][0].may_be_kept:
                self.known[key] = found[name]
        promises = {name: promise for name, (promise, _) in found.items()}
        worst = min(promises.values(), key=lambda one: (_ORDER.index(one.verdict), one.may_be_kept))
        measured = {name: one for name, (_, one) in found.items()}
        return worst.model_copy(update={"by_device": promises}), _joined(measured)


def _joined(measured: Mapping[str, Measurement]) -> Measurement:
    first = next(iter(measured.values()))
    return first.model_copy(update={"by_device": dict(measured)})
