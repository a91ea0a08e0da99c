"""The steps in order, and the report that is written after each. It is plain JSON, readable without hwnas."""

from __future__ import annotations

import math
import platform
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hwnas
from hwnas import store
from hwnas.backends import describe
from hwnas.backends.cuda.gpus import gpus
from hwnas.backends.gpu_report import card, engines, steadiness
from hwnas.backends.gpu_report.trial import Figures, StepFailed
from hwnas.backends.trt.backend import Trt
from hwnas.errors import BackendUnavailable
from hwnas.protocols import Emit
from hwnas.records import now_utc
from hwnas.schemas import GPU_REPORT

# In the order in which a failure says most about those after it.
STEPS: dict[str, Callable[[], Figures]] = {
    "load": card.load,
    "torch": card.torch_code,
    "kernels": card.kernels,
    "clock": card.event_clock,
    "parity": engines.parity,
    "modes": engines.modes,
    "sustained": steadiness.sustained,
    "repeatability": steadiness.repeatability,
    "int8": engines.int8_blocks,
    "files": engines.files,
    "nvml": card.told,
    "table": steadiness.table,
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
