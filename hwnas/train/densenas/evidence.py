"""How reliable the learned scores of a super-network are: do two halves of its steps agree?

Log-probabilities of a short search look decided whether or not there was anything to learn: an
optimiser that normalises gradients moves logits as far by noise as by signal. What a batch says of
a choice is the slope of its loss at that choice's logit. The slopes are summed apart for odd and
even architecture steps, which see other images and other sampled operators; where the loss knows
better choices from worse, the two sums agree, and where it does not, their correlation over all
choices is that of noise. From the correlation r of the halves the reliability of both together is
2 r / (1 + r) (Spearman 1910, Brown 1910).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

# Standard errors by which the correlation must differ from none before the scores count.
CORRELATED = 2.0


class SplitHalves:
    """Sums of slopes of the loss, apart for two halves of the architecture steps.

    Attributes:
        sums: for each parameter (2, choices), sums of the slopes of even and odd steps.
        squares: for each parameter (choices,), sums of the squared slopes of all steps.
    """

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self.sums = [torch.zeros(2, len(p)) for p in parameters]
        self.squares = [torch.zeros(len(p)) for p in parameters]

    def add(self, step: int, slopes: Sequence[Tensor]) -> None:
        """One architecture step's slopes of the loss alone, without costs."""
        for total, square, slope in zip(self.sums, self.squares, slopes, strict=True):
            total[step % 2] += slope
            square += slope**2

    def trust(self, layers: int) -> tuple[float, float]:
        """Reliability of edges and of operators; the first `layers` parameters are of operators."""
        edges = reliability(self.sums[layers:], self.squares[layers:])
        return edges, reliability(self.sums[:layers], self.squares[:layers])

    def tensors(self) -> dict[str, Tensor]:
        """For a checkpoint."""
        return {"evidence.sums": torch.cat(self.sums, 1), "evidence.squares": torch.cat(self.squares)}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Back from a checkpoint."""
        sizes = [len(square) for square in self.squares]
        self.sums = [part.clone() for part in torch.split(tensors["evidence.sums"], sizes, 1)]
        self.squares = [part.clone() for part in torch.split(tensors["evidence.squares"], sizes)]


def reliability(sums: Sequence[Tensor], squares: Sequence[Tensor]) -> float:
    """Reliability, 0 to 1, of summed slopes; 0 where the halves agree no better than noise may.

    Slopes are in units of their own spread, as layers that few paths reach have small ones. Slopes of
    a layer sum to zero, so that each has one choice fewer to compare than it has operators.

    Args:
        sums: of each layer (2, choices), one row per half.
        squares: of each layer (choices,).
    """
    rows, free = [], 0
    for total, square in zip(sums, squares, strict=True):
        seen = square > 0
        if int(seen.sum()) > 1:
            rows.append(total[:, seen] / square[seen].sqrt())
            free += int(seen.sum()) - 1
    if free < 2:
        return 0.0
    both = torch.cat(rows, 1).double()
    norms = both.norm(dim=1)
    if float(norms.min()) == 0:
        return 0.0
    r = float(both[0] @ both[1] / (norms[0] * norms[1]))
    return 2 * r / (1 + r) if r > CORRELATED / math.sqrt(free) else 0.0
