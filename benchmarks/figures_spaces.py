# ruff: noqa: E501
"""Figures of docs/evidence about families of networks, scores without training, and models of one's own."""

from __future__ import annotations

from statistics import mean
from typing import Any

from benchmarks.figure_parts import picture, source, table


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
    return text + table(head, rows) + picture("own-model") + source(body)


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
    return table(columns, rows) + "\n\n" + source(body)


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
    return table(head, rows) + f"\n\n{told}.\n\n" + source(body)


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
    return text + "; ".join(told) + ":\n\n" + table(head, rows) + "\n\n" + source(body)


def _interval(found: dict[str, float]) -> str:
    return f"{found['tau']:.2f} ({found['low']:.2f} to {found['high']:.2f})"


def _by_contestant(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    names = dict.fromkeys(row["contestant"] for row in rows)
    return {name: [row for row in rows if row["contestant"] == name] for name in names}


def _accuracy(rows: list[dict[str, Any]]) -> float:
    return float(mean([row["test"] for row in rows if row["test"] is not None] or [-1.0]))


def _validated(rows: list[dict[str, Any]]) -> float:
    return float(mean([row["val"] for row in rows if row["val"] is not None] or [-1.0]))
