"""What an export or a verification gives back: the engine with its proof, as its manifest has them."""

from __future__ import annotations

from pathlib import Path

from hwnas.by_block import Mixed
from hwnas.by_class import ByClass
from hwnas.deploy.manifest import (
    EngineManifest,
    FineTuned,
    Parity,
    Preprocessing,
    SpeedGain,
    manifest_path,
)
from hwnas.records import Check, Promise, Setting, to_json
from hwnas.results import Result


class Times(Result):
    """What an engine takes, in milliseconds a call."""

    median_ms: float
    p95_ms: float
    samples: int | None = None


class ExportOutcome(Result):
    """An engine with its proof.

    Attributes:
        engine, manifest: the two files.
        format, setting, bytes, sha256: what the engine is, and what it was built for.
        parity: how near its scores are to the network's; None where it was not verified.
        measured: its latency; None where it is not timed here.
        fine_tuned, mixed, forms, speed, preprocessing, by_class: see `hwnas.deploy.manifest.EngineManifest`.
        dynamic_batch: whether it takes any number of images at once.
        budget: in words; None without one.
        promise: verdict of the measured budget test.
        within_budget: whether it is kept; None where no budget was judged, or undecided.
        checks: what was looked at.
        verified: whether anything was.
        passed: whether all checks passed; None where nothing was checked.
    """

    engine: str
    manifest: str
    format: str
    setting: Setting
    bytes: int
    sha256: str
    parity: Parity | None
    measured: Times | None
    fine_tuned: FineTuned | None
    mixed: Mixed | None
    forms: dict[str, float]
    speed: SpeedGain | None
    preprocessing: Preprocessing | None
    by_class: ByClass | None
    dynamic_batch: bool
    budget: str | None
    promise: Promise | None
    within_budget: bool | None
    checks: tuple[Check, ...]
    verified: bool
    passed: bool | None


def summary(path: Path, manifest: EngineManifest) -> ExportOutcome:
    """The result of an export or a verification as the command line gives it."""
    verdict = {"kept": True, "broken": False, "ambiguous": None}
    m, p = manifest.measured, manifest.parity
    body = {
        "engine": str(path),
        "manifest": str(manifest_path(path)),
        "format": manifest.format,
        "setting": to_json(manifest.setting),
        "bytes": manifest.engine_bytes,
        "sha256": manifest.engine_sha256,
        "parity": None if p is None else to_json(p),
        "measured": None
        if m is None
        else {"median_ms": m.median_ms, "p95_ms": m.p95_ms, "samples": m.samples},
        "fine_tuned": None if manifest.fine_tuned is None else to_json(manifest.fine_tuned),
        "mixed": None if manifest.mixed is None else to_json(manifest.mixed),
        "forms": dict(manifest.forms),
        "speed": None if manifest.speed is None else to_json(manifest.speed),
        "preprocessing": None if manifest.preprocessing is None else to_json(manifest.preprocessing),
        "by_class": None if manifest.by_class is None else to_json(manifest.by_class),
        "dynamic_batch": manifest.dynamic_batch,
        "budget": manifest.budget.describe() if manifest.budget else None,
        "promise": None if manifest.promise is None else to_json(manifest.promise),
        "within_budget": verdict[manifest.promise.verdict] if manifest.promise else None,
        "checks": [to_json(c) for c in manifest.checks],
        "verified": bool(manifest.checks),
        "passed": manifest.passed if manifest.checks else None,
    }
    return ExportOutcome.of(body)
