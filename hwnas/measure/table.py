"""Latency tables on disk: ``*.hwlat.jsonl``, schema ``hwlat/1`` (docs/latency.md).

Line 1 is the header (conditions, tool, protocol, units), then one JSON object per line. Rows are only
ever appended, so a killed sweep loses at most the row it was writing. Each line carries a hash over
its content and the hash before it: a changed, missing or swapped line is found, and named, on load.
The hash of the last row is the table's id, which goes into every engine's manifest.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hwnas import seals
from hwnas.documents import read_bytes
from hwnas.errors import DataFormatError, InputError, MissingMeasurement, StaleTable
from hwnas.measure import advice, reliability
from hwnas.measure.aggregate import pooled
from hwnas.measure.memory import MemoryStates
from hwnas.measure.plausible import refuse_implausible
from hwnas.measure.rows import (
    AgainRow,
    BlockRow,
    ChainRow,
    EndRow,
    FailureRow,
    Header,
    NetworkRow,
    RepeatRow,
    Row,
    SlotRow,
    SummaryRow,
    names,
    parse_header,
    parse_line,
    parse_row,
)
from hwnas.records import Setting
from hwnas.spec import BlockSpec, NetworkSpec

# Larger files are refused before they are read: the largest profiles have some 10 MiB.
MOST_BYTES = 256 << 20
MOST_PERCENT = 1e3  # of a state, in a summary that may be damaged


class LatencyTable:
    """A loaded table.

    Attributes:
        header: conditions; `setting` is its setting.
        rows: measured blocks.
        chains, networks, failures, slots: the other rows.
        repeats: second measurements in ms, by `NetworkSpec.key`.
        again: keys of the networks that have further sessions, taken at another time.
        summary: figures of the last finished profile, empty if there is none.
        complete: whether the sweep ended (an end row is the last line).
        table_id: sixteen hexadecimal digits over the content.
        path: the file.
        warnings: what loading found worth saying.
    """

    def __init__(self, header: Header, path: Path | None = None) -> None:
        self.header = header
        self.path = path
        self.rows: dict[BlockSpec, BlockRow] = {}
        self._heads: dict[BlockSpec, list[BlockRow]] = {}  # classifiers by their shape but for the classes
        self.chains: list[ChainRow] = []
        self._chained: set[tuple[BlockSpec, ...]] = set()
        self.networks: list[NetworkRow] = []
        self.repeats: dict[str, float] = {}
        self.again: set[str] = set()
        self.failures: dict[tuple[BlockSpec, ...], FailureRow] = {}
        self.slots: list[SlotRow] = []
        self.summary: dict[str, Any] = {}
        self.complete = False
        self.table_id = ""
        self.warnings: list[str] = []

    @property
    def sentinel_ms(self) -> float | None:
        """Floor of the sentinel in the state that the floors are referred to; None without one."""
        timed = [row.measurement for row in self.rows.values()] + [row.measurement for row in self.networks]
        return next((m.sentinel_ms for m in timed if m is not None), None)

    @property
    def states(self) -> float | None:
        """How far from its best state the device was met over time (`levels.state_sd`); None if unknown."""
        found: Any = self.summary.get("states_percent")
        return float(found) / 100.0 if type(found) in (int, float) and 0 <= found <= MOST_PERCENT else None

    @property
    def memory(self) -> MemoryStates | None:
        """What neighbours in the shared cache did over time (`memory.MemoryStates`); None if unknown."""
        return MemoryStates.read(self.summary.get("memory"))

    @property
    def setting(self) -> Setting:
        """The conditions of every number in the table."""
        return self.header.setting

    def __getitem__(self, block: BlockSpec) -> BlockRow:
        """The row of a block; MissingMeasurement names the command that measures it."""
        try:
            return self.rows[block]
        except KeyError:
            why = f" (it failed: {self.failures[(block,)].error})" if (block,) in self.failures else ""
            raise MissingMeasurement(
                f"table {self.table_id} ({self.setting.describe()}) has no row for {block.key}{why}; measure "
                f"it: {self.profile_command(only_missing=True)}"
            ) from None

    def profile_command(self, **more: Any) -> str:
        """The command that measures this table's space under its conditions."""
        header = self.header
        return advice.profile(advice.conditions(self.setting), header.space, header.input_shape, **more)

    def __contains__(self, block: object) -> bool:
        return block in self.rows

    def has_chain(self, blocks: tuple[BlockSpec, ...]) -> bool:
        """Whether a chain of blocks has a row."""
        return blocks in self._chained

    def head_like(self, head: BlockSpec) -> BlockRow | None:
        """The measured classifier of that shape, of the nearest number of classes; see `cost.head`."""
        if head.kind != "classifier":
            return None
        alike = self._heads.get(head.model_copy(update={"c_out": 1}), [])
        return min(alike, key=lambda row: abs(math.log(row.block.c_out / head.c_out)), default=None)

    def prices(self, block: BlockSpec) -> bool:
        """Whether a block was measured, or is a classifier that differs from one in its classes alone."""
        return block in self.rows or self.head_like(block) is not None

    def covers(self, spec: NetworkSpec) -> bool:
        """Whether every block of a network has its price, whatever its number of classes."""
        return all(map(self.prices, spec.blocks))

    def lacking(self, spec: NetworkSpec) -> int:
        """How many of a network's different blocks have no price."""
        return sum(not self.prices(block) for block in set(spec.blocks))

    def add(self, row: Row) -> None:
        """Take in a row; DataFormatError for a second row of the same block."""
        self.complete = False
        if isinstance(row, BlockRow):
            if row.block in self.rows:
                raise DataFormatError(f"duplicate key {row.block.key}: the block has a row already")
            self.rows[row.block] = row
            if row.block.kind == "classifier":
                self._heads.setdefault(row.block.model_copy(update={"c_out": 1}), []).append(row)
        elif isinstance(row, ChainRow):
            if self.has_chain(row.blocks):
                raise DataFormatError(f"duplicate key: the chain {names(row.blocks)} has a row already")
            self._chained.add(row.blocks)
            self.chains.append(row)
        elif isinstance(row, NetworkRow):
            self.networks.append(row)
        elif isinstance(row, RepeatRow):
            self.repeats[row.network] = row.value_ms
        elif isinstance(row, AgainRow):
            self._pool(row)
        elif isinstance(row, FailureRow):
            self.failures[row.blocks] = row
        elif isinstance(row, SlotRow):
            self.slots.append(row)
        elif isinstance(row, SummaryRow):
            self.summary = row.figures
        else:
            self.complete = True

    def _pool(self, row: AgainRow) -> None:
        """Take further sessions into the row that they are of; DataFormatError where there is none."""
        if row.block is not None and (old := self.rows.get(row.block)) is not None and old.measurement:
            found = pooled(old.measurement, row.measurement)
            fields = {"measurement": found, "value_ms": found.floor_ms, "se_ms": found.se_ms}
            self.rows[row.block] = old.model_copy(update=fields)
            return
        for at, net in enumerate(self.networks):
            if row.network and net.spec.key == row.network:
                found = pooled(net.measurement, row.measurement)
                self.networks[at] = net.model_copy(update={"measurement": found})
                self.again.add(row.network)
                return
        what = row.block.key if row.block is not None else row.network
        raise DataFormatError(f"further sessions of {what}, which has no measured row")

    def __iter__(self) -> Iterator[Row]:
        yield from self.rows.values()
        yield from self.slots
        yield from self.chains
        yield from self.networks
        yield from (RepeatRow(network=key, value_ms=value) for key, value in self.repeats.items())
        yield from self.failures.values()

    def __len__(self) -> int:
        return len(self.rows)


def load(path: Path) -> LatencyTable:
    """Read and check a table.

    Raises:
        InputError: there is no such file.
        DataFormatError: what is wrong with it, and in which line.
    """
    if not path.exists():
        raise InputError(f"table {path} does not exist; `hwnas profile --device cpu` makes one")
    return parse(path, read_bytes(path, "table", MOST_BYTES))


def parse(path: Path, data: bytes) -> LatencyTable:
    """Check the content of a table; `path` is its name, for messages. See `load`."""
    try:
        lines = data.decode("utf-8").split("\n")
    except UnicodeDecodeError as exc:
        raise DataFormatError(f"table {path} is not a text file: {exc}") from exc
    header = parse_header(path, [parse_line(path, 1, lines[0])])
    if lines[-1]:
        raise DataFormatError(
            f"table {path} is truncated: line {len(lines)} is unfinished. If its sweep was killed, repeat "
            "the `hwnas profile` command with --out to go on; otherwise fetch the file again"
        )
    table = LatencyTable(header, path)
    before = ""
    for number, line in enumerate(lines[:-1], start=1):
        body = parse_line(path, number, line)
        sealed = dict(body)
        body.pop(seals.LINE, None)
        row = None if number == 1 else parse_row(path, number, body)
        try:
            before = seals.unsealed_line(sealed, before, f"table {path}, line {number}")
        except DataFormatError as exc:
            raise DataFormatError(f"{exc}. Fetch the file again or profile again") from exc
        _take(table, row, path, number)
    table.table_id = before
    refuse_implausible(table, path)
    if doubt := reliability.doubt_of(table):
        table.warnings.append(doubt)
    if reliability.decided_by(table) == "noise":
        more = table.profile_command(only_missing=True, out=path)
        table.warnings.append(reliability.wide(table, more))
    if not table.complete:
        table.warnings.append(
            f"table {path} is incomplete: it has {len(table.rows)} block rows and no end row, so its sweep "
            f"was stopped or the file was cut. Continue it: {table.profile_command(out=path)}"
        )
    return table


def _take(table: LatencyTable, row: Row | None, path: Path, number: int) -> None:
    if row is None:
        return
    if isinstance(row, EndRow) and row.rows != number - 2:
        raise DataFormatError(
            f"table {path}, line {number}: {row.rows} rows were written, {number - 2} are here; "
            "rows are missing"
        )
    try:
        table.add(row)
    except DataFormatError as exc:
        raise DataFormatError(f"table {path}, line {number}: {exc}") from exc


def check_context(table: LatencyTable, live: Setting) -> list[str]:
    """Compare a measured table with the live machine's setting.

    Returns:
        Warnings for differences that may matter (driver, clocks).

    Raises:
        StaleTable: device, its architecture, runtime, precision, batch or threads differ.
    """
    if table.setting.provenance != "measured":
        return []
    there, here = table.setting.model_dump(), live.model_dump()
    hard = (
        "device",
        "device_arch",
        "backend",
        "backend_version",
        "precision",
        "batch",
        "threads",
        "affinity",
        "spin",
        "batches",
        "compatible",
        "dla",
    )
    changed = [f"{k} was {there[k]!r}, is {here[k]!r}" for k in hard if there[k] != here[k]]
    if changed:
        raise StaleTable(
            f"table {table.table_id} was taken under other conditions ({'; '.join(changed)}); profile again: "
            f"{advice.profile(advice.conditions(live), table.header.space, table.header.input_shape)}"
        )
    soft = ("driver", "clocks_mhz", "power_limit_w")
    return [
        f"table {table.table_id}: {k} was {there[k]!r}, is {here[k]!r}; `hwnas table validate` measures again"
        for k in soft
        if there[k] != here[k]
    ]
