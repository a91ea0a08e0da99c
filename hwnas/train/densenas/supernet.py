"""The dense super-network of DenseNAS (arXiv 1906.09607): all paths, shared weights, relaxed choices.

Every edge has a head that aligns shapes, every routing block a stack; each of these layers holds
its candidate operators, weighted by a softmax over operator logits alpha. A block's input is the
sum over its in-edges of path probability times aligned tensor; path probabilities are a softmax
over each block's *outgoing* edges of path logits beta, as published.

Only the operators that a step keeps are computed (one in weight steps, two in architecture
steps): memory and time follow the kept ones. Two quirks of the published code are left out: the
last block's second softmax over already normalised probabilities, and a temperature that reaches
beta but not alpha.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hwnas.cost.chained import RoutingGraph, expected
from hwnas.cost.dense import Costs
from hwnas.errors import InputError
from hwnas.nets.build import Block, initialise
from hwnas.nets.densenas.graph import DenseSpace
from hwnas.nets.densenas.layers import candidates, layer_places
from hwnas.spec import BlockSpec

Kept = tuple[tuple[int, ...], ...]  # for each mixed layer the indices of the operators to compute


class MixedLayer(nn.Module):
    """Candidates of one layer; the kept ones are computed and summed by their probabilities."""

    def __init__(self, blocks: Sequence[BlockSpec | None], space: DenseSpace) -> None:
        super().__init__()
        self.candidates = nn.ModuleList(
            nn.Identity() if b is None else _plain(Block(b, space.convention), b) for b in blocks
        )

    def forward(self, x: Tensor, weights: Tensor, kept: tuple[int, ...]) -> Tensor:
        """Sum over the kept operators of weight times output; `weights` are of the kept ones."""
        if len(kept) == 1:  # its weight is 1, whatever alpha says
            single: Tensor = self.candidates[kept[0]](x)
            return single
        parts = [w * self.candidates[k](x) for w, k in zip(weights, kept, strict=True)]
        return torch.stack(parts).sum(0)


def _plain(module: Block, block: BlockSpec) -> Block:
    """A block as the super-network uses it: fresh weights, batch norm without scale and shift.

    Affine parameters of shared batch norms would be pulled by every path that crosses them (the
    published super-network leaves them out for the same reason).
    """
    initialise(module, block)
    for name, child in list(module.named_children()):
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, nn.BatchNorm2d(child.num_features, eps=1e-3, affine=False))
    return module


class Supernet(nn.Module):
    """The super-network of `space`.

    Attributes:
        places: where every mixed layer sits; `alpha[k]` are the logits of layer k.
        beta: for each block but the sink, logits over its outgoing edges (ascending targets).
    """

    def __init__(self, space: DenseSpace, *, seed: int) -> None:
        super().__init__()
        self.space = space
        self.places = layer_places(space)
        self.graph = RoutingGraph(len(space.routing), space.edges)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.stem = nn.Sequential(*(_plain(Block(b, space.convention), b) for b in space.stem))
            self.mixed = nn.ModuleList(MixedLayer(candidates(space, p), space) for p in self.places)
            tails = [space.head_block(i, space.sink, space.head_ops[0]) for i in space.in_edges[space.sink]]
            self.tails = nn.ModuleList(_plain(Block(b, space.convention), b) for b in tails)
            width = space.routing[-1].width
            self.classifier = nn.Linear(width, space.classes)
            # 1e-3 N(0, 1), as published: near uniform, with ties broken
            self.alpha = nn.ParameterList(1e-3 * torch.randn(len(p.operators)) for p in self.places)
            self.beta = nn.ParameterList(1e-3 * torch.randn(len(out)) for out in space.out_edges[:-1])
        self._heads = {p.edge: k for k, p in enumerate(self.places) if p.edge is not None}
        self._stacks: dict[int, list[int]] = {j: [] for j in range(len(space.routing))}
        for k, place in enumerate(self.places):
            if place.slot is not None:
                self._stacks[place.block].append(k)

    def weight_parameters(self) -> list[nn.Parameter]:
        """What weight steps train: everything but alpha and beta."""
        own = {id(p) for p in self.architecture_parameters()}
        return [p for p in self.parameters() if id(p) not in own]

    def architecture_parameters(self) -> list[nn.Parameter]:
        """What architecture steps train: alpha and beta."""
        return [*self.alpha, *self.beta]

    def path_probabilities(self) -> Tensor:
        """(edges,) probability of each edge given its tail, in the order of `space.edges`."""
        rows = [torch.softmax(b, 0) for b in self.beta]
        position = {
            (i, j): (i, n) for i, out in enumerate(self.space.out_edges[:-1]) for n, j in enumerate(out)
        }
        return torch.stack([rows[i][n] for i, n in (position[edge] for edge in self.space.edges)])

    def keep_all(self) -> Kept:
        """Every operator of every layer."""
        return tuple(tuple(range(len(p.operators))) for p in self.places)

    def sample(self, count: int, generator: torch.Generator, *, uniform: bool) -> Kept:
        """`count` operators per layer without replacement, uniformly or by probability."""
        kept = []
        for logits in self.alpha:
            p = torch.ones_like(logits) if uniform else torch.softmax(logits.detach(), 0)
            n = min(count, len(p))
            kept.append(tuple(sorted(torch.multinomial(p, n, generator=generator).tolist())))
        return tuple(kept)

    def operator_weights(self, kept: Kept) -> list[Tensor]:
        """For each layer the softmax of alpha over its kept operators."""
        return [torch.softmax(a[list(k)], 0) for a, k in zip(self.alpha, kept, strict=True)]

    def forward(self, x: Tensor, kept: Kept | None = None) -> Tensor:
        """Logits (batch, classes); only the kept operators are computed (all if None)."""
        kept = kept or self.keep_all()
        weights, p = self.operator_weights(kept), self.path_probabilities()
        edge_p = dict(zip(self.space.edges, p, strict=True))
        outputs: list[Tensor] = [self.stem(x)]
        for j in range(1, self.space.sink):
            total: Tensor | None = None
            for i in self.space.in_edges[j]:
                k = self._heads[i, j]
                aligned = edge_p[i, j] * self.mixed[k](outputs[i], weights[k], kept[k])
                total = aligned if total is None else total + aligned
            assert total is not None  # the space refuses blocks without in-edges
            for k in self._stacks[j]:
                total = self.mixed[k](total, weights[k], kept[k])
            outputs.append(total)
        sink = self.space.sink
        parts = [edge_p[i, sink] * tail(outputs[i]) for i, tail in zip(self.space.in_edges[sink], self.tails)]
        logits: Tensor = self.classifier(torch.stack(parts).sum(0).mean((2, 3)))
        return logits

    def expected_cost(self, costs: Costs, kept: Kept | None = None) -> Tensor:
        """Expected cost over paths and operators (chained estimation), differentiable."""
        kept = kept or self.keep_all()
        if len(costs.layers) != len(self.places):
            raise InputError(f"costs name {len(costs.layers)} layers, the space has {len(self.places)}")
        means = [
            (w * torch.tensor([row[n] for n in k], dtype=w.dtype)).sum()
            for w, k, row in zip(self.operator_weights(kept), kept, costs.layers, strict=True)
        ]
        zero = torch.zeros(())
        tails = dict(zip(self.space.in_edges[self.space.sink], costs.sink, strict=True))
        heads = [
            means[self._heads[i, j]] if j != self.space.sink else torch.tensor(tails[i])
            for i, j in self.space.edges
        ]
        blocks = [
            sum((means[k] for k in self._stacks[j]), start=zero) for j in range(len(self.space.routing))
        ]
        total: Tensor = expected(self.graph, self.path_probabilities(), heads, blocks)
        return total + costs.fixed

    def entropy(self, kept: Kept | None = None) -> Tensor:
        """Sum over all choices of entropy in units of its largest possible value; 0 when all is decided."""
        rows = [w for w in self.operator_weights(kept or self.keep_all()) if len(w) > 1]
        rows += [torch.softmax(b, 0) for b in self.beta if len(b) > 1]
        shares = [-(p * p.clamp_min(1e-12).log()).sum() / math.log(len(p)) for p in rows]
        return torch.stack(shares).sum()

    @torch.no_grad()
    def keep_mass(self, before: Sequence[Tensor], kept: Kept) -> None:
        """Undo the drift of a layer's kept mass after an architecture step (ProxylessNAS's rescale).

        Kept logits get a common shift log(sum exp before / sum exp after), and the others return to
        what they were (an optimiser with momentum moves them too): operators which were not sampled
        keep their probability exactly.
        """
        for logits, old, rows in zip(self.alpha, before, kept, strict=True):
            k = list(rows)
            stepped = logits[k] + torch.logsumexp(old[k], 0) - torch.logsumexp(logits[k], 0)
            logits.copy_(old)
            logits[k] = stepped
