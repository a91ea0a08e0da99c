"""By which latency table a search goes: the user's, that of the run, the newest that fits, or a new one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hwnas import plugins
from hwnas.errors import MissingMeasurement
from hwnas.jobs import predict
from hwnas.jobs.profile.choose import is_open, takes
from hwnas.jobs.search import first_table
from hwnas.jobs.search.options import FAMILIES, STRATEGY, SearchOptions
from hwnas.jobs.search.resumed import Resumed
from hwnas.measure import reliability
from hwnas.measure.rows import NEAR
from hwnas.measure.table import LatencyTable
from hwnas.nets import families
from hwnas.protocols import Emit, SearchSpace
from hwnas.spec import NetworkSpec

CONDITIONS = ("backend", "precision", "batch", "threads")


@dataclass(frozen=True)
class TableChoice:
    """Chooses the table of one device.

    Attributes:
        options: of the search; the device is theirs.
        resumed: the run that is gone on with.
        emit: told of a profile.
        left_s: seconds of ``--max-time`` that are left.
    """

    options: SearchOptions
    resumed: Resumed
    emit: Emit
    left_s: Callable[[], float | None]

    def find(self, *specs: NetworkSpec) -> LatencyTable | None:
        """The user's table; on resuming, the run's; else the newest of the conditions that covers `specs`.

        None where there is none and one may be measured.
        """
        o = self.options
        named = Path(o.table) if o.table is not None else self.resumed.table
        conditions = {name: getattr(o, name) for name in CONDITIONS}
        for name in ("backend", "precision"):  # what is left open is looked at in the table
            if is_open(conditions[name], None):
                conditions[name] = None
        try:
            found = predict.find(
                named,
                specs,
                device=o.device,
                space=o.space,
                budgets_ms=first_table.budgets_ms(o.latency_budget),
                **conditions,
            )
            if takes(o.backend, found.setting.backend) and takes(o.precision, found.setting.precision):
                return found
            raise MissingMeasurement(
                f"table {found.table_id} is of {found.setting.describe()}; --backend {o.backend} --precision "
                f"{o.precision} asks for another"
            )
        except MissingMeasurement:
            if named is not None or not o.profile:
                raise
            return None

    def covering(self, early: LatencyTable | None, space: SearchSpace) -> LatencyTable:
        """`early` or an older table that covers the space; where none is, a new one."""
        smallest = space.smallest()
        if early is not None and early.covers(smallest) and self._good(early):
            return early
        found = self.find(smallest)  # an older one may be of these images
        if found is not None and (
            self._is_named or not self.options.profile or (found.covers(smallest) and self._good(found))
        ):
            return found
        loose = next((t for t in (early, found) if t is not None and t.covers(smallest)), None)
        off = None if loose is None else reliability.error_percent(loose)
        why = "no latency table fits"
        if loose is not None and off is not None:
            why = f"table {loose.table_id} is {off:.3g} % off on other networks, too much to be gone by"
        return first_table.measure(self.options, space, self.emit, self.left_s(), why=why)

    def space_of(self, early: LatencyTable | None, input_shape: tuple[int, int, int]) -> str:
        """The space of the newest table, which was profiled to be searched; empty where it does not fit."""
        if early is None or early.header.space not in plugins.names("spaces"):
            return ""
        if early.header.space == families.NAME and self.options.strategy not in (STRATEGY, FAMILIES):
            return ""  # a search without a space left it, and the others ask for one family
        of_these = early.header.input_shape == input_shape and self._good(early)
        return early.header.space if of_these or self.options.table is not None else ""

    @property
    def _is_named(self) -> bool:
        return self.options.table is not None or self.resumed.there

    def _good(self, table: LatencyTable) -> bool:
        """Whether a table that the user did not name is to be gone by; else a new one is measured.

        Of all families a minute's profile near the budget predicts better than a doubtful one for any.
        """
        if self._is_named or not self.options.profile or self.options.insist:
            return True
        for_any = table.header.space == families.NAME and table.header.protocol.get(NEAR) is None
        if for_any and first_table.near_ms(self.options.latency_budget) is not None:
            return not reliability.doubt_of(table)
        return not reliability.refused(table)
