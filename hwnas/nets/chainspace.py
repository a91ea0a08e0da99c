"""The search space over levels: members, neighbours and one-step growth."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import Any

import numpy as np

from hwnas import sizes
from hwnas.errors import InputError
from hwnas.nets.count import count_block
from hwnas.nets.levels import Gene, Level, Levels, Operator
from hwnas.protocols import Move
from hwnas.spec import BlockSpec, NetworkSpec

Edit = tuple[str, Gene]
# Growth moves that raise an attribute of a stage's operators, which they are named after.
RAISES = ("kernel", "expand", "se")
MEMO = 4096  # networks whose growths are remembered


class ChainSpace(Levels):
    """A `hwnas.protocols.SearchSpace`: what can be done with the networks that `Levels` describes."""

    def describe(self) -> dict[str, Any]:
        """Input, classes, number of members and stages, for display."""
        stages = [self._described(n) for n in sorted({level.stage for level in self.levels})]
        shape = list(self.input_shape)
        return {"input_shape": shape, "classes": self.classes, "members": self.members, "stages": stages}

    def _described(self, stage: int) -> dict[str, Any]:
        levels = [level for level in self.levels if level.stage == stage]
        operators = {op for level in levels for op in level.operators}
        return {
            "stage": stage,
            "sizes": sorted({self.size(level.halvings) for level in levels}, key=sizes.pixels, reverse=True),
            "widths": [level.width for level in levels],
            "depth": [min(level.depth[0] for level in levels), max(level.depth[1] for level in levels)],
            "kinds": sorted({op.kind for op in operators}),
            "kernels": sorted({op.kernel for op in operators}),
            "expands": sorted({op.expand for op in operators}),
            "se": sorted({op.se for op in operators}),
        }

    def smallest(self) -> NetworkSpec:
        """The member with the fewest MACs, by dynamic programming over the edges."""
        best: dict[int, tuple[int, Gene]] = {}
        for at in range(len(self.levels)):
            ways = []
            if at in self.starts:
                cost, operators = self._cheapest(None, at)
                ways.append((self._macs(self.stem_block(at)) + cost, Gene((at,), (operators,))))
            for before in sorted(i for i, j in self.edges if j == at):
                cost, operators = self._cheapest(before, at)
                total, gene = best[before]
                ways.append((total + cost, Gene((*gene.path, at), (*gene.operators, operators))))
            best[at] = min(ways, key=lambda way: way[0])
        end = min(self.ends, key=lambda i: best[i][0] + self._macs(self.head_block(i)))
        return self.express(best[end][1])

    def _macs(self, block: BlockSpec) -> int:
        return count_block(block, self.convention).macs

    def _cheapest(self, before: int | None, at: int) -> tuple[int, tuple[Operator, ...]]:
        """Least MACs through a level after another, and the operators that reach it."""
        level = self.levels[at]
        cost = {op: self._macs(self.first(before, at, op)) for op in level.operators}
        first = min(level.operators, key=cost.__getitem__)
        more = {op: self._macs(self.rest(at, op)) for op in level.operators}
        other = min(level.operators, key=more.__getitem__)
        depth = level.depth[0]
        return cost[first] + (depth - 1) * more[other], (first, *(other,) * (depth - 1))

    def uniform(self) -> list[NetworkSpec]:
        """The reference path with all depths scaled together, in proportion to their greatest values.

        The smallest member comes first where it is not among them, so that any budget that the
        space can keep is kept by a uniform member.
        """
        levels = [self.levels[i] for i in self.reference]
        deepest = max(level.depth[1] for level in levels)
        found: dict[str, NetworkSpec] = {}
        for n in range(1, 1 + deepest):
            depths = (max(level.depth[0], -(-n * level.depth[1] // deepest)) for level in levels)
            operators = tuple((level.operators[0],) * depth for level, depth in zip(levels, depths))
            spec = self.express(Gene(self.reference, operators))
            found.setdefault(spec.key, spec)
        least = self.smallest()
        return [*([] if least.key in found else [least]), *found.values()]

    def sample(self, rng: np.random.Generator) -> NetworkSpec:
        """A random member: every path equally likely, then every depth, then every operator."""
        path: list[int] = []
        options = list(self.starts)
        while options:
            stop = bool(path) and path[-1] in self.ends
            ways = np.array([float(self.paths_from[i]) for i in options] + [float(stop)])
            pick = int(rng.choice(len(ways), p=ways / ways.sum()))
            if pick == len(options):
                break
            path.append(options[pick])
            options = self.successors(path[-1])
        operators = []
        for level in (self.levels[i] for i in path):
            depth = int(rng.integers(level.depth[0], level.depth[1] + 1))
            draws = rng.integers(len(level.operators), size=depth)
            operators.append(tuple(level.operators[int(d)] for d in draws))
        return self.express(Gene(tuple(path), tuple(operators)))

    def mutate(self, spec: NetworkSpec, rng: np.random.Generator) -> NetworkSpec:
        """A random neighbour: one depth, one operator or one level of the path changed.

        The kind of change is drawn first, or the many operators would crowd out the few depths.

        Raises:
            InputError: for a network that is not a member, or is the only one.
        """
        gene = self.gene(spec)
        edits = [*self._depth_edits(gene), *self._operator_edits(gene), *self._path_edits(gene)]
        if not edits:
            raise InputError(f"network {spec.name or spec.key} has no neighbour in the space {self.name}")
        kinds = sorted({kind for kind, _ in edits})
        kind = kinds[int(rng.integers(len(kinds)))]
        genes = [edited for of, edited in edits if of == kind]
        return self.express(genes[int(rng.integers(len(genes)))])

    def _depth_edits(self, gene: Gene) -> Iterator[Edit]:
        for s, (at, operators) in enumerate(zip(gene.path, gene.operators)):
            low, high = self.levels[at].depth
            if len(operators) > low:
                yield "depth", _splice(gene, s, operators[:-1])
            if len(operators) < high:
                yield "depth", _splice(gene, s, (*operators, operators[-1]))

    def _operator_edits(self, gene: Gene) -> Iterator[Edit]:
        for s, (at, operators) in enumerate(zip(gene.path, gene.operators)):
            for i, old in enumerate(operators):
                for new in self.levels[at].operators:
                    if new != old:
                        yield "operator", _splice(gene, s, (*operators[:i], new, *operators[i + 1 :]))

    def _path_edits(self, gene: Gene) -> Iterator[Edit]:
        """Paths that differ by one level: replaced, put in, or left out."""
        path = gene.path
        for s in range(len(path) + 1):
            for at, level in enumerate(self.levels):
                if self._joins((*path[:s], at, *path[s:])):
                    yield "level", _splice(gene, s, (level.operators[0],) * level.depth[0], at, drop=0)
                if s < len(path) and at != path[s] and self._joins((*path[:s], at, *path[s + 1 :])):
                    yield "level", _splice(gene, s, _fitted(gene.operators[s], level), at)
            if s < len(path) and self._joins((*path[:s], *path[s + 1 :])):
                yield (
                    "level",
                    Gene((*path[:s], *path[s + 1 :]), (*gene.operators[:s], *gene.operators[s + 1 :])),
                )

    def _joins(self, path: Sequence[int]) -> bool:
        if not path or path[0] not in self.starts or path[-1] not in self.ends:
            return False
        return all(step in self.edges for step in pairwise(path))

    def grow(self, spec: NetworkSpec) -> list[Move]:
        """Every one-step growth of a stage: deeper by one block, or all of it one step larger.

        ``deeper`` repeats the stage's last block; ``wider`` goes to the next width of the stage;
        ``kernel``, ``expand`` and ``se`` raise the least value in the stage to the next, in every
        block that has it.

        Raises:
            InputError: for a network that is not a member.
        """
        return list(self._grown(spec))

    @cached_property
    def _grown(self) -> Callable[[NetworkSpec], list[Move]]:
        """`grow`, worked out once for each of the last `MEMO` networks: a search asks again and again."""
        return lru_cache(MEMO)(self._growths)

    def _growths(self, spec: NetworkSpec) -> list[Move]:
        gene = self.gene(spec)
        moves = []
        for s, (at, operators) in enumerate(zip(gene.path, gene.operators)):
            if len(operators) < self.levels[at].depth[1]:
                moves.append(("deeper", s, _splice(gene, s, (*operators, operators[-1]))))
            wider = self._wider(gene.path, s)
            if wider is not None:
                moves.append(("wider", s, _splice(gene, s, _fitted(operators, self.levels[wider]), wider)))
            for kind in RAISES:
                larger = raised(operators, kind, self.levels[at])
                if larger != operators:
                    moves.append((kind, s, _splice(gene, s, larger)))
        return [Move(stage, kind, self.express(grown)) for kind, stage, grown in moves]

    def _wider(self, path: tuple[int, ...], s: int) -> int | None:
        """The next wider level of the same stage that the path can go through instead."""
        now = self.levels[path[s]]
        options = [
            at
            for at, level in enumerate(self.levels)
            if (level.stage, level.halvings) == (now.stage, now.halvings)
            and level.width > now.width
            and self._joins((*path[:s], at, *path[s + 1 :]))
        ]
        return min(options, key=lambda at: self.levels[at].width, default=None)


def _splice(
    gene: Gene, s: int, operators: tuple[Operator, ...], at: int | None = None, *, drop: int = 1
) -> Gene:
    """The gene with stage `s` replaced (drop=1) or another put before it (drop=0)."""
    level = gene.path[s] if at is None else at
    return Gene(
        (*gene.path[:s], level, *gene.path[s + drop :]),
        (*gene.operators[:s], operators, *gene.operators[s + drop :]),
    )


def _fitted(operators: tuple[Operator, ...], level: Level) -> tuple[Operator, ...]:
    """Operators carried over to another level, as far as it has them and its depths allow."""
    low, high = level.depth
    kept = tuple(op if op in level.operators else level.operators[0] for op in operators[:high])
    return kept + (kept[-1],) * (low - len(kept))


def raised(operators: tuple[Operator, ...], attribute: str, level: Level) -> tuple[Operator, ...]:
    """Operators with the least raisable value of `attribute` raised by one step."""

    def above(op: Operator) -> Operator | None:
        value = getattr(op, attribute)
        higher = [
            other
            for other in level.operators
            if getattr(other, attribute) > value and replace(other, **{attribute: value}) == op
        ]
        return min(higher, key=lambda other: getattr(other, attribute), default=None)

    raisable = {op: above(op) for op in operators}
    values = [getattr(op, attribute) for op, higher in raisable.items() if higher is not None]
    if not values:
        return operators
    return tuple(raisable[op] or op if getattr(op, attribute) == min(values) else op for op in operators)
