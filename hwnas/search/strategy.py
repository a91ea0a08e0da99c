"""The door of search strategies: all that one may be asked, and the decisions that it tells.

A strategy is a subclass of `Strategy` and one line in `hwnas.plugins`. It must have `propose`; every other
method and attribute has a default that does nothing, so that callers (the driver, the command, the
list of strategies) asks each strategy alike.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, is_dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeVar, cast, get_args

import numpy as np

from hwnas import options as values
from hwnas import plugins
from hwnas.errors import InputError
from hwnas.protocols import Move, SearchContext
from hwnas.records import Proposal, Trial
from hwnas.search.ranking import by_accuracy, candidates
from hwnas.spec import NetworkSpec

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

# What a decision is; the kind of its event in the run folder.
#   choice: a rule of the whole search, settled before the first trial
#   derived: a network that was derived from learned or untrained scores
#   growth: something grows, or was kept
#   refusal: something does not grow, or was not kept
#   stop: the search phase ends
DecisionKind = Literal["choice", "derived", "growth", "refusal", "stop"]


@dataclass(frozen=True)
class Decision:
    """Something that a strategy decided, in words and in figures.

    Attributes:
        kind: see `DecisionKind`.
        text: the words, for the log, the live table and the report.
        fields: the figures behind the words, JSON-ready.
    """

    kind: DecisionKind
    text: str
    fields: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse a kind that is none: an event of another name would be read as something else."""
        if self.kind not in get_args(DecisionKind):
            raise InputError(
                f"a decision of kind {self.kind!r}; kinds are {', '.join(get_args(DecisionKind))}"
            )


@dataclass(frozen=True)
class Judging:
    """How trained networks are asked which of their growths matter.

    Attributes:
        importance: a registered name of `hwnas.plugins`.
        images: images for judging one network.
        group: of the registry that the name is of: ``importances`` of growths, or ``removals``.
        held_out: whether it is given validation images instead of training images.
    """

    importance: str
    images: int
    group: str = "importances"
    held_out: bool = False


@dataclass(frozen=True)
class NoOptions:
    """The options of a strategy that has none."""


OptionsT = TypeVar("OptionsT", bound="DataclassInstance")


class Strategy(ABC, Generic[OptionsT]):
    """Proposes networks; ``class Mine(Strategy[MineOptions])`` with ``Options = MineOptions``.

    A strategy holds no state: what it proposes and tells is a function of the context, the history and
    `rng`, which the driver derives from (seed, number of trials). So a search that was killed and is
    repeated, with a strategy made again, ends as an unbroken one.

    Attributes:
        name: what it is registered by.
        Options: the frozen dataclass of its options, each field made by `hwnas.options.option`. A search
            fills those of the names ``images``, ``samples``, ``rounds`` and ``targets_ms``.
        preparation: ``module:function`` of what is trained before the first proposal
            (`hwnas.jobs.preparations`), imported on use; what it learned becomes the option ``scores``.
            None where nothing is.
        continues: whether the final training starts from the winner's weights in any case, at its
            learning rate and with its teacher: what was trained elsewhere is never thrown away.
    """

    name: ClassVar[str]
    Options: ClassVar[type[DataclassInstance]] = NoOptions
    preparation: ClassVar[str | None] = None
    continues: ClassVar[bool] = False

    def __init__(self, context: SearchContext) -> None:
        """Read the options.

        Raises:
            InputError: an option is unknown or has a wrong value, or the strategy cannot be used here.
        """
        missing = self.unavailable()
        if missing is not None:
            raise InputError(f"strategy {self.name} {missing}")
        self._context = context
        self._options = self.read_options(context.options)

    @classmethod
    def read_options(cls, given: Mapping[str, Any]) -> OptionsT:
        """`Options` filled from names and values; InputError for one that is wrong."""
        return cast(OptionsT, values.read(cls.Options, given, f"option of strategy {cls.name}:"))

    @abstractmethod
    def propose(self, history: Sequence[Trial], n: int, rng: np.random.Generator) -> list[Proposal]:
        """Up to `n` proposals; an empty list ends the search.

        Args:
            history: every trial so far, final trainings left out.
            n: how many are wanted.
            rng: for all that is random.
        """

    def sees(self, history: Sequence[Trial]) -> int:
        """Of these trials, how many of the first ones' results the next proposal may depend on.

        The others are shown to `propose` without results (state "pending"), with one job as with many, so
        that they may be trained at the same time. By default every result is waited for.

        Args:
            history: every trial so far. Some of those beyond what is returned may have no result yet, so
                that the answer may depend on the results of the others alone.
        """
        return len(history)

    def explain(self, history: Sequence[Trial]) -> list[Decision]:
        """What was decided after the newest trial, and why; asked after every `propose`.

        A ``stop`` among them gives the reason with which the search phase ends.
        """
        return []

    def rank(self, trials: Sequence[Trial]) -> list[Trial]:
        """Every trial that may win (`ranking.candidates`), in the order in which they are tried as winner.

        By accuracy. A strategy that compares networks of unequal training (growth) knows better than the
        bare accuracies which of them deserves the final training.
        """
        return by_accuracy(trials)

    def asks_importance(self) -> Judging | None:
        """How trained networks are to be judged; None where accuracies alone are looked at."""
        return None

    def growths(self, proposal: Proposal) -> list[Move]:
        """The growths of a proposed network that are to be judged once it is trained."""
        return []

    @classmethod
    def plan(cls, context: SearchContext) -> NetworkSpec | None:
        """The best network within the budget by a score that needs no training, for `hwnas plan`.

        None where the strategy has no such score.

        Raises:
            BudgetInfeasible: no network fits.
        """
        return None

    @classmethod
    def plans(cls) -> bool:
        """Whether it has a `plan`."""
        return any("plan" in vars(one) for one in cls.__mro__ if one is not Strategy)

    @classmethod
    def unavailable(cls) -> str | None:
        """None where it works here; else the reason and the cure. Imports no optional package."""
        return None


@contextmanager
def asked(strategy: Strategy[Any] | type[Strategy[Any]], what: str) -> Iterator[None]:
    """Name the package where its strategy raises an error while it is asked."""
    with plugins.blamed("strategies", strategy.name, f"failed in {what}"):
        yield


def proposed(
    strategy: Strategy[Any], history: Sequence[Trial], n: int, rng: np.random.Generator
) -> tuple[list[Proposal], list[Decision]]:
    """What a strategy proposes and what it tells, checked.

    Raises:
        InputError: it is another package's and fails, or what it gives is of another kind.
    """
    with asked(strategy, "propose"):
        proposals = strategy.propose(history, n, rng)
    _require(strategy, "propose", proposals, Proposal)
    for one in proposals:
        asked_for = {at for at in (one.parent, one.teacher) if at is not None}
        missing = asked_for and sorted(asked_for - {t.index for t in history if t.evaluation is not None})
        if missing:
            raise InputError(
                f"strategy {strategy.name}: propose gave a proposal that continues from trial "
                f"{missing[0]}, which was not trained"
            )
    with asked(strategy, "explain"):
        decisions = strategy.explain(history)
    _require(strategy, "explain", decisions, Decision)
    return proposals, decisions


def ranked(strategy: Strategy[Any], history: Sequence[Trial]) -> list[Trial]:
    """The trials that may win in the strategy's order, checked; InputError as of `proposed`."""
    with asked(strategy, "rank"):
        found = strategy.rank(history)
    _require(strategy, "rank", found, Trial)
    may_win = {trial.index for trial in candidates(history)}
    if not {trial.index for trial in found} <= may_win:
        raise InputError(f"strategy {strategy.name}: rank gave a trial that cannot win")
    return found


def _require(strategy: Strategy[Any], what: str, given: object, kind: type) -> None:
    if not isinstance(given, list) or not all(isinstance(one, kind) for one in given):
        held = sorted({type(one).__name__ for one in given}) if isinstance(given, list) else []
        shown = f"a list of {', '.join(held)}" if held else type(given).__name__
        raise InputError(
            f"strategy {strategy.name}: {what} gave {shown}; expected a list of {kind.__module__}."
            f"{kind.__name__}"
        )


def find(name: str) -> type[Strategy[Any]]:
    """The strategy registered under a name.

    Raises:
        InputError: there is none, or what is registered is not a subclass of `Strategy`.
    """
    found = plugins.load("strategies", name)
    if not (isinstance(found, type) and issubclass(found, Strategy)):
        raise InputError(
            f"what is registered as strategy {name!r} is not a subclass of hwnas.search.strategy.Strategy; "
            "repair or uninstall its package"
        )
    if getattr(found, "name", None) != name or not is_dataclass(found.Options):
        raise InputError(
            f"the strategy {name!r} needs name = {name!r} and Options, a frozen dataclass; repair or "
            "uninstall its package"
        )
    return found


def made(name: str, context: SearchContext) -> Strategy[Any]:
    """The strategy registered under a name for a search; InputError as of `find` and of its options."""
    found = find(name)
    with asked(found, "being made"):
        return found(context)
