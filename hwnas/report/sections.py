"""Sections of a run's chapter; each is None where the run has no data for it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from hwnas.estimates import Budget
from hwnas.records import Target, Trial, trained
from hwnas.report import dense_plot, phrases, plots, timing_plots
from hwnas.report.collect import RunData, promises
from hwnas.report.importance_plot import importance as importance_plot
from hwnas.report.importance_plot import of_trials, weighed
from hwnas.report.page import Picture, Section, Table
from hwnas.report.style import Figure
from hwnas.traced import VariantSpec
from hwnas.units import format_ms, format_seconds


def picture(name: str, drawn: Figure | None, alt: str) -> list[Picture]:
    """The picture of a figure, where there is one."""
    return [Picture(name, drawn, alt)] if drawn is not None else []


def accuracy(run: RunData) -> Section | None:
    """Accuracy against latency."""
    pictures = picture(
        "accuracy-latency",
        plots.accuracy_latency(run.trials, run.budget, run.chosen, _smaller(run)),
        "validation accuracy of every trained network against its latency",
    )
    if not pictures:
        return None
    several = run.result.targets if run.result and not run.device else ()
    rows = [_target(run, target) for target in several]
    head = ("budget", "network", "measured", "p95", "validation", "promise")
    return Section(
        "Accuracy against latency",
        "Every point is a network that was trained during the search; up is more accurate, left is faster. "
        "The line is the Pareto front. Marks at the bottom were rejected by their "
        "predicted latency, without any training.",
        pictures,
        [Table(head, rows)] if rows else [],
    )


def devices(run: RunData) -> Section | None:
    """The winners of a search for several devices, on each device whose budget they keep."""
    result = run.result
    if result is None or not result.devices:
        return None
    rows = []
    for target in result.targets:
        trial, names = result.trials[target.best], list(target.budget.by_device_ms)
        for name in names:
            estimate, measured = trial.estimate.on(name), target.measured.by_device[name]
            rows.append(
                (
                    "all" if len(names) > 1 else name,
                    name,
                    target.budget.on(name).describe(),
                    trial.spec.depths_text,
                    format_ms(estimate.latency_ms),
                    format_ms(measured.at(target.budget.percentile)),
                    phrases.percent(trial.outcome.accuracy),
                    phrases.promise(target.promise.by_device[name]),
                )
            )
    head = ("for", "on", "budget", "network", "predicted", "measured", "validation", "promise")
    return Section(
        "Devices",
        "One network keeps the budgets of all devices, and each device has one of its own; all are of one "
        f"path of growth. The other sections show latencies on {run.device}.",
        tables=[Table(head, rows)],
    )


def _smaller(run: RunData) -> list[tuple[Budget, Trial]]:
    """The winners of the smaller budgets of a search for several, on one device."""
    targets = run.result.targets if run.result and not run.device else ()
    by_index = {t.index: t for t in run.trials}
    return [(t.budget, by_index[t.best]) for t in targets[:-1] if t.best in by_index]


def _target(run: RunData, target: Target) -> tuple[str, ...]:
    """One row about a budget's winner."""
    winner = next((t for t in run.trials if t.index == target.best), None)
    done = winner.evaluation if winner else None
    return (
        target.budget.describe(),
        winner.spec.depths_text if winner else "",
        format_ms(target.measured.at(target.budget.percentile)),
        format_ms(target.measured.p95_ms),
        phrases.percent(done.accuracy) if done else "",
        phrases.promise(target.promise),
    )


def growth(run: RunData) -> Section | None:
    """How the network grew, step by step, and what was refused; a model that was cut down did not grow."""
    budget, best = run.budget, run.chosen
    if best is not None and isinstance(best.spec, VariantSpec):
        return None
    drawn = plots.growth(run.trials, budget, best)
    rows = _steps(run, best)
    refusals = [_text(e) for e in run.of("refusal")]
    if drawn is None and not refusals:
        return None
    tables = [Table(("step", "network", "what grew", "latency", "validation", "why"), rows)] if rows else []
    if refusals:
        lines = [(text,) for text in refusals]
        tables.append(Table(("",), lines, f"{len(refusals)} rejected growths"))
    return Section(
        "How the network grew",
        "The network starts small and grows to the right until the budget is used. Above: validation "
        "accuracy after each step. Below: how many blocks each stage has by then."
        if drawn is not None
        else "No growth was made in this run; the reasons are listed below.",
        picture("growth", drawn, "accuracy and blocks per stage over latency, step by step"),
        tables,
    )


def _text(event: dict[str, Any]) -> str:
    return str(event.get("text") or event.get("reason") or "no reason recorded")


def _steps(run: RunData, best: Trial | None) -> list[tuple[str, ...]]:
    path = plots.path_to(run.trials, best)
    rows: list[tuple[str, ...]] = []
    for number, trial in enumerate(path if len(path) > 1 else []):
        before = path[number - 1] if number else None
        done = trial.evaluation
        rows.append(
            (
                str(number),
                trial.spec.depths_text,
                phrases.change(before.spec, trial.spec) if before else "start",
                format_ms(phrases.shown_ms(trial)),
                phrases.percent(done.accuracy) if done else "",
                trial.reason,
            )
        )
    return rows


def stages(run: RunData) -> Section | None:
    """Where the milliseconds go."""
    budget, best = run.budget, run.chosen
    if best is None:
        return None
    path = plots.path_to(run.trials, best)
    rows = [("start " + path[0].spec.depths_text, path[0].estimate.by_stage_ms)] if len(path) > 1 else []
    rows.append(("chosen " + best.spec.depths_text, best.estimate.by_stage_ms))
    drawn = timing_plots.stages(rows, budget.latency_ms if budget else None)
    if drawn is None:
        return None
    parts = best.estimate.by_stage_ms
    place, whole_ms = max(parts, key=lambda p: parts[p]), sum(parts.values())
    share = parts[place] / whole_ms
    shares = [(phrases.stage_name(p), format_ms(v), f"{v / whole_ms:.0%}") for p, v in parts.items() if v]
    return Section(
        "Where the milliseconds go",
        f"The predicted latency by part. The largest, {share:.0%} of it, is {phrases.stage_name(place)}.",
        picture("stages", drawn, "predicted latency split by stage"),
        [Table(("part", "predicted", "share"), shares)],
        half=True,
    )


def prediction_pairs(trials: Iterable[Trial]) -> list[tuple[str, float, float, float, float]]:
    """Name, predicted, bounds and measured floor of every network that was measured as a whole, once each.

    The prediction is the one from before the measurement. The floor is what the cost model
    predicts; percentiles of single calls lie above it on a busy machine.
    """
    first: dict[str, Trial] = {}
    for trial in trials:
        if trial.measured is not None and trial.predicted is not None:
            first.setdefault(trial.spec.key, trial)
    return [
        (
            f"{t.spec.depths_text} (network {t.index})",
            t.predicted.latency_ms,
            t.predicted.low_ms,
            t.predicted.high_ms,
            t.measured.floor_ms,
        )
        for t in first.values()
        if t.predicted is not None and t.measured is not None
    ]


def prediction(run: RunData) -> Section | None:
    """Predicted against measured."""
    pairs = prediction_pairs(run.trials)
    if not pairs:
        return None
    error = sum(abs(p / m - 1) for _, p, _, _, m in pairs) / len(pairs)
    inside = sum(low <= m <= high for _, _, low, high, m in pairs)
    many = "networks were" if len(pairs) > 1 else "network was"
    return Section(
        "Predicted against measured",
        f"{len(pairs)} {many} measured whole in this run, each after it had been predicted. "
        f"Mean error {100 * error:.1f} %; {inside} of {len(pairs)} inside the interval.",
        picture(
            "predicted-measured", timing_plots.predicted_measured(pairs), "predicted against measured latency"
        ),
        half=True,
    )


def promise(run: RunData) -> Section | None:
    """The promise tests."""
    tests = [(_trial_label(run, index), p) for index, p in promises(run)]
    tests += [(engine.engine, engine.promise) for engine in run.engines if engine.promise is not None]
    drawn = timing_plots.sessions(tests)
    if drawn is None:
        return None
    rows = [
        (label, format_ms(p.budget_ms), phrases.promise(p), f"{100 * p.confidence:.1f} %")
        for label, p in tests
    ]
    tables = [Table(("what was timed", "budget", "verdict", "confidence"), rows)]
    notes = [(label, p.note) for label, p in tests if p.note]
    tables += [Table(("", ""), notes, "Notes on the sessions")] if notes else []
    if run.proof is not None:
        shown = timing_plots.distribution(run.proof[0])
        tables.append(Table(("single calls of the winner", "time"), list(shown), "Times of single calls"))
    return Section(
        "Budget test",
        "The engine is loaded again in each of several independent sessions, and the latency of each session "
        f"must be within the budget.{phrases.gates(run.proof[0].gates) if run.proof else ''}",
        picture("promise", drawn, "latency of each session against the budget"),
        tables,
        half=True,
    )


def _trial_label(run: RunData, index: int) -> str:
    trial = next((t for t in run.trials if t.index == index), None)
    return f"{trial.spec.depths_text} (network {index})" if trial else f"network {index}"


def importance(run: RunData) -> Section | None:
    """Importance of each possible growth."""
    if run.chosen is not None and isinstance(run.chosen.spec, VariantSpec):
        return None
    found = weighed(run.events)
    drawn = importance_plot(found or of_trials(run.trials, run.chosen), run.trials)
    if drawn is None:
        return None
    filled = " The filled mark is the growth that was made, hollow marks were rejected." if found else ""
    return Section(
        "How much each growth matters",
        "What the search expected from growing each stage, with its standard error. A stage grows only "
        f"if its gain is significant and the best per millisecond.{filled}",
        picture("importance", drawn, "importance of each stage with error bars"),
        half=True,
    )


def dense(run: RunData) -> Section | None:
    """What the dense super-network learned."""
    drawn = dense_plot.graph(run.events)
    if drawn is None:
        return None
    end = dense_plot.collapsed(run.events)
    state = ""
    if end is not None:
        state = (
            f" At the end {end[0]:.0%} of the stack layers are skipped, and {end[1]:.0%} of all layers "
            "use their smallest operator."
        )
    told = [(str(e["text"]),) for e in run.of("derived") if e.get("text")]
    return Section(
        "What the super-network learned",
        "Blocks in order, named by their channels; the thickness of an arc is its probability, "
        f"epoch by epoch.{state}",
        picture("dense-graph", drawn, "the dense graph with path probabilities after several epochs"),
        [Table(("derived networks",), told)] if told else [],
    )


def dense_costs(run: RunData) -> Section | None:
    """Expected and derived latency of a dense super-network by epoch."""
    drawn = picture("dense-costs", dense_plot.costs(run.events), "expected and derived latency by epoch")
    if not drawn:
        return None
    drawn_within = dense_plot.chances(run.events)
    chances = ""
    if drawn_within is not None:
        first, last = drawn_within
        chances = (
            " A network drawn by its probabilities is predicted within the budget with probability "
            f"{first:.1%} after the first epoch and {last:.1%} at the end."
        )
    return Section(
        "Expected and derived latency",
        "The expected latency over all paths of the super-network, and the latency of the networks derived "
        f"from it. Only the best network within the budget has to meet it.{chances}",
        drawn,
    )


def training(run: RunData) -> Section | None:
    """Where the time went."""
    drawn = timing_plots.training(run.trials)
    if drawn is None:
        return None
    done = [t.outcome for t in trained(run.trials)]
    seconds = sum(e.wall_s for e in done)
    images = sum(e.images for e in done)
    lead = f"{len(done)} trainings, {images:,} images, {format_seconds(seconds)}."
    spent = run.result.seconds if run.result else {}
    rows = [(name, format_seconds(value)) for name, value in spent.items()]
    final = sum(t.outcome.wall_s for t in trained(run.trials) if t.role == "final")
    if final and seconds:
        lead += f" {final / seconds:.0%} of the training time went into the network that was kept."
    tables = [Table(("part of the search", "time"), rows)] if rows else []
    return Section(
        "Where the time went",
        lead,
        picture("training", drawn, "training time by network"),
        tables,
        half=True,
    )
