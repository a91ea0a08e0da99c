"""Stage-wise growth: start shallow, add what pays for its milliseconds, stop at the budget.

Descends from StageWise NAS (Jordao et al. 2020, arXiv 2004.11178), whose published controller is
`paper.Published` (``fidelity="paper"``). The default differs where the original has a gap: a grown
network inherits the weights of the one before it, a growth is taken only when its gain is
significant, gains are weighed against predicted milliseconds, and the budget is a hard limit. Most
of the training is left for the network that is kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from hwnas.estimates import Budget
from hwnas.protocols import Move, SearchContext
from hwnas.records import Proposal, StageImportance, Trial
from hwnas.search import options
from hwnas.search.moves import further
from hwnas.search.ranking import COLLAPSE, accuracy, by_accuracy, candidates, newest
from hwnas.search.solve import fine
from hwnas.search.stagewise import growth
from hwnas.search.stagewise.by_size import BySize, has_kinds, largest_uniform, needed
from hwnas.search.stagewise.gains import Gains, pooled
from hwnas.search.stagewise.options import StagewiseOptions
from hwnas.search.stagewise.paper import Published
from hwnas.search.strategy import Decision, Judging, Strategy
from hwnas.spec import NetworkSpec
from hwnas.units import format_ms

# In the notes of a last step: the number of its budget.
FINE = "fine"


class Stagewise(Strategy[StagewiseOptions]):
    """Grow a shallow network stage by stage, by the best gain per millisecond."""

    name = "stagewise"
    Options = StagewiseOptions

    def __init__(self, context: SearchContext, *, fills: bool = True) -> None:
        """Composed with others, the milliseconds left over are theirs, and it does not fill them."""
        super().__init__(context)
        o = self._options
        self._fills = fills
        self._last_steps = _remembered(self._worked_out)  # asked for twice: to propose, to explain
        published = Published(context, o.growth_step, o.iterations, o.start)
        self._published = published if o.fidelity == "paper" else None
        least = needed(context.space, o.rounds)
        self._begin = o.begin
        if o.begin == "auto" and has_kinds(context.space):
            few = o.importance == "gradient" and 0 < o.growing < least
            self._begin = "unjudged" if few else "uniform"
        by_size = BySize(context, o.targets_ms, o.begin_share, o.growing, least)
        self._by_size = by_size if self._begin == "unjudged" and self._published is None else None

    def propose(self, history: Sequence[Trial], n: int, rng: np.random.Generator) -> list[Proposal]:
        """The next network of the path, or its temporary network; empty at the end of the path."""
        if self._published is not None:
            return self._published.propose(history, self._options.images)
        if self._by_size is not None:
            return self._by_size.propose(history)
        # Step 1: start from a shallow network.
        now = self._now(history)
        if now is None:
            return [] if history else [self._start()]
        if _filling(history):
            return self._filled(history)
        # Step 2 (VIP only): a temporary network, deeper in every stage, to compare with.
        if self._options.importance == "vip" and self._temporary(history, now) is None:
            probe = self._probe(history, now)
            if probe is not None:
                return [probe]
        # Step 3: grow by the best significant gain per millisecond.
        judged, _ = self._judge(history, now)
        chosen = growth.taken(judged)
        if chosen is not None:
            return [self._grown(history, now, chosen)]
        # Step 4: without a significant gain train further.
        again = _unjudged(judged, now) or any(one.fate == "not significant" for one in judged)
        found = self._again(history, now) if again else []
        # Step 5: where the budget stops growth, the last steps are fine; where nothing is worth it, it ends.
        binds = any(one.fate == "closed" for one in judged)
        return found or (self._filled(history) if binds else [])

    def growths(self, proposal: Proposal) -> list[Move]:
        """The growths of a proposed network that are to be judged: those that fit the (largest) budget."""
        return [] if self._by_size is not None else self.fitting(proposal.spec)

    def fitting(self, spec: NetworkSpec) -> list[Move]:
        """The growths of a network that fit the (largest) budget."""
        fits, estimate = self._context.budget.fits, self._context.estimate
        return [move for move in self._moves(spec)[0] if fits(estimate(move.spec))]

    def asks_importance(self) -> Judging | None:
        """An even part of the images for judging in each round; the published controller asks for VIP."""
        if self._by_size is not None:
            return None
        return Judging("vip" if self._published is not None else self._options.importance, self._judging())

    def _judging(self) -> int:
        """Images for judging the growths of one network."""
        o = self._options
        return int(o.growing * (1 - o.start_share) * o.judge_share) // max(o.rounds, 1)

    def explain(self, history: Sequence[Trial]) -> list[Decision]:
        """What was decided after the newest trial, and why; see `Strategy.explain`."""
        if self._published is not None:
            return self._published.explain(history)
        if self._by_size is not None:
            return self._by_size.explain(history)
        now = self._now(history)
        if now is None or (self._options.importance == "vip" and self._temporary(history, now) is None):
            return []
        if _filling(history):
            text = f"{now.spec.depths_text}: {self._left(now)}"
            ended = not self.propose(history, 1, np.random.default_rng(0))
            return [Decision("stop", text, {"depths": list(now.spec.depths)})] if ended else []
        judged, budget = self._judge(history, now)
        unit = "VIP" if self._options.importance == "vip" else "%"
        made = growth.decisions(judged, budget, unit)
        if growth.taken(judged) is None and not self.propose(history, 1, np.random.default_rng(0)):
            made.append(self._stop(judged, now))
        return made

    def rank(self, trials: Sequence[Trial]) -> list[Trial]:
        """The newest network first, as every growth before it was significant.

        Just grown, a network may be less accurate than it was; the training that follows is for
        that. One that has collapsed (`COLLAPSE`) comes after the others. Where no training follows,
        accuracy decides.
        """
        if not self._options.images:
            return by_accuracy(trials)
        trained = candidates(trials)
        best = max(map(accuracy, trained), default=0.0)
        return sorted(trained, key=lambda trial: (best - accuracy(trial) > COLLAPSE, -trial.index))

    def _now(self, history: Sequence[Trial]) -> Trial | None:
        """The newest network of the path that was trained."""
        return newest(history)

    def _start(self) -> Proposal:
        images = int(self._options.growing * self._options.start_share)
        spec = self._first()
        return Proposal(spec=spec, images=images or None, reason=f"start shallow: {spec.depths_text}")

    def _first(self) -> NetworkSpec:
        """Where growth begins; see `StagewiseOptions.begin`."""
        if self._begin != "uniform":
            return self._context.space.smallest()
        whole = options.budgets(self._context, self._options.targets_ms)[0]
        return largest_uniform(self._context, whole.scaled(self._options.begin_share))

    def _temporary(self, history: Sequence[Trial], now: Trial) -> Trial | None:
        """The trained temporary network of the present one."""
        of_now = (t for t in history if t.role == "probe" and t.parent == now.index)
        return next((t for t in of_now if t.evaluation is not None), None)

    def _probe(self, history: Sequence[Trial], now: Trial) -> Proposal | None:
        spec = now.spec
        for move in self._moves(spec)[0]:
            if move.kind == "deeper":
                spec = further(self._context.space, spec, move.stage, move.steps)
        if spec.key == now.spec.key or any(t.role == "probe" and t.parent == now.index for t in history):
            return None
        return Proposal(
            spec=spec,
            parent=now.index,
            images=self._round_images(history, now),
            reason=f"temporary network, deeper in every stage than {now.spec.depths_text}",
            role="probe",
            inherited_lr=self._rate(),
        )

    def _gains(self, history: Sequence[Trial], now: Trial) -> Gains:
        if self._options.importance != "vip":
            return pooled(history, now, self._context.space)
        mine = {(one.stage, one.kind): one for one in now.outcome.importance}
        other = self._temporary(history, now)
        if other is None or other.evaluation is None:
            return {}
        gains = {}
        for one in other.evaluation.importance:
            base = mine[one.stage, one.kind]
            steps = len(other.spec.stages[one.stage]) - len(now.spec.stages[one.stage])
            gains[one.stage, one.kind] = StageImportance(
                stage=one.stage,
                value=one.value - base.value,
                se=math.hypot(one.se, base.se),
                steps=max(steps, 1),
            )
        return gains

    def _moves(self, spec: NetworkSpec) -> tuple[list[Move], list[Budget]]:
        """Growths by about equal milliseconds, and the budgets that still let something grow.

        The steps of a growth stay within the smallest of these budgets where one step does.
        """
        estimate, stride_ms = self._context.estimate, self._stride_ms()
        budgets = options.budgets(self._context, self._options.targets_ms)
        moves = growth.growths(spec, budgets[-1], stride_ms, self._context)
        while len(budgets) > 1:
            near = growth.growths(spec, budgets[0], stride_ms, self._context)
            fitting = [budgets[0].fits(estimate(move.spec)) for move in near]
            if any(fitting):
                chosen = zip(near, moves, fitting, strict=True)
                return [small if fits else large for small, large, fits in chosen], budgets
            budgets = budgets[1:]
        return moves, budgets

    def _stride_ms(self) -> float:
        """Milliseconds that one growth is to add: an even part of the way to the largest budget."""
        whole_ms = self._context.budget.latency_ms or math.inf
        start = self._context.estimate(self._first())
        return max(whole_ms - start.latency_ms, 0.0) / max(self._options.rounds, 1)

    def _judge(self, history: Sequence[Trial], now: Trial) -> tuple[list[growth.Growth], Budget]:
        """Verdicts against the smallest budget in which something grows, else the largest.

        A growth that was tried from here and refused or failed is not tried again.
        """
        moves, budgets = self._moves(now.spec)
        tried = {
            (t.notes["stage"], t.notes["kind"])
            for t in history
            if t.parent == now.index and t.evaluation is None and "stage" in t.notes
        }
        moves = [move for move in moves if (move.stage, move.kind) not in tried]
        gains = self._gains(history, now)
        for budget in budgets:
            judged = growth.weigh(now.spec, moves, gains, self._options.confidence, budget, self._context)
            if growth.taken(judged) is not None:
                break
        return judged, budget

    def _round_images(self, history: Sequence[Trial], now: Trial) -> int | None:
        """Images of the next round: an even part of what growing may still spend, never next to none."""
        total = self._options.growing
        if not total:
            return None
        grown = sum("stage" in t.notes for t in history if t.evaluation is not None)
        rounds = max(self._options.rounds - grown, 1)
        judging = self._judging() if self._options.importance != "vip" else 0
        left = total - options.spent(history)
        return max(left // rounds - judging, total // (8 * self._options.rounds), 1)

    def _rate(self) -> float | None:
        """Learning rate of a network that continues from another; None leaves it to the recipe."""
        rate = self._options.growing_lr
        return None if rate == 1.0 else rate

    def _grown(self, history: Sequence[Trial], now: Trial, chosen: growth.Growth) -> Proposal:
        return Proposal(
            spec=chosen.spec,
            parent=now.index,
            images=self._round_images(history, now),
            reason=f"grow {chosen.place} by {chosen.steps}: best gain per millisecond",
            inherited_lr=self._rate(),
            notes={"stage": chosen.stage, "kind": chosen.kind, "steps": chosen.steps},
        )

    def _again(self, history: Sequence[Trial], now: Trial) -> list[Proposal]:
        """Train the same network further before asking again, unless patience is at its end."""
        attempt = int(now.notes.get("attempt", 0)) + 1
        if attempt > self._options.patience:
            return []
        why = "no gain is significant" if now.outcome.importance else "accuracy is at chance level"
        return [
            Proposal(
                spec=now.spec,
                parent=now.index,
                images=self._round_images(history, now),
                reason=f"{why}: train {now.spec.depths_text} further and judge again",
                inherited_lr=self._rate(),
                notes={"attempt": attempt},
            )
        ]

    def _filled(self, history: Sequence[Trial]) -> list[Proposal]:
        """The last steps to each budget, the smallest first, so that the newest network is of the largest."""
        if not self._fills:
            return []
        return self._last_steps(history)

    def _worked_out(self, history: Sequence[Trial]) -> list[Proposal]:
        for n, budget in enumerate(options.budgets(self._context, self._options.targets_ms)):
            found = fine.last_steps(history, self._context, budget, note=(FINE, n))
            if found is not None:
                parent, spec = found
                total = self._options.growing
                return [
                    Proposal(
                        spec=spec,
                        parent=parent.index,
                        images=max(total // (8 * self._options.rounds), 1) if total else None,
                        reason="no growth fits what is left of the budget: single blocks are changed",
                        inherited_lr=self._rate(),
                        notes={FINE: n},
                    )
                ]
        return []

    def _left(self, now: Trial) -> str:
        limit_ms = self._context.budget.latency_ms or math.inf
        left_ms = limit_ms - self._context.estimate(now.spec).latency_ms
        return f"{format_ms(max(left_ms, 0.0))} of {format_ms(limit_ms)} left by prediction"

    def _stop(self, judged: Sequence[growth.Growth], now: Trial) -> Decision:
        budget = self._context.budget
        full = all(one.fate == "closed" for one in judged)
        binding = {option for one in judged for option in budget.overruns(one.estimate)}
        limits = " and ".join(sorted(binding)) or "the budget"
        why = f"no further growth fits {limits}" if full else "converged: no gain is significant"
        if _unjudged(judged, now):
            why = "its accuracy is at chance level, so no growth was judged"
        if budget.latency_ms is not None:
            why += f"; {self._left(now)}"
        return Decision("stop", f"{now.spec.depths_text}: {why}", {"depths": list(now.spec.depths)})


def _filling(history: Sequence[Trial]) -> bool:
    """Whether growth is over and the last steps have begun."""
    return any(FINE in trial.notes for trial in history)


def _unjudged(judged: Sequence[growth.Growth], now: Trial) -> bool:
    """Whether growths that fit were not judged at all, as of a network that is no better than guessing."""
    return not now.outcome.importance and any(one.fate == "unknown" for one in judged)


def _remembered(
    function: Callable[[Sequence[Trial]], list[Proposal]],
) -> Callable[[Sequence[Trial]], list[Proposal]]:
    """A pure function of the history, which is not worked out again for the history of the call before."""
    known: list[Trial] | None = None
    found: list[Proposal] = []

    def asked(history: Sequence[Trial]) -> list[Proposal]:
        nonlocal known, found
        if known != list(history):
            known, found = list(history), function(history)
        return found

    return asked
