"""Tree-structured Parzen estimators (Bergstra et al. 2011) by Optuna: the usual general optimiser.

A baseline behind the same door. Needs the extra ``compare``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np

from hwnas.options import option
from hwnas.records import Proposal, Trial, trained
from hwnas.search import options
from hwnas.search.baselines.samples import SampleOptions
from hwnas.search.ranking import accuracy
from hwnas.search.strategy import Strategy
from hwnas.spec import NetworkSpec

MOST_LEVELS = 64  # growth steps of one kind in one stage
MOST_TOLD = 128  # trials that the estimator is told; building it takes a time in proportion


@dataclass(frozen=True)
class TpeOptions(SampleOptions):
    """Options of `Tpe`.

    Attributes:
        startup: random samples before the estimator is used.
        batch: samples that are drawn before results are looked at again, so that they may be trained at once.
        asks: how often to ask for one sample that fits before giving up.
    """

    startup: int = option(4, "Random samples before the estimator is used.", low=0, high=1_000_000)
    batch: int = option(1, "Samples that may be trained at the same time.", low=1, high=4_096)
    asks: int = option(300, "Most attempts to draw one sample that fits.", low=1, high=1_000_000)


class Tpe(Strategy[TpeOptions]):
    """Optuna's TPE over growth levels, one for each stage and kind of growth.

    A member is coded by how many times each kind of growth was applied to each stage of the
    smallest member, which serves any space. The study is rebuilt from the history at each call.
    Samples over the budget are asked again and never trained.
    """

    name = "tpe"
    Options = TpeOptions

    @classmethod
    def unavailable(cls) -> str | None:
        """None when it works here; else the reason and the cure. Does not import Optuna."""
        return None if find_spec("optuna") else "needs Optuna: pip install 'hwnas[compare]'"

    def propose(self, history: Sequence[Trial], n: int, rng: np.random.Generator) -> list[Proposal]:
        """Up to `n` new members within the budget; see `Strategy.propose`."""
        asked = self._options
        missing = min(n, asked.samples - len(history))
        if missing <= 0:
            return []
        levels = self._levels()
        study = self._study(history, levels, int(rng.integers(2**31)))
        seen = {trial.spec.key for trial in history}
        budgets = options.budgets(self._context, asked.targets_ms)
        proposals: list[Proposal] = []
        for _ in range(asked.asks):
            if len(proposals) == missing:
                break
            budget = budgets[(len(history) + len(proposals)) % len(budgets)]
            trial = study.ask()
            code = {name: trial.suggest_int(name, 0, most) for name, most in levels.items()}
            spec = self._decode(code)
            excess = budget.excess(self._context.estimate(spec))
            if excess > 0:
                # Below every accuracy, and the lower the larger the overrun (Deb 2000).
                study.tell(trial, -excess)
                continue
            if spec.key in seen:
                study.tell(trial, state=import_module("optuna").trial.TrialState.FAIL)
                continue
            seen.add(spec.key)
            reason = f"TPE sample after {trial.number + 1} draws"
            proposals.append(Proposal(spec=spec, images=asked.sample_images, reason=reason, notes=dict(code)))
        return proposals

    def sees(self, history: Sequence[Trial]) -> int:
        """The results of whole batches."""
        return len(history) - len(history) % self._options.batch

    def _study(self, history: Sequence[Trial], levels: dict[str, int], seed: int) -> Any:
        """A study that knows the finished trials."""
        optuna: Any = import_module("optuna")
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=self._options.startup)
        study = optuna.create_study(direction="maximize", sampler=sampler)
        bounds = {name: optuna.distributions.IntDistribution(0, most) for name, most in levels.items()}
        finished = []
        for trial in _told(history):
            # A measurement may have moved the bounds since: a level that no longer fits is clipped.
            params = {name: min(int(trial.notes.get(name, 0)), most) for name, most in levels.items()}
            finished.append(
                optuna.trial.create_trial(params=params, distributions=bounds, value=accuracy(trial))
            )
        study.add_trials(finished)
        return study

    def _levels(self) -> dict[str, int]:
        """For each stage and kind of growth, how many steps fit the budget when taken alone."""
        smallest = self._context.space.smallest()
        names = [f"{move.stage}.{move.kind}" for move in self._context.space.grow(smallest)]
        return {name: self._most(smallest, name) for name in dict.fromkeys(names)}

    def _most(self, spec: NetworkSpec, name: str) -> int:
        for level in range(MOST_LEVELS):
            grown = self._step(spec, name)
            if grown is None or not self._context.budget.fits(self._context.estimate(grown)):
                return level
            spec = grown
        return MOST_LEVELS

    def _step(self, spec: NetworkSpec, name: str) -> NetworkSpec | None:
        """The network after one growth of the kind; None where there is none."""
        moves = self._context.space.grow(spec)
        return next((move.spec for move in moves if f"{move.stage}.{move.kind}" == name), None)

    def _decode(self, code: dict[str, int]) -> NetworkSpec:
        spec = self._context.space.smallest()
        for name, level in code.items():
            for _ in range(level):
                spec = self._step(spec, name) or spec
        return spec


def _told(history: Sequence[Trial]) -> list[Trial]:
    """The trained trials; of more than `MOST_TOLD` the best half of these and the newest other half."""
    done = trained(history)
    best = sorted(done, key=lambda trial: (-accuracy(trial), trial.index))[: MOST_TOLD // 2]
    chosen = {trial.index for trial in best}
    rest = [trial for trial in done if trial.index not in chosen]
    kept = {trial.index for trial in [*best, *rest[len(rest) - (MOST_TOLD - len(best)) :]]}
    return [trial for trial in done if len(done) <= MOST_TOLD or trial.index in kept]
