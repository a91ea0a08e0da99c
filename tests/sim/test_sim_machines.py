"""Each simulated machine in its own process: TensorRT's bindings of one version a process."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from machines import MACHINES, ROOT, environment

# Slow: these begin first, so that the many short ones of the other files fill what is left.
pytestmark = [pytest.mark.sim, pytest.mark.slow, pytest.mark.parametrize("device", MACHINES)]
INSIDE = sorted((ROOT / "tests/sim/inside").glob("test_*.py"))


def passes(device: str, home: Path, *arguments: str, before: Path | None = None) -> None:
    """Run pytest on a machine; everything must pass and nothing be skipped.

    `before` is a folder that comes first on the import path.
    """
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rs", "--tb=short", *arguments]
    env = environment(MACHINES[device], home, HWNAS_SIM="1")
    if before is not None:
        env["PYTHONPATH"] = f"{before}:{env['PYTHONPATH']}"
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=2400)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert " skipped" not in done.stdout, done.stdout[-2000:]


@pytest.mark.parametrize("file", INSIDE, ids=lambda file: file.stem.removeprefix("test_inside_"))
def test_backend_drivers_and_commands(device: str, file: Path, tmp_path: Path) -> None:
    passes(device, tmp_path, str(file.relative_to(ROOT)))


def test_the_promises_of_every_backend(device: str, tmp_path: Path) -> None:
    passes(device, tmp_path, "tests/contract/test_backends.py", "-k", "trt and not ort")


def test_b5_engines_through_pycuda_where_cuda_python_does_not_load(device: str, tmp_path: Path) -> None:
    broken = tmp_path / "broken" / "cuda" / "bindings"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise ImportError('built for another CUDA')\n")
    chosen = "scores_are_those or save_and_load or times_are or bytes_are or refusal or out_of_memory"
    tests = "tests/sim/inside/test_inside_backend.py"
    passes(device, tmp_path, tests, "-k", chosen, before=broken.parent.parent)


def test_the_tests_for_a_real_gpu_run(device: str, tmp_path: Path) -> None:
    """Those of tests/gpu whose outcome does not depend on real hardware; and their report.

    The GPU has a clock of its own: without one, its times are the host's, which proves nothing.
    """
    report = tmp_path / "report.json"
    chosen = "load or kernels or clock or parity or modes or files or nvml or int8"
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--tb=short", "tests/gpu"]
    env = environment(MACHINES[device], tmp_path, FAKECUDA_CLOCK="1024", FAKECUDA_EVENT_NS="700")
    done = subprocess.run(
        [*command, "-k", chosen, "--gpu-report", str(report)],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    body = json.loads(report.read_text())
    assert body["machine"]["gpus"][0]["name"] == MACHINES[device].gpu
    assert {name for name, step in body["steps"].items() if step["passed"]} == set(chosen.split(" or "))
    assert body["steps"]["clock"]["figures"]["tick_ms"] == pytest.approx(1.024e-3, rel=0.01)
    assert len(body["steps"]["modes"]["figures"]["device_ms"]) == 200  # raw samples
