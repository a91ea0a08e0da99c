"""`hwnas doctor`: what works on this machine, what does not, and what to do about it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path
from typing import Any

import numpy as np

from hwnas import backends
from hwnas.backends import conflicts
from hwnas.backends.cuda.gpus import serves
from hwnas.backends.gpu_report.report import report as run_gpu_steps
from hwnas.measure.device import MeasuredMachine, detect, machine_of, resolve
from hwnas.measure.grade import noise_grade, probes
from hwnas.measure.trace import record
from hwnas.protocols import Emit
from hwnas.records import now_utc, to_json
from hwnas.results import Result


class Diagnosis(Result):
    """What works on this machine.

    Attributes:
        cpu, gpus, fingerprint: the machine; each GPU with the ``advice`` which TensorRT serves it.
        backends: by name: version, and why one does not work here.
        noise: how noisy timing is (`hwnas.measure.grade.noise_grade`); None where it was not timed.
        device: what ``--device auto`` means here.
        packages: versions; empty where one is not installed.
        problems: what is wrong with the installation, with the cure.
        would_help: runtimes that serve this machine and are not installed or do not work, by name, with the
            cure: each one more that ``--backend auto`` may choose.
    """

    cpu: dict[str, Any]
    fingerprint: str
    gpus: tuple[dict[str, Any], ...]
    backends: dict[str, dict[str, Any]]
    noise: dict[str, Any] | None
    device: str
    packages: dict[str, str]
    problems: tuple[str, ...]
    would_help: dict[str, str]


def doctor(emit: Emit | None = None, *, noise: bool = True, device: str = "auto") -> Diagnosis:
    """Look at the processor, the GPUs, the runtimes and the installation; time for some seconds.

    Args:
        emit: told of progress.
        noise: whether to time at all; without, ``noise`` is None (a health check must not disturb).
        device: a device of the machine that is looked at, which may be another one (``ssh://...``).

    Returns:
        What was found.
    """

    looked_at, name = machine_of(device)
    far, info = looked_at.address is not None, looked_at.info()
    machine = to_json(info)
    rows = {row["name"]: row if far else _tried(row) for row in looked_at.describe()}
    kinds = {"cpu", *(["gpu"] if info.gpus else [])}
    body = {
        "cpu": {
            "model": info.cpu,
            **{k: v for k, v in machine.items() if k not in ("cpu", "gpus")},
        },
        "fingerprint": info.fingerprint,
        "gpus": [
            {**to_json(gpu), "advice": _advice(gpu.compute_capability, gpu.driver)} for gpu in info.gpus
        ],
        "backends": {name: {k: v for k, v in row.items() if k != "name"} for name, row in rows.items()},
        "noise": _noise(looked_at, emit) if noise else None,
        "device": resolve(looked_at.spelled(name)).name,
        "packages": {} if far else _packages(),
        "problems": [] if far else problems(packages_distributions()),
        "would_help": {
            name: row["reason"]
            for name, row in rows.items()
            if not row["available"] and kinds & set(row["devices"])
        },
    }
    return Diagnosis.of(body)


def _noise(machine: MeasuredMachine, emit: Emit | None) -> dict[str, Any] | None:
    """How noisy timing is on a machine's processor; None where no runtime of it is there."""
    cpu = machine.usual("cpu")
    if not any(row["name"] == cpu and row["available"] for row in machine.describe()):
        return None
    return noise_grade(rng=np.random.default_rng(0), emit=emit, device=machine.spelled("cpu"))


class Recording(Result):
    """A record of calls, with the 2 % quantile and the median of every engine in ms."""

    path: str
    seconds: float
    calls: int
    conditions: str
    engines: dict[str, dict[str, float]]


class GpuReport(Result):
    """What was tried on a GPU: where the report lies, and of each step ``passed``, ``seconds``, ``said``."""

    path: str
    passed: bool
    steps: dict[str, dict[str, Any]]


def gpu_report(path: Path, emit: Emit | None = None) -> GpuReport:
    """Try everything that only a GPU can show, and write it all to a JSON file; ten minutes at most."""
    found = run_gpu_steps(path, emit)["steps"]
    steps = {name: {k: v for k, v in step.items() if k != "figures"} for name, step in found.items()}
    passed = all(step["passed"] for step in steps.values())
    return GpuReport.of({"path": str(path), "passed": passed, "steps": steps})


def record_noise(path: Path, seconds: float, emit: Emit | None = None) -> Recording:
    """Record every call of four small engines in turn, for `python -m benchmarks.noise`.

    Args:
        path: the ``.npz`` file.
        seconds: how long.
        emit: told of progress.

    Returns:
        Where it is, and what it holds.
    """

    builders, guard, _ = probes()
    if guard is not None:
        builders["sentinel"] = guard
    info = detect()
    conditions = f"{info.cpu}, {info.cores} cores, load {info.load:.1f}, {now_utc()}"

    def told(done_s: float) -> None:
        if emit is not None:
            emit(
                "progress", {"task": "recording", "done": round(done_s), "total": round(seconds), "note": ""}
            )

    trace = record(builders, seconds, conditions, clock=time.perf_counter, told=told)
    trace.save(path)
    quantiles = {name: np.quantile(trace.of(name)[1], [0.02, 0.5]) for name in trace.names}
    body = {
        "path": str(path),
        "seconds": trace.seconds,
        "calls": len(trace.wall_ms),
        "conditions": conditions,
        "engines": {n: {"low_ms": float(q[0]), "median_ms": float(q[1])} for n, q in quantiles.items()},
    }
    return Recording.of(body)


def _tried(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """A backend's row, with what its runtime said where it is installed and does not load."""
    why = backends.load_problem(row["name"]) if row["available"] else None
    return row if why is None else {**row, "available": False, "reason": why}


def _advice(capability: str, driver: str) -> str:
    """Which TensorRT serves a GPU, and the line that installs it."""

    major, _, minor = capability.partition(".")
    if not (major.isdigit() and minor.isdigit()):
        return "its driver does not report the compute capability"
    support = serves((int(major), int(minor)), driver)
    return f"{support.describe()}; {support.install}"


def _packages() -> dict[str, str]:

    found = {}
    for name in ("hwnas", "torch", *backends.PACKAGES, "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = ""
    return found


def problems(owners: Mapping[str, list[str]]) -> list[str]:
    """What is wrong with the installation, in words with the cure.

    Args:
        owners: import name to the distributions that install it
            (`importlib.metadata.packages_distributions`).
    """

    found = []
    foreign = sorted(set(owners.get("hwnas", [])) - {"hwnas"})
    if foreign:
        found.append(
            f"the package {', '.join(foreign)} installs a folder called hwnas too, and its files mix with "
            f"ours: pip uninstall {' '.join(foreign)}, then pip install --force-reinstall --no-deps hwnas"
        )
    return [*found, *conflicts(owners)]
