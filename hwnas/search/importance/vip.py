"""The score of StageWise NAS (Jordao et al. 2020): how evenly the features of a stage matter."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hwnas.arrays import Float64s
from hwnas.lazy import lazy_import
from hwnas.protocols import Question
from hwnas.records import StageImportance

if TYPE_CHECKING:
    from hwnas.nets.build import Network

decomposition = lazy_import("sklearn.cross_decomposition")


POOL = 8  # side and stride of the average pool in front of the score, in pixels
CHUNK = 256  # images at once


def judge(*, images: int, autocast: Callable[[], AbstractContextManager[object]]) -> Vip:
    """The importance as a search makes one; it trains nothing and judges stages, not growths."""
    return Vip()


@dataclass(frozen=True)
class Vip:
    """Mean variable importance in projection (VIP) of each stage.

    Features are a stage's last residual sum before its activation, averaged over 8x8 pixels with
    stride 8 (over the whole map where it is smaller) and flattened: 256, 128 and 64 values on the
    CIFAR skeleton. A partial least squares regression on the one-hot labels gives their VIP; the
    stage's value is the mean. As mean VIP^2 = 1, it is at most 1, and 1 only if all features matter
    equally. The standard error is a bootstrap's over images.

    Attributes:
        components: of the regression.
        bootstrap: resamples; 0 leaves the standard error at 0.
    """

    components: int = 2
    bootstrap: int = 20

    def __call__(self, question: Question) -> tuple[StageImportance, ...]:
        """One value per stage; see `hwnas.protocols.Importance`."""
        target = np.eye(question.spec.classes)[question.labels.cpu().numpy()]
        found = []
        for stage, x in enumerate(pooled_features(question.module, question.images)):
            # The score of the stage, then its standard error by a bootstrap over images.
            value = float(vip(x, target, self.components).mean())
            again = []
            for _ in range(self.bootstrap):
                pick = question.rng.integers(len(x), size=len(x))
                again.append(vip(x[pick], target[pick], self.components).mean())
            se = float(np.std(again, ddof=1)) if len(again) > 1 else 0.0
            found.append(StageImportance(stage=stage, value=value, se=se))
        return tuple(found)


def pooled_features(module: nn.Module, images: Tensor) -> list[Float64s]:
    """Per stage the pooled, flattened features (images, values) that `Vip` looks at."""
    chunks: list[list[Float64s]] = []
    with torch.no_grad():
        for part in torch.split(images, CHUNK):
            sums = cast("Network", module).features(part)  # what `nets.build` makes
            side = [min(POOL, one.shape[-1]) for one in sums]
            chunks.append(
                [
                    F.avg_pool2d(one.float(), k, stride=k).flatten(1).double().cpu().numpy()
                    for one, k in zip(sums, side, strict=True)
                ]
            )
    return [np.concatenate(parts) for parts in zip(*chunks, strict=True)]


def vip(x: Float64s, y: Float64s, components: int) -> Float64s:
    """Variable importance in projection of each column of `x` (samples, p) for `y` (samples, q).

    VIP_f = sqrt(p * sum_h s_h w_fh^2 / sum_h s_h), with s_h = (t_h . t_h) (q_h . q_h) from the scores
    T, the weights W (columns of length 1) and the y-loadings Q of the regression, both sides
    standardised. Hence the mean of VIP^2 is 1. Columns that never vary get 0.
    """
    # A class that a resample missed, or a dead channel, is a constant column: it explains nothing.
    varies, wanted = x.std(axis=0) > 1e-12, y.std(axis=0) > 0
    score = np.zeros(x.shape[1])
    if not varies.any() or not wanted.any():
        return score
    x, y = x[:, varies], y[:, wanted]
    # The default tolerance stops its power iteration at three digits.
    fit = decomposition.PLSRegression(
        n_components=min(components, x.shape[1]), tol=1e-12, max_iter=20_000
    ).fit(x, y)
    s = (fit.x_scores_**2).sum(axis=0) * (fit.y_loadings_**2).sum(axis=0)
    score[varies] = np.sqrt(len(score) * (fit.x_weights_**2 @ s) / s.sum())
    return score
