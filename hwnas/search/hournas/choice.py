"""Scores of operators by place, and the network that they make best within a budget.

Scores add up over places, costs nearly do: `SlotChooser` finds the best fill of all places by
`budgeted_path.best_path` with each place's own cost, checks the whole network against the budget, and
where that is over searches for the largest allowance whose network is within.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from hwnas.errors import InputError
from hwnas.estimates import Budget, Estimate
from hwnas.nets.chainspace import ChainSpace
from hwnas.nets.count import count_block
from hwnas.nets.hournas.slots import Fill, Slot, block, network, paths, slots
from hwnas.search.solve.entropy import block_entropy
from hwnas.search.solve.path import Edge, best_path
from hwnas.spec import NetworkSpec

# Allowances that are tried where the whole network is over the budget.
REPAIRS = 12
Price = Callable[[NetworkSpec], Estimate]
EdgeChoice = Fill | tuple[float, ...]


@dataclass(frozen=True)
class Vital:
    """What the first stage decides: a path over the levels, and an operator for each vital place."""

    path: tuple[int, ...]
    fills: tuple[int, ...]  # in the order of the places


@dataclass(frozen=True)
class SlotScores:
    """What is decided and what is left to choose.

    Attributes:
        space: of levels.
        path: levels.
        choices: for each place the scores of its operators in the level's order; of a place that is
            not vital, leaving it empty scores 0. A place that is decided holds its fill instead: its
            operator's index, or None where it stays empty.
    """

    space: ChainSpace
    path: tuple[int, ...]
    choices: tuple[EdgeChoice, ...]

    @cached_property
    def slots(self) -> tuple[Slot, ...]:
        """The places along the path."""
        return slots(self.space, self.path)

    @property
    def open_slots(self) -> list[int]:
        """Places that are left to choose."""
        return [n for n, choice in enumerate(self.choices) if isinstance(choice, tuple)]

    @property
    def vital_fills(self) -> list[int | None]:
        """For each stage the operator that its first place was decided to hold; None if it was not."""
        first = {slot.stage: n for n, slot in reversed(list(enumerate(self.slots)))}
        found = [self.choices[first[stage]] for stage in range(len(self.path))]
        return [choice if isinstance(choice, int) else None for choice in found]

    def leaning(self, weight: float) -> SlotScores:
        """The scores with the untrained ones (`entropies`) added, `weight` times as large as they are."""
        rows = [entropies(self.space, self.path, slot) for slot in self.slots]
        most = max((abs(x) for c in self.choices if isinstance(c, tuple) for x in c), default=0.0) or 1.0
        unit = weight * most / max(max(row) for row in rows)
        choices = tuple(
            tuple(x + unit * e for x, e in zip(c, row, strict=True)) if isinstance(c, tuple) else c
            for c, row in zip(self.choices, rows, strict=True)
        )
        return SlotScores(self.space, self.path, choices)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types; `read` is the reverse."""
        return {
            "path": list(self.path),
            "choices": [list(c) if isinstance(c, tuple) else c for c in self.choices],
        }

    @staticmethod
    def read(space: ChainSpace, given: Mapping[str, Any]) -> SlotScores:
        """Scores out of their JSON form.

        Raises:
            InputError: they are of another space.
        """
        try:
            path = tuple(int(i) for i in given["path"])
            choices = tuple(tuple(map(float, c)) if isinstance(c, list) else c for c in given["choices"])
        except (KeyError, TypeError, ValueError) as exc:
            raise InputError(f"the learned scores cannot be read: {exc!r}") from exc
        known = path in paths(space) and len(choices) == len(slots(space, path))
        if known:
            sizes = [len(space.levels[path[slot.stage]].operators) for slot in slots(space, path)]
            known = all(
                len(c) == size if isinstance(c, tuple) else c is None or 0 <= c < size
                for c, size in zip(choices, sizes, strict=True)
            )
        if not known:
            raise InputError(
                f"the learned scores do not match {space.name}: path {path}, {len(choices)} places"
            )
        return SlotScores(space, path, choices)


@dataclass(frozen=True)
class SlotChooser:
    """Finds networks by scores.

    Attributes:
        space, scores: what there is to choose.
        estimate: predicted latency and counts of a network.
    """

    space: ChainSpace
    scores: SlotScores
    estimate: Price

    @cached_property
    def cheapest(self) -> tuple[Fill, ...]:
        """The decided operators, the cheapest of the other vital places, nothing else."""
        fills: list[Fill] = []
        for slot, choice in zip(self.scores.slots, self.scores.choices, strict=True):
            if isinstance(choice, tuple):
                fills.append(self._least(slot) if slot.vital else None)
            else:
                fills.append(choice)
        return tuple(fills)

    def _least(self, slot: Slot) -> int:
        """The operator of fewest MACs in a place."""
        operators = self.space.levels[self.scores.path[slot.stage]].operators
        blocks = [block(self.space, self.scores.path, slot, k) for k in range(len(operators))]
        macs = [count_block(one, self.space.convention).macs for one in blocks]
        return macs.index(min(macs))

    @cached_property
    def costs(self) -> dict[int, list[tuple[Fill, float]]]:
        """For each open place its fills, and what each adds to the cheapest network, in milliseconds.

        Upper ends of the intervals, since these are what a budget is held against; a place's cost
        does not depend on its position among those that are not vital in its stage.
        """
        base = self.estimate(network(self.space, self.scores.path, self.cheapest)).bound_ms
        known: dict[tuple[int, bool, Fill], float] = {}
        found: dict[int, list[tuple[Fill, float]]] = {}
        for n in self.scores.open_slots:
            slot = self.scores.slots[n]
            fills: list[Fill] = list(range(len(self.space.levels[self.scores.path[slot.stage]].operators)))
            for fill in fills if slot.vital else [*fills, None]:
                key = (slot.stage, slot.vital, fill)
                if key not in known:
                    changed = [*self.cheapest[:n], fill, *self.cheapest[n + 1 :]]
                    spec = network(self.space, self.scores.path, changed)
                    known[key] = max(self.estimate(spec).bound_ms - base, 0.0)
                found.setdefault(n, []).append((fill, known[key]))
        return found

    @cached_property
    def fixed_ms(self) -> float:
        """Upper end of the cheapest network's latency."""
        return self.estimate(network(self.space, self.scores.path, self.cheapest)).bound_ms

    def best(self, budget: Budget) -> tuple[Fill, ...] | None:
        """The fills of highest score within a budget; None where even the cheapest network is over."""
        if budget.latency_ms is None or not self._fits(self.cheapest, budget):
            return None
        # Bisection over the allowance: costs add up only nearly, so the whole network is checked.
        low, high, found = 0.0, max(budget.latency_ms - self.fixed_ms, 0.0), self.cheapest
        allowance = high
        for _ in range(REPAIRS):
            fills = self._for(allowance)
            if self._fits(fills, budget):
                found, low = fills, allowance
                if allowance == high:
                    break
            else:
                high = allowance
            allowance = 0.5 * (low + high)
        return found

    def score(self, fills: Sequence[Fill]) -> float:
        """Sum of scores over the places that were left to choose."""
        total = 0.0
        for choice, fill in zip(self.scores.choices, fills, strict=True):
            total += choice[fill] if isinstance(choice, tuple) and fill is not None else 0.0
        return total

    def _fits(self, fills: Sequence[Fill], budget: Budget) -> bool:
        return budget.fits(self.estimate(network(self.space, self.scores.path, fills)))

    def _for(self, allowance_ms: float) -> tuple[Fill, ...]:
        """The best fills whose added costs are within an allowance."""
        open_, edges, meant = self.scores.open_slots, [], []
        # One layer of parallel edges per open place: an exact choice under the allowance.
        for at, n in enumerate(open_):
            scores = self.scores.choices[n]
            assert isinstance(scores, tuple)
            for fill, cost in self.costs[n]:
                edges.append(Edge(at, at + 1, cost, 0.0 if fill is None else scores[fill]))
                meant.append((n, fill))
        fills = list(self.cheapest)
        for edge in best_path(edges, 0, len(open_), allowance_ms).edges if edges else ():
            n, fill = meant[edge]
            fills[n] = fill
        return tuple(fills)


# -- scores without training -----------------------------------------------------------------


def entropies(space: ChainSpace, path: Sequence[int], slot: Slot) -> tuple[float, ...]:
    """Untrained score of each operator in a place (`entropy.block_entropy`), in nats."""
    level = space.levels[path[slot.stage]]
    return tuple(block_entropy(block(space, path, slot, k)) for k in range(len(level.operators)))


def decided(
    space: ChainSpace, vital: Vital | None, path: Sequence[int], scored: Sequence[tuple[float, ...]]
) -> SlotScores:
    """Scores of all places, those of the vital ones replaced by what the first stage decided."""
    fills = iter(vital.fills if vital is not None else ())
    choices: list[EdgeChoice] = []
    for slot, scores in zip(slots(space, path), scored, strict=True):
        choices.append(next(fills) if vital is not None and slot.vital else scores)
    return SlotScores(space, tuple(path), tuple(choices))


def proxy_scores(space: ChainSpace, vital: Vital | None) -> SlotScores:
    """Untrained scores of all places that are not decided; without `vital` along the reference path."""
    path = vital.path if vital is not None else space.reference
    return decided(space, vital, path, [entropies(space, path, slot) for slot in slots(space, path)])


def proxy_vital(space: ChainSpace, estimate: Price, budget: Budget, share: float) -> Vital:
    """Vital blocks of highest untrained score."""

    def score(path: Sequence[int]) -> list[tuple[float, ...]]:
        return [entropies(space, path, slot) for slot in slots(space, path) if slot.vital]

    return choose_vital(space, estimate, budget, share, score)


def choose_vital(
    space: ChainSpace,
    estimate: Price,
    budget: Budget,
    share: float,
    score: Callable[[Sequence[int]], Sequence[tuple[float, ...]]],
) -> Vital:
    """The path and vital operators of highest score within a part of the budget, nothing else in place.

    Where no path is within that part, it is looked for in all of the budget; where that fails too, the
    smallest member decides.

    Args:
        space, estimate: see `SlotChooser`.
        budget: of the whole network.
        share: part of its latency for stem, head and vital blocks.
        score: for a path the scores of the operators of its vital places.
    """
    assert budget.latency_ms is not None
    choosers = [SlotChooser(space, _bare(space, path, score(path)), estimate) for path in paths(space)]
    for part in (share, 1.0):
        aim = budget.scaled(part)
        ways = [(one, fills) for one in choosers if (fills := one.best(aim)) is not None]
        if ways:
            chooser, fills = max(ways, key=lambda way: way[0].score(way[1]))
            return Vital(chooser.scores.path, tuple(fill for fill in fills if fill is not None))
    gene = space.gene(space.smallest())
    smallest = [
        space.levels[at].operators.index(operator)
        for at, operators in zip(gene.path, gene.operators, strict=True)
        for operator in operators
    ]
    return Vital(gene.path, tuple(smallest))


def _bare(space: ChainSpace, path: Sequence[int], scored: Sequence[tuple[float, ...]]) -> SlotScores:
    """The vital places left to choose, the others empty."""
    mine = iter(scored)
    choices: list[EdgeChoice] = [next(mine) if slot.vital else None for slot in slots(space, path)]
    return SlotScores(space, tuple(path), tuple(choices))
