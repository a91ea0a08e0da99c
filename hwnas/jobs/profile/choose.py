"""Which runtime and precision to profile: a few networks of the space, timed in all that work here.

Seconds, against minutes of a profile in the wrong one: the same network takes half the time in the right
runtime and precision, which is worth more than any placement of depth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hwnas.backends import formats
from hwnas.deploy.parity import TOLERANCES
from hwnas.errors import BuildError, InputError
from hwnas.jobs.profile.plan import representatives
from hwnas.measure.candidates import AUTO, RuntimeCandidate, candidates, name_of
from hwnas.measure.device import resolve
from hwnas.measure.reliability import DOUBTFUL_PERCENT
from hwnas.measure.timing import Builder
from hwnas.measure.turns import in_turn
from hwnas.nets import onnx
from hwnas.protocols import Emit, Engine, SearchSpace
from hwnas.records import Precision, Setting
from hwnas.spec import NetworkSpec
from hwnas.units import format_ms

IMAGES = 4  # compared on each network
MOST_TOLERATED_PERCENT = 10.0


def is_open(backend: str | None, precision: str | None) -> bool:
    """Whether a user leaves the choice: ``auto``, or several names."""
    return any(value is not None and (value == AUTO or "," in value) for value in (backend, precision))


def takes(asked: str | None, value: str) -> bool:
    """Whether a runtime or precision is among those asked for; None and "auto" ask for none in particular."""
    return asked is None or asked == AUTO or value in _names(asked)


@dataclass(frozen=True)
class Timed:
    """A runtime and precision on the networks that are timed.

    Attributes:
        backend, precision: names.
        floor_ms: by network, the least that a call took.
        relative: geometric mean over the networks, of the time over that of the fastest runtime.
        keeps: whether its scores stay close to those of the float network, on random images.
        error: why it could not be built; empty where it was.
        form: of int8; empty for the runtime's usual one.
    """

    backend: str
    precision: Precision
    floor_ms: tuple[float, ...] = ()
    relative: float = float("inf")
    keeps: bool = False
    error: str = ""
    form: str = ""

    @property
    def name(self) -> str:
        """Runtime, precision and form."""
        return f"{self.backend} {self.precision}" + (f" ({self.form})" if self.form else "")


def choose(
    space: SearchSpace,
    device: str,
    backend: str | None,
    precision: str | None,
    *,
    batch: int = 1,
    threads: int = 1,
    seed: int = 0,
    emit: Emit | None = None,
    timed: bool = True,
    specs: Sequence[NetworkSpec] | None = None,
) -> tuple[list[Setting], list[Timed]]:
    """Time a few networks in every candidate: the fastest that keeps the scores comes first.

    Args:
        space: of which `representatives` are timed, with random weights.
        device: a known device, or "auto".
        backend, precision: "auto", a list of names separated by commas, one name, or None (the device's
            own backend, fp32). "auto" leaves out precisions whose engines cannot be exported and timed here.
        batch, threads: conditions.
        seed: order of timing.
        emit: told what was chosen, and by how much.
        timed: False takes the first that works, without building anything (a dry run).
        specs: networks to time in their place.

    Returns:
        The settings that keep the scores, fastest first (the fastest of all where none does), each runtime
        and precision in its fastest form, and every candidate, fastest first.

    Raises:
        InputError, BackendUnavailable: nothing here serves what is asked for.
        BuildError: none of the candidates could build the networks.
    """
    runtimes = _names(backend if backend is not None else resolve(device).backend)
    found = candidates(device, runtimes, _names(precision or "fp32"), batch=batch, threads=threads)
    if precision == AUTO:
        found = _deployable(found, space) or found
    if not timed:
        return [found[0].setting], [_untimed(c) for c in found]
    specs = specs or representatives(space)
    steps = _Steps(emit, len(found) + len(specs))
    rows, builders = _built(found, specs, batch, steps)
    if not builders[0]:
        raise BuildError(f"no runtime could build networks of {space.name}: {rows[0].error}")
    rng = np.random.default_rng(seed)
    times = []
    for at, of_network in enumerate(builders):
        steps.next(f"timing network {at + 1} of {len(builders)} in all of them")
        times.append(in_turn(of_network, rng=rng))
    steps.next("")
    compared = []
    for row in rows:
        if not row.error:
            own = [of_network[row.name] for of_network in times]
            ratio = float(np.exp(np.mean(np.log([turn.relative for turn in own]))))
            row = replace(row, floor_ms=tuple(turn.low_ms for turn in own), relative=ratio)
        compared.append(row)
    settings = {c.name: c.setting for c in found}
    compared.sort(key=lambda t: t.relative)
    able = [t for t in compared if t.keeps and t.floor_ms] or compared[:1]
    able = list({(t.backend, t.precision): t for t in reversed(able)}.values())[::-1]  # in its fastest form
    if emit is not None:
        emit("note", {"text": said(able[0], compared)})
    return [settings[t.name] for t in able], compared


def _untimed(candidate: RuntimeCandidate) -> Timed:
    return Timed(candidate.setting.backend, candidate.setting.precision, form=candidate.setting.form)


def _names(value: str) -> tuple[str, ...]:
    parts = tuple(part.strip() for part in value.split(",") if part.strip())
    if not parts or (AUTO in parts and len(parts) > 1):
        raise InputError(f"{value!r} is not a list of names, nor auto alone")
    return () if parts == (AUTO,) else parts


def _deployable(found: list[RuntimeCandidate], space: SearchSpace) -> list[RuntimeCandidate]:
    """Candidates whose engines `hwnas export` writes for the runtime itself, and times: what is searched for
    is an engine that keeps the budget.
    """
    spec = space.smallest()

    def is_timed(setting: Setting) -> bool:
        usual = formats.get(formats.usual(setting.backend))
        return usual.stand_in(spec, setting.precision) is None or setting.precision in usual.runtimes

    return [candidate for candidate in found if is_timed(candidate.setting)]


class _Steps:
    """Progress of the choice: every candidate is built, every network timed in all."""

    def __init__(self, emit: Emit | None, total: int) -> None:
        self._emit, self._total, self._done = emit, total, -1

    def next(self, note: str) -> None:
        """One more step begins."""
        self._done += 1
        if self._emit is not None:
            fields = {"done": self._done, "total": self._total, "note": note}
            self._emit("progress", {"task": "choosing runtime and precision", **fields})


def _built(
    found: list[RuntimeCandidate], specs: Sequence[NetworkSpec], batch: int, steps: _Steps
) -> tuple[list[Timed], list[dict[str, Builder]]]:
    """Every candidate with whether it keeps the scores, and for each network builders of engines by name."""

    graphs = [onnx.network(spec, batch=batch, seed=0) for spec in specs]
    shape = specs[0].input_shape
    images = np.random.default_rng(0).standard_normal((batch * IMAGES, *shape), dtype=np.float32)
    references: dict[int, Any] = {}
    rows: list[Timed] = []
    builders: list[dict[str, Builder]] = [{} for _ in graphs]
    for candidate in found:
        setting, keeps = candidate.setting, True
        steps.next(f"building {candidate.name}")
        own: list[Builder] = []
        try:
            for at, graph in enumerate(graphs):
                build = _builder(candidate, graph)
                engine = build()
                try:
                    scores = np.concatenate(
                        [engine.run(images[i : i + batch]) for i in range(0, len(images), batch)]
                    )
                finally:
                    engine.close()
                keeps = keeps and _close(references.setdefault(at, scores), scores, setting.precision)
                own.append(build)
        except BuildError as exc:
            rows.append(replace(_untimed(candidate), error=str(exc)))
            continue
        for of_network, build in zip(builders, own, strict=True):
            of_network[candidate.name] = build
        rows.append(replace(_untimed(candidate), keeps=keeps))
    return rows, builders


def _builder(candidate: RuntimeCandidate, graph: bytes) -> Builder:
    def build() -> Engine:
        return candidate.backend.build(graph, candidate.setting)

    return build


def _close(reference: Any, scores: Any, precision: Precision) -> bool:
    """Whether scores are as near to the first candidate's (fp32) as a sound engine's are."""

    norms = np.linalg.norm(reference, axis=1) * np.linalg.norm(scores, axis=1)
    cosines = (reference * scores).sum(axis=1) / np.maximum(norms, 1e-30)
    return bool(np.isfinite(scores).all() and cosines.min() >= TOLERANCES[precision].cosine)


def said(chosen: Timed, timed: list[Timed]) -> str:
    """What was chosen and by how much it is ahead, in a sentence."""
    parts = []
    for other in timed:
        if other is chosen:
            continue
        if other.error:
            parts.append(f"{other.name} cannot build it")
        else:
            parts.append(
                f"{other.name} takes {other.relative / chosen.relative:.2f} times as long"
                + ("" if other.keeps else ", but its scores differ too much")
            )
    text = f"fastest here: {chosen.name}"
    text += f" ({', '.join(format_ms(ms) for ms in chosen.floor_ms)} for {len(chosen.floor_ms)} networks)"
    return text + (f"; {'; '.join(parts)}" if parts else "; nothing else works here")


def kept(timed: list[Timed]) -> list[Mapping[str, Any]]:
    """The candidates for JSON."""
    return [
        {
            "backend": t.backend,
            "precision": t.precision,
            "form": t.form,
            "floor_ms": list(t.floor_ms),
            "relative": t.relative if t.floor_ms else None,
            "keeps_scores": t.keeps,
            "error": t.error or None,
        }
        for t in timed
    ]


def with_errors(compared: Sequence[Mapping[str, Any]], off: Mapping[str, float]) -> list[Mapping[str, Any]]:
    """The candidates with the percent by which predictions were off, of those that were profiled before."""
    return [{**one, "error_percent": off[name]} if (name := _name(one)) in off else one for one in compared]


def tolerated_percent(compared: Sequence[Mapping[str, Any]], chosen: Setting, other: Setting) -> float:
    """By how much predictions of the faster of two may be off before the other is profiled, too.

    Half of what the other takes longer: a loose table leaves about as much of a budget as it is off, as
    candidates are measured whole; but never more than `MOST_TOLERATED_PERCENT`.
    """
    relative: dict[str, float | None] = {_name(one): one["relative"] for one in compared}
    first, second = (relative.get(name_of(setting)) for setting in (chosen, other))
    if first is None or second is None:
        return DOUBTFUL_PERCENT
    return min(max(DOUBTFUL_PERCENT, 50.0 * (second / first - 1.0)), MOST_TOLERATED_PERCENT)


def ratios(compared: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """For a table's summary: time of each over that of the fastest, by name (``runtimes``), and by how many
    percent those were off that were passed over for it (``unpredictable_percent``).
    """
    found = {
        "runtimes": {_name(one): float(one["relative"]) for one in compared if one["relative"] is not None},
        "unpredictable_percent": {
            _name(one): float(one["error_percent"]) for one in compared if "error_percent" in one
        },
    }
    return {key: value for key, value in found.items() if value}


def _name(one: Mapping[str, Any]) -> str:
    return Timed(one["backend"], one["precision"], form=one["form"]).name
