"""What the benchmarks share: the machine's description, result files, bar charts without a browser."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, TypeVar

from hwnas import executors
from hwnas.measure.device import detect
from hwnas.protocols import Emit, Needs
from hwnas.records import now_utc
from hwnas.store import write_json, write_text

T = TypeVar("T")
RESULTS = Path(__file__).parent / "results"
CHARTS = Path(__file__).parent.parent / "docs" / "evidence" / "figures"
COLOURS = ("#9aa5b1", "#c2a36b", "#7a9cc6", "#2f6f4f", "#b5677a")


def machine() -> dict[str, Any]:
    """The machine that the figures are of."""
    info = detect()
    return {
        "cpu": info.cpu,
        "cores": info.cores,
        "flags": list(info.flags),
        "caches_bytes": info.caches_bytes,
        "virtual": info.virtual,
        "load": info.load,
        "system": info.system,
        "python": info.python,
    }


def each(
    work: Callable[..., T], given: Sequence[tuple[Any, ...]], executor: str, jobs: int, device: str
) -> Iterator[T]:
    """What a function gives for each row of arguments, in their order; so many at once by an executor.

    On other machines `benchmarks` must be there to import, and files must be on a disk that all share.
    """
    if jobs == 1:
        yield from (work(*row) for row in given)
        return
    made = executors.made(executor, jobs=jobs, device=device, emit=lambda kind, fields: None)
    try:
        running = [
            made.submit(f"{work.__name__} {at}", Needs(), Silently(work), *row)
            for at, row in enumerate(given)
        ]
        yield from (one.result() for one in running)
    finally:
        made.close()


@dataclass(frozen=True)
class Silently:
    """A function as a task that tells nothing."""

    work: Callable[..., Any]

    def __call__(self, *given: Any, emit: Emit) -> Any:
        """Call it."""
        return self.work(*given)


def save(name: str, body: Mapping[str, Any], svg: str | None = None) -> Path:
    """Write a result with command, date and machine, and its chart among those of the documents."""
    path = RESULTS / f"{name}.json"
    write_json(path, {**head(name), **body})
    if svg is not None:
        write_text(CHARTS / f"{name}.svg", svg)
    return path


def head(name: str) -> dict[str, Any]:
    """What every result begins with: command, date and machine."""
    module = Path(sys.argv[0]).stem
    return {
        "benchmark": name,
        "command": " ".join(["python -m", f"benchmarks.{module}", *map(_anywhere, sys.argv[1:])]),
        "taken_at": now_utc(),
        "machine": machine(),
    }


def _anywhere(word: str) -> str:
    """An argument without the place where this machine keeps a file."""
    scheme, colon, path = word.rpartition(":")
    return f"{scheme}{colon}PATH" if "/" in path and Path(path).exists() else word


def bars(
    title: str,
    groups: Sequence[str],
    series: Mapping[str, Sequence[float | None]],
    unit: str,
    limit: float | None = None,
) -> str:
    """Grouped horizontal bars as SVG: one group a case, one bar a contestant, values written out."""
    row, gap, left, width = 18, 16, 210, 520
    top = 40 + 20 * len(series)
    height = top + len(groups) * (row * len(series) + gap) + 30
    most = max(v for values in series.values() for v in values if v is not None)
    most = min(most, limit) if limit else most
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left + width + 90} {height}" '
        'font-family="system-ui, sans-serif" font-size="12">',
        f'<rect width="{left + width + 90}" height="{height}" fill="#ffffff"/>',
        f'<text x="12" y="22" font-size="15" font-weight="600">{escape(title)}</text>',
    ]
    for i, name in enumerate(series):
        y = 44 + 20 * i
        parts.append(f'<rect x="12" y="{y - 10}" width="12" height="12" fill="{COLOURS[i]}"/>')
        parts.append(f'<text x="30" y="{y}">{escape(name)}</text>')
    for g, group in enumerate(groups):
        y = top + g * (row * len(series) + gap)
        middle = y + row * len(series) / 2 + 4
        parts.append(f'<text x="{left - 10}" y="{middle:.0f}" text-anchor="end">{escape(group)}</text>')
        for i, values in enumerate(series.values()):
            value = values[g]
            if value is None:
                continue
            length = width * min(value, most) / most
            at = y + i * row
            parts.append(
                f'<rect x="{left}" y="{at}" width="{length:.1f}" height="{row - 4}" fill="{COLOURS[i]}"/>'
            )
            parts.append(f'<text x="{left + length + 6:.1f}" y="{at + 11}">{value:.2f} {escape(unit)}</text>')
    return "\n".join([*parts, "</svg>", ""])
