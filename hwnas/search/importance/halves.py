"""What looks at changed pieces of a trained model share: which images, and how values are summed up."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hwnas.protocols import Move, Question
from hwnas.records import StageImportance


def halves(question: Question, images: int) -> tuple[Tensor, Tensor]:
    """Places of at most `images` random images: half for batch norm of what is changed, half for the look."""
    at = torch.from_numpy(question.rng.permutation(len(question.images))[:images]).to(question.images.device)
    half = max(len(at) // 2, 1)
    return at[:half], at[half:] if len(at) > 1 else at


def importance(move: Move, values: Tensor) -> StageImportance:
    """Mean of the values of the images, (n,), with its standard error."""
    se = float(values.std()) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return StageImportance(stage=move.stage, kind=move.kind, value=float(values.mean()), se=se)
