"""What measures the networks of a search whole: this process, or the executor's machine with the device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hwnas.errors import DeviceUnavailable, HwnasError
from hwnas.jobs.search import several
from hwnas.jobs.search.options import SearchOptions
from hwnas.jobs.search.parts import Here, NetworkBuilder
from hwnas.measure import device as devices
from hwnas.measure.patience import Patience
from hwnas.measure.table import LatencyTable
from hwnas.protocols import Emit, Executor
from hwnas.records import Setting


@dataclass(frozen=True)
class Benches:
    """Finds what measures, for each table of a search.

    Attributes:
        options: of the search.
        executor: None where everything runs in this process.
        emit: told of measurements.
    """

    options: SearchOptions
    executor: Executor | None
    emit: Emit

    def made(self, tables: Sequence[LatencyTable]) -> tuple[several.Measures, Setting]:
        """What measures on the devices of `tables` together; and the setting now, of the first one.

        Raises:
            DeviceUnavailable: a device is not there, so that no winner could be measured.
        """
        elsewhere = self.executor is not None and self.executor.times_elsewhere
        made = [self._elsewhere(table) if elsewhere else self._here(table) for table in tables]
        if len(made) == 1:
            return made[0]
        benchers = {table.setting.device: bencher for table, (bencher, _) in zip(tables, made)}
        return several.Together(benchers), made[0][1]

    def _here(self, table: LatencyTable) -> tuple[several.Measures, Setting]:
        setting, o = table.setting, self.options
        devices.refuse_unasked(setting, self._asked(setting.device), f"table {table.table_id}")
        try:
            runtime, now = devices.conditions_of(setting)
        except HwnasError as exc:
            raise DeviceUnavailable(
                f"table {table.table_id} is of {setting.describe()}, and the winner of a search is measured "
                f"before it is accepted, which is not possible here: {exc}"
            ) from exc
        patience = Patience(o.patience_s, emit=self.emit)
        builder = NetworkBuilder(runtime, now, o.seed, patience, table.sentinel_ms)
        return Here(builder, self.emit), now

    def _asked(self, device: str) -> str | None:
        """What the user wrote for a device; the first is asked for by whatever name."""
        further = (name for name, _ in self.options.further if devices.spelling(name) == device)
        return next(further, self.options.device)

    def _elsewhere(self, table: LatencyTable) -> tuple[several.Measures, Setting]:
        from hwnas.jobs.search.spread import Bencher
        from hwnas.jobs.search.tasks import Bench

        assert self.executor is not None
        bench = Bench(table.setting, self.options.seed, table.sentinel_ms)
        bencher = Bencher(self.executor, bench, self.options.patience_s)
        return bencher, bencher.conditions()
