"""Write a network and its weights as an engine, and load an engine after checking it.

What other tools' users met: an engine from another GPU or runtime version that fails to load with
the runtime's own cryptic words. `load` compares file and machine with the manifest first, and says
in words what differs before the runtime sees the file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwnas.arrays import Float32s
from hwnas.backends import formats
from hwnas.backends.formats import Format, TrainedNetwork
from hwnas.backends.forms import form_of
from hwnas.deploy.manifest import (
    EngineManifest,
    LayerTime,
    Weights,
    check_file,
    describe,
    engine_name,
    manifest_path,
    read_manifest,
    write_manifest,
)
from hwnas.errors import BackendUnavailable, BuildError, HwnasError, InputError
from hwnas.measure.device import backend_of, with_choices
from hwnas.protocols import Backend, Engine
from hwnas.records import Setting
from hwnas.spec import NetworkSpec
from hwnas.store import refuse_foreign


def export(
    spec: NetworkSpec,
    weights: Weights,
    backend: Backend,
    setting: Setting,
    folder: Path,
    *,
    table_id: str = "",
    file_format: str | None = None,
    calibration: Float32s | None = None,
    dynamic_batch: bool = False,
    tuned: Weights | None = None,
    floats: Collection[str] = (),
    **about: Any,
) -> EngineManifest:
    """Build a network with its weights and write engine and manifest into a folder.

    The manifest holds no proof yet: `deploy.verify.verify` gives it, and the caller writes the
    completed manifest over this one.

    Args:
        spec: the network.
        weights: its state by name, as `nets.build.weights` gives it.
        backend: builds the engine; for plain ONNX it only has to be able to.
        setting: device, precision, batch, threads.
        folder: takes ``engine.<suffix>`` and ``engine.<suffix>.manifest.json``.
        table_id: of the latency table that the search used.
        file_format: name of an export format; default the backend's own format.
        calibration: normalised training images (n, C, H, W) for int8.
        dynamic_batch: the file takes any number of images at once, where its format can.
        tuned: weights that were fine-tuned for int8 and are written in place of `weights`.
        floats: outputs of the ONNX nodes that stay in float, at int8.
        about: further fields of `EngineManifest` (classes, mean, std, budget, predicted, run, accuracy).

    Raises:
        InputError: unknown format, one that is not the backend's or is built for one batch, or int8
            without images.
        BackendUnavailable: the precision or the runtime is not available here.
        BuildError: the runtime refused the network; with its own words.
    """
    chosen = _format(file_format or backend.name, backend)
    refuse_batches(chosen, dynamic=dynamic_batch, several=bool(setting.batches))
    network = TrainedNetwork(
        spec,
        weights if tuned is None else tuned,
        setting.precision,
        setting.batch,
        dynamic_batch or bool(setting.batches),
        calibration,
        metadata(spec, **about),
        form_of(backend, setting.form),
        tuned is not None,
        frozenset(floats),
    )
    path = folder / engine_name(chosen.suffix, setting.precision)
    _refuse_foreign(path)
    claim = None if path.exists() else describe(path, chosen.name, spec, weights, setting, onnx=None, **about)
    with _claimed(path, claim):
        written = chosen.write(network, backend, setting, path)
    with _both_or_neither(path):
        without_int8: tuple[str, ...] = getattr(written.engine, "float_layers", ())
        built, layers = _taken_down(written.engine) if written.engine is not None else (setting, ())
        manifest = describe(
            path,
            chosen.name,
            spec,
            weights,
            built,
            onnx=written.onnx,
            table_id=table_id,
            layers=layers,
            float_layers=without_int8,
            dynamic_batch=written.dynamic_batch and not setting.batches,
            **about,
        )
        write_manifest(folder, manifest)
    return manifest


@contextmanager
def _claimed(path: Path, claim: EngineManifest | None) -> Iterator[None]:
    """Write a first manifest before the engine: after a kill between them it says whose the engine is."""
    if claim is None:
        yield
        return
    write_manifest(path.parent, claim)
    try:
        yield
    except BaseException:
        if not path.exists():
            manifest_path(path).unlink(missing_ok=True)
        raise


@contextmanager
def _both_or_neither(path: Path) -> Iterator[None]:
    """Take the engine away where its manifest fails: an engine that nothing describes is no result."""
    try:
        yield
    except (Exception, KeyboardInterrupt):
        path.unlink(missing_ok=True)
        manifest_path(path).unlink(missing_ok=True)
        raise


def _taken_down(engine: Engine) -> tuple[Setting, tuple[LayerTime, ...]]:
    """Conditions and layers of an engine, which is closed.

    Layers are for the report: a runtime that cannot tell them (another form of its answer, no room for a
    second context) has built the engine all the same.
    """
    try:
        try:
            return engine.setting, layer_times(engine)
        except BuildError:
            return engine.setting, ()
    finally:
        engine.close()


def metadata(spec: NetworkSpec, **about: Any) -> dict[str, str]:
    """What a program without hwnas must know to feed an ONNX file, for its `metadata_props`.

    Lists are JSON. `mean`, `std` and `classes` are there where they are known.
    """
    from hwnas.nets import onnx as onnx_writer

    channels, height, width = spec.input_shape
    told = {
        "input": onnx_writer.INPUT_NAME,
        "output": onnx_writer.OUTPUT_NAME,
        "layout": "NCHW",
        "channels": {1: "grey", 3: "RGB"}.get(channels, "as in training"),
        "size": json.dumps([height, width]),
        "range": "[0, 1] (bytes / 255), then (value - mean) / std by channel",
        "resize": "middle in the proportions of the input, bilinear with antialiasing",
        "network": spec.key,
    }
    lists = {name: list(about[name]) for name in ("mean", "std", "classes") if about.get(name)}
    return told | {name: json.dumps(value) for name, value in lists.items()}


def _refuse_foreign(path: Path) -> None:
    """InputError where a file is in the way that is no engine of ours: a manifest lies beside those."""
    refuse_foreign(path, "", "an engine of hwnas")  # a link, a folder
    if not path.exists() or path.stat().st_size == 0:
        return
    try:
        read_manifest(path)
    except HwnasError as exc:
        raise InputError(
            f"{path} exists and has no manifest of hwnas, so it is not overwritten. Move it "
            "away, or choose another --out"
        ) from exc


def layer_times(engine: Any) -> tuple[LayerTime, ...]:
    """Times of the layers that the runtime made of the network; none where it does not tell them."""
    if not hasattr(engine, "layer_ms"):
        return ()
    about = {
        layer.name: {"kind": layer.kind, "kernel": layer.tactic, "types": ", ".join(layer.outputs)}
        for layer in engine.layers()
    }
    return tuple(LayerTime(name=name, ms=ms, **about.get(name, {})) for name, ms in engine.layer_ms().items())


def refuse_batches(chosen: Format, *, dynamic: bool, several: bool) -> None:
    """InputError where a file of a format cannot take any number of images at once, or several sizes."""
    if dynamic and not chosen.any_batch:
        able = ", ".join(f.name for f in formats.every() if f.any_batch)
        raise InputError(
            f"--dynamic-batch: {chosen.name} files are built for one batch; formats that take any: {able}"
        )
    if several and not chosen.many_batches:
        able = ", ".join(f.name for f in formats.every() if f.many_batches)
        raise InputError(
            f"--batch with several sizes: {chosen.name} files are built for one; formats that take several: "
            f"{able}"
        )


def _format(name: str, backend: Backend) -> Format:
    chosen = formats.get(name)
    if chosen.backend not in (None, backend.name):
        raise InputError(f"format {name!r} needs the backend {chosen.backend}, not {backend.name}")
    return chosen


def mismatches(built: Setting, present: Setting, fields: Sequence[str]) -> list[str]:
    """In words, why an engine that was built under one setting does not serve under another."""
    names = {"backend_version": f"the {built.backend} version", "device_arch": "the processor"}
    return [
        f"it was built for {names.get(field, field)} {getattr(built, field)!r}, this machine has "
        f"{getattr(present, field)!r}"
        for field in ("backend", *fields)
        if getattr(built, field) != getattr(present, field)
    ]


def load(
    path: Path, backend: Backend | None = None, *, threads: int | None = None, batch: int | None = None
) -> Engine:
    """Load an engine after checking its file and this machine against the manifest.

    Args:
        path: the engine file; its manifest lies beside it.
        backend: default the one that it was built by.
        threads: default as it was measured.
        batch: one of the sizes that it was built for; default the largest.

    Raises:
        InputError: there is no engine or no manifest at `path`.
        DataFormatError: the engine is not the file that was verified; the manifest is damaged.
        BackendUnavailable: its runtime is not here, or is another version or processor, said in words.
    """
    manifest = read_manifest(path)
    check_file(path, manifest)
    backend = backend or runtime(manifest)
    built = manifest.setting
    present = with_choices(
        backend,
        backend.setting(built.device, built.precision, built.batch, threads or built.threads),
        built.choices,
    ).model_copy(update={"form": built.form})
    wrong = mismatches(built, present, formats.get(manifest.format).binds(built, present))
    if wrong:
        raise BackendUnavailable(
            f"{path} cannot be used here: {'; '.join(wrong)}; run "
            f"`hwnas export --format {manifest.format}` on this machine"
        )
    if batch is not None:
        present = present.model_copy(update={"batch": batch})
    return open_checked(path, manifest, backend, present)


def runtime(manifest: EngineManifest) -> Backend:
    """The backend that an engine was exported for; BackendUnavailable where it is not here."""
    return _stand_in(manifest) or backend_of(manifest.setting)


def is_timed(manifest: EngineManifest) -> bool:
    """Whether the file's time here is that of its target: not where another runtime stands in for it."""
    return _stand_in(manifest) is None


def _stand_in(manifest: EngineManifest) -> Backend | None:
    """The runtime that only compares the scores of a file for another machine, where it was exported so."""
    found = formats.get(manifest.format).stand_in(manifest.network, manifest.setting.precision)
    return found if found is not None and found.name == manifest.setting.backend else None


def open_checked(path: Path, manifest: EngineManifest, backend: Backend, setting: Setting) -> Engine:
    """Hand a checked file to its runtime."""
    return formats.get(manifest.format).load(path, backend, setting)


def run_all(
    engine: Engine, images: NDArray[Any], run: Callable[[NDArray[Any]], Float32s] | None = None
) -> Float32s:
    """Scores (n, classes) of any number of images (n, C, H, W) by an engine of one batch size.

    The last batch is filled up to the next size that the engine was built for, and what the filling gives
    is thrown away. `run` takes the place of `engine.run`, for images in another form.
    """
    run = run or engine.run
    sizes = engine.setting.batches or (engine.setting.batch,)
    most = sizes[-1]
    rest = len(images) % most
    missing = min(size for size in sizes if size >= rest) - rest if rest else 0
    filling = np.zeros((missing, *images.shape[1:]), images.dtype)
    padded = np.concatenate([images, filling]) if missing else images
    parts = [run(padded[at : at + most]) for at in range(0, len(padded), most)]
    return np.concatenate(parts)[: len(images)].astype(np.float32)
