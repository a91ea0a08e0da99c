"""Faults planted into a copy of hwnas, one at a time: each must make the simulated machines fail."""

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from machines import MACHINES, ROOT, environment

pytestmark = pytest.mark.sim


@dataclass(frozen=True)
class Plant:
    """One fault: what is replaced in which file, on which machine it shows, in which test."""

    name: str
    file: str
    old: str
    new: str
    shows_in: str
    device: str = "rtx3090"


PLANTS = [
    Plant(
        "literal flag bit",
        "trt/compat.py",
        "    return bits(trt.NetworkDefinitionCreationFlag, names)",
        "    return 1 << 1",
        "asked_in_its_own_way",
    ),
    Plant(
        "no explicit batch for 8.6",
        "trt/compat.py",
        '("EXPLICIT_BATCH",) if major(trt) < 10 else ()',
        "()",
        "scores_are_those",
        "titanxp",
    ),
    Plant(
        "FP16 flag unguarded",
        "trt/compat.py",
        "    elif not typed_only(trt):\n",
        "    else:\n",
        "scores_are_those",
    ),
    Plant(
        "pool limit without int()",
        "trt/build.py",
        "int(options.workspace * memory_bytes)",
        "options.workspace * memory_bytes",
        "scores_are_those",
    ),
    Plant(
        "enqueue unchecked",
        "trt/engine.py",
        "        if not context.execute_async_v3(self._stream):\n",
        "        if context.execute_async_v3(self._stream) is None:\n",
        "every_refusal and enqueue",
    ),
    Plant(
        "address unchecked",
        "trt/engine.py",
        "if not context.set_tensor_address(name, address):",
        "if context.set_tensor_address(name, address) is None:",
        "every_refusal and address",
    ),
    Plant(
        "timing cache unchecked",
        "trt/build.py",
        "        if not config.set_timing_cache(self._cache, ignore_mismatch=False):\n",
        "        if config.set_timing_cache(self._cache, ignore_mismatch=False) is None:\n",
        "every_refusal and set_timing_cache",
    ),
    Plant(
        "allocation leaked",
        "cuda/driver.py",
        "        self._stack.callback(self.driver.free, address)\n",
        "",
        "save_and_load",
    ),
    Plant(
        "stream leaked",
        "cuda/by_pycuda.py",
        "        del self._streams[stream]\n",
        "        pass\n",
        "save_and_load",
    ),
    Plant(
        "default stream",
        "trt/engine.py",
        "context.execute_async_v3(self._stream)",
        "context.execute_async_v3(0)",
        "save_and_load",
    ),
    Plant(
        "scores read before they are there",
        "trt/engine.py",
        "            self._driver.download(scores, self._scores, self._stream)\n"
        "            self._driver.synchronize(self._stream)\n",
        "            self._driver.download(scores, self._scores, self._stream)\n",
        "open_batch",
    ),
    Plant(
        "buffer too small",
        "trt/engine.py",
        "self._owned.alloc(4 * int(np.prod(answer)))",
        "self._owned.alloc(2 * int(np.prod(answer)))",
        "scores_are_those",
    ),
    Plant(
        "context left current",
        "cuda/by_pycuda.py",
        "        self._cuda.Context.pop()\n",
        "        pass\n",
        "save_and_load",
    ),
    Plant(
        "engine kept alive",
        "trt/engine.py",
        "            self._engine = None\n",
        "",
        "closed_engine",
    ),
]


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """hwnas and its data folders, to be spoiled."""
    target = tmp_path_factory.mktemp("planted")
    shutil.copytree(ROOT / "hwnas", target / "hwnas", ignore=shutil.ignore_patterns("__pycache__"))
    for data in ("profiles", "kernels"):
        (target / data).symlink_to(ROOT / data)
    return target


def run(library: Path, device: str, tests: str, home: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "--tb=line"]
    command += [str(ROOT / "tests" / "sim" / "inside" / "test_inside_backend.py"), "-k", tests]
    env = environment(MACHINES[device], home, library, HWNAS_SIM="1", PYTHONDONTWRITEBYTECODE="1")
    return subprocess.run(command, cwd=library, env=env, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("device", sorted({plant.device for plant in PLANTS}))
def test_the_copy_itself_is_sound(copy: Path, device: str, tmp_path: Path) -> None:
    tests = sorted({f"({plant.shows_in})" for plant in PLANTS if plant.device == device})
    done = run(copy, device, " or ".join(tests), tmp_path)
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.name.replace(" ", "-"))
def test_a_planted_fault_is_found(copy: Path, plant: Plant, tmp_path: Path) -> None:
    path = copy / "hwnas" / "backends" / plant.file
    sound = path.read_text()
    assert plant.old in sound, f"{plant.file} has changed; plant the fault anew"
    path.write_text(sound.replace(plant.old, plant.new))
    try:
        done = run(copy, plant.device, plant.shows_in, tmp_path)
    finally:
        path.write_text(sound)
    said = done.stdout + done.stderr
    assert done.returncode != 0, f"not found: {said[-2000:]}"
    assert "FAILED" in said or "ERROR" in said, f"failed for another reason: {said[-2000:]}"
