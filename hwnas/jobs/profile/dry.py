"""What a profile would measure, and how long that takes, from the speed of one network."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hwnas.jobs.profile.conditions import Candidate
from hwnas.jobs.profile.measuring import most_blocks, wanted_blocks
from hwnas.jobs.profile.options import ProfileOptions
from hwnas.jobs.profile.plan import Plan, anchors, draw, priced_part
from hwnas.measure import table as tables
from hwnas.measure.session import WARMUP_BATCHES, WARMUP_CALLS
from hwnas.measure.timing import TimingOptions
from hwnas.nets import onnx
from hwnas.nets.count import count, count_block
from hwnas.protocols import Backend, SearchSpace
from hwnas.records import Setting
from hwnas.results import DryRun
from hwnas.spec import BlockSpec


@dataclass(frozen=True)
class _Speed:
    """How fast networks are built (by the block) and called (by the MAC) here, from one of them."""

    build_s: float
    call_s: float

    @staticmethod
    def of(backend: Backend, setting: Setting, space: SearchSpace) -> _Speed:
        """From a member of middle size, built and called a few times."""
        spec = anchors(space)[len(anchors(space)) // 2]
        model = onnx.network(spec, batch=setting.batch, seed=0)
        begun = time.perf_counter()
        engine = backend.build(model, setting)
        built_s = time.perf_counter() - begun
        try:
            engine.time(1)
            call_s = float(engine.time(3).wall_ms.min()) / 1e3
        finally:
            engine.close()
        return _Speed(built_s / len(spec.blocks), call_s / count(spec).macs)

    def seconds(self, graphs: Iterable[Sequence[BlockSpec]], timing: TimingOptions) -> float:
        """Of all sessions of some graphs: building, warming up, timed calls."""
        session, total = timing.session, 0.0
        for blocks in graphs:
            call_s = self.call_s * sum(count_block(block).macs for block in blocks)
            warm_s = WARMUP_CALLS * call_s + WARMUP_BATCHES * max(call_s, session.batch_ms / 1e3)
            timed_s = min(max(session.session_ms / 1e3, session.calls * call_s), session.most_ms / 1e3)
            total += timing.sessions * (self.build_s * len(blocks) + warm_s + max(timed_s, call_s))
        return total


def planned(
    options: ProfileOptions, plan: Plan, space: SearchSpace, conditions: Candidate, path: Path
) -> DryRun:
    """What would be measured into a table's file, and in which time."""
    timing = TimingOptions.preset(options.preset)
    speed = _Speed.of(conditions.backend, conditions.setting, space)
    blocks = wanted_blocks(space, plan, options)
    missing = list(blocks)
    if path.exists():
        table = tables.load(path)
        missing = [b for b in blocks if b not in table]
    whole = [
        spec.blocks
        for spec in draw(priced_part(space, most_blocks(plan, options)), 16, options.seed, "random")
    ]
    networks = len(anchors(space)) + plan.calibration + plan.probes + 2 * plan.holdout
    seconds = speed.seconds([[block] for block in missing], timing) + networks / len(whole) * speed.seconds(
        whole, timing
    )
    body = {
        "dry_run": True,
        "table": str(path),
        "blocks": len(blocks),
        "missing": len(missing),
        "networks": {"calibration": plan.calibration, "probes": plan.probes, "holdout": plan.holdout},
        "measurements": len(missing) + networks,
        "seconds": seconds,
    }
    return DryRun.of(body)
