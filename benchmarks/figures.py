# ruff: noqa: E501
"""Write the figures of benchmarks/results/*.json into the documents, between their markers.

python -m benchmarks.figures
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.common import RESULTS

DOCS = Path(__file__).parent.parent / "docs" / "evidence"


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
    return text + _table(head, rows) + _picture("predictors") + _source(body)


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
    return text + _table(head, rows) + _picture("probing") + _source(body)


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
    tail = _picture("promise") + (
        f"For real, with engines built and tested: {real['over_budget']} of {real['accepted']} accepted networks "
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
    return (
        "**A quick profile**, the whole command:\n\n" + _table(head, rows) + _picture("quick") + _source(body)
    )


def _picture(name: str) -> str:
    return f"\n\n![{name}](figures/{name}.svg)\n\n"


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


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
    return (
        text + _table(head, rows) + f"\n\n![strategies](figures/{body['benchmark']}.svg)\n\n" + _source(body)
    )


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
    return text + _table(head, rows) + picture + _source(body)


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
    return text + _table(head, rows) + _picture(body["benchmark"]) + _source(body)


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
    return text + _table(["length", "Kendall tau", "regret in %"], rows) + "\n\n" + _source(body)


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
    return text + _table(head, rows) + "\n\n" + _source(body)


def own_model(body: dict[str, Any]) -> str:
    """Every contestant at every target: mean over seeds, and how the budget was used."""
    cells: dict[tuple[str, float, str], list[dict[str, Any]]] = {}
    for row in body["rows"]:
        cells.setdefault((row["parent"], row["target"], row["contestant"]), []).append(row)
    rows = [
        [
            parent,
            f"{target:g}",
            f"`{contestant}`",
            f"{100 * mean(r['test'] for r in found):.2f} %",
            ", ".join(f"{r['ratio']:.3f}" for r in found),
            f"{sum(r['kept'] for r in found)} of {len(found)}",
        ]
        for (parent, target, contestant), found in cells.items()
    ]
    parents = "; ".join(
        f"{name}: {100 * found['test']:.2f} % after {found['images']:,} images"
        for name, found in body["parents"].items()
    )
    head = ["parent", "target", "contestant", "test top-1", "used of the parent's ms", "kept"]
    text = f"{body['options']['images']:,} images of fine-tuning for each. Parents: {parents}.\n\n"
    return text + _table(head, rows) + _picture("own-model") + _source(body)


def frontier(body: dict[str, Any]) -> str:
    """Accuracy at equal milliseconds and images, best first."""
    rows = []
    cells = dict.fromkeys((row["budget"], row["images"]) for row in body["rows"])
    for budget, images in cells:
        mine = [row for row in body["rows"] if (row["budget"], row["images"]) == (budget, images)]
        for name, some in sorted(_by_contestant(mine).items(), key=lambda pair: -_accuracy(pair[1])):
            done = [row for row in some if row["test"] is not None]
            first = [budget, f"{images:,}", f"`{name}`", str(len(some))]
            if not done:
                rows.append([*first, "no member fits", "", "", ""])
                continue
            timed = [row for row in done if row["ms"] is not None]
            rows.append(
                [
                    *first,
                    f"{100 * _accuracy(done):.2f} %",
                    f"{mean(row['ms'] for row in timed):.3f} ms" if timed else "not measured again",
                    f"{sum(bool(row['kept']) for row in timed)} of {len(timed)}" if timed else "",
                    f"{mean(row['train_seconds'] for row in done):.0f} s",
                ]
            )
    columns = ["budget", "images", "contestant", "seeds", "test top-1", "measured", "budget kept", "training"]
    return _table(columns, rows) + "\n\n" + _source(body)


def families(body: dict[str, Any]) -> str:
    """Families of networks at each budget, best first, after few images and after many."""
    lengths = sorted({row["images"] for row in body["rows"]})
    rows = []
    for budget in dict.fromkeys(row["budget"] for row in body["rows"]):
        mine = [row for row in body["rows"] if row["budget"] == budget]
        reached: dict[str, dict[int, list[dict[str, Any]]]] = {}
        for row in mine:
            reached.setdefault(row["family"], {}).setdefault(row["images"], []).append(row)
        last = {name: _validated(found.get(lengths[-1], [])) for name, found in reached.items()}
        for name in sorted(reached, key=lambda name: -last[name]):
            one = next(iter(reached[name].values()))[0]
            widths = "no member fits" if one["widths"] is None else "-".join(map(str, one["widths"]))
            floor = "" if one["floor_ms"] is None else f"{one['floor_ms']:.3f} ms"
            by_length = [_validated(reached[name].get(n, [])) for n in lengths]
            rows.append(
                [budget, name, widths, floor, *(f"{100 * v:.1f} %" if v >= 0 else "" for v in by_length)]
            )
    told = "; ".join(
        f"{one['budget']}: the order after {one['images']:,} images agrees with that after {one['most']:,} with "
        f"Kendall tau {one['tau']:.2f} ({one['families']} families)"
        for one in body["taus"]
    )
    head = ["budget", "family", "channels, stem first", "floor", *(f"after {n:,} images" for n in lengths)]
    return _table(head, rows) + f"\n\n{told}.\n\n" + _source(body)


def _validated(rows: list[dict[str, Any]]) -> float:
    return float(mean([row["val"] for row in rows if row["val"] is not None] or [-1.0]))


def _by_contestant(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    names = dict.fromkeys(row["contestant"] for row in rows)
    return {name: [row for row in rows if row["contestant"] == name] for name in names}


def _accuracy(rows: list[dict[str, Any]]) -> float:
    return float(mean([row["test"] for row in rows if row["test"] is not None] or [-1.0]))


# What people call the scores of `benchmarks.scores`, and whether a network's is the sum of its blocks'.
SCORES = {
    "entropy": ("entropy (the score in use)", True),
    "parameters": ("parameters", True),
    "macs": ("MACs, AZ-NAS complexity", True),
    "zico": ("ZiCo", False),
    "swap": ("SWAP", False),
    "expressivity": ("AZ-NAS expressivity", False),
    "progressivity": ("AZ-NAS progressivity", False),
    "trainability": ("AZ-NAS trainability", False),
    "az_nas": ("AZ-NAS, all parts", False),
    "short": ("a short training", False),
}


def scores(body: dict[str, Any]) -> str:
    """Scores without training by how far they agree with test top-1, best first."""
    rows, told = [], []
    for budget, networks in body["networks"].items():
        floors = [one["floor_ms"] for one in networks]
        families = len({one["family"] for one in networks})
        told.append(
            f"{budget}: {len(networks)} networks of {families} families, {min(floors):.3f} to {max(floors):.3f} ms"
        )
    ranked = [row for row in body["table"] if row["all"] is not None]
    for budget, images, networks in dict.fromkeys((r["budget"], r["images"], r["networks"]) for r in ranked):
        mine = [r for r in ranked if (r["budget"], r["images"], r["networks"]) == (budget, images, networks)]
        for r in sorted(mine, key=lambda r: -r["all"]["tau"]):
            name, additive = SCORES[r["score"]]
            rows.append(
                [
                    budget,
                    f"{images:,}",
                    str(networks),
                    name,
                    "yes" if additive else "no",
                    *("no pair" if r[of] is None else _interval(r[of]) for of in ("all", "within")),
                    f"{100 * r['regret']:.2f} points",
                    f"{r['seconds']:.2g} s",
                ]
            )
    head = [
        "budget",
        "images",
        "networks",
        "score",
        "additive",
        "tau",
        "tau within families",
        "loses",
        "takes",
    ]
    text = (
        f"Kendall's tau-b with test top-1 (95 % intervals, bootstrap over networks); what the network of the highest "
        f"score loses to the best one; seconds a network. The short training sees {body['short']:,} images. "
    )
    return text + "; ".join(told) + ":\n\n" + _table(head, rows) + "\n\n" + _source(body)


def _interval(found: dict[str, float]) -> str:
    return f"{found['tau']:.2f} ({found['low']:.2f} to {found['high']:.2f})"


# Page and marker of each result.
FIGURES: dict[str, tuple[str, Callable[[dict[str, Any]], str]]] = {
    "predictors": ("latency.md", predictors),
    "quick": ("latency.md", quick),
    "probing": ("latency.md", probing),
    "promise": ("latency.md", promise),
    "tables": ("latency.md", tables),
    "grow-resnet-cifar-quick": ("search.md", grow),
    "grow-resnet-cifar-full": ("search.md", grow),
    "grow-resnet-cifar-small": ("search.md", grow),
    "grow-resnet-cifar-wide": ("search.md", grow),
    "grow-resnet-cifar-wide-full": ("search.md", grow),
    "densenas-quick": ("densenas.md", densenas),
    "densenas-full": ("densenas.md", densenas),
    "frontier": ("frontier.md", frontier),
    "families": ("frontier.md", families),
    "scores": ("search.md", scores),
    "strategies": ("strategies.md", strategies),
    "lengths": ("strategies.md", lengths),
    "budgets": ("strategies.md", budgets),
    "own-model": ("own-model.md", own_model),
}


def main() -> None:
    """Fill in every figure whose result is there."""
    for name, (page, write) in FIGURES.items():
        path = RESULTS / f"{name}.json"
        if not path.exists():
            print(f"{name}: no result yet")
            continue
        text = (DOCS / page).read_text(encoding="utf-8")
        filled = f"<!-- {name} -->\n{write(json.loads(path.read_text(encoding='utf-8')))}\n<!-- /{name} -->"
        before, start, rest = text.partition(f"<!-- {name} -->")
        _, end, after = rest.partition(f"<!-- /{name} -->")
        marked = bool(start and end)
        if marked:
            (DOCS / page).write_text(before + filled + after, encoding="utf-8")
        print(f"{name}: {'written' if marked else 'no marker'}")


if __name__ == "__main__":
    main()
