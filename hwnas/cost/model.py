"""The cost model: latency of any network of a space, with its interval, from a latency table.

Linear in block costs (`hwnas.cost.posterior`); interval by conformal scores of the calibration
networks, each predicted without the campaign that it was measured in. Tables without whole networks
(imported, estimated) give a plain sum and an interval that rests on the prior alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from scipy import sparse

from hwnas.arrays import Bools, Float64s
from hwnas.cost import conformal, extrapolate, features
from hwnas.cost.head import priced
from hwnas.cost.posterior import NOISE, Evidence, Group, Matrix, Posterior, Prior, fit, most_uncertain
from hwnas.errors import DataFormatError, InputError
from hwnas.estimates import Estimate
from hwnas.measure.table import LatencyTable
from hwnas.nets.count import count
from hwnas.records import Measurement, Setting
from hwnas.spec import BlockSpec, NetworkSpec

_FOLDS = 8
MOST_SPREAD = 20.0  # of the logarithm of a latency
LEAST_MS = 1e-6  # a sum of Gaussians may in principle fall below zero; latency does not
# Gates of a measurement that says less of its network than the posterior does.
DISTURBED = frozenset({"contention", "deadline", "load", "sentinel", "warmup"})
_FEW = 5  # undisturbed networks needed to say how far their medians lie above their floors
# Relative standard deviation that all blocks of a table share, where no network was measured as a whole.
_SHARED_SD = {"measured": features.SCALE, "imported": 0.05, "estimated": 0.4}


def cost_model(table: LatencyTable, *, coverage: float = conformal.COVERAGE) -> TableModel:
    """The cost model of a table.

    Raises:
        DataFormatError: the table has no block rows.
    """
    return TableModel(table, coverage=coverage)


class TableModel:
    """`hwnas.protocols.CostModel` over one table.

    Attributes:
        setting, table_id: of the table.
        coverage: of the intervals.
        width: half-width of an interval in predictive standard deviations.
        posterior: of the block costs of `keys`.
        errors: relative errors of the calibration networks, each predicted without its fold.
        median_over_floor: how far the median call of an undisturbed session lies above the floor, which is
            what the table holds; 1 where no network was measured without disturbance.
    """

    def __init__(self, table: LatencyTable, *, coverage: float = conformal.COVERAGE) -> None:
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
        calibration = np.array([net.role == "calibration" for net in fitted], dtype=bool)
        self.keys: list[BlockSpec] = []
        self._place: dict[BlockSpec, int] = {}
        self._scales: dict[str, float] | None = None
        self._guesser: extrapolate.Guesser | None = None
        self._alone: dict[BlockSpec, tuple[float, float]] = {}
        self._seen: dict[str, Measurement] = {}
        # Keys are the blocks of networks alone: what no network holds neither learns nor teaches anything.
        self._extend(b for spec in self._specs for b in spec.blocks)
        self._refit()
        self._scales = self.posterior.scales
        self.errors, scores = self._cross_validate(calibration)
        self.width = conformal.quantile(scores, coverage)
        self.median_over_floor = _median_over_floor(table)

    def estimate(self, spec: NetworkSpec) -> Estimate:
        """Predicted median latency of a network with interval, cost by stage, and counts."""
        self._extend(spec.blocks)
        times = Counter(self._place[block] for block in spec.blocks)
        mean, variance = self.posterior.predict_one(np.array([*times]), np.array([*times.values()], float))
        mean = max(mean + sum(map(self._slot_ms, spec.stages)), LEAST_MS)
        return self._estimate(spec, mean, float(np.hypot(np.sqrt(variance), self.posterior.noise * mean)))

    def estimates(self, specs: Sequence[NetworkSpec]) -> list[Estimate]:
        """The same for many networks, faster than one by one."""
        floors, sds = self.predict(specs)
        return [self._estimate(*one) for one in zip(specs, floors.tolist(), sds.tolist())]

    def _estimate(self, spec: NetworkSpec, floor: float, sd: float) -> Estimate:
        counts = count(spec)
        seen = self._seen.get(spec.key)
        # What was measured is not predicted. A disturbance only slows down: of a disturbed machine a
        # measurement counts where it lies below the prediction.
        if seen is not None and (seen.floor_ms < floor or not DISTURBED & set(seen.gates)):
            floor, sd = seen.floor_ms, float(np.hypot(seen.se_ms, NOISE * seen.floor_ms))
        # A useless table (noise as large as the times) still gives finite bounds, which fit no budget.
        mean = self.median_over_floor * floor
        spread = float(np.exp(min(self.width * sd / floor, MOST_SPREAD)))
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
        """Floor in ms and its predictive standard deviation for many networks, (networks,) each."""
        self._extend(block for spec in specs for block in spec.blocks)
        mean, variance = self.posterior.predict(self.counts(specs))
        mean = mean + np.array([sum(self._slot_ms(stage) for stage in spec.stages) for spec in specs])
        mean = np.maximum(mean, LEAST_MS)
        return mean, np.sqrt(variance + (self.posterior.noise * mean) ** 2)

    def bounds(self, specs: Sequence[NetworkSpec]) -> tuple[Float64s, Float64s]:
        """Interval of the floor in ms, (networks,) lower and upper ends."""
        mean, sd = self.predict(specs)
        spread = np.exp(self.width * sd / mean)
        return mean / spread, mean * spread

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
        self.posterior: Posterior = fit(self._prior(), self._evidence(), self._scales)

    def _prior(self) -> Prior:
        mean, sd = np.array([self._alone[b] for b in self.keys]).reshape(-1, 2).T
        groups = features.groups(self.keys, mean, self._unit)
        provenance = self.setting.provenance
        if provenance != "measured":
            groups = tuple(
                Group(g.name, g.columns, _SHARED_SD[provenance] if g.name == "scale" else g.scale)
                for g in groups
            )
        return Prior(mean, sd, groups, constant_ms=0.2 * self._unit.time_ms)

    def _evidence(self) -> Evidence:
        return Evidence(
            self.counts(self._specs),
            np.array(self._latency),
            np.array(self._se),
            np.array(self._campaign, dtype=np.int64),
        )

    def _cross_validate(self, calibration: Bools) -> tuple[Float64s, Float64s]:
        """Relative errors and conformal scores of the calibration networks, each predicted without it."""
        prior, evidence = self._prior(), self._evidence()
        errors, scores = np.empty(0), np.empty(0)
        for fold in _folds(len(calibration)):
            test = fold & calibration
            if not test.any() or fold.all():
                continue
            rest = fit(prior, evidence.only(~fold))
            mean, variance = rest.predict(evidence.counts[test])
            # These networks shared the state of the machine with those they are predicted from, which
            # a network to come will not: their scores are in units of the noise within a campaign.
            sd = np.sqrt(variance + (rest.scales["noise"] * mean) ** 2)
            truth = evidence.latency_ms[test]
            errors = np.append(errors, mean / truth - 1.0)
            scores = np.append(scores, np.abs(np.log(truth / np.maximum(mean, 1e-9))) * mean / sd)
        return errors, scores


def _median_over_floor(table: LatencyTable) -> float:
    """Median session over floor, of the networks that were measured while no other process ran."""
    undisturbed = [
        float(np.median(m.session_ms)) / m.floor_ms
        for m in (net.measurement for net in table.networks)
        if m.session_ms and not {"contention", "load"} & set(m.gates)
    ]
    return max(1.0, float(np.median(undisturbed))) if len(undisturbed) >= _FEW else 1.0


def _folds(n: int) -> list[Bools]:
    """Masks of folds of neighbours in the order of measuring; few, so that the cost stays small."""
    fold = np.arange(n) * _FOLDS // max(n, _FOLDS)
    return [fold == number for number in np.unique(fold)]
