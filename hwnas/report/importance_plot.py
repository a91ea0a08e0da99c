"""Importance of every possible growth, with its error, and what was decided about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hwnas.records import Trial
from hwnas.report.plots import path_to
from hwnas.report.style import Figure, axis, colour, figure, marker, safe
from hwnas.search.ranking import candidates

NUMBERS = (int, float)


@dataclass(frozen=True)
class Weighed:
    """One possible growth that was weighed: where, its importance, its error, and what was decided."""

    network: int
    stage: int
    kind: str
    gain: float
    se: float
    taken: bool
    text: str


def weighed(events: Sequence[Mapping[str, Any]]) -> list[Weighed]:
    """The growths and refusals among a run's events that carry figures."""
    found = []
    for event in events:
        figures = [event.get(name) for name in ("after", "stage", "gain", "gain_se")]
        if event.get("event") in ("growth", "refusal") and all(isinstance(f, NUMBERS) for f in figures):
            after, stage, gain, se = (f for f in figures if isinstance(f, NUMBERS))
            kind = str(event.get("kind", "deeper"))
            taken, text = event["event"] == "growth", str(event.get("text", ""))
            found.append(Weighed(int(after) - 1, int(stage), kind, float(gain), float(se), taken, text))
    return found


def of_trials(trials: Sequence[Trial], best: Trial | None) -> list[Weighed]:
    """The importance that trials carry, for a run whose events hold no decisions."""
    steps = path_to(trials, best) if best is not None else candidates(trials)
    return [
        Weighed(step.index, one.stage, one.kind, one.value, one.se, False, "")
        for step in steps
        for one in (step.evaluation.importance if step.evaluation else ())
    ]


def importance(found: Sequence[Weighed], trials: Sequence[Trial]) -> Figure | None:
    """Importance of each growth with its standard error, network by network; the one taken is filled."""
    if not found:
        return None
    networks = sorted({w.network for w in found})
    places = sorted({(w.stage, w.kind) for w in found})
    by_index = {t.index: t.spec.depths_text for t in trials}
    data = [_series(found, place, at, len(places), networks) for at, place in enumerate(places)]
    layout = {
        "xaxis": axis(
            "network that was about to grow (blocks per stage)",
            tickvals=list(range(len(networks))),
            ticktext=[by_index.get(n, f"network {n}") for n in networks],
        ),
        "yaxis": axis("importance ± standard error", zeroline=True, zerolinewidth=1),
    }
    return figure(data, height=350, **layout)


def _series(
    found: Sequence[Weighed], place: tuple[int, str], at: int, places: int, networks: Sequence[int]
) -> dict[str, Any]:
    mine = [w for w in found if (w.stage, w.kind) == place]
    name = f"stage {place[0] + 1}" + ("" if place[1] == "deeper" else f" {safe(place[1])}")
    shade = colour(place[0] + 1)
    shift = 0.5 * ((at + 0.5) / places - 0.5)  # neighbours stand side by side
    decided = any(w.text for w in found)  # else these are importances without a decision
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": [networks.index(w.network) + shift for w in mine],
        "y": [w.gain for w in mine],
        "error_y": {
            "type": "data",
            "array": [w.se for w in mine],
            "thickness": 1.5,
            "width": 4,
            "color": shade,
        },
        "marker": {
            "symbol": [marker(at) if w.taken or not decided else f"{marker(at)}-open" for w in mine],
            "size": 10,
            "color": shade,
            "line": {"width": 1.5, "color": shade},
        },
        "text": [safe(w.text) or name for w in mine],
        "hovertemplate": "%{text}<br>%{y:.3g}<extra></extra>",
    }
