"""Whether TensorRT's engines are right, and what becomes of their files and their memory."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from hwnas import store
from hwnas.backends.cuda import opening
from hwnas.backends.cuda.state import watcher
from hwnas.backends.gpu_report.trial import Figures, built, network, on_cpu, pictures, require
from hwnas.backends.trt.backend import Trt
from hwnas.backends.trt.build import TrtOptions, cache_path, typed_model
from hwnas.errors import BuildError, InputError
from hwnas.nets import onnx
from hwnas.records import Precision, Setting
from hwnas.spec import BlockSpec

# Largest difference from ONNX Runtime on the CPU in float32, as a share of the largest score.
TOLERANCE: dict[Precision, float] = {"fp32": 1e-3, "fp16": 2e-2, "bf16": 1e-1, "int8": 2e-1}


def parity() -> Figures:
    """Scores are ONNX Runtime's, in every precision that the card is fast in, and with an open batch."""
    found: Figures = {}
    backend = Trt()
    for space in ("resnet-cifar", "mbv2-cifar"):
        for precision, allowed in TOLERANCE.items():
            try:
                setting = backend.setting("gpu", precision, 8, 1)
            except InputError as exc:
                found[f"{space} {precision}"] = {"refused": str(exc)}
                continue
            model = network(8, space=space)
            engine = backend.build(model, setting)
            scores, reference = engine.run(pictures(8)), on_cpu(model, pictures(8))
            engine.close()
            off = float(np.abs(scores - reference).max() / np.abs(reference).max())
            found[f"{space} {precision}"] = {"relative_error": off, "allowed": allowed}
    model = network(None)
    engine = built(model, batch=16)
    for count in (1, 7, 16):
        reference = on_cpu(model, pictures(count))
        off = float(np.abs(engine.run(pictures(count)) - reference).max() / np.abs(reference).max())
        found[f"open batch {count}"] = {"relative_error": off, "allowed": TOLERANCE["fp32"]}
    engine.close()
    wrong = differing(found)
    require(not wrong, f"scores differ from ONNX Runtime's: {', '.join(wrong)}", found)
    return found


def differing(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Rows whose error is not within what is allowed, scores that are no numbers among them."""
    judged = {name: row for name, row in found.items() if "refused" not in row}
    return [name for name, row in judged.items() if not row["relative_error"] <= row["allowed"]]


def modes() -> Figures:
    """One network by device time, by the host's clock, and by NVIDIA's own tool where it is installed."""
    engine = built(network())
    times = engine.time(200)
    images, loop = pictures(1), []
    for _ in range(200):
        begun = time.perf_counter()
        engine.run(images)
        loop.append((time.perf_counter() - begun) * 1e3)
    found: Figures = {
        "device_ms": times.wall_ms.tolist(),
        "calls_behind_each": times.each,
        "host_ms": times.host_ms,
        "enqueue_ms": times.enqueue_ms,
        "run_with_copies_ms": loop,
        "graph": engine.graphs,
        "gates": list(engine.watch()),
        "layers": len(engine.layers()),
        "layer_ms": engine.layer_ms(),
    }
    if trtexec := shutil.which("trtexec"):
        with store.scratch() as folder:
            engine.save(folder / "net.engine")
            command = [
                trtexec,
                f"--loadEngine={folder / 'net.engine'}",
                "--useCudaGraph",
                "--noDataTransfers",
            ]
            done = subprocess.run(command, capture_output=True, text=True, timeout=120)
            found["trtexec"] = done.stdout[-6000:]
    engine.close()
    device, host = float(np.median(times.wall_ms)), float(np.median(loop))
    require(device < host, "device time is longer than what a program waits", found)
    return found


def int8_blocks() -> Figures:
    """Which depthwise blocks build in int8, and what of them stays quantized."""
    backend = Trt(TrtOptions(cache=False))
    found: Figures = {}
    try:
        setting = backend.setting("gpu", "int8", 1, 1)
    except InputError as exc:
        return {"refused": str(exc)}
    kinds: dict[str, dict[str, Any]] = {
        "relu6": {"act": "relu6"},
        "hswish": {"act": "hswish"},
        "hswish, SE": {"act": "hswish", "se": 0.25},
    }
    for name, more in kinds.items():
        block = BlockSpec(kind="mbconv", c_in=32, c_out=32, expand=4, size_in=28, **more)
        model = onnx.chain([block])
        try:
            engine = backend.build(model, setting)
        except BuildError as exc:
            found[name] = {"error": str(exc)}
            continue
        times = engine.time(50)
        found[name] = {
            "ms": float(np.median(times.wall_ms)),
            "layers": [vars(layer) for layer in engine.layers()],
            "asked_for": len(typed_model(model, "int8")),
        }
        engine.close()
    return found


def files() -> Figures:
    """Plans load again and score alike, the timing cache saves time, memory comes back."""
    backend = Trt()
    setting = backend.setting("gpu", "fp32", 4, 1)
    found: Figures = {}
    with store.scratch() as folder:
        engine = backend.build(network(4), setting)
        scores = engine.run(pictures(4))
        engine.save(folder / "net.engine")
        engine.close()
        again = Trt().load(folder / "net.engine", setting)
        found["loads_alike"] = bool(np.array_equal(again.run(pictures(4)), scores))
        again.close()
    found["build_s"] = _build_s(setting)
    before = free_bytes()
    for _ in range(20):
        backend.build(network(4), setting).close()
    after = free_bytes()
    found["lost_bytes"] = None if before is None or after is None else before - after
    require(found["loads_alike"], "a plan gives other scores when it is loaded again", found)
    require((found["lost_bytes"] or 0) < 8 << 20, "device memory does not come back", found)
    return found


def _build_s(setting: Setting) -> list[float]:
    """Seconds of the same build without a timing cache and with it; the user's own is put back."""
    path, seconds = cache_path(setting), []
    kept = path.read_bytes() if path.is_file() else None
    path.unlink(missing_ok=True)
    try:
        for _ in range(2):
            begun = time.perf_counter()
            Trt().build(network(4, space="mbv2-cifar", seed=3), setting).close()
            seconds.append(time.perf_counter() - begun)
    finally:
        if kept is not None:
            store.write_bytes(path, kept)
    return seconds


def free_bytes() -> int | None:
    """Free memory of the GPU; None where NVML does not tell it."""
    eyes = watcher(opening.open_driver().properties.bus_id)
    return None if eyes is None else eyes.free_bytes()
