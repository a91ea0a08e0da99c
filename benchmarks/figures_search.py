# ruff: noqa: E501
"""Figures of docs/evidence about searches: what each strategy gives for its budget and its images."""

from __future__ import annotations

from typing import Any

from benchmarks.figure_parts import picture, source, table


def strategies(body: dict[str, Any]) -> str:
    """Every strategy at equal training."""
    head = [
        "budget",
        "strategy",
        "space",
        "test top-1",
        "measured",
        "budget used",
        "training",
        "networks trained",
        "wall time",
    ]
    rows = []
    for r in body["summary"]:
        if r["test_percent"] is None:
            rows.append(
                [
                    r["asked"],
                    f"`{r['contestant']}`",
                    r["space"],
                    "nothing within the budget",
                    "",
                    "",
                    "",
                    "",
                    "",
                ]
            )
            continue
        spread = f" +- {r['test_spread']:.2f}" if r["test_spread"] is not None else ""
        failed = f" ({r['failed']} of {r['seeds']} seeds found nothing)" if r["failed"] else ""
        rows.append(
            [
                r["asked"],
                f"`{r['contestant']}`",
                r["space"],
                f"{r['test_percent']:.2f}{spread} %{failed}",
                f"{r['median_ms']:.3f} ms" + ("" if r["within_budget"] else ", **over**"),
                f"{100 * r['used']:.0f} %",
                f"{r['train_macs']:.2g} MAC",
                f"{r['trained']:.0f}",
                f"{r['wall_s'] / 60:.0f} min",
            ]
        )
    text = (
        f"CIFAR-10, {body['images']:,} training images for each search, final training included; mean over "
        f"{max(r['seeds'] for r in body['summary'])} seed(s), +- standard deviation:\n\n"
    )
    return text + table(head, rows) + f"\n\n![strategies](figures/{body['benchmark']}.svg)\n\n" + source(body)


def _stages(depths: list[int], widths: list[int]) -> str:
    """``3-3-3``; ``3x16-3x32-3x64`` where widths are not those of ResNet-20."""
    usual = [16 * 2**s for s in range(len(widths))]
    return "-".join(
        f"{depth}" if widths == usual else f"{depth}x{width}"
        for depth, width in zip(depths, widths, strict=True)
    )


def grow(body: dict[str, Any]) -> str:
    """Growing against the usual ways to spend budget and training."""
    head = [
        "contestant",
        "test top-1",
        "budget used",
        "predicted",
        "images",
        "training",
        "wall time",
        "blocks",
    ]
    rows = []
    for r in body["summary"]:
        spread = f" +- {r['test_spread']:.2f}" if r["test_spread"] is not None else ""
        used = "-" if r["least_used"] is None else f"{100 * r['least_used']:.0f} %"
        rows.append(
            [
                f"`{r['contestant']}`",
                f"{r['test_percent']:.2f}{spread} %",
                used + ("" if r["within_budget"] else ", **over**"),
                "-" if r["least_predicted_use"] is None else f"{100 * r['least_predicted_use']:.0f} %",
                f"{r['images']:,}",
                f"{r['train_macs']:.2g} MAC",
                f"{r['seconds'] / 60:.0f} min",
                ", ".join(map(_stages, r["depths"], r["widths"])),
            ]
        )
    seeds = max(r["seeds"] for r in body["summary"])
    text = (
        f"{body['space']}, budget {body['budget']}, {seeds} seed(s), +- standard deviation; the least use of the "
        "budget over the seeds, measured and predicted; images with the search included; blocks of each stage"
        f"{', x width' if 'wide' in body['space'] else ''}:\n\n"
    )
    picture = f"\n\n![{body['benchmark']}](figures/{body['benchmark']}.svg)\n\n"
    return text + table(head, rows) + picture + source(body)


def densenas(body: dict[str, Any]) -> str:
    """The dense super-network against random search."""
    rows = []
    for r in body["summary"]:
        gain = "" if r["gain_points"] is None or r["contestant"] == "random" else f"{r['gain_points']:+.2f}"
        rows.append(
            [
                f"`{r['contestant']}`",
                f"{r['budget_ms']:g} ms",
                f"{r['test_percent']:.2f} %",
                gain,
                " / ".join(f"{100 * used:.0f} %" for used in r["used"]),
                "yes" if r["within_budget"] else "**no**",
                f"{r['train_macs_all']:.2g} MAC",
                f"{r['seconds_all'] / 60:.0f} min",
            ]
        )
    seeds = max(r["seeds"] for r in body["summary"])
    text = (
        f"CIFAR-10, {body['images']:,} training images for each winner, its search included; {seeds} seed(s); "
        "training and time are of all three budgets together:\n\n"
    )
    head = ["contestant", "budget", "test top-1", "over random", "budget used", "kept", "training", "time"]
    return text + table(head, rows) + picture(body["benchmark"]) + source(body)


def lengths(body: dict[str, Any]) -> str:
    """Rank correlation of short with long trainings."""
    rows = [
        [
            f"MACs^{r['macs']:g} x (1/width)^{r['width']:g}",
            f"{r['kendall_tau']:.2f}",
            f"{r['best_regret_percent']:.2f}",
        ]
        for r in body["rules"]
    ]
    text = (
        f"**Training length.** {body['networks']} chains of equal latency ({body['budget']}), ranked by {body['short']:,} "
        f"images each on average and by {body['long']:,}; regret is what the best by the short one loses in the long one:\n\n"
    )
    return text + table(["length", "Kendall tau", "regret in %"], rows) + "\n\n" + source(body)


def budgets(body: dict[str, Any]) -> str:
    """Budgets kept on the device."""
    rows = [
        [
            f"`{r['strategy']}`",
            r["space"],
            str(r["searches"]),
            str(r["answers"]),
            str(r["over_budget"]),
            "-" if r["largest_ratio"] is None else f"{100 * r['largest_ratio']:.1f} %",
            "-" if r["mean_ratio"] is None else f"{100 * r['mean_ratio']:.0f} %",
        ]
        for r in body["summary"]
    ]
    text = (
        f"Real searches with little training for random budgets; every winner was built again and measured again in "
        f"{body['sessions']} fresh sessions after its search:\n\n"
    )
    head = ["strategy", "space", "searches", "answers", "over when measured again", "most used", "mean use"]
    return text + table(head, rows) + "\n\n" + source(body)
