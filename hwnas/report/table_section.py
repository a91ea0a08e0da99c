"""How good the latency table is that a run's predictions rest on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hwnas.errors import HwnasError
from hwnas.report import phrases, table_plots, timing_plots
from hwnas.report.collect import RunData
from hwnas.report.page import Picture, Section, Table
from hwnas.report.sections import picture
from hwnas.units import format_ms

if TYPE_CHECKING:
    from hwnas.cost.model import TableModel
    from hwnas.measure.table import LatencyTable

# Figures of a profile that people ask for, by their key in the summary.
KNOWN = {
    "mape_percent": "mean error on networks not used for fitting, %",
    "within_5_percent": "share of them within 5 %, %",
    "kendall_tau": "rank correlation (Kendall tau)",
    "coverage_percent": "share of them inside the predicted interval, %",
    "repeat_mape_percent": "difference when the same networks are measured again, %",
    "seconds": "time that profiling took, s",
    "measurements": "graphs timed",
}


def table_sections(run: RunData) -> list[Section]:
    """Sections about the table that a run used; none where the table cannot be found."""
    from hwnas.cost.model import cost_model

    table = run.table
    if table is None:
        return []
    try:
        model = cost_model(table)
    except HwnasError as exc:
        run.missing.append(f"the latency table's model cannot be fitted: {exc}")
        return []
    return [_quality(table, model), _costs(table, model), *_noise(table)]


def _quality(table: LatencyTable, model: TableModel) -> Section:
    """Held-out error, and block costs alone against in context."""
    pairs = []
    for row in table.networks:
        if row.role == "holdout":
            e = model.estimate(row.spec)
            name = row.spec.depths_text
            once_ms = row.measurement.floor_ms
            # Tables hold floors, estimates are of medians.
            measured_ms = (once_ms + table.repeats.get(row.spec.key, once_ms)) / 2 * model.median_over_floor
            pairs.append((name, e.latency_ms, e.low_ms, e.high_ms, measured_ms))
    costs = model.blocks_ms(list(table.rows)).tolist()
    context = [(b, row.value_ms, ms) for (b, row), ms in zip(table.rows.items(), costs) if ms > 0]
    drawn = picture(
        "table-holdout",
        timing_plots.predicted_measured(pairs),
        "predicted against measured latency of unseen networks",
    )
    drawn += picture("table-context", table_plots.in_context(context), "block costs alone and in context")
    roles = Counter(row.role for row in table.networks)
    lead = "" if table.complete else "This table is incomplete: its profile did not end. "
    lead += (
        f"Table {table.table_id}: {len(table.rows)} blocks and {len(table.networks)} whole networks, "
        f"{table.setting.describe()}."
    )
    if pairs:
        error = sum(abs(p / m - 1) for _, p, _, _, m in pairs) / len(pairs)
        lead += f" On {len(pairs)} networks not used for fitting the mean error is {100 * error:.1f} %"
        alone = table.summary.get("isolated_sum_mape_percent")
        if isinstance(alone, float):
            lead += f"; the sum of blocks timed alone would be {alone:.1f} % off"
        lead += "."
    if context:
        ratio = sum(i for _, _, i in context) / sum(a for _, a, _ in context)
        lead += (
            f" Inside a network the blocks take {abs(100 * (ratio - 1)):.0f} % "
            f"{'less' if ratio < 1 else 'more'} than timed alone."
        )
    rows = [(KNOWN.get(k, k), v) for k, v in _flat(table.summary)]
    rows += [(f"whole networks measured for: {role}", str(n)) for role, n in sorted(roles.items())]
    return Section(
        "How good the predictions are", lead, drawn, [Table(("", ""), rows, "Figures of the profile")]
    )


def _flat(figures: Mapping[str, Any], before: str = "") -> list[tuple[str, str]]:
    """Nested figures as rows; lists are left out, being samples and not figures."""
    rows: list[tuple[str, str]] = []
    for key, value in figures.items():
        if isinstance(value, Mapping):
            rows += _flat(value, f"{before}{key} ")
        elif isinstance(value, float):
            rows.append((key if key in KNOWN else f"{before}{key}", f"{value:.4g}"))
        elif isinstance(value, (int, str, bool)):
            rows.append((key if key in KNOWN else f"{before}{key}", str(value)))
    return rows


def _costs(table: LatencyTable, model: TableModel) -> Section:
    """Heat map of block costs."""
    costs = {b: max(ms, 0.0) for b, ms in zip(table.rows, model.blocks_ms(list(table.rows)).tolist())}
    dearest = max(costs, key=lambda b: costs[b])
    drawn: list[Picture] = picture(
        "table-costs", table_plots.heat_map(costs), "cost of every block by kind and shape"
    )
    return Section(
        "What a block costs",
        "Milliseconds that each block adds to a network, by kind (rows) and shape (columns). The most "
        "expensive is "
        f"{phrases.block(dearest)}: {format_ms(costs[dearest])}.",
        drawn,
    )


def _noise(table: LatencyTable) -> list[Section]:
    """Noise of the measurements and the gates that fired."""
    taken = [row.measurement for row in table.rows.values() if row.measurement is not None]
    taken += [row.measurement for row in table.networks]
    if not taken:
        return []
    spreads = [100 * m.se_ms / m.floor_ms for m in taken]
    gates = Counter(gate for m in taken for gate in m.gates)
    disturbed = sum(bool(m.gates) for m in taken)
    lead = (
        f"Half of the {len(taken)} measurements have a standard error of "
        f"{sorted(spreads)[len(spreads) // 2]:.2g} % or "
        f"less. {disturbed} of them were measured while the machine was disturbed."
    )
    rows = [(gate, phrases.GATES.get(gate, ""), str(n)) for gate, n in gates.most_common()]
    head = ("disturbance", "what it means", "measurements")
    tables = [Table(head, rows)] if rows else []
    failed = [(_names(blocks), row.error) for blocks, row in table.failures.items()]
    tables += [Table(("block that failed", "why"), failed)] if failed else []
    drawn = picture("table-noise", table_plots.noise(spreads), "standard errors of the measurements")
    return [Section("How noisy the machine was", lead, drawn, tables, half=True)]


def _names(blocks: tuple[Any, ...]) -> str:
    return " + ".join(block.key for block in blocks)
