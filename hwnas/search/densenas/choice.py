"""Which network of a dense space to take, given scores of its choices and a budget."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

from hwnas.cost.dense import Costs
from hwnas.errors import BudgetInfeasible, InputError
from hwnas.estimates import Budget, Estimate
from hwnas.nets.densenas.graph import DenseSpace
from hwnas.search.densenas import costs as dense_costs
from hwnas.search.densenas.derive import Derived, Scores, Trust, drawn_within, most_probable, within
from hwnas.spec import NetworkSpec
from hwnas.units import format_ms

# Halvings of the interval in which the largest predicted latency lies whose upper bound still fits.
HALVINGS = 12
NARROW = 0.002  # relative width of the interval at which that ends
# Gain in nats below which a learned score is rounding and says nothing.
SAYS = 1e-6
# Learned scores as they are.
FULL = Trust()
# How often the prior's weight is doubled before a network below the wanted use of a budget is taken.
DOUBLINGS = 12
# Larger than the cost of any network, in any unit.
NO_LIMIT = 1e15


@dataclass(frozen=True)
class ChosenNetwork:
    """A derived network with its estimate; `weight` is that of the prior that it took."""

    derived: Derived
    spec: NetworkSpec
    estimate: Estimate
    weight: float = 0.0

    def used(self, budget: Budget) -> float:
        """Upper bound of the latency as a part of the budget: 1 where nothing more would fit."""
        return self.estimate.bound_ms / budget.latency_ms if budget.latency_ms else 1.0


@dataclass(frozen=True)
class Chooser:
    """Choices of a dense space under learned scores and a prior.

    What was learned counts by how much more probable than by chance it makes a choice, weighted
    by how reliable it is (`costs.gains`): where that is nothing, the prior alone decides. The prior
    (`costs.entropies`) rewards every layer. It begins with weight `prior`, which is doubled until
    `least` of the budget is used: the learned scores decide as far as they use the budget, and no
    further.

    Attributes:
        space: the dense space.
        learned: log-probabilities; None where nothing was learned and the prior alone decides.
        estimate: of networks; its latency must be additive over layers.
        prior: the prior's weight to begin with, at least zero.
        least: part of the budget that a network is to use where the space allows.
        trust: how reliable `learned` is; None takes the log-probabilities as they are, as published.
    """

    space: DenseSpace
    learned: Scores | None
    estimate: Callable[[NetworkSpec], Estimate]
    prior: float = 0.02
    least: float = 0.9
    trust: Trust | None = FULL

    @cached_property
    def believed(self) -> Scores | None:
        """What the learned scores have to say; None where that is nothing and the prior alone decides."""
        if self.learned is None or self.trust is None:
            return self.learned
        found = dense_costs.gains(self.space, self.learned, self.trust)
        largest = max(abs(v) for row in (found.edges, *found.layers) for v in row)
        return found if largest > SAYS else None

    @cached_property
    def costs(self) -> Costs:
        """Predicted ms of every choice."""
        return dense_costs.costs(self.space, lambda spec: self.estimate(spec).latency_ms)

    @cached_property
    def worth(self) -> Scores:
        """The prior's scores."""
        return dense_costs.entropies(self.space)

    def most_probable(self) -> ChosenNetwork | None:
        """The published derivation, under no budget; None where nothing was learned."""
        return (
            None
            if self.learned is None
            else self._choice(most_probable(self.space, self.learned, self.costs))
        )

    @cached_property
    def cheapest(self) -> ChosenNetwork:
        """The network of the smallest predicted latency."""
        saved = Scores(
            edges=tuple(0.0 for _ in self.space.edges),
            layers=tuple(tuple(-cost for cost in row) for row in self.costs.layers),
        )
        sinks = dict(zip(self.space.in_edges[self.space.sink], self.costs.sink, strict=True))
        edges = tuple(-sinks[i] if j == self.space.sink else 0.0 for i, j in self.space.edges)
        return self._choice(within(self.space, replace(saved, edges=edges), self.costs, NO_LIMIT))

    def optimum(self, budget: Budget) -> ChosenNetwork:
        """The best network whose latency (upper bound) and counts are within the budget.

        Exact for a limit on latency. Further limits are kept by lowering the latency until they hold.

        Raises:
            BudgetInfeasible: not even the cheapest network fits; names its latency.
            InputError: the budget names no latency.
        """
        self._check(budget)
        if self.believed is None:
            return self._fitting(budget, self.worth, 1.0)
        best: ChosenNetwork | None = None
        weight = self.prior
        for _ in range(DOUBLINGS):
            scores = dense_costs.mixed(self.believed, self.worth, weight)
            found = self._fitting(budget, scores, weight)
            if best is None or found.used(budget) > best.used(budget):
                best = found
            if found.used(budget) >= self.least:
                return found
            weight = 2 * weight or 0.01
        assert best is not None
        return best

    def chance_within(self, latency_ms: float) -> float | None:
        """The part of the networks drawn by what was learned that are predicted to take at most `latency_ms`.

        None where nothing was learned.
        """
        return (
            None if self.learned is None else drawn_within(self.space, self.learned, self.costs, latency_ms)
        )

    def _check(self, budget: Budget) -> None:
        if budget.latency_ms is None:
            raise InputError("deriving a network needs a latency budget; write for example 18ms")
        least = self.cheapest
        if not budget.fits(least.estimate):
            bound_ms = least.estimate.bound_ms
            raise BudgetInfeasible(
                f"no network of the space {self.space.name!r} meets the budget {budget.describe()}: the "
                "cheapest is "
                f"predicted at {format_ms(least.estimate.latency_ms)} (allow {format_ms(bound_ms)})",
                smallest_ms=bound_ms,
            )

    def _fitting(self, budget: Budget, scores: Scores, weight: float) -> ChosenNetwork:
        """The best network that fits: bisection over the predicted latency that is aimed at."""
        assert budget.latency_ms is not None
        best = self.cheapest
        low, high = best.derived.cost * (1 + 1e-9), max(budget.latency_ms, best.derived.cost * (1 + 1e-9))
        aim = high
        for step in range(HALVINGS):
            found = self._choice(within(self.space, scores, self.costs, aim), weight)
            if budget.fits(found.estimate):
                best, low = found, aim
            else:
                high = aim
            if low >= high * (1 - NARROW):
                break
            # An interval's relative width hardly changes nearby, so its ratio is a good first guess.
            guess = aim * budget.latency_ms / found.estimate.bound_ms
            aim = guess if step == 0 and low < guess < high else 0.5 * (low + high)
        return best

    def _choice(self, derived: Derived, weight: float = 0.0) -> ChosenNetwork:
        spec = derived.network(self.space)
        return ChosenNetwork(derived, spec, self.estimate(spec), weight)
