"""What a changed piece of a trained model gives instead of what it gave: two looks that need no second loss.

`FirstOrder`: the change of the piece's output along the gradient of the loss, to first order its rise.
`ChangedOutput`: the change as a part of the output itself; it needs no labels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from hwnas.nets.build import inherit
from hwnas.nets.model.variants import parent_of
from hwnas.nets.norms import recalibrate
from hwnas.protocols import Autocast, Question
from hwnas.records import StageImportance
from hwnas.search.importance.halves import halves, importance
from hwnas.traced import DROP, VariantSpec


class _WatchedGraph(fx.Interpreter):
    """Runs a graph and keeps the values of some of its operations, with their gradients."""

    def __init__(self, module: fx.GraphModule, wanted: set[str]) -> None:
        super().__init__(module)
        self.wanted = wanted
        self.seen: dict[str, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        """The value of an operation."""
        made = super().run_node(n)
        if n.name not in self.wanted:
            return made
        if made.requires_grad:
            made.retain_grad()
        self.seen[n.name] = made
        return made.clone()  # what follows may change it in place


@dataclass(frozen=True)
class _Instead(ABC):
    """Half of the images for batch norm of the changed network, half for the look.

    Attributes:
        images: for each changed network.
        autocast: context of the forward pass, for half precision.
    """

    images: int = 512
    autocast: Autocast = nullcontext

    def __call__(self, question: Question) -> tuple[StageImportance, ...]:
        """One value for every change; see `hwnas.protocols.Importance`."""
        module, spec = question.module, question.spec
        images, labels = question.images, question.labels
        assert isinstance(spec, VariantSpec)
        assert isinstance(module, fx.GraphModule)
        pieces = parent_of(spec.base).by_name
        first, held = halves(question, self.images)
        seen = images[first]
        # Step 1: what enters and leaves every piece, and the gradient of each image's loss by what leaves it.
        ends = {name for piece in pieces.values() for name in (piece.start.name, piece.end.name)}
        whole = _WatchedGraph(module.eval(), ends)
        with self.autocast():
            scores = whole.run(images[held])
        torch.autograd.backward(F.cross_entropy(scores.float(), labels[held], reduction="sum"))
        # Step 2: what leaves a changed piece. What enters it is as before.
        found = []
        for move in question.moves:
            assert isinstance(move.spec, VariantSpec)
            ((name, edit),) = move.spec.edits
            start, end = pieces[name].start.name, pieces[name].end.name
            if edit == DROP:
                instead = whole.seen[start].detach()
            else:
                changed = inherit(module, spec, move.spec, seed=0)
                recalibrate(changed, seen)
                assert isinstance(changed, fx.GraphModule)
                again = _WatchedGraph(changed.eval(), {end})
                with torch.no_grad(), self.autocast():
                    again.run(images[held])
                instead = again.seen[end]
            values = self.judged(whole.seen[end], instead)
            found.append(importance(move, values))
        module.zero_grad(set_to_none=True)
        return tuple(found)

    @abstractmethod
    def judged(self, was: Tensor, now: Tensor) -> Tensor:
        """What the change is worth for each image, (n,), from what left the piece and what leaves it now."""


class FirstOrder(_Instead):
    """Size of the first-order change of an image's loss."""

    def judged(self, was: Tensor, now: Tensor) -> Tensor:
        """See `_Instead`."""
        assert was.grad is not None
        return (was.grad * (now - was.detach())).flatten(1).sum(1).abs().double()


class ChangedOutput(_Instead):
    """Squared change of the output, as a part of its square."""

    def judged(self, was: Tensor, now: Tensor) -> Tensor:
        """See `_Instead`."""
        before = was.detach().flatten(1).double()
        change = (now.flatten(1).double() - before).square().sum(1)
        return change / before.square().sum(1).clamp_min(1e-12)
