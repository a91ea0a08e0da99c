"""Each simulated machine in its own process: TensorRT's bindings of one version a process."""

import json
import subprocess
import sys

import pytest
from machines import MACHINES, ROOT, environment

pytestmark = [pytest.mark.sim, pytest.mark.parametrize("device", MACHINES)]


def passes(device, home, *arguments):
    """Run pytest on a machine; everything must pass and nothing be skipped."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rs", "--tb=short", *arguments]
    env = environment(MACHINES[device], home, HWNAS_SIM="1")
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert " skipped" not in done.stdout, done.stdout[-2000:]


def test_backend_drivers_and_commands(device, tmp_path):
    passes(device, tmp_path, "tests/sim/inside")


def test_the_promises_of_every_backend(device, tmp_path):
    passes(device, tmp_path, "tests/contract/test_backends.py", "-k", "trt and not ort")


def test_the_tests_for_a_real_gpu_run(device, tmp_path):
    """Those of tests/gpu whose outcome does not depend on real hardware; and their report."""
    report = tmp_path / "report.json"
    chosen = "parity or open_batch or loads_again or layers or preprocessing or largest or survived or memory"
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--tb=short", "tests/gpu"]
    env = environment(MACHINES[device], tmp_path)
    done = subprocess.run(
        [*command, "-k", chosen, "--gpu-report", str(report)],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    body = json.loads(report.read_text())
    assert body["machine"]["gpus"][0]["name"] == MACHINES[device].gpu
    assert {test["outcome"] for test in body["tests"].values()} <= {"passed", "skipped"}
    assert sum(test["outcome"] == "passed" for test in body["tests"].values()) >= 10
