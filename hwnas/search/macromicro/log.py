"""Published search logs of Efficient Global NAS, replayed: does our controller visit the same candidates?

A log holds one row a trained candidate. Its accuracies are fed to `macromicro.walk`, and every
candidate that the controller asks for is compared with the row that the log has in its place.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

from hwnas.documents import read_json
from hwnas.errors import DataFormatError, InputError
from hwnas.search.macromicro.controller import ChainCandidate, WalkOptions, found, walk

# Input channels and classes of the data sets in the published logs (EMNIST is its "balanced" split).
DATASETS = {
    "CIFAR10": (3, 10),
    "CIFAR100": (3, 100),
    "SVHN": (3, 10),
    "MNIST": (1, 10),
    "FashionMNIST": (1, 10),
    "KMNIST": (1, 10),
    "EMNIST": (1, 47),
}
ACCURACY = "best_val_top1_percent"
COLUMNS: dict[str, type] = {
    "depth": int,
    "width": int,
    "full_conv_layers": list,
    "kernel5_layers": list,
    "epochs": int,
    "params_million": float,
    ACCURACY: float,
}
# Logs give parameters in millions with six digits.
PARAMS_DIGITS = 1e-6


@dataclass(frozen=True)
class Log:
    """A search log, checked.

    Attributes:
        options: of the walk.
        shape: input channels and classes.
        rows: a candidate each, by column name.
        result: what the log itself says was found; None where it does not say.
    """

    options: WalkOptions
    shape: tuple[int, int]
    rows: tuple[Mapping[str, Any], ...]
    result: Mapping[str, Any] | None


def replay(path: Path) -> dict[str, Any]:
    """Feed a published search log's accuracies to the controller and compare every candidate.

    Args:
        path: JSON with ``settings``, ``columns`` and ``rows``; a ``result`` is compared as well.

    Returns:
        The found network under the log's own keys, `candidates` (rows compared) and `mismatches`
        (rows, or the end, that differ; each described in `mismatch_details`).

    Raises:
        InputError: there is no such file.
        DataFormatError: the file is not such a log, or ends before the controller does.
    """
    log = read(path)
    controller = walk(log.options, log.shape)
    candidate: ChainCandidate | None = next(controller)
    details = []
    for number, row in enumerate(log.rows):
        if candidate is None:
            details.append(f"row {number}: the controller had already ended")
            continue
        differences = _differences(candidate, row, log.shape)
        details += [f"row {number}: {'; '.join(differences)}"] if differences else []
        try:
            candidate = controller.send(float(row[ACCURACY]))
        except StopIteration:
            candidate = None
    if candidate is not None:
        early = (
            f"the log ends after {len(log.rows)} candidates, before the controller does; next is {candidate}"
        )
        if not details:
            raise DataFormatError(f"search log {path}: {early}")
        details.append(early)
    accuracies = [float(row[ACCURACY]) for row in log.rows]
    body = _result(*found(log.options, log.shape, accuracies), log.shape)
    details += _end_differs(body, log.result)
    return {
        **body,
        "candidates": len(log.rows),
        "mismatches": len(details),
        "mismatch_details": details,
    }


def _result(macro: ChainCandidate, micro: ChainCandidate, shape: tuple[int, int]) -> dict[str, Any]:
    return {
        "depth": micro.depth,
        "macro_width": macro.width,
        "macro_params_million": round(macro.params_million(*shape), 6),
        "full_conv_layers": list(micro.full_conv),
        "kernel5_layers": list(micro.kernel5),
        "width": micro.width,
        "params_million": round(micro.params_million(*shape), 6),
    }


def _differences(candidate: ChainCandidate, row: Mapping[str, Any], shape: tuple[int, int]) -> list[str]:
    """What a logged row and the controller's candidate disagree on."""
    ours = {
        "depth": candidate.depth,
        "width": candidate.width,
        "full_conv_layers": list(candidate.full_conv),
        "kernel5_layers": list(candidate.kernel5),
        "epochs": candidate.epochs,
    }
    wrong = [f"{name} is {row[name]}, expected {value}" for name, value in ours.items() if row[name] != value]
    params = candidate.params_million(*shape)
    if abs(params - row["params_million"]) > PARAMS_DIGITS:
        wrong.append(f"params_million is {row['params_million']}, expected {params:.6f}")
    return wrong


def _end_differs(ours: Mapping[str, Any], theirs: Mapping[str, Any] | None) -> list[str]:
    """What the log's own result and ours disagree on."""
    wrong = []
    for name, value in ours.items():
        other = (theirs or {}).get(name, value)
        same = (
            abs(value - other) <= PARAMS_DIGITS if _is(other, float) and _is(value, float) else value == other
        )
        if not same:
            wrong.append(f"result: {name} is {other}, expected {value}")
    return wrong


# -- reading ---------------------------------------------------------------------------------


def read(path: Path) -> Log:
    """Read and check a log.

    Raises:
        InputError: there is no such file.
        DataFormatError: it is not such a log; says what is wrong with it and where.
    """
    body = read_json(path, "search log")
    where = f"search log {path}"
    settings = _part(body, "settings", dict, where)
    columns, rows = _part(body, "columns", list, where), _part(body, "rows", list, where)
    missing = [name for name in COLUMNS if name not in columns]
    if missing:
        raise DataFormatError(f"{where} lacks the column {missing[0]!r}; expected {', '.join(COLUMNS)}")
    if not rows:
        raise DataFormatError(f"{where} has no rows; there is nothing to replay")
    result = body.get("result")
    if result is not None and not isinstance(result, dict):
        raise DataFormatError(f"{where}: result is a {type(result).__name__}, expected an object")
    return Log(
        _options(settings, where),
        _shape(settings, where),
        tuple(_row(columns, row, f"{where}, row {number}") for number, row in enumerate(rows)),
        result,
    )


def _part(body: Mapping[str, Any], name: str, kind: type, where: str) -> Any:
    if not isinstance(body.get(name), kind):
        found = type(body[name]).__name__ if name in body else "missing"
        raise DataFormatError(
            f"{where} is not a search log: {name} is {found}. Expected an object with settings (dataset, "
            "max_width, "
            f"...), columns ({', '.join(COLUMNS)}) and rows"
        )
    return body[name]


def _shape(settings: Mapping[str, Any], where: str) -> tuple[int, int]:
    known = {name.lower(): shape for name, shape in DATASETS.items()}
    name = settings.get("dataset")
    if str(name).lower() not in known:
        raise DataFormatError(f"{where}: dataset is {name!r}; expected one of {', '.join(DATASETS)}")
    return known[str(name).lower()]


def _options(settings: Mapping[str, Any], where: str) -> WalkOptions:
    """The walk's options among the settings; other settings do not matter to the walk."""
    given = {}
    for one in fields(WalkOptions):
        if one.name not in settings:
            if one.default is MISSING:
                raise DataFormatError(f"{where}: the setting {one.name} is missing")
            continue
        value = settings[one.name]
        kind = float if isinstance(one.default, float) else int
        if not _is(value, kind):
            raise DataFormatError(f"{where}: {one.name} is {value!r}, expected a number ({kind.__name__})")
        given[one.name] = value
    try:
        return WalkOptions(**given)
    except InputError as exc:
        raise DataFormatError(f"{where}: {exc}") from exc


def _row(columns: Sequence[str], values: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(values, list) or len(values) != len(columns):
        size = len(values) if isinstance(values, list) else type(values).__name__
        raise DataFormatError(f"{where} has {size} values for {len(columns)} columns")
    row = dict(zip(columns, values, strict=True))
    for name, kind in COLUMNS.items():
        if not _is(row[name], kind) or (kind is list and not all(_is(i, int) for i in row[name])):
            raise DataFormatError(f"{where}: {name} is {row[name]!r}, expected {kind.__name__}")
    if not 0 <= row[ACCURACY] <= 100:
        raise DataFormatError(f"{where}: {ACCURACY} is {row[ACCURACY]}, expected 0 to 100 percent")
    return row


def _is(value: object, kind: type) -> bool:
    """Whether a JSON value is of a kind; an int serves as a float, NaN as neither."""
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return isinstance(value, kind) and not isinstance(value, bool)
