"""Each simulated machine in its own process: TensorRT's bindings of one version a process."""

import subprocess
import sys

import pytest
from machines import MACHINES, ROOT, environment


@pytest.mark.sim
@pytest.mark.parametrize("device", MACHINES)
def test_everything_holds_on(device, tmp_path):
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rs", "tests/sim/inside"]
    env = environment(MACHINES[device], tmp_path, HWNAS_SIM="1")
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert " skipped" not in done.stdout, done.stdout[-2000:]
