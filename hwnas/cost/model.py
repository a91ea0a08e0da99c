"""The cost model: latency of any network of a space, with its interval, from a latency table.

Linear in block costs (`hwnas.cost.posterior`); interval by the scores of the measured networks, each
predicted without those measured beside it (`hwnas.cost.validated`, `hwnas.cost.interval`), and by the states
that the device was met in over time. Tables without whole networks (imported, estimated) give a plain sum and
an interval that rests on the prior alone.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from scipy import sparse

from hwnas.arrays import Float64s
from hwnas.cost import extrapolate, features, interval
from hwnas.cost.head import priced
from hwnas.cost.posterior import NOISE, Evidence, Group, Matrix, Posterior, Prior, fit, most_uncertain
from hwnas.cost.validated import Slower, cross_validate
from hwnas.errors import DataFormatError, InputError
from hwnas.estimates import Estimate
from hwnas.measure.memory import MemoryStates
from hwnas.measure.table import LatencyTable
from hwnas.nets.count import count
from hwnas.records import Measurement, Setting
from hwnas.spec import BlockSpec, NetworkSpec

MOST_SPREAD = 20.0  # of the logarithm of a latency
LEAST_MS = 1e-6  # a sum of Gaussians may in principle fall below zero; latency does not
# Gates of a measurement that says less of its network than the posterior does.
DISTURBED = frozenset({"contention", "deadline", "load", "sentinel", "warmup"})
# Of how far the device was from its best state over time (`measure.levels.state_sd`), what stays in a later
# measurement at most: it waits for the best state, and its floor is referred to it.
MOST_STATES = 0.02
# Half-widths above its prediction from which on a measurement stands out.
STANDS_OUT = 1.5
_PASSES = 3  # of setting networks aside
_FEW = 5  # undisturbed networks needed to say how far their medians lie above their floors
# Relative standard deviation that all blocks of a table share, where no network was measured as a whole.
_SHARED_SD = {"measured": features.SCALE, "imported": 0.05, "estimated": 0.4}


def cost_model(
    table: LatencyTable,
    *,
    coverage: float = interval.COVERAGE,
    states: float | None = None,
    memory: MemoryStates | None = None,
) -> TableModel:
    """The cost model of a table.

    Args:
        table: of measured, imported or estimated latencies.
        coverage: of the intervals.
        states: how far from its best the device was met over time, relative; None takes what the table's
            summary says.
        memory: the same of weights in the shared cache; None takes what the table's summary says.

    Raises:
        DataFormatError: the table has no block rows.
    """
    return TableModel(table, coverage=coverage, states=states, memory=memory)


class TableModel:
    """`hwnas.protocols.CostModel` over one table.

    Attributes:
        setting, table_id: of the table.
        coverage: of the intervals.
        width: half-width of an interval in predictive standard deviations within a campaign.
        noise: relative standard deviation of a fresh measurement within a campaign.
        later: relative standard deviation of the state that a later measurement is taken in, alike for all.
        memory: what neighbours in the shared cache add to it, by a network's weights; None where unknown.
        posterior: of the block costs of `keys`.
        validated: the fitted networks, each predicted without its fold; those that stand out as slow
            (`slower`) hardly count for the others, unless a second measurement said the same.
        median_over_floor: how far the median call of the least disturbed session lies above the floor, which
            is what the table holds; 1 where no network was measured without disturbance.
    """

    def __init__(
        self,
        table: LatencyTable,
        *,
        coverage: float = interval.COVERAGE,
        states: float | None = None,
        memory: MemoryStates | None = None,
    ) -> None:
        if not table.rows:
            raise DataFormatError(
                f"table {table.table_id} has no block rows; run hwnas profile --device {table.setting.device}"
            )
        if not 0 < coverage < 1:
            raise InputError(f"coverage {coverage} must lie between 0 and 1")
        self.setting: Setting = table.setting
        self.table_id = table.table_id
        self.coverage = coverage
        self._table = table
        self._slots = {(slot.width, slot.size): slot for slot in table.slots}
        self._unit = features.Unit.of(list(table.rows), [row.value_ms for row in table.rows.values()])
        fitted = [net for net in table.networks if net.role != "holdout"]
        self._specs = [net.spec for net in fitted]
        self._latency = [net.measurement.floor_ms for net in fitted]
        self._se = [net.measurement.se_ms for net in fitted]
        self._campaign = [net.campaign for net in fitted]
        roles = tuple(net.role for net in fitted)
        self.keys: list[BlockSpec] = []
        self._place: dict[BlockSpec, int] = {}
        self._scales: dict[str, float] | None = None
        self._guesser: extrapolate.Guesser | None = None
        self._alone: dict[BlockSpec, tuple[float, float]] = {}
        self._seen: dict[str, Measurement] = {}
        # Keys are the blocks of networks alone: what no network holds neither learns nor teaches anything.
        self._extend(b for spec in self._specs for b in spec.blocks)
        own_se, aside = np.array(self._se), set(table.again)
        for _ in range(_PASSES):
            self._refit()
            self.validated = cross_validate(self.prior(), self.evidence(), own_se, tuple(self._specs), roles)
            self.width = interval.half_width(self.validated.scores, coverage)
            if not self._set_aside(aside):
                break
        self._scales = self.posterior.scales
        typical = float(np.median(self.validated.se)) if len(self.validated.se) else 0.0
        self.noise = math.hypot(self._scales["noise"], typical)
        known = table.states if states is None else states
        self.later = math.hypot(self._scales["campaign"], min(known or 0.0, MOST_STATES))
        self.memory = table.memory if memory is None else memory
        self.median_over_floor = _median_over_floor(table)

    def estimate(self, spec: NetworkSpec) -> Estimate:
        """Predicted median latency of a network with interval, cost by stage, and counts."""
        self._extend(spec.blocks)
        times = Counter(self._place[block] for block in spec.blocks)
        mean, variance = self.posterior.predict_one(np.array([*times]), np.array([*times.values()], float))
        mean = max(mean + sum(map(self._slot_ms, spec.stages)), LEAST_MS)
        return self._estimate(spec, mean, float(np.hypot(np.sqrt(variance), self.noise * mean)))

    def estimates(self, specs: Sequence[NetworkSpec]) -> list[Estimate]:
        """The same for many networks, faster than one by one."""
        floors, sds = self.predict(specs)
        return [self._estimate(*one) for one in zip(specs, floors.tolist(), sds.tolist())]

    def _estimate(self, spec: NetworkSpec, floor: float, sd: float) -> Estimate:
        counts = count(spec)
        weights, latency = np.array([counts.weight_bytes], float), np.array([floor])
        half = math.hypot(self.width * sd / floor, float(self._states(weights, latency)[0]))
        seen = self._seen.get(spec.key)
        # What was measured is not predicted. A disturbance only slows down: of a disturbed machine a
        # measurement counts where it lies below the prediction.
        if seen is not None and (seen.floor_ms < floor or not DISTURBED & set(seen.gates)):
            floor = seen.floor_ms
            half = interval.gaussian(self.coverage) * float(np.hypot(seen.se_ms / floor, NOISE))
        # A useless table (noise as large as the times) still gives finite bounds, which fit no budget.
        mean = self.median_over_floor * floor
        spread = float(np.exp(min(half, MOST_SPREAD)))
        return Estimate(
            latency_ms=mean,
            low_ms=mean / spread,
            high_ms=mean * spread,
            coverage=self.coverage,
            macs=counts.macs,
            params=counts.params,
            activation_bytes=counts.activation_bytes * self.setting.batch,
            weight_bytes=counts.weight_bytes,
            by_stage_ms=self._by_stage(spec, mean),
            extrapolated=tuple(sorted({b.key for b in spec.blocks if not self._table.prices(b)})),
            provenance=self.setting.provenance,
        )

    def observe(self, spec: NetworkSpec, measured: Measurement) -> None:
        """Take a whole network into the evidence; the interval's width stays that of calibration.

        From then on its own estimate is what was measured, unless the machine was disturbed then and
        slower than predicted.
        """
        self._seen[spec.key] = measured
        self._specs.append(spec)
        self._latency.append(measured.floor_ms)
        self._se.append(measured.se_ms)
        self._campaign.append(-len(self._specs))  # a campaign of its own
        self._extend(spec.blocks)
        self._refit()

    def predict(self, specs: Sequence[NetworkSpec]) -> tuple[Float64s, Float64s]:
        """Floor in ms and its predictive standard deviation within a campaign, (networks,) each."""
        self._extend(block for spec in specs for block in spec.blocks)
        mean, variance = self.posterior.predict(self.counts(specs))
        mean = mean + np.array([sum(self._slot_ms(stage) for stage in spec.stages) for spec in specs])
        mean = np.maximum(mean, LEAST_MS)
        return mean, np.sqrt(variance + (self.noise * mean) ** 2)

    def bounds(self, specs: Sequence[NetworkSpec]) -> tuple[Float64s, Float64s]:
        """Interval of the floor in ms, (networks,) lower and upper ends."""
        mean, sd = self.predict(specs)
        half = np.hypot(self.width * sd / mean, self._states(_weight_bytes(specs), mean))
        spread = np.exp(np.minimum(half, MOST_SPREAD))
        return mean / spread, mean * spread

    def slower(self) -> list[Slower]:
        """Networks that were measured slower than the others say, the most slower first.

        A slow spell does that to a measurement, and nothing makes one faster; or the network is one that the
        model does not describe.
        """
        return self.validated.slower(STANDS_OUT * max(self.width, interval.gaussian(self.coverage)))

    def widths(self, specs: Sequence[NetworkSpec]) -> dict[str, float]:
        """Mean half-width of the intervals of networks in percent (``half_width``), and its parts.

        ``costs``: how well the block costs are known. ``noise``: of a measurement. ``states``: the device's
        at another time. They add up in squares.
        """
        mean, sd = self.predict(specs)
        noise = np.full(len(mean), self.width * self.noise)
        costs = np.sqrt(np.maximum((self.width * sd / mean) ** 2 - noise**2, 0.0))
        states = self._states(_weight_bytes(specs), mean)
        whole = np.sqrt(costs**2 + noise**2 + states**2)
        parts = {"half_width": whole, "costs": costs, "noise": noise, "states": states}
        return {name: 100.0 * float(values.mean()) for name, values in parts.items()}

    def most_uncertain(self, specs: Sequence[NetworkSpec], n: int) -> list[NetworkSpec]:
        """The `n` networks whose measurement would teach most (`posterior.most_uncertain`)."""
        self._extend(block for spec in specs for block in spec.blocks)
        return [specs[i] for i in most_uncertain(self.posterior, self.counts(specs), n)]

    def counts(self, specs: Sequence[NetworkSpec]) -> Matrix:
        """(networks, keys), sparse: how often each key occurs; every block must be a key."""
        column = np.array([self._place[block] for spec in specs for block in spec.blocks], dtype=np.int64)
        row = np.repeat(np.arange(len(specs)), [len(spec.blocks) for spec in specs])
        shape = (len(specs), len(self.keys))
        return sparse.csr_array((np.ones(len(column)), (row, column)), shape=shape)

    def block_ms(self, block: BlockSpec) -> float:
        """Posterior cost of one block inside a network, in ms."""
        return float(self.blocks_ms([block])[0])

    def blocks_ms(self, blocks: Sequence[BlockSpec]) -> Float64s:
        """(blocks,) posterior costs of blocks inside a network, in ms."""
        self._extend(blocks)
        found: Float64s = self.posterior.mean_ms[[self._place[block] for block in blocks]]
        return found

    def _states(self, weight_bytes: Float64s, floor_ms: Float64s) -> Float64s:
        """(networks,) part of the half-widths that is the device's state at another time."""
        of_weights = (
            np.zeros_like(floor_ms) if self.memory is None else self.memory.of(weight_bytes, floor_ms)
        )
        found: Float64s = interval.gaussian(self.coverage) * np.hypot(self.later, of_weights)
        return found

    def _by_stage(self, spec: NetworkSpec, total_ms: float) -> dict[str, float]:
        """Split of a prediction; what belongs to no block (a constant) is counted with the stem.

        The constant may be below zero and make the stem so; no part is, and the parts add up to the whole.
        """
        cost = self.posterior.mean_ms
        parts = {"stem": float(cost[self._place[spec.stem]] + cost[-1])}
        for i, stage in enumerate(spec.stages):
            parts[f"stages.{i}"] = float(sum(cost[self._place[b]] for b in stage)) + self._slot_ms(stage)
        parts["head"] = float(cost[self._place[spec.head]])
        parts = {place: max(ms, 0.0) for place, ms in parts.items()}
        whole = sum(parts.values())
        return {place: total_ms * ms / whole for place, ms in parts.items()} if whole else parts

    def _slot_ms(self, stage: tuple[BlockSpec, ...]) -> float:
        """Cost of the layers that a stage leaves out, in tables that price them."""
        slot = self._slots.get((stage[0].c_out, stage[0].size_out)) if stage else None
        return max(slot.slots - (len(stage) - 1), 0) * slot.value_ms if slot else 0.0

    def _extend(self, blocks: Iterable[BlockSpec]) -> None:
        """Make sure that every block is a key."""
        new = sorted({block for block in blocks if block not in self._place})
        if not new:
            return
        self._alone |= self._priced(new)
        self._place |= {block: at for at, block in enumerate(new, start=len(self.keys))}
        self.keys += new
        if self._scales is not None:
            self._refit()

    def _priced(self, blocks: Sequence[BlockSpec]) -> dict[BlockSpec, tuple[float, float]]:
        """Time alone and its standard deviation, in ms: measured, by a head's classes, or extrapolated."""
        rows = self._table.rows
        found = {b: (rows[b].value_ms, rows[b].se_ms) for b in blocks if b in rows}
        found |= {b: by_rule for b in blocks if b not in found and (by_rule := priced(self._table, b))}
        missing = [b for b in blocks if b not in found]
        if missing:
            if self._guesser is None:
                times_ms = np.array([row.value_ms for row in rows.values()])
                self._guesser = extrapolate.Guesser(list(rows), times_ms)
            guess, spread = self._guesser.guess(missing)
            found |= dict(zip(missing, zip(guess.tolist(), (guess * spread).tolist())))
        return found

    def _refit(self) -> None:
        self.posterior: Posterior = fit(self.prior(), self.evidence(), self._scales)

    def prior(self) -> Prior:
        """Of the block costs of `keys`, before any whole network."""
        mean, sd = np.array([self._alone[b] for b in self.keys]).reshape(-1, 2).T
        groups = features.groups(self.keys, mean, self._unit)
        provenance = self.setting.provenance
        if provenance != "measured":
            groups = tuple(
                Group(g.name, g.columns, _SHARED_SD[provenance] if g.name == "scale" else g.scale)
                for g in groups
            )
        return Prior(mean, sd, groups, constant_ms=0.2 * self._unit.time_ms)

    def evidence(self) -> Evidence:
        """The whole networks that are fitted, in the order of measuring."""
        return Evidence(
            self.counts(self._specs),
            np.array(self._latency),
            np.array(self._se),
            np.array(self._campaign, dtype=np.int64),
        )

    def _set_aside(self, known: set[str]) -> bool:
        """Take how far networks stand out as slow for their error, until a second measurement says the same.

        Args:
            known: keys of those that keep their error; what is set aside is added.

        Returns:
            Whether there was any.
        """
        found = {one.spec.key: one for one in self.slower() if one.spec.key not in known}
        for at, spec in enumerate(self._specs):
            if spec.key in found:
                ms = self._latency[at]
                self._se[at] = max(self._se[at], ms - ms / (1.0 + found[spec.key].percent / 100.0))
        known |= found.keys()
        return bool(found)


def _weight_bytes(specs: Sequence[NetworkSpec]) -> Float64s:
    return np.array([count(spec).weight_bytes for spec in specs], dtype=np.float64)


def _median_over_floor(table: LatencyTable) -> float:
    """Least disturbed session's median over the floor, of networks measured while no other process ran."""
    undisturbed = [
        min(m.session_ms) / m.floor_ms
        for m in (net.measurement for net in table.networks)
        if m.session_ms and not {"contention", "load"} & set(m.gates)
    ]
    return max(1.0, float(np.median(undisturbed))) if len(undisturbed) >= _FEW else 1.0
