"""Sections that are tables: engines and their checks, every network, settings."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from hwnas.deploy.manifest import EngineManifest
from hwnas.records import Setting
from hwnas.report import phrases
from hwnas.report.collect import RunData
from hwnas.report.page import Picture, Section, Table
from hwnas.report.precision_plot import by_block
from hwnas.units import format_count, format_ms


def engines(run: RunData) -> list[Section]:
    """Every exported engine."""
    return [engine(one) for one in run.engines]


def engine(engine: EngineManifest) -> Section:
    """An exported engine and what was checked of it."""
    rows = [
        ("file", f"{engine.engine}, {format_count(engine.engine_bytes, 'B')}"),
        ("built for", engine.setting.describe()),
        ("network", f"{engine.network.depths_text}, key {engine.network_key}"),
        ("SHA-256", engine.engine_sha256),
    ]
    if engine.parity is not None:
        p = engine.parity
        rows.append(("images compared", f"{p.images} ({p.data})"))
        rows.append(
            ("largest difference between scores", f"{p.max_abs_err:.2g} (scores up to {p.scale:.3g})")
        )
        rows.append(("same class predicted", phrases.percent(p.top1_agreement)))
    if engine.measured is not None:
        m = engine.measured
        rows.append(("measured", f"median {format_ms(m.median_ms)}, p95 {format_ms(m.p95_ms)}"))
    pictures = []
    if engine.forms:
        told = ", ".join(f"{form or 'usual'} {ratio:.2f}" for form, ratio in engine.forms.items())
        rows.append(("forms of int8", f"{told} times as long"))
    if engine.mixed is not None:
        rows.append(("precision by block", engine.mixed.describe()))
        alt = "points of top-1 that each block loses in int8, and its precision"
        pictures.append(Picture(f"precision-{engine.engine}", by_block(engine.mixed), alt))
    checks = [("passed" if c.passed else "FAILED", c.name, c.detail) for c in engine.checks]
    verdict = "Not verified yet."
    if checks:
        verdict = "All checks passed." if engine.passed else "Not every check passed."
    if engine.float_layers:
        rows.append(("no int8 kernels, kept in float", ", ".join(engine.float_layers)))
    tables = [Table(("", ""), rows)]
    tables += [Table(("check", "", ""), checks)] if checks else []
    if engine.layers:
        whole = sum(layer.ms for layer in engine.layers)
        layers = [
            (x.name, x.kind, x.kernel, x.types, format_ms(x.ms), phrases.percent(x.ms / whole))
            for x in engine.layers
            if x.ms
        ]
        title = f"Its {len(engine.layers)} layers, profiled one by one"
        head = ("layer", "kind", "kernel", "types", "time", "share")
        tables.append(Table(head, layers, title).without_empty())
    return Section(
        f"Engine {engine.engine}",
        f"{verdict} The figures belong to this file, identified by its hash.",
        pictures,
        tables=tables,
    )


def every_network(run: RunData) -> Section | None:
    """Every trial."""
    budget = run.budget
    if not run.trials:
        return None
    rows = []
    for t in run.trials:
        measured = t.measured.at(budget.percentile if budget else "p50") if t.measured else None
        rows.append(
            (
                str(t.index),
                t.spec.depths_text,
                {"done": "trained", "over_budget": "over budget", "failed": "failed"}[t.state],
                format_ms(t.estimate.latency_ms),
                format_ms(measured) if measured else "",
                phrases.percent(t.evaluation.accuracy) if t.evaluation else "",
                format_count(t.estimate.macs, "MAC"),
                t.error or t.reason,
            )
        )
    head = ("#", "network", "state", "predicted", "measured", "validation", "MACs", "why")
    return Section(
        "All networks of the search",
        "In the order of the search.",
        tables=[Table(head, rows, f"Show all {len(rows)}").without_empty()],
    )


def settings(run: RunData) -> Section:
    """Settings and versions."""
    rows: list[tuple[str, ...]] = []
    argv = run.manifest.get("argv")
    if isinstance(argv, list):
        rows.append(("command", "hwnas " + shlex.join(map(str, argv))))
    setting = run.setting()
    if setting is not None:
        rows += _conditions(setting)
    if run.result is not None:
        rows += [
            ("strategy", run.result.strategy),
            ("space", run.result.space),
            ("seed", str(run.result.seed)),
            ("budget", run.result.budget.describe()),
            ("latency table", run.result.table_id),
        ]
    rows += _begun(run.config)
    made_by = ("hwnas", "python", "platform", "created")
    rows += [(k, str(run.manifest[k])) for k in made_by if k in run.manifest]
    tables = [Table(("", ""), rows)]
    if run.config:
        config = [(str(k), str(v)) for k, v in sorted(run.config.items()) if v not in (None, "", [], {})]
        tables.append(Table(("option", "value"), config, "Effective configuration"))
    return Section("Settings and versions", "The conditions of all figures.", tables=tables)


def _begun(config: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The weights of another training that this one began with: a training records their hash alone."""
    init, sha256 = config.get("init"), config.get("init_sha256")
    if not isinstance(init, str):
        return []
    named = f"{init} (SHA-256 {sha256})" if isinstance(sha256, str) else f"weights with SHA-256 {init}..."
    return [("began from", named)]


def _conditions(setting: Setting) -> list[tuple[str, ...]]:
    shown = (
        ("conditions", setting.describe()),
        ("processor", setting.device_arch),
        ("driver", setting.driver),
        ("cores used", ", ".join(map(str, setting.affinity or ()))),
    )
    return [(name, value) for name, value in shown if value]
