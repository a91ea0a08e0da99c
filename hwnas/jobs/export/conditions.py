"""What an engine is built for: backend, device, precision, batch, and the form of int8."""

from __future__ import annotations

from hwnas import plugins
from hwnas.backends import formats
from hwnas.errors import BackendUnavailable, InputError
from hwnas.jobs.export.forms import fastest
from hwnas.jobs.export.options import ExportOptions
from hwnas.jobs.resolve.origin import Origin
from hwnas.measure import device as devices
from hwnas.measure.candidates import precision_of
from hwnas.protocols import Backend, Emit
from hwnas.records import BuildChoices, Precision, Setting


def conditions(options: ExportOptions, source: Origin) -> tuple[Backend, Setting]:
    """Backend and setting: what the user asks for, else what the search was under."""
    known = source.setting
    precision, batch = numbers(options, source)
    threads = options.threads or (known.threads if known else 1)
    dla = known.dla if options.dla is None and known is not None else options.dla
    choices = BuildChoices(options.batches, options.compatible, dla)
    wanted = formats.get(options.format)
    bound = wanted.backend
    if options.backend is not None and bound not in (None, options.backend):
        raise InputError(
            f"--format {options.format} is written by {bound}, not by --backend {options.backend}"
        )
    stand_in = wanted.stand_in(source.spec, precision)
    backend = bound or options.backend or (known.backend if known and options.device is None else None)
    device = options.device or _device_for(bound, known)
    if known is not None and device == known.device:
        devices.refuse_unasked(known, options.device, "this run")
    if stand_in is None or precision in wanted.runtimes:
        try:
            return devices.conditions(
                device, backend, precision=precision, batch=batch, threads=threads, choices=choices
            )
        except (InputError, BackendUnavailable):
            if stand_in is None or options.backend is not None:
                raise
    # A file for another machine: its scores are compared here, its time is not.
    if choices:
        devices.with_choices(stand_in, known or stand_in.setting("cpu", precision, batch, threads), choices)
    return stand_in, stand_in.setting("cpu", precision, batch, threads)


def numbers(options: ExportOptions, source: Origin) -> tuple[Precision, int]:
    """Precision, and images a call."""
    known = source.setting
    precision = precision_of(options.precision or (known.precision if known else "fp32"))
    return precision, options.batch or (known.batch if known else 1)


def _device_for(bound: str | None, known: Setting | None) -> str:
    """The run's device where the format's runtime serves it, else this machine's CPU or GPU."""
    if known is not None and bound in (None, known.backend):
        return known.device
    kinds = plugins.load("backends", bound)().devices if bound else ("cpu",)
    if known is not None and known.device in kinds:
        return known.device
    return "cpu" if "cpu" in kinds else "auto"


def in_form(
    source: Origin, backend: Backend, setting: Setting, emit: Emit | None
) -> tuple[Setting, dict[str, float]]:
    """The setting in a form of int8: that of the run's own latencies where they are of the same runtime and
    precision, else the fastest; and how long each takes over it, where they were timed.
    """
    known = source.setting
    if known is not None and (known.backend, known.precision) == (backend.name, setting.precision):
        return setting.model_copy(update={"form": known.form}), {}
    return fastest(source.spec, source.read_weights(), backend, setting, emit=emit)
