"""Which runtimes and precisions work on this machine: asked of each backend, not known by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

from hwnas.errors import BackendUnavailable, InputError
from hwnas.measure.device import MeasuredMachine, machine_of, place_of, resolve_on
from hwnas.plugins import unknown
from hwnas.protocols import Backend
from hwnas.records import Precision, Setting

PRECISIONS: tuple[Precision, ...] = get_args(Precision)
AUTO = "auto"


def precision_of(name: str) -> Precision:
    """A precision by its name; InputError for another word, with the nearest one."""
    for precision in PRECISIONS:
        if precision == name:
            return precision
    raise InputError(unknown("precision", name, PRECISIONS))


def name_of(setting: Setting) -> str:
    """Runtime, precision and, unless it is the usual one, form of int8."""
    name = f"{setting.backend} {setting.precision}"
    return f"{name} ({setting.form})" if setting.form else name


@dataclass(frozen=True)
class RuntimeCandidate:
    """A runtime and a precision that work here, at int8 in one of the runtime's forms."""

    backend: Backend
    setting: Setting

    @property
    def name(self) -> str:
        """``ort fp32``, ``openvino int8 (sums)``."""
        return name_of(self.setting)


def candidates(
    device: str = AUTO,
    runtimes: Sequence[str] = (),
    precisions: Sequence[str] = (),
    *,
    batch: int = 1,
    threads: int = 1,
) -> list[RuntimeCandidate]:
    """Every runtime, precision and form of int8 that serves a device of this machine, fp32 first.

    Args:
        device: a known device, or "auto".
        runtimes: names of backends; none for all that are installed. One that is named must be here.
        precisions: none for all that a backend offers. Where some are named, one of them must be offered.
        batch, threads: conditions.

    Raises:
        InputError: an unknown name, or no backend offers what is asked for.
        BackendUnavailable: a runtime that is named is not here, or this processor lacks the precision.
    """
    wanted = [precision_of(name) for name in precisions]
    machine, plain = machine_of(device)
    found = resolve_on(machine, plain)
    place = place_of(found)
    made: list[RuntimeCandidate] = []
    refused: list[InputError | BackendUnavailable] = []
    for backend in _runtimes(machine, runtimes, found.kind):
        for precision in PRECISIONS:
            if wanted and precision not in wanted:
                continue
            try:
                setting = backend.setting(place, precision, batch, threads)
                made += [RuntimeCandidate(backend, of_form) for of_form in in_forms(backend, setting)]
            except (InputError, BackendUnavailable) as exc:
                refused.append(exc)
    if not made:
        if refused:
            raise refused[0]
        raise BackendUnavailable(
            f"no installed runtime supports the device {found.name!r}; see `hwnas doctor`"
        )
    return made


def in_forms(backend: Backend, setting: Setting) -> list[Setting]:
    """A setting in every int8 form of its runtime; in another precision as it is."""
    if setting.precision != "int8":
        return [setting]
    return [setting.model_copy(update={"form": form.name}) for form in backend.forms()] or [setting]


def _runtimes(machine: MeasuredMachine, named: Sequence[str], kind: str) -> list[Backend]:
    if named:
        chosen = [machine.get(name) for name in dict.fromkeys(named)]
        for backend in chosen:
            if kind not in backend.devices:
                raise InputError(
                    f"backend {backend.name!r} runs on {' and '.join(backend.devices)}, not on a {kind}"
                )
        return chosen
    here = [row for row in machine.describe() if row["available"] and kind in row["devices"]]
    return [machine.get(row["name"]) for row in here]
