"""What a profile measures: every block of a space, and whole networks; into a table, resumable.

Blocks and networks are measured in groups, interleaved within a group, so that the sessions of each are
spread over as long a time as may be: a busy neighbour of some seconds then spoils one session of many
networks, not all sessions of a few. A group's sessions are kept in a journal beside the table until its
rows are written, so a kill loses half a second of work. All floors are referred to one state of the
machine (`sentinel`). A block or network that the runtime refuses becomes a failure row and the sweep
goes on.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

import hwnas
from hwnas.errors import BuildError
from hwnas.measure.aggregate import worst
from hwnas.measure.device import machine_of
from hwnas.measure.graphs import TimedGraph
from hwnas.measure.journal import SUFFIX as JOURNAL_SUFFIX
from hwnas.measure.journal import Journal, TaskJournal
from hwnas.measure.levels import SentinelHistory
from hwnas.measure.patience import Patience
from hwnas.measure.rows import AgainRow, BlockRow, ChainRow, FailureRow, Header, NetworkRow, RowRole
from hwnas.measure.sentinel import identity, levels, memory_sentinel, sentinel
from hwnas.measure.table import LatencyTable
from hwnas.measure.timing import TimingOptions, measure
from hwnas.measure.writer import TableWriter
from hwnas.nets import onnx
from hwnas.protocols import Backend, Emit, Engine, SearchSpace
from hwnas.records import Measurement, Setting
from hwnas.spec import BlockSpec, NetworkSpec
from hwnas.store import scratch


@dataclass(frozen=True)
class SweepOptions:
    """How a sweep measures.

    Attributes:
        timing: sessions, lengths, gates.
        group: blocks that are interleaved and then written together.
        networks: the same for networks; each group is a campaign of its own.
        refer: divide the state of the machine out of the floors.
        seed: for the order of measuring and the random weights.
        deadline_s: seconds after which no group is begun; None for no limit.
        sustained_s: seconds for which the device is kept busy before the first group; the sweep keeps it so.
    """

    timing: TimingOptions = field(default_factory=lambda: TimingOptions.preset("quick"))
    group: int = 64
    networks: int = 80
    refer: bool = True
    seed: int = 0
    deadline_s: float | None = None
    sustained_s: float = 0.0


def header_for(
    setting: Setting, space: str, input_shape: tuple[int, int, int], classes: int, timing: TimingOptions
) -> Header:
    """Header of a table that is measured under a setting."""
    there = machine_of(setting.device)[0]
    machine = there.info()
    return Header(
        setting=setting,
        space=space,
        input_shape=input_shape,
        classes=classes,
        tool={"name": "hwnas", "version": hwnas.__version__},
        device={**machine.model_dump(mode="json", exclude={"load"}), "fingerprint": machine.fingerprint},
        software={name: version(name) for name in ("onnx", "numpy")}
        | {setting.backend: setting.backend_version},
        build={"batch_norm": "folded", "weights": "seeded, none zero", "opset": onnx.OPSET},
        sentinels=identity(setting),
        run={
            "input": "seeded standard normal",
            "transfers": False,
            "cache": timing.session.cache,
            **there.state(setting.device_arch),
        },
        protocol={
            "statistic": "floor: fastest session's 5 % quantile, over the sentinel's best beside them",
            "sessions": timing.sessions,
            "sessions_max": timing.sessions_max,
            "session_ms": timing.session.session_ms,
        },
    )


def conditions(header: Header, options: SweepOptions) -> dict[str, Any]:
    """Everything that decides what a session gives; a journal of others is not taken up."""
    of_table = {
        "setting",
        "space",
        "input_shape",
        "classes",
        "protocol",
        "sentinels",
        "build",
        "run",
        "software",
    }
    return {
        **header.model_dump(mode="json", include=of_table),
        "machine": header.device.get("fingerprint"),
        "table_created": header.created,
        "seed": options.seed,
        "refer": options.refer,
        "timing": json.loads(json.dumps(asdict(options.timing))),
    }


class Sweep:
    """Measures into one table file.

    Attributes:
        writer: the table's writer; `writer.table` is what was measured so far.
        measured: graphs timed by this sweep (not counting rows that were there before).
        journal: sessions of rows that are not written yet, in a file beside the table.
    """

    def __init__(
        self,
        writer: TableWriter,
        backend: Backend,
        options: SweepOptions,
        emit: Emit | None = None,
        *,
        patience: Patience | None = None,
    ) -> None:
        self.writer, self.backend, self.options, self.emit = writer, backend, options, emit
        self.measured, self.patience = 0, patience
        self.journal = Journal(
            writer.path.with_name(writer.path.name + JOURNAL_SUFFIX),
            conditions(writer.table.header, options),
        )
        self._rng = np.random.default_rng([options.seed, len(writer.table)])
        self._begun_s = time.perf_counter()
        self._to_sustain_s = options.sustained_s

    @property
    def late(self) -> bool:
        """Whether the time is spent."""
        limit = self.options.deadline_s
        return limit is not None and time.perf_counter() - self._begun_s > limit

    def blocks(self, blocks: Iterable[BlockSpec]) -> None:
        """Measure every block that has neither a row nor a recorded failure."""
        table = self.writer.table
        todo = [b for b in blocks if b not in table and (b,) not in table.failures]
        for group, done in self._groups(todo, "blocks"):
            models = {b.key: partial(onnx.chain, [b], batch=self._batch, seed=0) for b in group}
            results = self._measure(models, {b.key: (b,) for b in group}, done, len(todo), "blocks")
            for block in group:
                if (found := results.get(block.key)) is not None:
                    self.writer.append(
                        BlockRow(block=block, value_ms=found.floor_ms, se_ms=found.se_ms, measurement=found)
                    )

    def chains(self, chains: Iterable[Sequence[BlockSpec]]) -> None:
        """Measure several blocks as one engine; for looking at what happens between blocks."""
        have = {chain.blocks for chain in self.writer.table.chains}
        todo = [tuple(c) for c in chains if tuple(c) not in have]
        for group, done in self._groups(todo, "chains"):
            names = {f"chain {i}": chain for i, chain in enumerate(group)}
            models = {n: partial(onnx.chain, c, batch=self._batch, seed=0) for n, c in names.items()}
            results = self._measure(models, names, done, len(todo), "chains")
            for name, found in results.items():
                self.writer.append(ChainRow(blocks=names[name], measurement=found))

    def networks(self, wanted: Sequence[tuple[NetworkSpec, RowRole]]) -> None:
        """Measure whole networks and add them, each with its role.

        Networks of all roles go through the same campaigns: what a model is fitted on and what it
        is judged by must not come from different states of the machine.
        """
        campaign = max((net.campaign for net in self.writer.table.networks), default=0)
        for group, done in self._groups(list(wanted), "networks", self.options.networks):
            campaign += 1
            results = self._time([spec for spec, _ in group], done, len(wanted), "networks")
            for spec, role in group:
                if (found := results.get(spec.key)) is not None:
                    row = NetworkRow(spec=spec, role=role, measurement=found, campaign=campaign)
                    self.writer.append(row)

    def again(self, specs: Sequence[NetworkSpec]) -> dict[str, Measurement]:
        """Measure networks once more, without adding rows; by `NetworkSpec.key`."""
        results: dict[str, Measurement] = {}
        for group, done in self._groups(list(specs), "networks again", self.options.networks):
            results |= self._time(group, done, len(specs), "networks again")
        return results

    def more(self, specs: Sequence[NetworkSpec], task: str) -> None:
        """More sessions of networks of the table, in one group; `task` names them in progress and journal."""
        if specs and not self.late:
            for key, found in self._time(specs, 0, len(specs), task).items():
                self.writer.append(AgainRow(network=key, measurement=found))

    def improve(self, first: Sequence[NetworkSpec] = ()) -> list[NetworkSpec]:
        """More sessions of the rows that repeat worst, a group of networks and one of blocks.

        Args:
            first: networks of the table that come before those on which a gate fired.

        Returns:
            The networks that were measured again.
        """
        table = self.writer.table
        nets = [table.networks[i] for i in worst([net.measurement for net in table.networks])]
        wanted = {spec.key: spec for spec in [*first, *(net.spec for net in nets)]}
        specs = [*wanted.values()][: self.options.networks]
        self.more(specs, "networks with few good sessions")
        rows = [row for row in table.rows.values() if row.measurement is not None]
        timed = [row.measurement for row in rows if row.measurement is not None]
        blocks = [rows[i].block for i in worst(timed)][: self.options.group]
        if blocks and not self.late:
            models = {b.key: partial(onnx.chain, [b], batch=self._batch, seed=0) for b in blocks}
            of = {b.key: b for b in blocks}
            task = "blocks with few good sessions"
            results = self._measure(models, {k: (b,) for k, b in of.items()}, 0, len(blocks), task)
            for key, found in results.items():
                self.writer.append(AgainRow(block=of[key], measurement=found))
        return specs

    def _time(self, specs: Sequence[NetworkSpec], done: int, total: int, task: str) -> dict[str, Measurement]:
        models = {s.key: partial(onnx.network, s, batch=self._batch, seed=0) for s in specs}
        return self._measure(models, {s.key: s.blocks for s in specs}, done, total, task)

    @property
    def _batch(self) -> int:
        return self.writer.table.setting.batch

    def _groups(self, todo: list[Any], task: str, size: int = 0) -> Iterator[tuple[list[Any], int]]:
        """Slices of the work with how much was done before; ends when the time is over."""
        size = size or self.options.group
        for at in range(0, len(todo), size):
            if self.late:
                self._say("stopped", text=f"{task}: time limit reached, {at} of {len(todo)} measured")
                return
            yield todo[at : at + size], at

    def _measure(
        self,
        models: Mapping[str, Callable[[], bytes]],
        blocks: dict[str, tuple[BlockSpec, ...]],
        done: int,
        total: int,
        task: str,
    ) -> dict[str, Measurement]:
        def failed(name: str, exc: BuildError) -> None:
            if blocks[name] not in self.writer.table.failures:
                self.writer.append(FailureRow(blocks=blocks[name], error=str(exc)))
                self._say("failure", text=f"{name} could not be built: {exc}")

        table = self.writer.table
        guard, past = self._sentinel()
        caches = table.header.device.get("caches_bytes", {})
        memory = memory_sentinel(self.backend, table.setting, caches) if past is not None else None
        with scratch() as folder:
            builders = {
                name: TimedGraph(model, self.backend, table.setting, folder / str(i))
                for i, (name, model) in enumerate(models.items())
            }
            results = measure(
                builders,
                self.options.timing,
                rng=self._rng,
                sentinel=guard,
                refer=guard is not None,
                base_ms=table.sentinel_ms,
                journal=TaskJournal(self.journal, task),
                emit=self._progress(task, done, len(models), total),
                deadline_s=self._left_s(),
                on_failure=failed,
                patience=self.patience,
                levels=past,
                memory=memory,
                sustained_s=self._to_sustain_s,
            )
        self._to_sustain_s = 0.0
        if self.late:  # what the time did not suffice for is in the journal
            results = {name: found for name, found in results.items() if "deadline" not in found.gates}
        self.measured += len(results)
        return results

    def _sentinel(self) -> tuple[Callable[[], Engine] | None, SentinelHistory | None]:
        """The sentinel and its levels, where floors are referred to it and the runtime can build it."""
        if not self.options.refer:
            return None, None
        build = sentinel(self.backend, self.writer.table.setting)
        try:
            build().close()
        except BuildError as exc:
            self._say(
                "note",
                text=f"drift of the device's speed is not corrected: its reference network failed: {exc}",
            )
            return None, None
        return build, levels(self.writer.table.setting)

    def _left_s(self) -> float | None:
        limit = self.options.deadline_s
        return None if limit is None else max(limit - (time.perf_counter() - self._begun_s), 0.0)

    def _progress(self, task: str, done: int, size: int, total: int) -> Emit | None:
        """Turns sessions of a group into engines of the whole, with the time that is left."""
        if self.emit is None:
            return None
        tell, begun, said = self.emit, time.perf_counter(), {-1}

        def emit(kind: str, fields: Mapping[str, Any]) -> None:
            if kind != "progress":  # gates are summed up by `report_gates`
                return
            share = fields["done"] / fields["total"]
            engines = share * size
            if int(engines) in said:
                return
            said.add(int(engines))
            left_s = (time.perf_counter() - begun) / max(engines, 1e-9) * (total - done - engines)
            note = f"{left_s:.0f} s left" if left_s >= 1 else ""
            tell("progress", {"task": task, "done": done + int(engines), "total": total, "note": note})

        return emit

    def finish(self, figures: Mapping[str, Any] | None = None) -> LatencyTable:
        """Mark the sweep as ended; its sessions are no longer needed."""
        table = self.writer.finish(figures)
        self.journal.clear()
        return table

    def report_gates(self) -> dict[str, int]:
        """How many rows carry each gate; said once, not row by row."""
        table = self.writer.table
        measured = [row.measurement for row in table.rows.values() if row.measurement]
        measured += [row.measurement for row in table.chains]
        measured += [row.measurement for row in table.networks]
        names = Counter(gate for m in measured for gate in m.gates)
        if names:
            fired = sum(bool(m.gates) for m in measured)
            what = ", ".join(f"{name} {n}" for name, n in names.most_common())
            self._say(
                "note",
                text=f"{fired} of {len(measured)} rows were measured on a disturbed machine ({what}); "
                "floors are still usable; for narrower intervals stop other programs and add sessions to the "
                f"worst of them: {table.profile_command(only_missing=True, out=self.writer.path)}",
            )
        return dict(sorted(names.items()))

    def _say(self, kind: str, *, text: str) -> None:
        if self.emit is not None:
            self.emit(kind, {"text": text})


def sweep(
    space: SearchSpace,
    backend: Backend,
    header: Header,
    path: Path,
    options: SweepOptions | None = None,
    emit: Emit | None = None,
) -> LatencyTable:
    """Measure every block of a space into a table file; continues where an earlier sweep stopped.

    Only blocks: `hwnas.jobs.profile` adds the whole networks that the cost model learns from.
    """
    writer = TableWriter(path, header)
    task = Sweep(writer, backend, options or SweepOptions(), emit)
    task.blocks(space.blocks())
    return writer.table if task.late else task.finish()
