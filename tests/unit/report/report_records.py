"""Run folders written by hand, with figures that can be checked with a pencil.

Every block of the network below costs 0.05 ms, the stem 0.03 and the head 0.02: a network of depth
(a, b, c) takes 0.05 + 0.05 (a + b + c) ms. Its accuracy is 0.70 + 0.01 (a + 2 b + 3 c).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from hwnas import seals
from hwnas.estimates import Budget, Estimate
from hwnas.records import (
    Check,
    Evaluation,
    Measurement,
    Promise,
    SearchResult,
    Setting,
    StageImportance,
    Trial,
    to_json,
)
from hwnas.spec import BlockSpec, NetworkSpec
from hwnas.store import write_json, write_network

SETTING = Setting(device="cpu", device_arch="Testcore 9000", backend="ort", backend_version="1.99.0")
BUDGET = Budget(latency_ms=0.60)
TABLE_ID = "feedc0de" * 8


def network(a: int, b: int, c: int, name: str = "") -> NetworkSpec:
    """The member of resnet-cifar with these depths."""

    def stage(c_in: int, c_out: int, size: int, depth: int) -> tuple[BlockSpec, ...]:
        stride: Literal[1, 2] = 1 if c_in == c_out else 2
        first = BlockSpec(kind="basic", c_in=c_in, c_out=c_out, stride=stride, size_in=size)
        return (first, *(first.repeated(),) * (depth - 1))

    return NetworkSpec(
        stem=BlockSpec(kind="conv", c_in=3, c_out=16, size_in=32),
        stages=(stage(16, 16, 32, a), stage(16, 32, 32, b), stage(32, 64, 16, c)),
        head=BlockSpec(kind="classifier", c_in=64, c_out=10, kernel=1, act="none", size_in=8),
        space="resnet-cifar",
        name=name,
    )


def milliseconds(spec: NetworkSpec) -> float:
    return round(0.05 + 0.05 * sum(spec.depths), 6)


def estimate(spec: NetworkSpec) -> Estimate:
    ms = milliseconds(spec)
    by_stage = {f"stages.{i}": round(0.05 * d, 6) for i, d in enumerate(spec.depths)}
    return Estimate(
        latency_ms=ms,
        low_ms=0.97 * ms,
        high_ms=1.03 * ms,
        coverage=0.95,
        macs=4_700_000 * sum(spec.depths),
        params=50_000 * sum(spec.depths),
        activation_bytes=131072,
        weight_bytes=200_000 * sum(spec.depths),
        by_stage_ms={"stem": 0.03, **by_stage, "head": 0.02},
    )


def measurement(ms: float, **more: Any) -> Measurement:
    body = {
        "floor_ms": ms * 0.98,
        "median_ms": ms,
        "p10_ms": ms * 0.99,
        "p90_ms": ms * 1.02,
        "p95_ms": ms * 1.04,
        "p99_ms": ms * 1.10,
        "se_ms": 0.001,
        "samples": 500,
        "session_ms": (ms, ms * 1.01, ms * 0.99, ms, ms * 1.005),
        "taken_at": "2026-01-02T03:04:05+00:00",
    }
    return Measurement(**{**body, **more})


def evaluation(spec: NetworkSpec, images: int = 2000) -> Evaluation:
    a, b, c = spec.depths
    return Evaluation(
        accuracy=round(0.70 + 0.01 * (a + 2 * b + 3 * c), 6),
        accuracy_se=0.004,
        loss=0.5,
        images=images,
        train_macs=3.0 * images * 4_700_000 * (a + b + c),
        wall_s=2.0 * (a + b + c),
        importance=tuple(StageImportance(stage=i, value=0.2 * (i + 1), se=0.05) for i in range(3)),
        weights=f"weights/trial-{a}{b}{c}.safetensors",
    )


# depth, parent, measured whole, reason
PATH = [
    ((1, 1, 1), None, None, "where growth starts"),
    ((1, 1, 2), 0, 0.252, "stage 3: +1.9 % +- 0.4 % for 0.05 ms: taken"),
    ((1, 2, 2), 1, 0.298, "stage 2: +1.2 % +- 0.4 % for 0.05 ms: taken"),
    ((2, 2, 2), 2, None, "stage 1: +0.4 % +- 0.3 % for 0.05 ms: not significant"),
    ((1, 2, 3), 2, 0.352, "stage 3: +1.5 % +- 0.4 % for 0.05 ms: taken"),
    ((1, 2, 5), 4, 0.448, "stage 3: +2.2 % +- 0.4 % for 0.10 ms: taken"),
    ((1, 3, 6), 5, 0.581, "stage 3 and 2: +2.6 % +- 0.4 % for 0.10 ms: taken"),
]


def trials() -> tuple[Trial, ...]:
    done = [
        Trial(
            index=i,
            spec=network(*depth),
            estimate=estimate(network(*depth)),
            state="done",
            parent=parent,
            reason=reason,
            evaluation=evaluation(network(*depth)),
            measured=None if ms is None else measurement(ms),
            predicted=None if ms is None else estimate(network(*depth)),
        )
        for i, (depth, parent, ms, reason) in enumerate(PATH)
    ]
    over = network(2, 4, 7)
    refused = Trial(
        index=len(done),
        spec=over,
        estimate=estimate(over),
        state="over_budget",
        parent=6,
        reason="0.70 ms is over the budget of 0.60 ms: not trained",
    )
    return (*done, refused)


def result(**changes: Any) -> SearchResult:
    body: dict[str, Any] = {
        "strategy": "stagewise",
        "space": "resnet-cifar",
        "seed": 7,
        "budget": BUDGET,
        "setting": SETTING,
        "table_id": TABLE_ID,
        "trials": trials(),
        "best": 6,
        "pareto": (0, 1, 2, 4, 5, 6),
        "measured": measurement(0.581),
        "promise": Promise(
            verdict="kept",
            budget_ms=0.60,
            percentile="p50",
            session_ms=(0.581, 0.584, 0.579, 0.590, 0.582),
            misses=0,
            confidence=0.96875,
        ),
        "seconds": {"training": 63.0, "measuring": 7.0, "total": 75.0},
        "version": "0.1.0",
    }
    return SearchResult(**{**body, **changes})


def decisions(trial: Trial) -> list[dict[str, Any]]:
    """What a search wrote after a trial: stage 3 grows, stage 2 is weaker, stage 1 not significant."""
    made = []
    for stage, gain in ((2, 0.019), (1, 0.012), (0, 0.004)):
        words = f"stage {stage + 1}: {100 * gain:+.2f} % +- 0.30 % for 0.05 ms"
        fate = "grows" if stage == 2 else "not significant"
        figures = {"stage": stage, "kind": "deeper", "gain": gain, "gain_se": 0.003, "cost_ms": 0.05}
        kind = "growth" if stage == 2 else "refusal"
        text = f"{words}: {fate}"
        made.append({"event": kind, "after": trial.index + 1, "fate": fate, "text": text, **figures})
    return made if trial.state == "done" else []


def write_run(folder: Path, found: SearchResult | None = None, *, keep: int | None = None) -> Path:
    """A search's run folder; with `keep`, killed after that many trials (no result)."""
    found = found or result()
    folder.mkdir(parents=True)
    write_json(
        folder / "manifest.json",
        {
            "schema": "hwnas.run/1",
            "verb": "search",
            "config": {"data": "digits", "latency_budget": "0.6ms", "seed": 7},
            "hwnas": "0.1.0",
            "python": "3.11.7",
            "platform": "Linux-test",
            "argv": ["search", "--latency-budget", "0.6ms", "--data", "digits"],
            "created": "2026-01-02T03:00:00+00:00",
        },
        sealed=True,
    )
    shown = found.trials if keep is None else found.trials[:keep]
    events: list[dict[str, Any]] = []
    for trial in shown:
        events.append({"event": "trial", "trial": to_json(trial), "text": trial.reason})
        events += decisions(trial)
    if keep is None:
        events.append(
            {
                "event": "confirm",
                "index": found.best,
                "promise": to_json(found.promise),
                "measured": to_json(found.measured),
            }
        )
        write_json(folder / "result.json", {"schema": "hwnas.search/1", **to_json(found)})
        write_network(folder / "network.json", found.trials[found.best].spec)
    seal, text = "", ""
    for event in events:
        seal, line = seals.line(seal, {"at": "2026-01-02T03:04:05+00:00", **event})
        text += line + "\n"
    (folder / "events.jsonl").write_text(text)
    return folder


CHECKS = (
    Check(name="parity", passed=True, detail="largest difference 2.1e-06 over 256 validation images"),
    Check(name="budget", passed=True, detail="5 of 5 sessions within 0.6 ms"),
)
