# ruff: noqa: E501
"""Figures of docs/evidence/latency.md: predictions against measurements."""

from __future__ import annotations

from typing import Any

from benchmarks.figure_parts import picture, source, table


def predictors(body: dict[str, Any]) -> str:
    """Error of each contestant by case."""
    methods = list(dict.fromkeys(m for r in body["results"] for m in r["methods"]))
    head = ["case", *methods, "factor", "then", "repeat", "within 5 / 10 %", "tau", "coverage", "profile"]
    rows = []
    for r in body["results"]:
        ours = r["methods"]["hwnas"]
        errors = [f"{r['methods'][m]['mape_percent']:.2f}" if m in r["methods"] else "" for m in methods]
        errors[methods.index("hwnas")] = f"**{ours['mape_percent']:.2f}**"
        rows.append(
            [
                r["case"],
                *errors,
                f"{r['factor']:.3f}",
                f"{r['mape_of_factor_percent']:.2f}",
                f"{r['repeat_mape_percent']:.2f}",
                f"{ours['within_5_percent']:.0f} / {ours['within_10_percent']:.0f}",
                f"{ours['kendall_tau']:.3f}",
                f"{r['coverage_percent']:.0f} %",
                f"{r['profile']['seconds']:.0f} s",
            ]
        )
    text = (
        f"**Unseen networks.** Mean absolute error in percent on {body['networks']} fresh random networks a case, "
        f"timed by a clock of the benchmark's own (2 % quantile of calls, twice over {body['clock_s']:g} s, sessions "
        "in turn); `factor` is what all networks have in common, true over predicted, `then` hwnas's error once it "
        "is removed; `repeat` is what the two times of a network differ by; within, tau and coverage are "
        "hwnas's.\n\n"
    )
    return text + table(head, rows) + picture("predictors") + source(body)


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
    return text + table(head, rows) + picture("probing") + source(body)


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
    tail = picture("promise") + (
        f"For real, with engines built and tested: {real['over_budget']} of {real['accepted']} accepted networks "
        "were over the budget when measured again. "
    )
    return text + table(["belief", "answers", "over budget", "worst", "mean use"], rows) + tail + source(body)


def tables(body: dict[str, Any]) -> str:
    """A/A, kills, pricing."""
    same, killed, speed = body["two_profiles"], body["killed"], body["pricing"]
    return (
        f"**Tables.** Two profiles of this machine ({body['space']}, {same['keys']} keys): {same['verdict']}, "
        f"{same['median_abs_percent']:.2f} % apart in the median key. A profile killed {killed['kills']} times at "
        f"random moments: {killed['corrupt']} corrupt files, {killed['rows_lost']} rows lost, then complete with the "
        f"keys of an unbroken one: {'yes' if killed['same_keys_as_unbroken'] else 'no'}. Priced on one core: "
        f"{speed['networks_per_s'] / 1e6:.1f} million networks of {speed['blocks_each']} blocks a second. "
        + source(body)
    )


def quick(body: dict[str, Any]) -> str:
    """What a quick profile costs."""
    rows = [
        [
            r["space"],
            f"{r['seconds']:.0f} s",
            str(r["measurements"]),
            str(r["rows"]),
            f"{r['holdout']['mape_percent']:.2f} %",
            f"{r['holdout']['repeat_mape_percent']:.2f} %",
        ]
        for r in body["results"]
    ]
    head = ["space", "wall time", "graphs timed", "blocks", "error on unseen networks", "repeat"]
    return "**A quick profile**, the whole command:\n\n" + table(head, rows) + picture("quick") + source(body)


def shared_cache(body: dict[str, Any]) -> str:
    """What neighbours do to networks, by their weights."""
    head = ["engine", "weights", "as found", "beside streaming", "by the rule", "beside computing"]
    rows = [
        [
            r["network"],
            f"{r['weight_bytes'] / 1e6:.1f} MB",
            f"{r['ms']:.2f} ms",
            f"{r['streams_percent']:.1f} %",
            "" if r["network"] == "second sentinel" else f"{r['derived_percent']:.1f} %",
            f"{r['computes_percent']:.1f} %",
        ]
        for r in sorted(body["rows"], key=lambda r: -r["weight_bytes"])
    ]
    text = (
        "The same beside planted processes on the other core, by the 2 % quantile of calls over the best of all turns; "
        "a disturbance from outside may lie in any column:\n\n"
    )
    return text + table(head, rows) + "\n" + source(body)
