"""The folder where a user's tables lie: a free name in it, what it holds, the newest table that fits.

Looking at the folder reads headers and last lines only; a table is read whole when it is chosen.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hwnas import store
from hwnas.errors import DataFormatError, HwnasError, MissingMeasurement
from hwnas.measure import advice, reliability
from hwnas.measure.rows import NEAR, SUFFIX, Header, parse_header, parse_line
from hwnas.measure.table import LatencyTable, load
from hwnas.nets import spaces
from hwnas.spec import NetworkSpec

_HEADER_BYTES = 1 << 20
# A profile near one latency serves budgets up to this factor away: its widths reach so far.
NEAR_ENOUGH = 1.5


def folder() -> Path:
    """Where tables live: ``tables`` in the user's data folder (``HWNAS_HOME`` overrides)."""
    return store.home() / "tables"


def new_path(header: Header) -> Path:
    """A free file name in `folder` that says what the table is of.

    The header may come from someone else: only letters, digits and ``._-`` of it come into the name.
    """
    s = header.setting
    stamp = "".join(c for c in header.created[:19] if c.isdigit())
    shape = "x".join(map(str, header.input_shape or ()))
    classes = f"c{header.classes}" if header.classes else ""
    parts = (
        s.device,
        s.backend,
        s.precision,
        f"b{s.batch}",
        f"t{s.threads}",
        header.space,
        shape,
        classes,
        stamp,
    )
    stem = "-".join(filter(None, (re.sub(r"[^A-Za-z0-9._-]+", "_", part)[:40].strip(".") for part in parts)))
    names_ = (f"{stem}{f'-{n}' if n else ''}{SUFFIX}" for n in range(10_000))
    free = (path for name in names_ if not ((path := folder() / name).exists() or path.is_symlink()))
    return next(free)


@dataclass(frozen=True)
class Survey:
    """What lies in `folder`: tables whose header can be read, newest first, and the files that are none."""

    good: tuple[tuple[Path, Header], ...]
    bad: tuple[tuple[Path, str], ...]


def survey() -> Survey:
    """Look at the header of every table in `folder`; a bad file does not hide the good ones."""
    good, bad = [], []
    for path in sorted(folder().glob(f"*{SUFFIX}")):
        try:
            good.append((path, _header(path)))
        except (HwnasError, OSError) as exc:
            bad.append((path, str(exc)))
    good.sort(key=lambda pair: (pair[1].created, pair[0].name), reverse=True)
    return Survey(tuple(good), tuple(bad))


def _header(path: Path) -> Header:
    if not path.is_file():  # a pipe would block
        raise DataFormatError(f"table {path} is not a file")
    with path.open("rb") as file:
        line = file.readline(_HEADER_BYTES)
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise DataFormatError(f"table {path} is not a text file: {exc}") from exc
    return parse_header(path, [parse_line(path, 1, text)])


def headers() -> list[tuple[Path, Header]]:
    """Every readable table in `folder` with its header, newest first."""
    return list(survey().good)


def is_finished(path: Path) -> bool:
    """Whether a table's last line is its end; a cheap look that checks nothing else."""
    with path.open("rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(file.tell() - 4096, 0))
        tail = file.read()
    return tail.endswith(b"\n") and b'{"row":"end"' in tail.rstrip(b"\n").rpartition(b"\n")[2]


def figures(path: Path) -> dict[str, Any]:
    """Figures of a finished profile out of a table's last lines; a cheap look that checks nothing else."""
    with path.open("rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(file.tell() - (1 << 16), 0))
        lines = file.read().splitlines()
    for line in reversed(lines[-3:]):
        if line.startswith(b'{"row":"summary"'):
            try:
                found = parse_line(path, 0, line.decode("utf-8")).get("figures")
            except (DataFormatError, UnicodeDecodeError):
                return {}
            return found if isinstance(found, dict) else {}
    return {}


def near(latency_ms: float | None, budgets_ms: Sequence[float | None]) -> bool:
    """Whether what was profiled near a latency serves budgets; None was profiled for all of them."""
    if latency_ms is None:
        return True
    return all(
        ms is not None and latency_ms / NEAR_ENOUGH <= ms <= latency_ms * NEAR_ENOUGH for ms in budgets_ms
    )


def newest(
    device: str | None = None,
    *,
    space: str | None = None,
    covering: Iterable[NetworkSpec] = (),
    budgets_ms: Sequence[float | None] | None = None,
    **setting: Any,
) -> LatencyTable:
    """The newest finished table of a device that fits.

    Args:
        device: device name; None takes any.
        space: only tables of this space.
        covering: take the table that prices most blocks of these networks, the newest of equal ones;
            one that lacks more than half of them is of another space or image size and does not fit.
        budgets_ms: latencies that it is for, None of one that is not known yet: a table that was profiled
            near another latency does not fit. Without budgets, any table does.
        setting: further fields of `Setting` that must be equal (``batch=1``, ``precision="fp32"``);
            None leaves a field open.

    Raises:
        MissingMeasurement: there is none; names the command that makes one.
    """
    networks = list(covering)
    asked_for = len({block for spec in networks for block in spec.blocks})
    best: tuple[tuple[bool, int], LatencyTable] | None = None
    found = survey()
    skipped = [f"skipped {why}" for _, why in found.bad]
    for path, header in found.good:
        wanted = {"device": device, **setting}
        if any(v is not None and getattr(header.setting, k) != v for k, v in wanted.items()):
            continue
        if space is not None and header.space not in ("", space):
            continue
        if budgets_ms is not None and not near(header.protocol.get(NEAR), budgets_ms):
            continue
        try:
            table = load(path)
        except HwnasError as exc:
            skipped.append(f"skipped {exc}")
            continue
        if not table.complete:
            continue
        rank = (reliability.refused(table), sum(table.lacking(spec) for spec in networks))
        if best is None or rank < best[0]:
            best = rank, table
        if rank == (False, 0):
            break
    if best is not None and 2 * best[0][1] <= asked_for:
        return _warned(best[1], skipped)
    asked = ", ".join(f"{k} {v}" for k, v in {"space": space, **setting}.items() if v is not None)
    shape = next((spec.input_shape for spec in networks), None)
    of = f" that fits networks of {'x'.join(map(str, shape))} images" if shape else ""
    wanted = {"device": device or "cpu", **{k: v for k, v in setting.items() if v != advice.USUAL.get(k)}}
    home = space or next(map(spaces.home_of, networks), "")
    raise MissingMeasurement(
        f"no latency table for device {device or 'any'}{f' with {asked}' if asked else ''}{of}; make one: "
        f"{advice.profile(wanted, home, shape)}" + "".join(f"\n({note})" for note in _few(skipped))
    )


def _warned(table: LatencyTable, skipped: Sequence[str]) -> LatencyTable:
    table.warnings += _few(skipped)
    return table


def _few(notes: Sequence[str]) -> list[str]:
    """At most ten, and how many more there are."""
    more = [f"{len(notes) - 10} more tables were skipped; `hwnas table list`"] if len(notes) > 10 else []
    return [*notes[:10], *more]
