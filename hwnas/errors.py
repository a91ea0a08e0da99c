"""Every error that hwnas raises on purpose.

::

    HwnasError                  exit 1
    |-- InputError              exit 2   a value that the user gave is wrong (unit missing, unknown name)
    |-- BudgetInfeasible        exit 3   no member of the space fits; names the smallest reachable latency
    |-- BackendUnavailable      exit 4   device or runtime is not here; says how to get it
    |   `-- DeviceUnavailable   exit 4
    |       `-- LinkLost        exit 4   the link to another machine broke; repeating the command continues
    |-- VerificationFailed      exit 5   outputs differ, or the measured budget is not kept
    |-- DataFormatError         exit 6   a file is damaged, of another schema, or not what its name says
    |   |-- MissingMeasurement  exit 6   a table lacks a key; names the command that measures it
    |   `-- StaleTable          exit 6   a table is of another runtime, precision or device
    |-- TrainingFailed          exit 6   the final training learned nothing: rate, labels or space are wrong
    `-- BuildError              exit 1   a runtime refused a network; carries its own words

Each message says what came, what was expected and what to do. The command line turns any of
them into that message and the exit status beside it; any other exception is a bug and keeps
its traceback.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class HwnasError(Exception):
    """Base of all errors that are meant for the user."""

    exit_status = 1


class PackageWarning(UserWarning):
    """Another package registers something that cannot be used; hwnas goes on without it."""


class InputError(HwnasError, ValueError):
    """A value given by the user is not usable."""

    exit_status = 2


class BudgetInfeasible(HwnasError):
    """No network of the space fits the budget."""

    exit_status = 3

    def __init__(self, message: str, *, smallest_ms: float | None = None) -> None:
        super().__init__(message)
        self.smallest_ms = smallest_ms


class BackendUnavailable(HwnasError):
    """A runtime is not installed or cannot run here."""

    exit_status = 4


class DeviceUnavailable(BackendUnavailable):
    """A device is known but is not in this machine."""


class LinkLost(DeviceUnavailable):
    """The link to a device of another machine broke while it was used."""


class VerificationFailed(HwnasError):
    """An engine differs from its network, or misses its budget; `result` is what a pass would return."""

    exit_status = 5

    def __init__(self, message: str, *, result: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.result = result


class DataFormatError(HwnasError):
    """A file does not hold what it should."""

    exit_status = 6


class MissingMeasurement(DataFormatError, KeyError):
    """A latency table has no row for a block."""

    def __str__(self) -> str:
        # KeyError would show the repr of its argument, quotes and all.
        return str(self.args[0])


class StaleTable(DataFormatError):
    """A latency table was taken under conditions that differ from the present ones."""


class TrainingFailed(HwnasError):
    """A final training ended no better than guessing."""

    exit_status = 6


class BuildError(HwnasError):
    """A runtime refused to build or load a network."""
