"""The final trainings: a winner gets the images that the search left."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from hwnas.records import Measurement, Proposal, Trial, trained
from hwnas.search.log import images_of
from hwnas.search.ranking import ancestry
from hwnas.search.state import SearchState, finish, untrained, updated
from hwnas.search.workers import Begun

# A final training of less than this part of all images (a rounding rest) is not worth its restart.
WORTH = 0.01
# Weights that grew over less than this part of the images of the final training are a worse start for it
# than new ones, by 1.9 points of test top-1 after 34,000 images of CIFAR-10 (docs/evidence/search.md;
# Ash & Adams 2020, arXiv 1910.08475, on warm starts). A network that was trained as it is from the first
# goes on: there the short training helped, by 1 to 3 points in as many images.
WARM = 0.5


@dataclass(frozen=True)
class Final:
    """A winner that is to be trained out.

    Attributes:
        winner: the candidate.
        measured: of the winner, for the new trial.
        teacher: index of the trial that teaches it, if any.
        lost: images of final trainings of others that were passed over.
    """

    winner: Trial
    measured: Measurement
    teacher: int | None
    lost: int


def train_out(job: SearchState, plans: Sequence[Final]) -> None:
    """Train winners with the remaining images, or with as many as the remaining time allows.

    As many at once as there are workers: none depends on another. They are written down in this order.
    """
    begun: deque[tuple[Trial, Begun]] = deque()
    seen: set[int] = set()  # a network may win for several budgets
    for plan in plans:
        if plan.winner.index in seen:
            continue
        seen.add(plan.winner.index)
        if len(begun) == job.workers.jobs:
            finish(job, *begun.popleft())
        proposal = _proposal(job, plan)
        if proposal is None:
            continue
        trial = updated(untrained(job, proposal, len(begun)), measured=plan.measured)
        begun.append((trial, job.workers.begin(proposal, trial.index)))
    while begun:
        finish(job, *begun.popleft())


def _proposal(job: SearchState, plan: Final) -> Proposal | None:
    """A final training; None where there was one, or nothing is left for it."""
    winner, teacher = plan.winner, plan.teacher
    finals = [trial for trial in job.trials if trial.winner == winner.index]
    if finals and not finals[-1].cut:
        return None
    left = max(0, _images_left(job, finals) - plan.lost)
    images = min(left, _images_in_time(job, winner))
    if images < WORTH * (job.limits.images or 0) or images < 1:
        return None
    before = finals[-1] if finals else winner
    grown = not finals and _was_another(job.trials, winner)
    goes_on = job.strategy.continues
    warm = goes_on or not grown or _seen(job.trials, winner) >= WARM * images
    return Proposal(
        spec=winner.spec,
        parent=before.index if warm else None,
        images=images,
        reason=f"final training of trial {winner.index}" + ("" if warm else " from new weights"),
        role="final",
        winner=winner.index,
        cut=images < left,
        teacher=winner.teacher if goes_on and teacher is None else teacher,
        inherited_lr=winner.inherited_lr if goes_on else None,
        frozen_norms=goes_on and winner.frozen_norms,
    )


def _was_another(trials: Sequence[Trial], trial: Trial) -> bool:
    """Whether a trial's weights began in another network than its own."""
    return any(one.spec.key != trial.spec.key for one in ancestry(trials, trial))


def _seen(trials: Sequence[Trial], trial: Trial) -> int:
    """Training images that a trial's weights have seen, inherited ones included."""
    return sum(one.evaluation.images for one in ancestry(trials, trial) if one.evaluation is not None)


def _images_left(job: SearchState, finals: Sequence[Trial]) -> int:
    """Images that the search, and earlier final trainings of the same winner, left."""
    if job.limits.images is None:
        return 0
    return job.limits.images - sum(map(images_of, [*job.log.searched, *finals]))


def _images_in_time(job: SearchState, winner: Trial) -> int:
    """Images that the winner can be trained with before the time limit, at the rate seen so far."""
    done = [t.outcome for t in trained(job.trials)]
    macs_per_s = sum(e.train_macs for e in done) / max(sum(e.wall_s for e in done), 1e-9)
    macs_per_image = winner.outcome.train_macs / max(winner.outcome.images, 1)
    if job.limits.seconds is None:
        return sys.maxsize
    if macs_per_image:
        images_per_s = macs_per_s / macs_per_image
    elif job.pace is not None:
        images_per_s = job.pace(winner.spec) / _teaching(job, winner)
    else:
        return sys.maxsize  # nothing was trained yet that would tell the rate
    # A tenth is kept for the validation and the files that follow.
    time_left_s = 0.9 * (job.limits.seconds - job.elapsed_s())
    return max(0, int(time_left_s * images_per_s))


def _teaching(job: SearchState, winner: Trial) -> float:
    """How many times as long training takes with the winner's teacher, whose forward pass comes on top."""
    if winner.teacher is None:
        return 1.0
    teacher = next(t for t in job.trials if t.index == winner.teacher)
    return 1.0 + teacher.estimate.macs / (3 * winner.estimate.macs)
