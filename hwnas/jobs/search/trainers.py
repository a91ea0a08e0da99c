"""What trains the networks of a search: this process, or an executor; and what judges their growths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hwnas.jobs.preparations.prepare import Make, make
from hwnas.jobs.search.options import SearchOptions
from hwnas.jobs.search.parts import OnThreads
from hwnas.protocols import Emit, Executor, Move, Needs
from hwnas.records import Proposal
from hwnas.search.importance import judge as importance
from hwnas.search.strategy import Judging, Strategy, asked

if TYPE_CHECKING:
    from typing import Any

    from hwnas.jobs.search.spread import Spread
    from hwnas.nets.transfer import Initial
    from hwnas.protocols import Importance
    from hwnas.train.data import Dataset
    from hwnas.train.evaluator import Evaluator
    from hwnas.train.options import Recipe

# Training images that an importance is given; half of them may be held out.
JUDGED = 6000


@dataclass(frozen=True)
class Trainers:
    """Makes what trains.

    Attributes:
        options: of the search.
        recipe: how networks are trained.
        strategy: says what is judged.
        dataset: the images.
        executor: None trains one network after the other in this process.
        emit: told of progress.
        initial: what networks without a parent begin with; None is new weights.
    """

    options: SearchOptions
    recipe: Recipe
    strategy: Strategy[Any]
    dataset: Dataset
    executor: Executor | None
    emit: Emit
    initial: Initial | None = None

    def made(self, folder: Path, device: str) -> Evaluator | Spread:
        """Trains here, or on the executor: apart from what is timed where there are machines for both.

        Args:
            folder: of the run.
            device: that is timed.
        """
        from hwnas.jobs.search.spread import Spread

        evaluator = self._evaluator(folder)
        if self.executor is None:
            return evaluator
        needs = self._needs(self.executor, device)
        in_waves = self.options.measure and needs.avoid is None
        return Spread(self.executor, evaluator, folder, self._growths, needs, in_waves, self.emit)

    def preparing(self, device: str) -> Make:
        """Prepares the strategy here, or where trainings run on other machines on one of these."""
        from hwnas.jobs.search.spread import Preparer

        if self.executor is None or not self.executor.times_elsewhere:
            return make
        return Preparer(self.executor, self._needs(self.executor, device))

    def _needs(self, executor: Executor, device: str) -> Needs:
        """What a training needs of a machine: another than those that are timed, where there are both."""
        apart = self.options.measure and executor.apart(device)
        recipe = self.recipe
        return Needs(recipe.threads or 1, int(recipe.device == "cuda"), avoid=device if apart else None)

    def _evaluator(self, folder: Path) -> Evaluator:
        from hwnas.train import own
        from hwnas.train.evaluator import Evaluator

        judging = self._judging()
        held_out = judging is not None and judging.held_out
        return Evaluator(
            self.dataset,
            self.recipe,
            folder,
            self._importance(),
            self.options.seed,
            self.emit,
            growths=self._growths,
            importance_images=min(JUDGED, len(self.dataset.val if held_out else self.dataset.train)),
            held_out=held_out,
            initial=self.initial,
            trainer=None if self.options.trainer is None else own.trainer(self.options.trainer),
            # Which compares networks as they are.
            ask_guessers=judging is not None and judging.importance == "vip",
        )

    def _judging(self) -> Judging | None:
        with asked(self.strategy, "asks_importance"):
            return self.strategy.asks_importance()

    def _growths(self, proposal: Proposal) -> Sequence[Move]:
        with asked(self.strategy, "growths"):
            return self.strategy.growths(proposal)

    def _importance(self) -> Importance | None:
        """The importance that the strategy asks for; None where it looks at accuracies alone."""
        from hwnas.train.precision import choose

        judging = self._judging()
        if judging is None:
            return None
        compute = choose(self.recipe)
        found = importance.make(
            judging.importance, images=judging.images, autocast=compute.autocast, group=judging.group
        )
        return OnThreads(found, compute.threads)
