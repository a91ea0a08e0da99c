# ruff: noqa: E501
"""Write the figures of benchmarks/results/*.json into docs/latency.md, between its markers.

python -m benchmarks.figures
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS

PAGE = Path(__file__).parent.parent / "docs" / "latency.md"


def _source(body: dict[str, Any]) -> str:
    day = body["taken_at"][:10]
    return f"`{body['command']}`, {day}, one-minute load {body['machine']['load']:g} at the end."


def predictors(body: dict[str, Any]) -> str:
    """Error of each contestant by case."""
    methods = list(dict.fromkeys(m for r in body["results"] for m in r["methods"]))
    head = ["case", *methods, "repeat", "within 5 / 10 %", "tau", "coverage", "profile"]
    rows = []
    for r in body["results"]:
        ours = r["methods"]["hwnas"]
        errors = [f"{r['methods'][m]['mape_percent']:.2f}" if m in r["methods"] else "" for m in methods]
        errors[methods.index("hwnas")] = f"**{ours['mape_percent']:.2f}**"
        rows.append(
            [
                r["case"],
                *errors,
                f"{r['repeat_mape_percent']:.2f}",
                f"{ours['within_5_percent']:.0f} / {ours['within_10_percent']:.0f}",
                f"{ours['kendall_tau']:.3f}",
                f"{r['coverage_percent']:.0f} %",
                f"{r['profile']['seconds']:.0f} s",
            ]
        )
    text = (
        f"**Unseen networks.** Mean absolute error in percent on {body['networks']} fresh random networks a case; "
        "`repeat` is what two measurements of the same network differ by; within, tau and coverage are hwnas's.\n\n"
    )
    return (
        text
        + _table(head, rows)
        + "\n\n![predictors](../benchmarks/results/predictors.svg)\n\n"
        + _source(body)
    )


def probing(body: dict[str, Any]) -> str:
    """Error after each number of networks."""
    head = ["networks measured", *map(str, body["networks"])]
    rows = [
        [method, *("" if v is None else f"{v:.2f}" for v in values)]
        for method, values in body["mape_percent"].items()
    ]
    ours = body["to_2_percent"]["hwnas"]
    reached = (
        f"hwnas is below 2 % after {ours['networks']} networks, {ours['seconds']:.0f} s of measuring in all"
        if ours["networks"] is not None
        else "hwnas did not get below 2 %"
    )
    text = (
        f"**How many measurements.** {body['space']}: error in percent on the networks of a test set after so "
        f"many others were measured (repeat {body['repeat_mape_percent']:.2f} %); {reached}.\n\n"
    )
    return text + _table(head, rows) + "\n\n" + _source(body)


def promise(body: dict[str, Any]) -> str:
    """Over-budget rates."""
    simulated, real = body["simulated"], body["real"]
    rows = [
        [
            way,
            str(f["answers"]),
            f"{f['over_budget_percent']:.1f} %",
            f"{f['worst_percent']:+.1f} %",
            f"{f['mean_use_percent']:.1f} %",
        ]
        for way, f in simulated.items()
        if isinstance(f, dict)
    ]
    text = (
        f"**Budgets.** {simulated['searches']} simulated searches of {body['space']} that take the best-looking "
        "network they believe to be within a budget, judged by a second measurement:\n\n"
    )
    tail = (
        f"\n\nFor real, with engines built and tested: {real['over_budget']} of {real['accepted']} accepted networks "
        "were over the budget when measured again. "
    )
    return (
        text + _table(["belief", "answers", "over budget", "worst", "mean use"], rows) + tail + _source(body)
    )


def tables(body: dict[str, Any]) -> str:
    """A/A, kills, pricing."""
    same, killed, speed = body["two_profiles"], body["killed"], body["pricing"]
    return (
        f"**Tables.** Two profiles of this machine ({body['space']}, {same['keys']} keys): {same['verdict']}, "
        f"{same['median_abs_percent']:.2f} % apart in the median key. A profile killed {killed['kills']} times at "
        f"random moments: {killed['corrupt']} corrupt files, {killed['rows_lost']} rows lost, then complete with the "
        f"keys of an unbroken one: {'yes' if killed['same_keys_as_unbroken'] else 'no'}. Priced on one core: "
        f"{speed['networks_per_s'] / 1e6:.1f} million networks of {speed['blocks_each']} blocks a second. "
        + _source(body)
    )


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def main() -> None:
    """Fill in every figure whose result is there."""
    text = PAGE.read_text(encoding="utf-8")
    for write in (predictors, probing, promise, tables):
        name = write.__name__
        path = RESULTS / f"{name}.json"
        if not path.exists():
            print(f"{name}: no result yet")
            continue
        filled = f"<!-- {name} -->\n{write(json.loads(path.read_text(encoding='utf-8')))}\n<!-- /{name} -->"
        before, start, rest = text.partition(f"<!-- {name} -->")
        _, end, after = rest.partition(f"<!-- /{name} -->")
        n = bool(start and end)
        text = before + filled + after if n else text
        print(f"{name}: {'written' if n else 'no marker'}")
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
