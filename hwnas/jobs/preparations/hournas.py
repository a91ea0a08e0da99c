"""What ``hournas`` learns before it proposes: scores from a super-network of shared weights.

Stage 1 trains the vital blocks only, another choice of path and operators at every step, all other
places left out (their weights are not touched); a fit of sampled networks' validation losses decides
the vital blocks. Stage 2 finds space proposals under which nearly every network keeps the budget, goes
on with the same weights on networks drawn from them, and fits scores for all other places.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch

from hwnas import schemas
from hwnas.documents import read_json
from hwnas.errors import InputError
from hwnas.estimates import Budget
from hwnas.jobs.preparations.prepare import Facts, Prepared, without
from hwnas.jobs.search.parts import training_rate
from hwnas.nets.chainspace import ChainSpace
from hwnas.nets.hournas.slots import Fill, block, chain_of, filled, network, paths, slots
from hwnas.search.hournas.choice import SlotChooser, Vital, choose_vital, decided
from hwnas.search.hournas.fit import Fitted, PathAndFills, fit
from hwnas.search.hournas.proposals import ProposalOptions, Proposals, propose_spaces
from hwnas.search.hournas.strategy import HourNas, HourNasOptions
from hwnas.search.solve.distribution import share_within
from hwnas.spec import BlockSpec
from hwnas.store import write_json
from hwnas.train.hournas.shared import Places, Sampled, Shared, losses
from hwnas.train.loop import train
from hwnas.train.precision import choose

PLAN = "hournas.json"
# Draws that may be over the budget before the last one is taken as it is: nothing is deployed from it.
DRAWS = 40
# The learning rate as a part of the recipe's: every step trains another network.
RATE = 0.5
# Part of the time limit that is planned with; judging and fitting take the rest.
IN_TIME = 0.8
# Part of the share that judging may take; least networks, and images for each before more are judged.
JUDGING, LEAST_NETWORKS, LEAST_JUDGED = 0.3, 16, 64
Draw = Callable[[np.random.Generator], PathAndFills]


def prepare(facts: Facts) -> Prepared | None:
    """Train the super-network and fit scores; None where the search does without.

    Raises:
        InputError: the space has no places to fill, or ``joint`` is asked of one with several paths.
    """
    settings = HourNas.read_options(facts.settings)
    if not settings.learns(facts.images):
        if settings.score == "auto":
            facts.note("note", {"text": without(settings.share, facts.images)}, key="text")
        return None
    space = chain_of(facts.space)
    if settings.joint and len(paths(space)) > 1:
        raise InputError(
            f"joint=true searches all places along one path, and {space.name} has {len(paths(space))}; use "
            "--space mbv2-cifar or resnet-cifar"
        )
    return _HourNasPreparation(facts, settings, space).run()


@dataclass
class _HourNasPreparation:
    """One call of `prepare`. All of it follows from the facts and the checkpoints in the run folder."""

    facts: Facts
    settings: HourNasOptions
    space: ChainSpace

    def __post_init__(self) -> None:
        self.seconds, self.macs, self.images = 0.0, 0.0, 0.0

    @cached_property
    def budget(self) -> Budget:
        """The largest budget; smaller ones are derived from the same scores."""
        return self.facts.budgets[-1]

    @cached_property
    def judging(self) -> tuple[int, int]:
        """Networks that each stage's scores are fitted to, and images for each; a small part of the share.

        A forward pass counts as a third of a training image.
        """
        passes = JUDGING * self.facts.images * self.settings.share * 3 / 2
        networks = min(self.settings.networks, max(int(passes / LEAST_JUDGED), LEAST_NETWORKS))
        known = min(self.settings.judged, len(self.facts.dataset.val))
        return networks, min(known, max(int(passes / networks), 8))

    @cached_property
    def shared(self) -> Shared:
        """Fresh shared weights for every place of the space."""
        held: dict[str, dict[BlockSpec, None]] = {}
        for path in paths(self.space):
            for slot in slots(self.space, path):
                for k in range(len(self.space.levels[path[slot.stage]].operators)):
                    held.setdefault(slot.place, {})[block(self.space, path, slot, k)] = None
            held.setdefault("stem", {})[self.space.stem_block(path[0])] = None
            held.setdefault("head", {})[self.space.head_block(path[-1])] = None
        return Shared(held, self.space.convention, seed=self.facts.seed)

    def run(self) -> Prepared:
        """Both stages."""
        # Stage 1: scores of the required (vital) blocks, which are then fixed.
        plan, vital = self._plan(), None
        if plan["vital"]:
            learned = self._stage("vital", plan["vital"], self._draw_vital)
            vital = self._decide(learned)
        elif not self.settings.joint:
            vital = self._decide(None)
        # Stage 2: space proposals for the other blocks, and their scores.
        path = vital.path if vital is not None else paths(self.space)[0]
        chooser = self._chooser(path, vital)
        if chooser.scores.open_slots and plan["others"]:
            proposals = self._proposals(chooser)
            draw = self._draw_others(chooser, proposals)
            learned = self._stage("others", plan["others"], draw)
            scores = decided(self.space, vital, path, learned.scores(path))
        else:
            scores = chooser.scores
        return Prepared(scores.to_json(), round(self.images), self.macs, self.seconds)

    def _plan(self) -> dict[str, int]:
        """Training images of each stage, settled by the first session of the run."""
        path = self.facts.run.path / PLAN
        if path.exists():
            body = read_json(path, "plan of the preparation", schemas.HOURNAS, sealed=True)
            return {"vital": int(body["vital"]), "others": int(body["others"])}
        networks, judged = self.judging
        total = self.facts.images * self.settings.share - 2 * networks * judged / 3
        if self.facts.seconds is not None:
            rate = training_rate(self.space.uniform()[0], self.facts.recipe)
            total = min(total, IN_TIME * self.facts.seconds * rate)
        first = 0.0 if self.settings.joint or self._nothing_vital() else self.settings.vital_images
        plan = {"vital": max(int(total * first), 0), "others": max(int(total * (1 - first)), 0)}
        write_json(path, {"schema": schemas.HOURNAS, **plan}, sealed=True)
        return plan

    def _nothing_vital(self) -> bool:
        """Whether the first stage has nothing to choose."""
        every = paths(self.space)
        single = all(len(self.space.levels[at].operators) == 1 for at in every[0])
        return len(every) == 1 and single

    # -- networks to train -------------------------------------------------------------------

    def _draw_vital(self, rng: np.random.Generator) -> PathAndFills:
        """A random path with random operators in its vital places, all others empty."""
        every, aim = paths(self.space), self.settings.vital_share * (self.budget.latency_ms or np.inf)
        for _ in range(DRAWS):
            path = every[int(rng.integers(len(every)))]
            fills: tuple[Fill, ...] = tuple(
                int(rng.integers(len(self.space.levels[path[slot.stage]].operators))) if slot.vital else None
                for slot in slots(self.space, path)
            )
            if self.facts.estimate(network(self.space, path, fills)).bound_ms <= aim:
                break
        return path, fills

    def _draw_others(self, chooser: SlotChooser, proposals: Proposals) -> Draw:
        """Networks of the proposals; hard samples over the budget are drawn again."""
        path, open_ = chooser.scores.path, chooser.scores.open_slots
        choices = [[fill for fill, _ in chooser.costs[n]] for n in open_]

        def draw(rng: np.random.Generator) -> PathAndFills:
            for _ in range(DRAWS):
                fills = list(chooser.cheapest)
                for n, options_, k in zip(open_, choices, proposals.sample(rng), strict=True):
                    fills[n] = options_[k]
                if self.budget.fits(self.facts.estimate(network(self.space, path, fills))):
                    break
            return path, tuple(fills)

        return draw

    def _chooser(self, path: Sequence[int], vital: Vital | None) -> SlotChooser:
        """Costs along a path; the scores say nothing yet."""
        sizes = [len(self.space.levels[path[slot.stage]].operators) for slot in slots(self.space, path)]
        blank = decided(self.space, vital, path, [(0.0,) * size for size in sizes])
        return SlotChooser(self.space, blank, self.facts.estimate)

    def _proposals(self, chooser: SlotChooser) -> Proposals:
        """Space proposals for the largest budget, and what they are worth, as an event."""
        costs = [[cost for _, cost in chooser.costs[n]] for n in chooser.scores.open_slots]
        high = self.budget.latency_ms or np.inf
        low = min(self.settings.least * high, 0.9 * (chooser.fixed_ms + sum(map(max, costs))))
        asked = ProposalOptions(count=self.settings.proposals)
        fixed = min(chooser.fixed_ms, 0.999 * high)
        found = propose_spaces(
            costs, fixed, min(low, 0.999 * high), high, seed=self.facts.seed, options=asked
        )
        before = share_within(costs, fixed, 0.0, high)
        after = [share_within(costs, fixed, 0.0, high, p) for p in found.probability]
        text = (
            f"space proposals: {before:.1%} of all networks are within the budget, of sampled ones "
            f"{min(after):.1%} to "
            f"{max(after):.1%} ({found.uniform_hit_rate:.1%} before and "
            f"{min(found.hit_rate):.1%} after are in the upper {1 - self.settings.least:.0%} of it)"
        )
        fields = {"within": before, "proposed": after, "hit_rate": list(found.hit_rate), "text": text}
        self.facts.note("proposals", {"stage": "others", **fields}, key="stage")
        return found

    # -- training and judging ----------------------------------------------------------------

    def _stage(self, name: str, images: int, draw: Draw) -> Fitted:
        """Train the shared weights on drawn networks, then fit the losses of others."""
        facts, seed = self.facts, self.facts.seed + (1 if name == "vital" else 2)
        fixed = draw(np.random.default_rng([seed, 0]))

        def places(rng: np.random.Generator) -> Places:
            return filled(self.space, *draw(rng))

        module = Sampled(self.shared, places, filled(self.space, *fixed), seed=seed)
        recipe = replace(facts.recipe, images=images, seed=seed, ema=0.0)
        result = train(
            module,
            network(self.space, *fixed),
            facts.dataset,
            recipe,
            checkpoint=facts.run.path / f"preparation-{name}.checkpoint",
            rate=RATE,
            emit=facts.emit,
            task=f"super-network, {name} blocks",
        )
        networks, judged = self.judging
        drawn = [draw(np.random.default_rng([seed, 1, n])) for n in range(networks)]
        start = time.perf_counter()
        learned = fit(self.space, drawn, self._losses(drawn, seed))
        macs = float(np.mean([facts.estimate(network(self.space, *one)).macs for one in drawn]))
        self.images += images + networks * judged / 3
        self.macs += macs * (3 * images + networks * judged)
        self.seconds += result.wall_s + time.perf_counter() - start
        text = (
            f"{name} blocks: super-network trained on {images:,} images; scores fitted to "
            f"{len(drawn)} networks predict left-out ones with r = {learned.left_out_r:.2f}"
        )
        facts.note("supernet", {"stage": name, "left_out_r": learned.left_out_r, "text": text}, key="stage")
        return learned

    def _losses(self, drawn: Sequence[PathAndFills], seed: int) -> list[float]:
        """Validation losses of networks, all on the same images."""
        split = self.facts.dataset.val
        rng = np.random.default_rng([seed, 2])
        at = torch.from_numpy(np.sort(rng.permutation(len(split))[: self.judging[1]]))
        compute = choose(self.facts.recipe)
        before = torch.get_num_threads()
        torch.set_num_threads(compute.threads)
        try:
            with compute.autocast():
                return losses(
                    self.shared.to(compute.device),
                    [filled(self.space, *one) for one in drawn],
                    split.normalised(at).to(compute.device),
                    split.labels[at].to(compute.device),
                )
        finally:
            torch.set_num_threads(before)

    def _decide(self, learned: Fitted | None) -> Vital:
        """The vital blocks by their scores (all alike where there is nothing to choose)."""

        def score(path: Sequence[int]) -> list[tuple[float, ...]]:
            places = slots(self.space, path)
            if learned is None:
                sizes = [len(self.space.levels[path[slot.stage]].operators) for slot in places]
                return [(0.0,) * size for size, slot in zip(sizes, places, strict=True) if slot.vital]
            scored = learned.scores(path)
            return [one for one, slot in zip(scored, places, strict=True) if slot.vital]

        facts = self.facts
        return choose_vital(self.space, facts.estimate, self.budget, self.settings.vital_share, score)
