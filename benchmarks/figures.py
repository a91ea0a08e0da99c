"""Write the figures of benchmarks/results/*.json into the documents, between their markers.

python -m benchmarks.figures
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS
from benchmarks.figures_latency import predictors, probing, promise, quick, shared_cache, tables
from benchmarks.figures_search import budgets, densenas, grow, lengths, strategies
from benchmarks.figures_spaces import families, frontier, own_model, scores

DOCS = Path(__file__).parent.parent / "docs" / "evidence"


# Page and marker of each result.
FIGURES: dict[str, tuple[str, Callable[[dict[str, Any]], str]]] = {
    "predictors": ("latency.md", predictors),
    "quick": ("latency.md", quick),
    "probing": ("latency.md", probing),
    "promise": ("latency.md", promise),
    "tables": ("latency.md", tables),
    "shared-cache": ("latency.md", shared_cache),
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
