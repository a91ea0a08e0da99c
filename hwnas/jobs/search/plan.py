"""What a search is about to do: budgets, images, the strategy's options. Nothing is touched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from statistics import median
from typing import Any

from hwnas import budgets as grammar
from hwnas import plugins
from hwnas.budgets import Percentile
from hwnas.errors import InputError, MissingMeasurement
from hwnas.estimates import Budget, Estimate
from hwnas.jobs.resolve import networks
from hwnas.measure import advice, table_folder
from hwnas.measure.rows import NEAR
from hwnas.measure.table import LatencyTable
from hwnas.protocols import CostModel, SearchSpace
from hwnas.search.strategy import find
from hwnas.spec import NetworkSpec
from hwnas.traced import VariantSpec
from hwnas.units import format_ms, parse_bytes, parse_macs, parse_params


@dataclass(frozen=True)
class Preset:
    """How much is trained: `epochs` over the training split, but `images` images where that is less, and
    never more than `most_epochs` for their sake: two hundred photographs need no 40,000.

    `samples` is how many networks the baselines train; `rounds` in how many growths the stage-wise
    search is to reach its budget.
    """

    epochs: float
    most_epochs: float
    images: int
    samples: int
    rounds: int

    def images_of(self, available: int) -> int:
        """Training images of a search in a split that has `available`."""
        return max(round(self.epochs * available), min(self.images, round(self.most_epochs * available)))


PRESETS = {
    "quick": Preset(epochs=4, most_epochs=31, images=40_000, samples=4, rounds=5),
    "default": Preset(epochs=30, most_epochs=120, images=150_000, samples=8, rounds=6),
    "thorough": Preset(epochs=120, most_epochs=400, images=500_000, samples=16, rounds=8),
}


# In a ratio, the smallest network of the space that is searched.
SMALLEST = "smallest"
# ... and the user's own model as it is.
MODEL = "model"


def preset(name: str) -> Preset:
    """A preset by name."""
    if name not in PRESETS:
        raise InputError(plugins.unknown("preset", name, PRESETS))
    return PRESETS[name]


def budgets(
    text: str,
    model: CostModel,
    max_macs: str | None = None,
    max_params: str | None = None,
    max_memory: str | None = None,
    space: SearchSpace | None = None,
) -> list[Budget]:
    """The budgets that a user wrote, ascending.

    Args:
        text: ``0.6ms``, ``18ms@p95``, a list ``0.4ms,0.6ms``, or a ratio to the predicted latency of a
            network: ``1.15x:resnet20``, ``80%:resnet20``, or of the smallest of the space: ``2x:smallest``.
        model: predicts the network of a ratio.
        space: of the search, for ``smallest``.
        max_macs, max_params, max_memory: further limits, with units, for every budget.

    Raises:
        InputError: a part is not a budget, or names several percentiles.
        MissingMeasurement: the table does not cover the network of a ratio.
    """
    targets = grammar.parse(text)
    latencies_ms = {_latency_ms(target, model, space) for target in targets}
    limits: dict[str, Any] = {
        "macs": parse_macs(max_macs) if max_macs else None,
        "params": parse_params(max_params) if max_params else None,
        "memory_bytes": parse_bytes(max_memory) if max_memory else None,
    }
    percentile = targets[0].percentile
    return [Budget(latency_ms=ms, percentile=percentile, **limits) for ms in sorted(latencies_ms)]


def check_references(text: str, space: SearchSpace) -> None:
    """InputError for a ratio to a network that a new table of the space would not cover."""
    known = set(space.blocks())
    for target in grammar.parse(text):
        if target.latency_ms is not None or target.reference in (SMALLEST, MODEL):
            continue
        # The classifier is priced for any number of classes, so it need not be in the space.
        other = [block for block in networks.network(target.reference).blocks[:-1] if block not in known]
        if other:
            shape = "x".join(map(str, space.smallest().input_shape))
            raise InputError(
                f"budget {target.text!r}: {len(other)} blocks of {target.reference}, such as {other[0].key}, "
                f"are not in space {space.name} for {shape} images, so its latency cannot be predicted; give "
                f"the budget in milliseconds, or as a ratio to the smallest network ({target.factor:g}x:"
                f"{SMALLEST})"
            )


def _latency_ms(target: grammar.WrittenBudget, model: CostModel, space: SearchSpace | None) -> float:
    if target.latency_ms is not None:
        return target.latency_ms
    name = target.reference
    own = space.smallest() if space is not None and name == SMALLEST else None
    if space is not None and name == MODEL:
        own = space.uniform()[-1] if isinstance(space.smallest(), VariantSpec) else None
    estimate = model.estimate(own or networks.network(name))
    if estimate.extrapolated:
        raise MissingMeasurement(
            f"budget {target.text!r}: the table does not cover {name} ({len(estimate.extrapolated)} of its "
            "blocks were not measured); give the budget in milliseconds, or profile a space that holds it"
        )
    return target.factor * estimate.latency_ms


def tail_factor(table: LatencyTable, percentile: Percentile) -> float:
    """How far a percentile of single calls lies above the table's statistic, for budgets on tails.

    The median over the networks that the table measured as a whole; 1 for the median itself, which the
    promise compares with undisturbed calls.

    Raises:
        MissingMeasurement: a tail is asked for and the table holds no whole network.
    """
    if percentile == "p50":
        return 1.0
    ratios = [row.measurement.at(percentile) / row.measurement.floor_ms for row in table.networks]
    if not ratios:
        raise MissingMeasurement(
            f"table {table.table_id} holds no whole network, so nothing is known about {percentile}; give a "
            "budget on the median, or profile again"
        )
    return max(median(ratios), 1.0)


@dataclass(frozen=True)
class TailModel:
    """A cost model whose latencies are those of a percentile: another model's times a factor."""

    model: CostModel
    factor: float

    def estimate(self, spec: NetworkSpec) -> Estimate:
        """The estimate at the percentile."""
        found = self.model.estimate(spec)
        if self.factor == 1.0:
            return found
        scaled = {name: getattr(found, name) * self.factor for name in ("latency_ms", "low_ms", "high_ms")}
        by_stage = {name: ms * self.factor for name, ms in found.by_stage_ms.items()}
        return found.model_copy(update={**scaled, "by_stage_ms": by_stage})


def strategy_options(
    strategy: str,
    chosen: Preset,
    images: int,
    targets: Sequence[Budget],
    given: Mapping[str, Any],
) -> dict[str, Any]:
    """The options of a strategy: those of the preset that it has, and the user's over them.

    An option of the user's that the strategy does not have stays in, so that the strategy refuses it.
    """
    wanted: dict[str, Any] = {
        "images": images,
        "samples": chosen.samples,
        "rounds": chosen.rounds,
        "targets_ms": tuple(budget.latency_ms for budget in targets[:-1]),
    }
    known = {field.name for field in fields(find(strategy).Options)}
    return {**{name: value for name, value in wanted.items() if name in known}, **given}


def check_latency(table: LatencyTable, budgets_ms: Sequence[float | None]) -> list[str]:
    """A note where a table that the user names was profiled near another latency."""
    near_ms = table.header.protocol.get(NEAR)
    if near_ms is None or table_folder.near(near_ms, budgets_ms):
        return []
    return [
        f"table {table.table_id} was profiled near {format_ms(near_ms)}: the blocks of networks near the "
        "budget are mostly estimated; hwnas profile --latency-budget TIME measures them"
    ]


def check_coverage(table: LatencyTable, space: SearchSpace) -> list[str]:
    """Notes about blocks of the space that the table lacks.

    Raises:
        MissingMeasurement: it lacks the blocks of the smallest network: it is of another space or
            another input, and predictions would be guesses.
    """
    blocks = space.blocks()
    missing = [block for block in blocks if not table.prices(block)]
    smallest = space.smallest()
    if not table.covers(smallest):
        shape = smallest.input_shape
        raise MissingMeasurement(
            f"table {table.table_id} (space {table.header.space or 'unknown'}) does "
            f"not cover {space.name} for {'x'.join(map(str, shape))} images; measure them: "
            f"{advice.profile(advice.conditions(table.setting), space.name, shape)}"
        )
    if not missing:
        return []
    if (near_ms := table.header.protocol.get(NEAR)) is not None:
        return [
            f"{len(blocks) - len(missing)} of {len(blocks)} blocks of {space.name} were measured, those that "
            f"matter most near {format_ms(near_ms)}; the others are estimated"
        ]
    return [
        f"{len(missing)} of {len(blocks)} blocks of {space.name} were not measured; their latency is "
        "estimated"
    ]
