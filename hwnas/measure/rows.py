"""What one line of a latency table holds: the header and the kinds of row, checked on reading."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, TypeAdapter, ValidationError, field_validator

from hwnas import seals
from hwnas.documents import json_object
from hwnas.errors import DataFormatError
from hwnas.record import Record
from hwnas.records import MOST_MS, Measurement, Setting, checked_stamp, now_utc
from hwnas.sizes import MOST_PIXELS, SizeField
from hwnas.spec import MOST_CHANNELS, BlockSpec
from hwnas.traced import AnyBlock, AnyNetwork, place_of

SCHEMA = "hwlat/1"
SUFFIX = ".hwlat.jsonl"

Size = Annotated[int, Field(gt=0, le=MOST_PIXELS)]
RowRole = Literal["probe", "calibration", "holdout", "observed"]


# In a header's protocol, the latency in ms that its networks are near; without it they have every latency.
NEAR = "near_ms"


class Header(Record):
    """First line: what the numbers are true for and how they were taken.

    `space`, `input_shape` and `classes` say what was swept; `device`, `software`, `build` and `run`
    hold what the machine said of itself; `protocol` how the times were taken; `sentinels` the engine
    that floors are referred to; `parent` the id of the table that this one was derived from. What is
    known only at the end (calibration, errors, noise) is in the summary row: a header never changes.
    """

    row: Literal["header"] = "header"
    setting: Setting
    space: str = ""
    input_shape: tuple[Size, Size, Size] | None = None
    classes: int | None = Field(default=None, gt=0, le=10**6)
    created: str = Field(default_factory=now_utc)
    units: dict[str, str] = Field(default_factory=lambda: {"time": "ms"})
    tool: dict[str, str] = Field(default_factory=dict)
    device: dict[str, Any] = Field(default_factory=dict)
    software: dict[str, Any] = Field(default_factory=dict)
    build: dict[str, Any] = Field(default_factory=dict)
    run: dict[str, Any] = Field(default_factory=dict)
    protocol: dict[str, Any] = Field(default_factory=dict)
    sentinels: dict[str, Any] = Field(default_factory=dict)
    source: str = ""
    parent: str = ""

    @field_validator("created")
    @classmethod
    def _stamp(cls, value: str) -> str:
        return checked_stamp(value)

    @field_validator("protocol")
    @classmethod
    def _how(cls, value: dict[str, Any]) -> dict[str, Any]:
        # Profiles are compared by it, and commands count what was not imported.
        for name in ("sessions", "sessions_max", "session_ms", NEAR):
            if name in value and not (_is_number(value[name]) and 0 < value[name] <= MOST_MS):
                raise ValueError(f"{name} is {value[name]!r}, not a number above zero")
        left_out = value.get("not_imported", [])
        if not (isinstance(left_out, list) and all(isinstance(name, str) for name in left_out)):
            raise ValueError(f"not_imported is {str(left_out)[:60]!r}, not a list of names")
        return value


class BlockRow(Record):
    """One block. `value_ms` is the statistic that models use (the floor where it was measured)."""

    row: Literal["block"] = "block"
    block: AnyBlock
    value_ms: float = Field(gt=0, le=MOST_MS)
    se_ms: float = Field(default=0.0, ge=0, le=MOST_MS)
    method: Literal["isolated", "estimated", "imported"] = "isolated"
    measurement: Measurement | None = None
    note: str = ""


class ChainRow(Record):
    """Several blocks built and timed as one engine, for differences taken in context."""

    row: Literal["chain"] = "chain"
    blocks: tuple[AnyBlock, ...]
    measurement: Measurement


# Campaigns of one table; those of merged tables are counted on from there, of up to a thousand tables.
CAMPAIGNS = 1_000_000


class NetworkRow(Record):
    """A whole network that was measured, and what for.

    ``probe``: chosen because the model was least sure of it. ``calibration``: drawn at random from
    the space, for the interval. ``holdout``: drawn at random and never fitted, for the printed
    error. ``observed``: reported back by a search. `campaign` numbers the group of networks that were
    timed against each other.
    """

    row: Literal["network"] = "network"
    spec: AnyNetwork
    role: RowRole
    measurement: Measurement
    campaign: int = Field(default=0, ge=0, le=1_000 * (CAMPAIGNS + 1))


class RepeatRow(Record):
    """A network of the table measured a second time, in another campaign: shows the noise."""

    row: Literal["repeat"] = "repeat"
    network: str
    value_ms: float = Field(gt=0, le=MOST_MS)


class AgainRow(Record):
    """Further sessions of a network or a block that the table has, taken at another time.

    The table's measurement of it becomes what both together say (`aggregate.pooled`).
    """

    row: Literal["again"] = "again"
    network: str = ""
    block: AnyBlock | None = None
    measurement: Measurement


class FailureRow(Record):
    """What could not be built or run; the sweep went on."""

    row: Literal["failure"] = "failure"
    blocks: tuple[AnyBlock, ...]
    error: str


class SlotRow(Record):
    """Cost of a layer that a network of this width and size leaves out (published eager tables)."""

    row: Literal["slot"] = "slot"
    width: int = Field(gt=0, le=MOST_CHANNELS)
    size: SizeField
    slots: int = Field(gt=0, le=10**6)
    value_ms: float = Field(ge=0, le=MOST_MS)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


class SummaryRow(Record):
    """Figures of a finished profile: held-out error, noise, time spent."""

    row: Literal["summary"] = "summary"
    figures: dict[str, Any]

    @field_validator("figures")
    @classmethod
    def _numbers(cls, value: dict[str, Any]) -> dict[str, Any]:
        # Commands print them, so what is no number must not come as far.
        held = value.get("holdout")
        if held is not None and not (isinstance(held, dict) and _is_number(held.get("mape_percent"))):
            raise ValueError("holdout must hold the number mape_percent")
        for name, figure in value.items():
            parts = figure.values() if isinstance(figure, dict) else (figure,)
            if not all(part is None or _is_number(part) for part in parts):
                raise ValueError(f"{name} must be a number, or numbers by name")
        return value


class EndRow(Record):
    """Last line of a finished sweep: how many rows came before it."""

    row: Literal["end"] = "end"
    rows: int = Field(ge=0)


Row: TypeAlias = (
    BlockRow | ChainRow | NetworkRow | RepeatRow | AgainRow | FailureRow | SlotRow | SummaryRow | EndRow
)
_ROW: TypeAdapter[Row] = TypeAdapter(Annotated[Row, Field(discriminator="row")])


def json_schema() -> dict[str, Any]:
    """JSON Schema of one line, as shipped in ``profiles/hwlat-1.schema.json``."""
    line: TypeAdapter[Any] = TypeAdapter(Annotated[Header | Row, Field(discriminator="row")])
    body = line.json_schema()
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"{SCHEMA}: one line of a {SUFFIX} file",
        "description": "Each line further carries `hash`; the header also `schema`.",
        **body,
    }


def names(blocks: tuple[BlockSpec, ...]) -> str:
    """A chain for display."""
    return " + ".join(block.key for block in blocks)


def chain_hash(before: str, body: Mapping[str, Any]) -> str:
    """Hash of a table's line given the hash of the line before it, for whoever writes tables."""
    return seals.digest(body, before)


def parse_line(path: Path, number: int, line: str) -> dict[str, Any]:
    """One line as an object; DataFormatError names the line. NaN and infinity are refused."""
    return json_object(line, f"table {path}, line {number}")


def parse_header(path: Path, bodies: list[dict[str, Any]]) -> Header:
    """The header of a table from its first line; DataFormatError for another schema or unit."""
    first = bodies[0] if bodies else {}
    if first.get("schema") != SCHEMA:
        raise DataFormatError(
            f"table {path} has schema {first.get('schema')!r}; this version reads {SCHEMA!r}. "
            "Import tables of other projects with `hwnas table import`"
        )
    fields = {k: v for k, v in first.items() if k not in ("schema", "hash")}
    try:
        header = Header.model_validate(fields)
    except ValidationError as exc:
        raise DataFormatError(f"table {path}, line 1: {first_fault(exc)}") from exc
    if header.units.get("time") != "ms":
        raise DataFormatError(
            f"table {path} gives times in {header.units.get('time')!r}; they must be in 'ms'"
        )
    return header


def parse_row(path: Path, number: int, body: dict[str, Any]) -> Row:
    """A row from its object; DataFormatError names line, field and value."""
    try:
        return _ROW.validate_python(body)
    except ValidationError as exc:
        raise DataFormatError(f"table {path}, line {number}: {first_fault(exc)}") from exc


def first_fault(exc: ValidationError) -> str:
    """The first thing that a validation found, in one line."""
    error = exc.errors()[0]
    place = place_of(error["loc"]) or "the line"
    return f"{place}: {error['msg']} (got {error['input']!r})"
