"""One run over a table: blocks, networks for fitting, active probes, networks for judging, figures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hwnas.cost.heldout import summary
from hwnas.cost.model import TableModel, cost_model
from hwnas.cost.validated import Slower
from hwnas.errors import BuildError
from hwnas.jobs.profile.choose import ratios
from hwnas.jobs.profile.options import ProfileOptions
from hwnas.jobs.profile.plan import Plan, anchors, blocks_of, draw, priced_part, schedule
from hwnas.measure import reliability
from hwnas.measure.rows import RepeatRow
from hwnas.measure.sentinel import levels, memory_sentinel
from hwnas.measure.sweep import Sweep
from hwnas.measure.table import LatencyTable
from hwnas.protocols import SearchSpace
from hwnas.spec import BlockSpec, NetworkSpec

# Candidates that active probing chooses from, and how many it takes at a time.
_CANDIDATES, _BATCH = 256, 10
_NAMED = 3  # networks that stand out


def most_blocks(plan: Plan, options: ProfileOptions) -> int:
    """How many blocks of a space are measured at most."""
    return plan.blocks if options.near_ms is None else plan.blocks_near


def wanted_blocks(space: SearchSpace, plan: Plan, options: ProfileOptions) -> Sequence[BlockSpec]:
    """The blocks to measure: of a table for any budget that is extended all, else those that matter."""
    if options.only_missing and options.near_ms is None:
        return space.blocks()
    return blocks_of(space, most_blocks(plan, options), options.seed)


def named(slower: Sequence[Slower]) -> str:
    """Networks that stand out, in words."""
    most = ", ".join(f"{one.spec.depths_text} by {one.percent:.1f} %" for one in slower[:_NAMED])
    rest = f" and {len(slower) - _NAMED} more" if len(slower) > _NAMED else ""
    return f"slower than the other networks say: {most}{rest}"


class Measuring:
    """One run over a table: blocks, calibration, active probes, holdout, summary."""

    def __init__(
        self,
        sweep: Sweep,
        space: SearchSpace,
        plan: Plan,
        options: ProfileOptions,
        compared: Sequence[Mapping[str, Any]],
    ) -> None:
        self.sweep, self.space, self.plan, self.options = sweep, space, plan, options
        # The table is fitted and judged by networks whose blocks it measures.
        self.priced = priced_part(space, most_blocks(plan, options))
        self.compared = list(compared)
        self.table: LatencyTable = sweep.writer.table

    def run(self) -> None:
        """Everything that is still missing; unfinished where the time ran out."""
        self.sweep.blocks(wanted_blocks(self.space, self.plan, self.options))
        if self.sweep.late:
            return
        if self.options.only_missing and self.table.summary:
            self._improve()
            return
        if not self.table.rows:
            raise BuildError(
                f"none of the {len(self.table.failures)} blocks could be measured; see the table"
            )
        self._random()
        self._probe()
        self._settle()
        self._repeat()
        self._finish()

    def _improve(self) -> None:
        """More sessions where the finished table is least sure, and its figures again.

        Where noise decides the width of the intervals all fitted networks get some: of those that stand out
        alone the faster of two measurements would make the others look slow.
        """
        model = cost_model(self.table)
        first = [one.spec for one in model.slower()]
        if reliability.decided_by(self.table) == "noise":
            first += [model.validated.specs[i] for i in (-model.validated.scores).argsort()]
        again = {spec.key for spec in self.sweep.improve(first)}
        held = [n.spec for n in self.table.networks if n.role == "holdout" and n.spec.key in again]
        for key, found in self.sweep.again(held).items():
            value_ms = min(found.floor_ms, self.table.repeats.get(key, found.floor_ms))
            self.sweep.writer.append(RepeatRow(network=key, value_ms=value_ms))
        self._finish()

    def _finish(self) -> None:
        """Mark the table as finished, with its figures."""
        if not self.sweep.late:
            past, header = levels(self.table.setting), self.table.header
            caches = header.device.get("caches_bytes", {})
            memory = memory_sentinel(self.sweep.backend, header.setting, caches)
            # What a short run has not seen often enough stays as the table has it from before.
            states, seen = self.table.states, memory.states() if memory is not None else None
            if past is not None and (states is None or past.best_ms() is not None):
                states = past.state_sd()
            figures = summary(self.table, states, self.table.memory if seen is None else seen)
            self.sweep.finish({**figures, **ratios(self.compared)})
            if slower := cost_model(self.table).slower():
                self._say(f"{named(slower)}, measured twice")
            if wide := reliability.wide(self.table, self._command()):
                self._say(wide)

    def _command(self) -> str:
        return self.table.profile_command(only_missing=True, out=self.sweep.writer.path)

    def _say(self, text: str) -> None:
        if self.sweep.emit is not None:
            self.sweep.emit("note", {"text": text})

    def _random(self) -> None:
        """Networks drawn from the space, the same ones however often the run was interrupted."""
        have = {net.spec.key for net in self.table.networks}
        self.sweep.networks(
            [
                (spec, role)
                for spec, role in schedule(self.priced, self.plan, self.options.seed)
                if spec.key not in have and spec.blocks not in self.table.failures
            ]
        )

    def _settle(self) -> None:
        """Measure those again, once, that were slower than the others say: mostly it was a slow spell, which
        the model would learn and which would widen the intervals.
        """
        slower = [one for one in cost_model(self.table).slower() if one.spec.key not in self.table.again]
        if slower:
            self._say(f"{named(slower)}; measuring again")
        self.sweep.more([one.spec for one in slower], "networks slower than the others say")

    def _repeat(self) -> None:
        """Measure the holdout networks again, later: how far two measurements differ."""
        todo = [
            net.spec
            for net in self.table.networks
            if net.role == "holdout" and net.spec.key not in self.table.repeats
        ]
        for key, found in self.sweep.again(todo).items():
            self.sweep.writer.append(RepeatRow(network=key, value_ms=found.floor_ms))

    def _probe(self) -> None:
        """Measure where the model is least sure, until it is good enough on random networks."""
        fixed = {spec.key for spec in anchors(self.space)}
        done = sum(net.role == "probe" and net.spec.key not in fixed for net in self.table.networks)
        for batch in self._batches(done):
            model = cost_model(self.table)
            error = model.validated.mape
            if (error is not None and error <= self.plan.target) or self.sweep.late:
                return
            self.sweep.networks([(spec, "probe") for spec in self._uncertain(model, batch)])

    def _batches(self, done: int) -> Iterator[int]:
        for at in range(done, self.plan.probes, _BATCH):
            yield min(_BATCH, self.plan.probes - at)

    def _uncertain(self, model: TableModel, n: int) -> list[NetworkSpec]:
        seen = {net.spec.key for net in self.table.networks}
        candidates = draw(self.priced, _CANDIDATES, self.options.seed, "candidates")
        candidates = [spec for spec in candidates if spec.key not in seen]
        return model.most_uncertain(candidates, n) if candidates else []
