"""How far an engine's scores are from its network's, and how far they may be."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hwnas.arrays import Float32s, Int64s
from hwnas.deploy.manifest import Parity
from hwnas.errors import DataFormatError
from hwnas.lazy import lazy_import
from hwnas.records import Check, Precision

special = lazy_import("scipy.special")


@dataclass(frozen=True)
class Tolerance:
    """How far an engine may be from its network.

    Attributes:
        error: largest difference of a score, as a share of the largest absolute reference score.
        cosine: smallest cosine between the score vectors of one image.
        agreement: smallest share of images with the same top class.
        drop: largest loss of top-1 accuracy, as a fraction.
        images: fewest different images that show all of it. Where every score must be nearly equal, a few
            do; int8 is judged by a share of 1 %, which fewer than 100 images cannot show. From
            `LEAST_IMAGES` on fewer pass, with the weaker claim said.
    """

    error: float
    cosine: float
    agreement: float
    drop: float
    images: int


# fp32 runtimes reorder sums and may use other convolution algorithms (Winograd): 1e-3 of the scale
# is ten to a hundred times what they differ by, and far below what a wrong weight causes. fp16 has
# 11 and bf16 8 significant bits, so scores carry relative errors of about 2^-11 and 2^-8 a layer.
# int8 is judged by what it decides: 1 point of accuracy is what static quantisation is expected to keep.
TOLERANCES: dict[Precision, Tolerance] = {
    "fp32": Tolerance(error=1e-3, cosine=0.99999, agreement=0.995, drop=0.002, images=8),
    "fp16": Tolerance(error=2e-2, cosine=0.9995, agreement=0.99, drop=0.005, images=16),
    "bf16": Tolerance(error=1e-1, cosine=0.995, agreement=0.97, drop=0.01, images=32),
    "int8": Tolerance(error=5e-1, cosine=0.97, agreement=0.95, drop=0.01, images=100),
}

# Fewer images than these say nothing about any precision.
LEAST_IMAGES = 8
# How sure a claim about images that were not compared is.
CONFIDENCE = 0.95

# Scores of trained networks are below 100. Errors are judged as a share of the largest score, so that a
# damaged weight of 1e35 would allow any error: above this nothing is judged.
LARGEST_SCORE = 1e4


def compare(
    reference: Float32s, given: Float32s, labels: Int64s | None, data: str, distinct: int | None = None
) -> Parity:
    """Figures of the difference between two score arrays (n, classes) of `distinct` different images.

    An engine's scores that are not finite count as infinitely wrong.

    Raises:
        DataFormatError: those of the network are not finite, so that there is nothing to compare with.
    """
    if not np.isfinite(reference).all():
        raise DataFormatError(
            "the network itself gives scores that are NaN or infinite, so its weights are damaged; train it "
            "again"
        )
    finite = bool(np.isfinite(given).all())
    r, g = reference.astype(np.float64), np.nan_to_num(given.astype(np.float64), nan=0.0, posinf=0, neginf=0)
    norms = np.linalg.norm(r, axis=1) * np.linalg.norm(g, axis=1)
    cosines = (r * g).sum(axis=1) / np.maximum(norms, 1e-30)
    judged = np.zeros(len(r), bool) if labels is None else labels >= 0
    top_r, top_g = r.argmax(axis=1), g.argmax(axis=1)
    return Parity(
        images=len(r),
        distinct=distinct,
        data=data,
        max_abs_err=float(np.abs(r - g).max()) if finite else float(np.finfo(np.float32).max),
        scale=float(np.abs(r).max()),
        cosine_min=float(cosines.min()) if finite else -1.0,
        top1_agreement=float((top_r == top_g).mean()),
        labelled=int(judged.sum()) or None,
        top1_reference=float((top_r == labels)[judged].mean()) if judged.any() else None,
        top1_engine=float((top_g == labels)[judged].mean()) if judged.any() else None,
    )


def judge(found: Parity, precision: Precision) -> list[Check]:
    """Checks of a comparison against the tolerance of a precision."""
    limit = TOLERANCES[precision]
    allowed = limit.error * min(max(found.scale, 1e-6), LARGEST_SCORE)
    sound = found.scale <= LARGEST_SCORE
    detail = (
        f"scores differ by at most {found.max_abs_err:.2g} ({allowed:.2g} allowed), smallest cosine "
        "similarity "
        f"{found.cosine_min:.6f} ({limit.cosine} needed), over {found.images} images: {found.data}"
    )
    if not sound:
        detail += (
            f"; the network's own scores reach {found.scale:.2g}, above {LARGEST_SCORE:.0e} which no trained "
            "network reaches: its weights are damaged"
        )
    checks = [
        _enough(found, precision),
        Check(
            name="parity",
            passed=sound and found.max_abs_err <= allowed and found.cosine_min >= limit.cosine,
            detail=detail,
        ),
        Check(
            name="top1",
            passed=found.top1_agreement >= limit.agreement,
            detail=f"engine and network predict the same class for {100 * found.top1_agreement:.2f} % of the "
            f"images ({100 * limit.agreement:g} % needed)",
        ),
    ]
    if found.top1_reference is not None and found.top1_engine is not None:
        checks.append(_accuracy(found.top1_reference, found.top1_engine, found.labelled, limit.drop))
    return checks


def _accuracy(reference: float, engine: float, labelled: int | None, drop: float) -> Check:
    """Whether the engine is as accurate; among few images one may be lost, since none is less than that."""
    detail = f"top-1 of the network {100 * reference:.2f} %, of the engine {100 * engine:.2f} %"
    few = labelled is not None and labelled * drop < 1
    allowed = 1 / labelled if labelled is not None and few else drop
    if few:
        detail += (
            f" ({labelled} labelled images: one may become wrong; too few to show that at most "
            f"{100 * drop:g} % are lost)"
        )
    else:
        detail += f" ({100 * drop:g} % of the images at most may become wrong)"
    return Check(name="accuracy", passed=engine >= reference - allowed - 1e-9, detail=detail)


def _enough(found: Parity, precision: Precision) -> Check:
    """Whether there were images enough for what the other checks claim, and what fewer do show."""
    needed = TOLERANCES[precision].images
    different = found.images if found.distinct is None else found.distinct
    least = min(needed, LEAST_IMAGES)
    detail = f"{different} different images compared ({needed} needed for {precision})"
    if different < least:
        detail += f"; fewer than {least} are not enough: raise --images, or give --data with more"
    elif different < needed:
        share = at_least(round(found.top1_agreement * different), different)
        detail += (
            f"; so few show, with {100 * CONFIDENCE:g} % confidence, that engine and network agree on "
            f"{100 * share:.0f} % of such images or more, and no better: more images in the data show more"
        )
    return Check(name="images", passed=different >= least, detail=detail)


def at_least(hits: int, tries: int, confidence: float = CONFIDENCE) -> float:
    """The share that is surely exceeded where `hits` of `tries` were seen (Clopper and Pearson 1934)."""
    return float(special.betaincinv(hits, tries - hits + 1, 1 - confidence)) if hits else 0.0
