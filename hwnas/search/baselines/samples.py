"""Options of the baselines that train samples of the space."""

from __future__ import annotations

from dataclasses import dataclass

from hwnas.options import option
from hwnas.search import options


@dataclass(frozen=True)
class SampleOptions(options.SeveralBudgets):
    """How many networks are sampled and how long they are trained.

    Attributes:
        samples: networks to train, taken for each budget in turn.
        search_share: part of `images` that is spread evenly over the samples; the winner gets the rest.
    """

    samples: int = option(8, "Networks to train.", low=1, high=1_000_000)
    search_share: float = option(0.5, "Part of images that is spread over the samples.", low=0, high=1)

    @property
    def sample_images(self) -> int | None:
        """Training images of one sample; None leaves them to the evaluator's default."""
        return int(self.images * self.search_share) // max(self.samples, 1) or None
