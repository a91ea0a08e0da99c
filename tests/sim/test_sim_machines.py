"""Each simulated machine in its own process: TensorRT's bindings of one version a process."""

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
    passes(device, tmp_path, "tests/contract/test_backends.py", "-k", "trt")
