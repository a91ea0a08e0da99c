"""Whether the card and what drives it are as they should be: libraries, kernels, clock, NVML."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np

from hwnas.backends import images as host_images
from hwnas.backends.cuda import clock, libraries, opening
from hwnas.backends.cuda.driver import GpuOutOfMemory, Owned
from hwnas.backends.cuda.kernels import Kernels, Preprocessor
from hwnas.backends.cuda.state import watcher
from hwnas.backends.gpu_report.trial import Figures, require
from hwnas.backends.trt import compat
from hwnas.lazy import lazy_import

torch = lazy_import("torch")


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
    require(same and found["largest_difference_off"] == 0, "a kernel gives other values than the host", found)
    require(found["too_large"] != "given", "four times the memory was given", found)
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


def told() -> Figures:
    """What NVML tells an ordinary user here (in a container, under MIG); None is what it keeps back."""
    eyes = watcher(opening.open_driver().properties.bus_id)
    return {"nvml": eyes is not None, **(vars(eyes.state()) if eyes else {})}
