"""What some strategies learn before they propose: a preparation, kept in the run folder.

A strategy is a stateless function of context and history. Where it needs something trained (a
super-network's scores, which blocks are vital), a *preparation* trains it once, before the first
proposal, and its scores join the strategy's options. A preparation is one function, named
by `Strategy.preparation`; it keeps its own checkpoint in the run folder and resumes from it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

from hwnas import plugins, schemas
from hwnas.documents import read_json
from hwnas.errors import DataFormatError, InputError
from hwnas.estimates import Budget, Estimate
from hwnas.measure.table import LatencyTable
from hwnas.protocols import Emit, SearchSpace
from hwnas.runs import RunFolder
from hwnas.search.options import LEARNABLE
from hwnas.search.strategy import Strategy
from hwnas.spec import NetworkSpec
from hwnas.store import write_json
from hwnas.units import format_seconds

if TYPE_CHECKING:
    from hwnas.train.data import Dataset
    from hwnas.train.options import Recipe

FILE = "preparation.json"


@dataclass(frozen=True)
class Facts:
    """What a preparation may use.

    Attributes:
        space, dataset, table: of the search.
        estimate: predicted latency and counts of a network, at the budget's percentile.
        budgets: every budget of the search, ascending.
        images: training images of the whole search; what the preparation takes is missing after it.
        settings: the strategy's options.
        recipe: how networks of this search are trained.
        seed: of everything random.
        run: where checkpoints and events go.
        emit: carries progress; events that are to last go through `note`.
        seconds: wall time that the preparation may take; it then ends with what it has learned.
    """

    space: SearchSpace
    dataset: Dataset
    estimate: Callable[[NetworkSpec], Estimate]
    table: LatencyTable
    budgets: Sequence[Budget]
    images: int
    settings: Mapping[str, Any]
    recipe: Recipe
    seed: int
    run: RunFolder
    emit: Emit
    seconds: float | None = None

    def note(self, kind: str, fields: Mapping[str, Any], *, key: str) -> None:
        """Write an event unless one of this kind with the same ``fields[key]`` is in the run already.

        A killed pass that is repeated would otherwise write its event twice.
        """
        if any(event["event"] == kind and event.get(key) == fields[key] for event in self.run.events()):
            return
        self.run.append(kind, fields)
        self.emit(kind, fields)


@dataclass(frozen=True)
class Prepared:
    """What a preparation gives; JSON-ready.

    Attributes:
        scores: becomes the strategy's option ``scores``.
        images: training images that it took.
        train_macs: multiply-accumulates that these cost (three forward passes an image).
        seconds: wall time, over every session.
    """

    scores: Mapping[str, Any]
    images: int
    train_macs: float
    seconds: float


Preparation = Callable[[Facts], "Prepared | None"]
# Calls a preparation, given as `module:function`: `make` in this process, or something else elsewhere.
Make = Callable[[str, str, Facts], "Prepared | None"]


def make(strategy: str, target: str, facts: Facts) -> Prepared | None:
    """Call a preparation in this process; InputError where another package's fails."""
    with plugins.blamed("strategies", strategy, f"has a preparation, {target}, that cannot be loaded"):
        preparation: Preparation = resolve_name(target)
    with plugins.blamed("strategies", strategy, f"failed in its preparation, {target}"):
        prepared = preparation(facts)
    if prepared is not None and not isinstance(prepared, Prepared):
        raise InputError(
            f"strategy {strategy}: its preparation, {target}, gave {type(prepared).__name__}; "
            "expected Prepared (hwnas.jobs.preparations.prepare) or None"
        )
    return prepared


def prepare(strategy: type[Strategy[Any]], facts: Facts, made: Make = make) -> Prepared | None:
    """Prepare a strategy, or read back what an earlier session of the run prepared.

    Args:
        strategy: what is prepared.
        facts: of the search.
        made: where that is done.

    Returns:
        None where the strategy, or these settings of it, need no preparation.

    Raises:
        DataFormatError: the kept result is damaged.
    """
    if strategy.preparation is None:
        return None
    name, path = strategy.name, facts.run.path / FILE
    prepared = _read(facts) if path.exists() else made(name, strategy.preparation, facts)
    if prepared is None:
        return None
    if not path.exists():
        write_json(path, {"schema": schemas.PREPARATION, "strategy": name, **asdict(prepared)}, sealed=True)
    text = (
        f"{name} prepared on {prepared.images:,} of {facts.images:,} images "
        f"in {format_seconds(prepared.seconds)}"
    )
    spent = {"images": prepared.images, "train_macs": prepared.train_macs, "training_s": prepared.seconds}
    facts.note("preparation", {"strategy": name, **spent, "text": text}, key="strategy")
    return prepared


def _read(facts: Facts) -> Prepared:
    path = facts.run.path / FILE
    body = read_json(path, "preparation", schemas.PREPARATION, sealed=True)
    try:
        return Prepared(
            scores=dict(body["scores"]),
            images=int(body["images"]),
            train_macs=float(body["train_macs"]),
            seconds=float(body["seconds"]),
        )
    except (KeyError, TypeError, ValueError) as exc:
        raise DataFormatError(f"{path} is damaged ({exc!r}); remove it to prepare again") from exc


def without(share: float, images: int) -> str:
    """Why there is no super-network, in words."""
    return (
        f"no super-network: its share would be {round(share * images):,} of {images:,} images, and below "
        f"{LEARNABLE:,} it learns too little (docs/densenas.md, docs/strategies.md); the "
        "untrained score decides. --set score=learned trains one anyway"
    )
