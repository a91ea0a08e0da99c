"""Pictures of a search. Each function gives a Plotly figure as a dictionary, or None without data."""

from __future__ import annotations

from collections.abc import Sequence

from hwnas.estimates import Budget
from hwnas.records import Trial, trained
from hwnas.report import phrases
from hwnas.report.style import (
    BLUE,
    GREY,
    INK,
    ORANGE,
    RED,
    SKY,
    Figure,
    axis,
    budget_line,
    colour,
    figure,
    marker,
    safe,
)
from hwnas.search.ranking import accuracy, candidates
from hwnas.units import format_count, format_ms


def hover(trial: Trial) -> str:
    """What a point says when it is pointed at."""
    estimate = trial.estimate
    lines = [
        f"<b>{trial.spec.depths_text}</b> (network {trial.index})",
        f"predicted {format_ms(estimate.latency_ms)}, {estimate.coverage:.0%} within "
        f"{format_ms(estimate.low_ms)} to {format_ms(estimate.high_ms)}",
    ]
    if trial.measured:
        lines.append(f"measured {format_ms(trial.measured.median_ms)}")
    if trial.evaluation:
        done = trial.evaluation
        lines.append(f"validation {phrases.percent(done.accuracy)} ± {100 * done.accuracy_se:.1f}")
    lines.append(f"{format_count(estimate.macs, 'MAC')}, {format_count(estimate.params, 'param')}")
    lines += [safe(trial.reason or trial.error)] if trial.reason or trial.error else []
    return "<br>".join(lines)


def points(trials: Sequence[Trial], budget: Budget | None, **more: object) -> dict[str, object]:
    """Trained trials as points: latency in ms, validation accuracy in percent."""
    at = budget.percentile if budget else "p50"
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [phrases.shown_ms(t, at) for t in trials],
        "y": [100 * accuracy(t) for t in trials],
        "text": [hover(t) for t in trials],
        "hovertemplate": "%{text}<extra></extra>",
        **more,
    }


def front(trials: Sequence[Trial], budget: Budget | None) -> list[Trial]:
    """The trained networks that no other beats in both accuracy and latency, fastest first."""
    at = budget.percentile if budget else "p50"
    best: list[Trial] = []
    for trial in sorted(candidates(trials), key=lambda t: (phrases.shown_ms(t, at), -t.outcome.accuracy)):
        last = best[-1].evaluation if best else None
        if last is None or accuracy(trial) > last.accuracy:
            best.append(trial)
    return best


def accuracy_latency(
    trials: Sequence[Trial],
    budget: Budget | None,
    best: Trial | None,
    others: Sequence[tuple[Budget, Trial]] = (),
) -> Figure | None:
    """Accuracy against latency: every trained network, the front, the winner, the budget.

    `others` are the smaller budgets of a search for several, with their winners.
    """
    done = candidates(trials)
    if not done:
        return None
    on_front = front(trials, budget)
    probes = [t for t in trained(trials) if t.role == "probe"]
    data = [
        points(
            done,
            budget,
            name="trained",
            marker={"color": BLUE, "size": 8, "opacity": 0.75},
            error_y={
                "type": "data",
                "array": [100 * t.outcome.accuracy_se for t in done],
                "thickness": 1,
                "width": 0,
                "color": "rgba(58,134,200,0.45)",
            },
        ),
        points(
            on_front,
            budget,
            name="Pareto front: best accuracy at each latency",
            mode="lines",
            line={"color": BLUE, "width": 2, "shape": "hv"},
            hoverinfo="skip",
        ),
    ]
    if probes:
        symbol = {"color": GREY, "size": 7, "symbol": "x-thin-open", "line": {"width": 1.5}}
        data.append(points(probes, budget, name="short trial growth", marker=symbol))
    if best is not None and best.evaluation is not None:
        star = {"color": ORANGE, "size": 18, "symbol": "star", "line": {"color": INK, "width": 1}}
        data.append(points([best], budget, name=f"chosen: {best.spec.depths_text}", marker=star))
    for other, winner in others:
        star = {"color": SKY, "size": 15, "symbol": "star", "line": {"color": INK, "width": 1}}
        name = f"chosen for {format_ms(other.latency_ms or 0.0)}: {winner.spec.depths_text}"
        data.append(points([winner], other, name=name, marker=star))
    layout: Figure = {
        "xaxis": axis("latency, ms (measured where it was, else predicted)"),
        "yaxis": axis("validation accuracy, %"),
        "shapes": [],
        "annotations": [],
    }
    refused = [t for t in trials if t.state == "over_budget"]
    if refused:
        data.append(_refused(refused, done))
    for one in (budget, *(other for other, _ in others)):
        add_budget(layout, one)
    return figure(data, height=430, **layout)


def _refused(refused: Sequence[Trial], done: Sequence[Trial]) -> dict[str, object]:
    """Networks that were never trained, as marks along the foot of the picture."""
    accuracies = [100 * accuracy(t) for t in done]
    foot = min(accuracies) - 0.06 * max(max(accuracies) - min(accuracies), 1.0)
    return {
        "type": "scatter",
        "mode": "markers",
        "name": f"rejected before training: over the budget ({len(refused)})",
        "x": [phrases.shown_ms(t) for t in refused],
        "y": [foot] * len(refused),
        "text": [hover(t) for t in refused],
        "hovertemplate": "%{text}<extra></extra>",
        "marker": {"color": RED, "size": 10, "symbol": "line-ns-open", "line": {"width": 1.5}},
    }


def add_budget(layout: Figure, budget: Budget | None, y: float = 0.02) -> None:
    """Draw the latency budget into a layout, where there is one."""
    if budget is None or budget.latency_ms is None:
        return
    line, text = budget_line(budget.latency_ms, f"budget {format_ms(budget.latency_ms)}", y)
    layout["shapes"] = [*layout.get("shapes", ()), line]
    layout["annotations"] = [*layout.get("annotations", ()), text]


def path_to(trials: Sequence[Trial], best: Trial | None) -> list[Trial]:
    """The winner's ancestors from the first on, one per network: further training of one is no step.

    A network that was trained further keeps the reason for which it was first tried. A final training
    from new weights descends from the network that won.
    """
    by_index = {t.index: t for t in trials}
    path: list[Trial] = []
    at = best
    while at is not None and all(at.index != seen.index for seen in path):
        path.append(at)
        before = at.winner if at.parent is None else at.parent
        at = by_index.get(int(before)) if before is not None else None
    steps: list[Trial] = []
    for trial in reversed(path):
        if steps and steps[-1].spec.key == trial.spec.key:
            steps[-1] = trial.model_copy(update={"reason": steps[-1].reason})
        else:
            steps.append(trial)
    return steps


def growth(trials: Sequence[Trial], budget: Budget | None, best: Trial | None) -> Figure | None:
    """How depth grew: accuracy above, blocks per stage below, both over the latency axis."""
    path = path_to(trials, best)
    if len(path) < 2:
        return None
    at = budget.percentile if budget else "p50"
    x = [phrases.shown_ms(t, at) for t in path]
    on_path = {t.index for t in path} | {t.spec.key for t in path}
    aside = [t for t in candidates(trials) if not {t.index, t.spec.key} & on_path]
    data = [
        points(
            path,
            budget,
            mode="lines+markers",
            name="accepted step",
            line={"color": BLUE, "width": 2.5},
            marker={"color": BLUE, "size": 9},
        )
    ]
    if aside:
        hollow = {"color": GREY, "size": 8, "symbol": "circle-open", "line": {"width": 1.5}}
        data.append(points(aside, budget, name="tried, not taken", marker=hollow))
    for stage in range(len(path[0].spec.stages)):
        data.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": f"stage {stage + 1}",
                "x": x,
                # A small shift keeps stages of equal depth apart; what is shown on hover is exact.
                "y": [len(t.spec.stages[stage]) + 0.07 * stage for t in path],
                "customdata": [len(t.spec.stages[stage]) for t in path],
                "yaxis": "y2",
                "line": {"color": colour(stage + 1), "width": 2.5, "shape": "hv"},
                "marker": {"symbol": marker(stage), "size": 8, "color": colour(stage + 1)},
                "hovertemplate": f"stage {stage + 1}: %{{customdata}} blocks at %{{x:.3f}} ms<extra></extra>",
            }
        )
    layout: Figure = {
        "xaxis": axis("latency, ms", anchor="y2"),
        "yaxis": axis("validation accuracy, %", domain=[0.47, 1.0]),
        "yaxis2": axis("blocks in a stage", domain=[0.0, 0.4], rangemode="tozero", dtick=_tick(path)),
    }
    add_budget(layout, budget)
    return figure(data, height=520, **layout)


def _tick(path: Sequence[Trial]) -> int:
    return max(1, -(-max(max(t.spec.depths) for t in path) // 5))
