"""`hwnas predict`: latency of networks from a table, with interval and cost by stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hwnas.cost.model import cost_model
from hwnas.errors import BackendUnavailable, InputError, MissingMeasurement, StaleTable
from hwnas.jobs.conditions import Conditions
from hwnas.jobs.resolve import networks
from hwnas.measure import device as devices
from hwnas.measure import reliability, table_folder
from hwnas.measure import table as tables
from hwnas.measure.remote.address import is_remote
from hwnas.measure.table import LatencyTable
from hwnas.records import Setting, to_json
from hwnas.results import Result
from hwnas.spec import NetworkSpec


@dataclass(frozen=True)
class PredictOptions(Conditions):
    """Which networks, from which table; the conditions choose among tables where no file is named.

    Attributes:
        networks: files, runs or names of shipped examples.
        table: table file; None takes the newest valid one (of `device`, if given) that fits them.
        insist: take a table of which the error is above `reliability.REFUSED_PERCENT`, too.
    """

    networks: tuple[str, ...]
    table: Path | None = None
    insist: bool = False


class Prediction(Result):
    """What a network is predicted to cost; `low_ms` to `high_ms` hold the truth with probability `coverage`.

    `by_stage_ms` splits the latency, `extrapolated` names the blocks that were never measured.
    """

    path: str
    name: str
    key: str
    latency_ms: float
    low_ms: float
    high_ms: float
    coverage: float
    macs: int
    params: int
    activation_bytes: int
    weight_bytes: int
    by_stage_ms: dict[str, float]
    extrapolated: tuple[str, ...]


class PredictOutcome(Result):
    """Predictions of networks, in the order given, from one table."""

    networks: tuple[Prediction, ...]
    table: str
    table_id: str
    setting: Setting
    conditions: str
    warnings: tuple[str, ...]


def predict(options: PredictOptions) -> PredictOutcome:
    """Predict the latency of networks.

    Returns:
        What every network costs, the table's id, path and setting, and warnings.

    Raises:
        InputError: no network was named, or one does not exist.
        MissingMeasurement: there is no table; names the command that makes one.
        DataFormatError: the table or a network is damaged, or the table is too far off to go by.
    """
    if not options.networks:
        raise InputError("name at least one network: a network.json, a run, or an example such as resnet20")
    specs = [networks.network(name) for name in options.networks]
    table = find(
        options.table,
        specs,
        device=options.device,
        backend=options.backend,
        precision=options.precision,
        batch=options.batch,
        threads=options.threads,
    )
    reliability.require(table, options.insist)
    model = cost_model(table)
    rows = []
    for name, spec, estimate in zip(options.networks, specs, model.estimates(specs)):
        rows.append({"path": name, "name": spec.name, "key": spec.key, **to_json(estimate)})
    body = {
        "networks": rows,
        "table": str(table.path),
        "table_id": table.table_id,
        "setting": to_json(table.setting),
        "conditions": table.setting.describe(),
        "warnings": [*table.warnings, *priced_heads(table, specs), *_warnings(rows, specs)],
    }
    return PredictOutcome.of(body)


def find(
    path: Path | None = None,
    specs: Sequence[NetworkSpec] = (),
    *,
    device: str | None = None,
    space: str | None = None,
    **conditions: Any,
) -> LatencyTable:
    """The table to use: the file named, else the newest of a device that covers the networks.

    A file that the user names may come from another machine: differences become warnings. A table
    that is picked must be true for this machine if its device and runtime are here: the newest that is.

    Args:
        path: table file.
        specs: networks that it should cover.
        device, space, conditions: choose among tables where no file is named (`table_folder.newest`).

    Raises:
        MissingMeasurement: there is none.
        StaleTable: it was taken under another runtime or on another machine.
    """
    if path is not None:
        table = tables.load(path)
    else:
        conditions |= {"device": devices.spelling(device) if device else None, "space": space}
        table = table_folder.newest(covering=specs, **conditions)
    live = live_setting(table.setting)
    if live is not None:
        try:
            table.warnings += tables.check_context(table, live)
        except StaleTable as exc:
            if path is None:
                return _of_here(live, specs, conditions, exc)
            table.warnings.append(str(exc))
    return table


# What tells one machine of a device's name from another, a slice of a GPU from the whole (MIG) among them.
HERE = ("device_arch", "backend", "backend_version")


def _of_here(
    live: Setting, specs: Sequence[NetworkSpec], conditions: dict[str, Any], stale: StaleTable
) -> LatencyTable:
    """The newest table of this very machine and runtime; raises `stale`, of another, where there is none."""
    try:
        same = {name: getattr(live, name) for name in HERE}
        table = table_folder.newest(covering=specs, **{**conditions, **same})
        table.warnings += tables.check_context(table, live)
    except (MissingMeasurement, StaleTable):
        raise stale from None
    return table


def live_setting(setting: Setting) -> Setting | None:
    """The same conditions on this machine; None where device or runtime is not here."""
    if is_remote(setting.device):  # a prediction asks no other machine, and a search measures there anyway
        return None
    try:
        _, live = devices.conditions_of(setting)
    except (BackendUnavailable, InputError):
        return None
    return live


def priced_heads(table: LatencyTable, specs: Sequence[NetworkSpec]) -> list[str]:
    """A word where classifiers were measured for other numbers of classes (`cost.head`)."""
    scaled = [spec for spec in specs if spec.head not in table and table.head_like(spec.head) is not None]
    if not scaled:
        return []
    measured = sorted({row.block.c_out for spec in scaled if (row := table.head_like(spec.head)) is not None})
    asked = sorted({spec.classes for spec in scaled})
    return [
        f"the table's classifier of {', '.join(map(str, measured))} classes stands for "
        f"{', '.join(map(str, asked))}: its cost is scaled by its multiply-accumulates"
    ]


def _warnings(rows: Sequence[dict[str, Any]], specs: Sequence[NetworkSpec]) -> list[str]:
    out = []
    for row, spec in zip(rows, specs):
        if row["extrapolated"]:
            out.append(
                f"{row['path']}: {len(row['extrapolated'])} of {len(set(spec.blocks))} distinct blocks were "
                "not measured; their cost is estimated and the interval is wide"
            )
    return out
