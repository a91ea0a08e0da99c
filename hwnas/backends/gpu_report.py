"""What the first owner of a card should try, in order: ``hwnas doctor --gpu-report FILE``.

Each step is a function that returns figures, raw samples among them, and raises where something is wrong;
``passed`` of a step is that it did not. The report is plain JSON, readable without hwnas. `make test-gpu`
runs the same steps as tests. Nothing here needs more than the extra `trt` or `trt8` and ten minutes.
"""

from __future__ import annotations

import json
import math
import platform
import re
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import hwnas
from hwnas import store
from hwnas.arrays import Float32s
from hwnas.backends import describe
from hwnas.backends import images as host_images
from hwnas.backends.cuda import clock, libraries, opening
from hwnas.backends.cuda.driver import GpuOutOfMemory, Owned
from hwnas.backends.cuda.gpus import gpus
from hwnas.backends.cuda.kernels import Kernels, Preprocessor
from hwnas.backends.cuda.state import watcher
from hwnas.backends.trt import compat
from hwnas.backends.trt.backend import Trt
from hwnas.backends.trt.build import TrtOptions, cache_path, typed_model
from hwnas.backends.trt.engine import TrtEngine
from hwnas.errors import BackendUnavailable, BuildError, HwnasError, InputError
from hwnas.lazy import lazy_import
from hwnas.nets import onnx, spaces
from hwnas.protocols import Emit
from hwnas.records import Precision, now_utc
from hwnas.schemas import GPU_REPORT
from hwnas.spec import BlockSpec

ort = lazy_import("onnxruntime")
torch = lazy_import("torch")

Figures = dict[str, Any]
# Largest difference from ONNX Runtime on the CPU in float32, as a share of the largest score.
TOLERANCE: dict[Precision, float] = {"fp32": 1e-3, "fp16": 2e-2, "bf16": 1e-1, "int8": 2e-1}
SUSTAINED_S, PROFILE_S = 60.0, 60.0


class StepFailed(HwnasError):
    """A step found something wrong; carries what it measured."""

    def __init__(self, message: str, figures: Figures) -> None:
        super().__init__(message)
        self.figures = figures


def _require(holds: bool, message: str, figures: Figures) -> None:
    if not holds:
        raise StepFailed(message, figures)


def network(batch: int | None = 1, *, space: str = "resnet-cifar", step: int = 1, seed: int = 0) -> bytes:
    """A small network to try, as ONNX."""
    return onnx.network(spaces.make(space).uniform()[step], batch=batch, seed=seed)


def pictures(count: int, seed: int = 0) -> Float32s:
    """Random images of a small network."""
    return np.random.default_rng(seed).standard_normal((count, 3, 32, 32), dtype=np.float32)


def on_cpu(model: bytes, images: Float32s) -> Float32s:
    """Scores by ONNX Runtime on the CPU."""
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    scores: Float32s = session.run(None, {session.get_inputs()[0].name: images})[0]
    return scores


def built(model: bytes, precision: Precision = "fp32", batch: int = 1) -> TrtEngine:
    """An engine on the first GPU."""
    backend = Trt()
    return backend.build(model, backend.setting("gpu", precision, batch, 1))


def load() -> Figures:
    """TensorRT imports, its builder starts, and no library that it is linked to is missing."""
    trt = compat.module()
    compat.builder()
    found: Figures = {"tensorrt": trt.__version__, "python": platform.python_version()}
    folder = Path(str(trt.__file__)).parent
    linked = sorted(folder.parent.glob("tensorrt*/**/*.so*"))[:40]
    if ldd := shutil.which("ldd"):
        told = [subprocess.run([ldd, str(p)], capture_output=True, text=True).stdout for p in linked]
        found["not_found"] = sorted({m for text in told for m in re.findall(r"(\S+) => not found", text)})
        found["cures"] = [libraries.cure(f"{n}: cannot open shared object") for n in found["not_found"]]
    return found


def torch_code() -> Figures:
    """Whether the installed torch has code for this card; where it has, that a convolution runs."""
    found: Figures = {"torch": torch.__version__, "built_for": torch.cuda.get_arch_list()}
    if not torch.cuda.is_available():
        return {**found, "used": "cpu", "why": "torch sees no CUDA device"}
    found["capability"] = torch.cuda.get_device_capability()
    try:
        x = torch.randn(1, 3, 32, 32, device="cuda")
        found["sum"] = float(torch.nn.functional.conv2d(x, torch.ones(4, 3, 3, 3, device="cuda")).sum())
        return {**found, "used": "cuda"}
    except RuntimeError as exc:  # "no kernel image is available": training then takes the CPU
        return {**found, "used": "cpu", "why": str(exc).splitlines()[0]}


def kernels() -> Figures:
    """hwnas's kernels are right on the card, and an allocation that is too large can be survived."""
    driver = opening.open_driver()
    shape, size = (4, 48, 40, 3), (32, 32)
    source = np.random.default_rng(3).integers(0, 256, shape, dtype=np.uint8)
    mean, std = np.array([0.49, 0.48, 0.45], np.float32), np.array([0.25, 0.24, 0.26], np.float32)
    a, b = np.random.default_rng(0).standard_normal((2, 100_000), dtype=np.float32)
    found: Figures = {"package": driver.name, "graphs": driver.graphs}
    with driver, Owned(driver) as owned:
        made, stream = Kernels(owned), owned.stream()
        for half in (False, True):
            out = np.zeros((4, 3, *size), np.float16 if half else np.float32)
            prepare = Preprocessor(owned, made, shape, size, mean, std, half=half)
            address = owned.alloc(out.nbytes)
            prepare(source, address, stream)
            driver.download(out, address, stream)
            driver.synchronize(stream)
            expected = host_images.prepare(source, size, mean, std).astype(out.dtype)
            found[f"preprocessing_equal_{out.dtype}"] = bool(np.array_equal(out, expected))
        at = [owned.alloc(a.nbytes), owned.alloc(b.nbytes)]
        for address, array in zip(at, (a, b)):
            driver.upload(address, array, stream)
        found["largest_difference_off"] = abs(
            made.max_abs_diff(at[0], at[1], a.size, stream) - float(np.abs(a - b).max())
        )
        try:
            driver.alloc(4 * driver.properties.memory_bytes)
            found["too_large"] = "given"
        except GpuOutOfMemory as exc:
            found["too_large"] = str(exc)
        owned.alloc(1 << 20)
    same = all(found[f"preprocessing_equal_{kind}"] for kind in ("float32", "float16"))
    _require(
        same and found["largest_difference_off"] == 0, "a kernel gives other values than the host", found
    )
    _require(found["too_large"] != "given", "four times the memory was given", found)
    return found


def event_clock() -> Figures:
    """The step of the event clock, an empty pair, and how long short delays are by it."""
    driver = opening.open_driver()
    found: Figures = {"delays_us": {}}
    with driver, Owned(driver) as owned:
        made, stream = Kernels(owned), owned.stream()
        known = clock.event_clock(driver, made, stream)
        found |= {"tick_ms": known.tick_ms, "empty_pair_ms": known.empty_ms, "span_ms": known.span_ms}
        pairs = [(owned.event(), owned.event()) for _ in range(20)]
        for asked_us in (5, 10, 20, 50):
            made.delay(2_000_000, stream)
            for start, end in pairs:
                driver.record(start, stream)
                made.delay(asked_us * 1000, stream)
                driver.record(end, stream)
            driver.synchronize(stream)
            found["delays_us"][asked_us] = [driver.elapsed_ms(s, e) * 1e3 for s, e in pairs]
    return found


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
    wrong = [n for n, row in found.items() if row.get("relative_error", 0) > row.get("allowed", 1)]
    _require(not wrong, f"scores differ from ONNX Runtime's: {', '.join(wrong)}", found)
    return found


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
    _require(device < host, "device time is longer than what a program waits", found)
    return found


def sustained(seconds: float = SUSTAINED_S) -> Figures:
    """A minute without a pause: clocks, degrees, what holds the card back, and the time of a call."""
    engine = built(network(32), batch=32)
    eyes = watcher(opening.open_driver().properties.bus_id)
    begun, rows = time.perf_counter(), []
    while (now := time.perf_counter() - begun) < seconds:
        ms = float(np.percentile(engine.time(50).wall_ms, 10))
        state = eyes.state() if eyes else None
        clocks = (state.sm_mhz, state.temperature_c, list(state.reasons or ())) if state else ()
        rows.append([round(now, 2), ms, *clocks])
    engine.close()
    return {
        "columns": ["s", "floor_ms", "sm_mhz", "celsius", "reasons"],
        "rows": rows[:: max(1, len(rows) // 600)],
        "last_over_first": rows[-1][1] / rows[0][1],
    }


def repeatability() -> Figures:
    """The same engine again, the same network built again, and calls with emptied caches."""
    floors, medians = [], []
    engine = built(network())
    for _ in range(10):
        floors.append(float(np.percentile(engine.time(100).wall_ms, 10)))
    hot = engine.time(100).wall_ms.tolist()
    engine.flush()
    cold = engine.time(100).wall_ms.tolist()
    engine.close()
    for _ in range(3):
        again = built(network())
        medians.append(float(np.median(again.time(100).wall_ms)))
        again.close()
    found: Figures = {"floors_ms": floors, "builds_ms": medians, "hot_ms": hot, "cold_ms": cold}
    _require(max(floors) < 1.02 * min(floors), "floors of one engine differ by more than 2 %", found)
    _require(np.median(cold) > np.median(hot), "emptied caches make calls no slower", found)
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
    path = cache_path(setting)
    kept = path.read_bytes() if path.is_file() else None
    path.unlink(missing_ok=True)
    found["build_s"] = []
    for _ in range(2):
        begun = time.perf_counter()
        Trt().build(network(4, space="mbv2-cifar", seed=3), setting).close()
        found["build_s"].append(time.perf_counter() - begun)
    if kept is not None:
        store.write_bytes(path, kept)
    before = free_bytes()
    for _ in range(20):
        backend.build(network(4), setting).close()
    found["lost_bytes"] = before - free_bytes()
    _require(found["loads_alike"], "a plan gives other scores when it is loaded again", found)
    _require(found["lost_bytes"] < 8 << 20, "device memory does not come back", found)
    return found


def free_bytes() -> int:
    """Free memory of the GPU, by NVML."""
    eyes = watcher(opening.open_driver().properties.bus_id)
    return 0 if eyes is None else eyes.free_bytes()


def told() -> Figures:
    """What NVML tells an ordinary user here (in a container, under MIG); None is what it keeps back."""
    eyes = watcher(opening.open_driver().properties.bus_id)
    return {"nvml": eyes is not None, **(vars(eyes.state()) if eyes else {})}


def table(seconds: float = PROFILE_S) -> Figures:
    """A minute of profiling, as a user does it."""
    command = [sys.executable, "-c", "from hwnas_cli.main import cli; cli()", "profile", "--device", "gpu"]
    command += ["--space", "resnet-cifar", "--preset", "quick", "--max-time", f"{seconds:g}s", "--json", "-q"]
    with store.scratch() as folder:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=10 * seconds + 300)
    _require(done.returncode == 0, "profile failed", {"said": done.stderr[-3000:]})
    answer: Figures = json.loads(done.stdout)
    return answer


# In the order in which a failure says most about those after it.
STEPS: dict[str, Callable[[], Figures]] = {
    "load": load,
    "torch": torch_code,
    "kernels": kernels,
    "clock": event_clock,
    "parity": parity,
    "modes": modes,
    "sustained": sustained,
    "repeatability": repeatability,
    "int8": int8_blocks,
    "files": files,
    "nvml": told,
    "table": table,
}


def tried(step: Callable[[], Figures]) -> Figures:
    """What a step gave: whether it passed, its figures, seconds, and what it said where it did not."""
    begun = time.perf_counter()
    try:
        body: Figures = {"passed": True, "figures": step(), "said": ""}
    except StepFailed as exc:
        body = {"passed": False, "figures": exc.figures, "said": str(exc)}
    except Exception:  # a report of what went wrong is the purpose
        body = {"passed": False, "figures": {}, "said": traceback.format_exc()[-4000:]}
    return {**body, "seconds": round(time.perf_counter() - begun, 2)}


def machine() -> Figures:
    """What the figures are true for."""
    return {
        "hwnas": hwnas.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "gpus": [gpu.model_dump() for gpu in gpus()],
        "backends": {row["name"]: row["version"] for row in describe() if row["available"]},
    }


def body(steps: dict[str, Figures]) -> Figures:
    """The report as one JSON object."""
    plain: Figures = _plain({"taken_at": now_utc(), "machine": machine(), "steps": steps})
    return {"schema": GPU_REPORT, **plain}


def _plain(value: Any) -> Any:
    """A value in JSON's types; numbers that it has no form for as words."""
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return value if isinstance(value, (bool, int, str, type(None))) else str(value)


def report(path: Path, emit: Emit | None = None) -> Figures:
    """Run every step and write the report, after each step: a crash leaves what was found before it."""
    if missing := Trt().unavailable():
        raise BackendUnavailable(f"nothing can be tried here: {missing}")
    steps: dict[str, Figures] = {}
    for number, (name, step) in enumerate(STEPS.items()):
        if emit is not None:
            emit("progress", {"task": "GPU report", "done": number, "total": len(STEPS), "note": name})
        steps[name] = tried(step)
        store.write_json(path, body(steps))
    return body(steps)
