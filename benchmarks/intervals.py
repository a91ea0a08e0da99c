"""Which rule gives intervals that hold later, and are as narrow as the truth allows?

    python -m benchmarks.intervals --traces a.npz b.npz c.npz       # about ten minutes of one core
    python -m benchmarks.intervals --tables FOLDER                  # and of tables of your own

Many tables of a planted device, whose true latencies are known: a cost for each block inside a network,
which differs from its time alone by kind and by itself, a constant, and 0.4 % that no sum describes. A table
is a quick profile (20 calibration networks and three anchors) in one state of the machine; what its intervals
must hold are measurements of 40 other networks in a state of another time. Machines:

    quiet       states 0.25 % apart, single measurements 0.35 % (what this project's tables of one day show)
    one bad     the same, and one calibration network measured 16 % too slow; its sessions agree
    spells      the same, and 5 % of all networks 2 to 20 % too slow
    rough       states 0.8 % apart, measurements 1.5 % with heavy tails
    traces      what recorded engines took (`hwnas doctor --record`) at the table's time and at the later
                one, over their undisturbed value: twelve sessions in 60 s. Engines in order of latency, and
                for networks with as many weights the two whose weights lie in the shared cache
    traces 20 s the same with a table of four sessions within 20 s

Rules (`interval` and `later` of `hwnas.cost`):

    largest     the rule before this one: the ceil(0.95 (n + 1))-th of the calibration scores, no states
    student     root mean square of all scores with four of a prior, t quantile
    cv+         predictions without each fold, plus and minus its errors (Barber et al. 2021, section 4)
    scaled cv+  the same with errors in units of their standard deviations
    no states   hwnas without the device's history of states
    hwnas       scale of a Student distribution, and the states

With ``again`` a network that stands out is measured again, as a profile does. Recorded tables have no known
truth: there the held-out networks' second measurements count, a minute after the table.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import stdtrit

from benchmarks.common import save
from benchmarks.noise import LARGE, WEIGHT_BYTES, Windows, calm_values, memory_of, states_of
from hwnas.arrays import Float64s
from hwnas.backends.fake import Fake
from hwnas.cost import interval
from hwnas.cost.model import TableModel, cost_model
from hwnas.cost.posterior import fit
from hwnas.cost.validated import folds
from hwnas.errors import HwnasError
from hwnas.jobs.profile.plan import PLANS, draw, schedule
from hwnas.measure import table as tables
from hwnas.measure.aggregate import floor_of
from hwnas.measure.memory import MemoryStates
from hwnas.measure.rows import SUFFIX, AgainRow, BlockRow, Header, NetworkRow, RowRole
from hwnas.measure.session import low
from hwnas.measure.table import LatencyTable
from hwnas.measure.trace import Trace
from hwnas.nets import onnx, spaces
from hwnas.nets.count import count, count_block
from hwnas.records import Measurement
from hwnas.spec import NetworkSpec

MISFIT, UNSEEN = 0.004, 40
QUICK, MINUTE = (4, 20.0), (12, 60.0)  # sessions, over so many seconds


class Planted:
    """A device whose latencies are known, over one space."""

    def __init__(self, name: str, seed: int) -> None:
        self.space, self.seed = spaces.make(name), seed
        self.fake = Fake()
        self.setting = self.fake.setting("fake", "fp32", 1, 1)
        rng = np.random.default_rng([seed, 3])
        blocks = self.space.blocks()
        self.alone = {b: self.fake.build(onnx.chain([b]), self.setting).price_ms for b in blocks}
        kind = {k: 0.08 * rng.standard_normal() for k in sorted({b.kind for b in blocks})}
        inside = {b: math.exp(kind[b.kind] + 0.04 * rng.standard_normal() - 0.1) for b in blocks}
        self.cost = {b: ms * inside[b] for b, ms in self.alone.items()}
        self.constant = 0.3 * float(np.median([*self.alone.values()]))
        self._misfit: dict[str, float] = {}
        self._rng = rng

    def truth_ms(self, spec: NetworkSpec) -> float:
        """What a network takes in the undisturbed state."""
        off = self._misfit.setdefault(spec.key, MISFIT * float(self._rng.standard_normal()))
        return (self.constant + sum(self.cost[b] for b in spec.blocks)) * math.exp(off)


@dataclass(frozen=True)
class Drawn:
    """Measurements of some networks in one state: logarithms over the truth, and their own errors."""

    error: Float64s
    se: Float64s


@dataclass(frozen=True)
class Machine:
    """A planted noise: standard deviation of states and of single measurements, and slow spells."""

    states: float = 0.0025
    own: float = 0.0035
    tails: float = np.inf
    bad: float = 0.0
    one_bad: float = 0.0
    memory: MemoryStates | None = None

    def table(self, size: Float64s, weights: Float64s, rng: np.random.Generator) -> Drawn:
        """Measurements of a table."""
        found = self.later(size, weights, rng)
        slow = (rng.random(len(size)) < self.bad) * np.log(1.0 + rng.uniform(0.02, 0.2, len(size)))
        if self.one_bad:
            slow[rng.integers(len(size))] = math.log(1.0 + self.one_bad)
        return Drawn(found.error + slow, found.se)

    def later(self, size: Float64s, weights: Float64s, rng: np.random.Generator) -> Drawn:
        """Measurements at another time, which wait for the end of a spell."""
        n = len(size)
        own = rng.standard_normal(n) if np.isinf(self.tails) else rng.standard_t(self.tails, n)
        return Drawn(
            self.states * rng.standard_normal() + self.own * own, self.own * rng.uniform(0.3, 1.2, n)
        )


@dataclass
class Played:
    """The noise of recorded traces."""

    traces: Sequence[Windows]
    plan: tuple[int, float] = MINUTE
    states: float = field(init=False)
    memory: MemoryStates = field(init=False)

    def __post_init__(self) -> None:
        self.best_ms = min(trace.best_ms() for trace in self.traces)
        calm = calm_values(self.traces)
        self.calm, self.order = calm, sorted(calm, key=lambda name: calm[name])
        self.heavy = sorted((name for name in ("resnet56", LARGE)), key=lambda name: WEIGHT_BYTES[name])
        self.states, self.memory = states_of(self.traces, self.best_ms), memory_of(self.traces, calm)

    def table(self, size: Float64s, weights: Float64s, rng: np.random.Generator) -> Drawn:
        """Measurements of a table."""
        return self._cut(size, weights, self.plan, rng)

    def later(self, size: Float64s, weights: Float64s, rng: np.random.Generator) -> Drawn:
        """Measurements of any trace at any time."""
        return self._cut(size, weights, MINUTE, rng)

    def _engines(self, size: Float64s, weights: Float64s) -> list[str]:
        """Which engine each network's noise is of: of the two with weights in the shared cache for those that
        have about as many (nearest logarithm), of the others in order of latency.
        """
        light = [name for name in self.order if name not in self.heavy]
        known = np.log([WEIGHT_BYTES["resnet20"], *(WEIGHT_BYTES[name] for name in self.heavy)])
        nearest = np.abs(np.log(weights)[:, None] - known).argmin(axis=1)
        rank = (np.argsort(np.argsort(size)) * len(light)) // len(size)
        return [light[r] if near == 0 else self.heavy[near - 1] for r, near in zip(rank, nearest)]

    def _cut(
        self, size: Float64s, weights: Float64s, plan: tuple[int, float], rng: np.random.Generator
    ) -> Drawn:
        sessions, span_s = plan
        trace = self.traces[int(rng.integers(len(self.traces)))]
        begin_s = rng.uniform(0.0, trace.seconds - span_s - 0.2)
        errors, ses = [], []
        for name in self._engines(size, weights):
            # Networks of a profile are measured in turn: each meets the span at moments of its own.
            moved_s = rng.uniform(0.0, 0.5)
            cut = trace.sessions(begin_s + moved_s * span_s / sessions, sessions, span_s * 0.8)
            floors = [low(calls) for calls in cut[name]]
            levels = [low(calls) / self.best_ms for calls in cut[trace.sentinel]]
            value, se = floor_of(floors, levels)
            errors.append(math.log(value / self.calm[name]))
            ses.append(se / value)
        return Drawn(np.array(errors), np.array(ses))


@dataclass(frozen=True)
class Case:
    """One table's model and the networks that its intervals are for; all relative to the predictions.

    Attributes:
        model: of the table.
        cost_sd: (networks,) of the predicted costs.
        half: (networks,) half-widths of hwnas.
        without: (folds, networks) logarithm of the prediction without a fold over that with all.
        fold: (fitted networks,) which fold each is of.
    """

    model: TableModel
    cost_sd: Float64s
    half: Float64s
    without: Float64s
    fold: np.ndarray

    @staticmethod
    def of(model: TableModel, specs: Sequence[NetworkSpec]) -> Case:
        """Of a model and networks."""
        mean, sd = model.predict(specs)
        cost_sd = np.sqrt(np.maximum((sd / mean) ** 2 - model.noise**2, 0.0))
        prior, evidence = model.prior(), model.evidence()
        masks = folds(len(evidence.latency_ms))
        counts = model.counts(specs)
        without = [fit(prior, evidence.only(~mask)).predict(counts)[0] for mask in masks]
        half = np.log(model.bounds(specs)[1] / mean)
        return Case(model, cost_sd, half, np.log(np.array(without) / mean), np.argmax(masks, axis=0))


def _both(half: Float64s) -> tuple[Float64s, Float64s]:
    return -half, half


def largest(case: Case) -> tuple[Float64s, Float64s]:
    """The rule that was there before."""
    v, scales = case.model.validated, case.model.posterior.scales
    scores = np.sort(np.abs(v.error / np.hypot(v.cost_sd, v.noise))[v.calibration])
    rank = math.ceil(0.95 * (len(scores) + 1))
    width = max(1.96, scores[-1]) if rank > len(scores) else scores[rank - 1]
    noise = math.hypot(scales["noise"], scales["campaign"])
    return _both(width * np.hypot(case.cost_sd, noise))


def student(case: Case) -> tuple[Float64s, Float64s]:
    """Root mean square of all scores, shrunk to one."""
    scores, model = case.model.validated.scores, case.model
    degrees = interval.PRIOR + len(scores)
    scale = math.sqrt((interval.PRIOR + float(scores @ scores)) / degrees)
    half = float(stdtrit(degrees, 0.975)) * scale * np.hypot(case.cost_sd, model.noise)
    return _both(np.hypot(half, 1.96 * model.later))


def cv_plus(case: Case, scaled: bool = False) -> tuple[Float64s, Float64s]:
    """Barber et al. 2021, equation 11, on logarithms."""
    v = case.model.validated
    errors = np.abs(v.error)[:, None] * np.ones(len(case.cost_sd))
    if scaled:
        errors = np.abs(v.scores)[:, None] * np.hypot(case.cost_sd, case.model.noise)
    shift, n = case.without[case.fold], len(v.error)
    below, above = math.floor(0.05 * (n + 1)), math.ceil(0.95 * (n + 1))
    ends = np.sort(shift - errors, axis=0), np.sort(shift + errors, axis=0)
    return ends[0][max(below, 1) - 1], ends[1][min(above, n) - 1]


def no_states(case: Case) -> tuple[Float64s, Float64s]:
    """What hwnas does, without the history of the device's states."""
    model = case.model
    half = model.width * np.hypot(case.cost_sd, model.noise)
    return _both(np.hypot(half, interval.gaussian() * model.posterior.scales["campaign"]))


RULES: Mapping[str, Callable[[Case], tuple[Float64s, Float64s]]] = {
    "largest": largest,
    "student": student,
    "cv+": cv_plus,
    "scaled cv+": lambda case: cv_plus(case, scaled=True),
    "no states": no_states,
    "hwnas": lambda case: _both(case.half),
}


def _row(spec: NetworkSpec, ms: float, se: float, role: RowRole) -> NetworkRow:
    names = ("floor_ms", "median_ms", "p10_ms", "p90_ms", "p95_ms", "p99_ms")
    body: dict[str, Any] = {**dict.fromkeys(names, ms), "se_ms": se * ms, "samples": 100}
    return NetworkRow(spec=spec, role=role, measurement=Measurement(**body), campaign=1)


def planted_table(
    device: Planted, machine: Machine | Played, seed: int, *, again: bool = False
) -> LatencyTable:
    """A quick profile of a planted device in one state of a machine."""
    rng = np.random.default_rng([seed, 11])
    table = LatencyTable(Header(setting=device.setting, space=device.space.name))
    blocks = list(device.alone)
    sizes = np.array([device.alone[b] for b in blocks])
    noise = machine.table(sizes, np.array([count_block(b).weight_bytes + 1.0 for b in blocks]), rng)
    for block, error, se in zip(blocks, noise.error, noise.se):
        ms = device.alone[block] * math.exp(error)
        table.add(BlockRow(block=block, value_ms=ms, se_ms=se * ms))
    wanted = [one for one in schedule(device.space, PLANS["quick"], seed) if one[1] != "holdout"]
    truth = np.array([device.truth_ms(spec) for spec, _ in wanted])
    weights = np.array([float(count(spec).weight_bytes) for spec, _ in wanted])
    noise = machine.table(truth, weights, rng)
    rows = [
        _row(spec, float(ms * math.exp(error)), float(se), role)
        for (spec, role), ms, error, se in zip(wanted, truth, noise.error, noise.se)
    ]
    for row in rows:
        table.add(row)
    if again and (out := {one.spec.key for one in cost_model(table).slower()}):
        second = machine.later(truth, weights, rng)
        for row, ms, error, se in zip(rows, truth, second.error, second.se):
            if row.spec.key in out:
                found = _row(row.spec, float(ms * math.exp(error)), float(se), row.role).measurement
                table.add(AgainRow(network=row.spec.key, measurement=found))
    return table


class Tally:
    """Coverage and half-widths of each rule."""

    def __init__(self) -> None:
        self.inside: dict[str, list[float]] = {name: [] for name in RULES}
        self.half: dict[str, list[float]] = {name: [] for name in RULES}

    def take(self, case: Case, later: Float64s) -> None:
        """Logarithms of later measurements over the predictions."""
        for name, rule in RULES.items():
            below, above = rule(case)
            self.inside[name].append(float(((below <= later) & (later <= above)).mean()))
            self.half[name].append(float((above - below).mean()) / 2.0)

    def figures(self) -> dict[str, dict[str, float]]:
        """In percent."""
        return {
            name: {
                "coverage_percent": 100.0 * float(np.mean(self.inside[name])),
                "half_width_percent": 100.0 * float(np.mean(self.half[name])),
                "half_width_90_percent": 100.0 * float(np.quantile(self.half[name], 0.9)),
            }
            for name in RULES
        }


def simulate(
    device: Planted, machine: Machine | Played, repeats: int, seed: int, *, again: bool = False
) -> dict[str, Any]:
    """Coverage and width over many tables."""
    tally = Tally()
    for number in range(repeats):
        table = planted_table(device, machine, 1000 * seed + number, again=again)
        model = cost_model(table, states=machine.states, memory=machine.memory)
        specs = draw(device.space, UNSEEN, number, "unseen")
        rng = np.random.default_rng([seed, number, 12])
        truth = np.array([device.truth_ms(spec) for spec in specs])
        weights = np.array([float(count(spec).weight_bytes) for spec in specs])
        measured = truth * np.exp(machine.later(truth, weights, rng).error)
        tally.take(Case.of(model, specs), np.log(measured / model.predict(specs)[0]))
    return {"tables": repeats, "again": again, "rules": tally.figures()}


def recorded(folder: Path) -> dict[str, Any]:
    """Tables that were measured: do intervals hold the second measurements of the held-out networks?"""
    tally, used = Tally(), 0
    for path in sorted(folder.rglob(f"*{SUFFIX}")):
        try:
            table = tables.load(path)
            model = cost_model(table)
        except HwnasError as exc:
            print(f"left out: {exc}")
            continue
        held = [n.spec for n in table.networks if n.role == "holdout" and n.spec.key in table.repeats]
        if not (table.complete and held and model.validated.calibration.sum() >= 10):
            continue
        later = np.array([table.repeats[spec.key] for spec in held])
        tally.take(Case.of(model, held), np.log(later / model.predict(held)[0]))
        used += 1
    return {"tables": used, "rules": tally.figures() if used else {}}


def _show(name: str, found: Mapping[str, Any]) -> None:
    print(f"{name}: {found['tables']} tables; coverage, half-width (of nine in ten at most), percent")
    for rule, f in found["rules"].items():
        print(
            f"  {rule:12s} {f['coverage_percent']:5.1f}  +-{f['half_width_percent']:5.2f} "
            f"({f['half_width_90_percent']:.2f})",
            flush=True,
        )


def main() -> None:
    """Simulate, print, write JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--spaces", nargs="+", default=["resnet-cifar", "mbv2-cifar"])
    parser.add_argument("--repeats", type=int, default=100, help="tables of a space and machine")
    parser.add_argument("--traces", nargs="*", type=Path, default=[])
    parser.add_argument("--tables", type=Path, help="folder of measured tables")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="intervals", help="name of the result file")
    args = parser.parse_args()
    machines: dict[str, Machine | Played] = {
        "quiet": Machine(),
        "one bad": Machine(one_bad=0.16),
        "spells": Machine(bad=0.05),
        "rough": Machine(states=0.008, own=0.015, tails=4.0),
    }
    if args.traces:
        windows = [Windows(Trace.load(path)) for path in args.traces]
        machines |= {"traces": Played(windows), "traces 20 s": Played(windows, QUICK)}
    results: dict[str, Any] = {}
    for name in args.spaces:
        device = Planted(name, args.seed)
        for title, machine in machines.items():
            for again in (False, True):
                key = f"{name}, {title}{', again' if again else ''}"
                results[key] = simulate(device, machine, args.repeats, args.seed, again=again)
                _show(key, results[key])
    if args.tables is not None:
        results["recorded tables"] = recorded(args.tables)
        _show("recorded tables", results["recorded tables"])
    print("written to", save(args.out, {"repeats": args.repeats, "results": results}))


if __name__ == "__main__":
    main()
