"""Where a runtime is not here: the network as ONNX, and the command that finishes on its target."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from pathlib import Path

from hwnas import plugins
from hwnas.backends import formats
from hwnas.backends.forms import form_of
from hwnas.deploy.engine import metadata
from hwnas.deploy.manifest import engine_name
from hwnas.errors import BackendUnavailable
from hwnas.jobs.export.conditions import numbers
from hwnas.jobs.export.options import ExportOptions
from hwnas.jobs.export.samples import samples
from hwnas.jobs.resolve.origin import Origin
from hwnas.records import BuildChoices, Precision, Setting
from hwnas.store import write_bytes


def left_for_target(
    options: ExportOptions, source: Origin, folder: Path, why: BackendUnavailable
) -> BackendUnavailable:
    """Leave the ONNX model for the target, and the words that finish there."""
    precision, batch = numbers(options, source)
    drawn = samples(options.data, source, 1) if precision == "int8" else None
    wanted = formats.get(options.format)
    network = formats.TrainedNetwork(
        source.spec,
        source.read_weights(),
        precision,
        batch,
        dynamic_batch=options.dynamic_batch or bool(options.batches),
        calibration=drawn.calibration if drawn else None,
        metadata=metadata(source.spec, **(drawn or source).about),
        form=form_of(plugins.load("backends", wanted.backend)()) if wanted.backend else None,
    )
    model, written = wanted.portable(network)
    # A name of its own: engine.onnx may be there with a manifest, and these bytes may differ.
    path = folder / engine_name(f"-{wanted.name}.onnx", precision)
    write_bytes(path, model)
    again = _again(options, source, precision)
    ways = f"To finish, copy {source.folder}/ to the target and run there: {again}"
    there = Setting(
        device=options.device or wanted.name,
        backend=wanted.backend or wanted.name,
        precision=precision,
        batch=batch,
        **asdict(BuildChoices(options.batches, options.compatible, options.dla)),
    )
    shape = source.spec.input_shape
    if without := wanted.elsewhere(path, there, shape):
        ways += f"\nWithout hwnas there: {without}"
    return BackendUnavailable(f"{why}\nThe network is written as ONNX ({written}): {path}\n{ways}")


def _again(options: ExportOptions, source: Origin, precision: Precision) -> str:
    """The same export as a command line, without what only holds on this machine (backend, folder)."""
    given = {
        "precision": precision,
        "batch": ",".join(map(str, options.batches)) or options.batch,
        "compatible": ",".join(options.compatible) or None,
        "dla": options.dla,
        "threads": options.threads,
        "device": options.device,
        "weights": options.weights,
        "data": options.data,
        "latency-budget": options.latency_budget,
        "images": options.images if options.images != ExportOptions.images else None,
        "max-loss": f"{100 * options.max_loss:g}%" if options.max_loss != ExportOptions.max_loss else None,
        "sustained": f"{options.sustained_s:g}s" if options.sustained_s else None,
        "max-time": f"{options.max_time_s:g}s" if options.max_time_s is not None else None,
    }
    name = options.run if options.weights is not None else str(source.folder)
    words = ["hwnas", "export", str(name), "--format", options.format]
    for flag, value in given.items():
        words += [] if value is None else [f"--{flag}", str(value)]
    words += ["--dynamic-batch"] if options.dynamic_batch else []
    return shlex.join([*words, *([] if options.verify else ["--no-verify"])])
