"""Faults planted into a copy of hwnas, one at a time: each must make the simulated machines fail."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from machines import MACHINES, ROOT, environment

pytestmark = pytest.mark.sim


@dataclass(frozen=True)
class Plant:
    """One fault: what is replaced in which file, where it shows.

    Attributes:
        name: what was wrong.
        file: from `hwnas/backends`.
        old, new: the cure, and what stood there before.
        shows_in: expression that chooses tests.
        device: simulated machine; empty for an ordinary test.
        tests: file of the test, where it is none of a machine's usual ones.
    """

    name: str
    file: str
    old: str
    new: str
    shows_in: str
    device: str = "rtx3090"
    tests: str = ""


CHOICES = "tests/sim/inside/test_inside_choices.py"

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
        "trt/ways.py",
        "        if not way.context.execute_async_v3(way.stream):\n",
        "        if way.context.execute_async_v3(way.stream) is None:\n",
        "every_refusal and enqueue",
    ),
    Plant(
        "address unchecked",
        "trt/ways.py",
        "if not way.context.set_tensor_address(name, address):",
        "if way.context.set_tensor_address(name, address) is None:",
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
        "cuda/by_cuda_python.py",
        '        self._call("destroying a stream", self._cuda.cuStreamDestroy(stream))\n',
        "        pass\n",
        "save_and_load",
    ),
    Plant(
        "default stream",
        "trt/ways.py",
        "way.context.execute_async_v3(way.stream)",
        "way.context.execute_async_v3(0)",
        "save_and_load",
    ),
    Plant(
        "scores read before they are there",
        "trt/engine.py",
        "            self._driver.download(scores, way.scores, way.stream)\n"
        "            self._driver.synchronize(way.stream)\n",
        "            self._driver.download(scores, way.scores, way.stream)\n",
        "open_batch",
    ),
    Plant(
        "buffer too small",
        "trt/ways.py",
        "scores = self.gives.itemsize * int(np.prod(self.scores_shape))",
        "scores = 2 * int(np.prod(self.scores_shape))",
        "scores_are_those",
    ),
    Plant(
        "context left current",
        "cuda/by_cuda_python.py",
        '        self._call("leaving the context", self._cuda.cuCtxPopCurrent())\n',
        "        pass\n",
        "save_and_load",
    ),
    Plant(
        "engine kept alive",
        "trt/ways.py",
        "        self.engine = None\n",
        "",
        "closed_engine",
    ),
    Plant(
        "B1 libraries of wheels are not loaded",
        "trt/compat.py",
        "        libraries.preload(cuda_runtime=12, cuda_nvrtc=12, cublas=12, cudnn=8)\n",
        "        pass\n",
        "it_is_available",
        "titanxp",
    ),
    Plant(
        "B1 the extra asks for any cuDNN",
        "../../pyproject.toml",
        '"nvidia-cudnn-cu12>=8.9,<9"',
        '"nvidia-cudnn-cu12>=8.9"',
        "b1_the_extra",
        "",
        "tests/unit/backends/test_cuda_libraries.py",
    ),
    Plant(
        "B1 no cure is named",
        "cuda/libraries.py",
        "    if found is None:\n",
        "    if True:\n",
        "b1_a_missing or b1_the_loaders",
        "",
        "tests/unit/backends/test_cuda_libraries.py",
    ),
    Plant(
        "B1 a runtime takes the process with it",
        "__init__.py",
        "    if done.returncode < 0:\n",
        "    if False:\n",
        "b1_a_runtime",
        "",
        "tests/unit/backends/test_cuda_libraries.py",
    ),
    Plant(
        "B2 any GPU is trained on",
        "../train/precision.py",
        'unserved = "" if missing or options.device == "cpu" else cuda_refusal()',
        'unserved = ""',
        "b2_",
        "",
        "tests/unit/train/test_train_device.py",
    ),
    Plant(
        "B3 kept engines under ONNX Runtime's own name",
        "ort_gpu.py",
        '            "trt_engine_cache_prefix": content_key(graph, setting, {**built_by, **NO_TF32}),\n',
        "",
        "b3_an_engine",
        "",
        "tests/unit/backends/test_trt_ort_gpu.py",
    ),
    Plant(
        "B3 kept engines without the weights",
        "ort_gpu.py",
        'hashlib.sha256(graph + b"\\0" + told',
        'hashlib.sha256(b"\\0" + told',
        "b3_an_engine",
        "",
        "tests/unit/backends/test_trt_ort_gpu.py",
    ),
    Plant(
        "B5 PyCUDA is needed",
        "cuda/opening.py",
        '        found.append("cuda-python")\n',
        "        pass\n",
        "b5_either",
        tests="tests/sim/inside/test_inside_drivers.py",
    ),
    Plant(
        "B5 one package or none",
        "cuda/opening.py",
        "                said.append(str(exc))\n",
        "                raise exc\n",
        "b5_either",
        tests="tests/sim/inside/test_inside_drivers.py",
    ),
    Plant(
        "B5 an extra that is built from source",
        "../../pyproject.toml",
        '  "cuda-bindings>=13,<14",\n',
        '  "pycuda>=2024.1",\n',
        "b5_no_extra",
        "",
        "tests/unit/backends/test_cuda_libraries.py",
    ),
    Plant(
        "B1 any release of a library is loaded",
        "cuda/libraries.py",
        '        if path.name.split(".so.")[1].split(".")[0] == str(release)\n',
        "",
        "b1_libraries_of_wheels",
        "",
        "tests/unit/backends/test_cuda_libraries.py",
    ),
    Plant(
        "B5 bindings that the driver does not serve",
        "cuda/by_cuda_python.py",
        "        if version // 1000 < cuda.CUDA_VERSION // 1000:\n",
        "        if False:\n",
        "b5_bindings",
        tests="tests/sim/inside/test_inside_drivers.py",
    ),
    Plant(
        "B5 bindings of CUDA 13 for a driver of CUDA 12",
        "../../pyproject.toml",
        '"tensorrt-cu12>=10.13,<12",\n  "cuda-bindings>=12.6,<13"',
        '"tensorrt-cu12>=10.13,<12",\n  "cuda-bindings>=12.6"',
        "b5_what_is",
        "",
        "tests/unit/backends/test_cuda_libraries.py",
    ),
    Plant(
        "B5 an older driver is given CUDA 13",
        "cuda/gpus.py",
        '"trt-cu12" if older else "trt"',
        '"trt"',
        "b5_an_older",
        "",
        "tests/unit/backends/test_trt_gpus.py",
    ),
    Plant(
        "B4 only not-supported is caught",
        "cuda/state.py",
        "        except nvml.NVMLError:  # not",
        "        except nvml.NVMLError_NotSupported:  # not",
        "b4_nvml",
    ),
    Plant(
        "B4 slices are another model",
        "cuda/gpus.py",
        "|nvl|mig|\\d+g|me|gfx|collectors|edition",
        "|nvl",
        "b4_a_slice",
    ),
    Plant(
        "B4 a slice under the whole card's name",
        "ort_gpu.py",
        " and not sliced:\n",
        ":\n",
        "b4_a_slice_is",
        "",
        "tests/unit/backends/test_trt_ort_gpu.py",
    ),
    Plant(
        "B4 what was measured on a slice for the whole card",
        "../jobs/predict.py",
        '("device_arch", "backend", "backend_version")',
        '("backend",)',
        "b4_the_newest",
        "",
        "tests/unit/jobs/test_profile_predict_table.py",
    ),
    Plant(
        "B6 no fallback",
        "trt/build.py",
        "            if not more:\n                break\n",
        "            break\n",
        "b6_int8",
        "titanxp",
    ),
    Plant(
        "B7 PyCUDA's errors unwrapped",
        "cuda/by_pycuda.py",
        '        with self._errors("entering the context"):\n            self._context.push()\n',
        "        self._context.push()\n",
        "b7_a_context",
    ),
    Plant(
        "B7 inspector's odd answer",
        "trt/compat.py",
        "(json.JSONDecodeError, KeyError, TypeError, AttributeError)",
        "(json.JSONDecodeError, KeyError)",
        "b7_another_shape",
    ),
    Plant(
        "B7 a part of the graph on the CPU",
        "ort_gpu.py",
        '        wanted.add_session_config_entry("session.disable_cpu_ep_fallback", "1")\n',
        "        pass\n",
        "b7_a_provider",
        "",
        "tests/unit/backends/test_trt_ort_gpu.py",
    ),
    Plant(
        "B7 Python's own fallback",
        "ort_gpu.py",
        ", enable_fallback=0\n",
        "\n",
        "b7_a_provider",
        "",
        "tests/unit/backends/test_trt_ort_gpu.py",
    ),
    Plant(
        "M1 each call by its own events",
        "trt/timer.py",
        "        return int(np.clip(np.ceil(known.clock.span_ms / known.call_ms), 1, self._ways.fit()))",
        "        return 1",
        "m1_short_calls and 1024",
    ),
    Plant(
        "M1 the empty pair is left in",
        "trt/timer.py",
        "driver.elapsed_ms(start, end) - empty_ms",
        "driver.elapsed_ms(start, end) - 0 * empty_ms",
        "m1_short_calls and 32",
    ),
    Plant(
        "M1 the step is no error",
        "trt/timer.py",
        "            error_ms=known.clock.error_ms / each,\n",
        "",
        "m1_floors",
    ),
    Plant(
        "M2 no graph",
        "trt/ways.py",
        "        self.graphs = driver.graphs\n",
        "        self.graphs = False\n",
        "m2_a_graph",
    ),
    Plant(
        "M2 launches are hidden",
        "trt/timer.py",
        "known.bound = self._ways.full.graph is None and",
        "known.bound = False and",
        "m2_without_graphs",
    ),
    Plant(
        "M3 against the fastest clock",
        "cuda/state.py",
        "SLOW_CLOCK * median(self._seen_mhz)",
        "0.97 * max(self._seen_mhz)",
        "m3_a_clock_is_judged",
    ),
    Plant(
        "M3 against the best look",
        "../measure/levels.py",
        'return bool(getattr(engine, "warms", False))',
        "return False",
        "m3_a_card_that_warms",
    ),
    Plant(
        "M3 throttling asked for when idle",
        "trt/timer.py",
        "            gates = judge.gates()\n            self._driver.synchronize(self._stream)\n",
        "            self._driver.synchronize(self._stream)\n            gates = judge.gates()\n",
        "m3_what_holds",
    ),
    Plant(
        "M3 no warm-up by time",
        "trt/timer.py",
        "WARM_S, COOL_S = 0.2, 1.0",
        "WARM_S, COOL_S = 0.0, 1.0",
        "m3_a_card",
    ),
    Plant(
        "M4 the input travels every time",
        "trt/timer.py",
        "        if not self.resident:\n",
        "        if True:\n",
        "m4_a_second",
    ),
    Plant(
        "M4 the delay only grows",
        "trt/timer.py",
        "        self.delay_ns = int(np.clip(1.5 * queued_ns, FIRST_DELAY_NS, LONGEST_DELAY_NS))\n",
        "",
        "m4_the_delay",
    ),
    Plant(
        "M5 int8 alone",
        "trt/compat.py",
        '        if half and precision == "int8":\n',
        "        if False:\n",
        "asked_in_its_own_way",
        "rtx2080ti",
    ),
    Plant(
        "B6 the whole network falls back",
        "trt/build.py",
        "named if named and attempt < SPARED_ROUNDS - 1 else hard",
        "hard",
        "b6_int8",
        "titanxp",
    ),
    Plant(
        "M5 float32 between the pairs of TensorRT 11",
        "trt/build.py",
        "        if typed_only and in_half:\n",
        '        if typed_only and precision == "fp16":\n',
        "asked_in_its_own_way",
    ),
    Plant(
        "M5 TF32 under fp32's name",
        "ort_gpu.py",
        "        os.environ.update(NO_TF32)\n",
        '        if setting.precision == "fp32":\n            os.environ.update(NO_TF32)\n',
        "m5_fp32",
        "",
        "tests/unit/backends/test_trt_ort_gpu.py",
    ),
    Plant(
        "M5 blocks with float32 ends",
        "trt/build.py",
        "    ends = typed.inner_ends(model) if in_half else frozenset()\n",
        "    ends: frozenset[str] = frozenset()\n",
        "m5_a_block",
    ),
    Plant(
        "M6 a builder each build",
        "trt/build.py",
        "    builder = compat.builder()\n",
        "    builder = compat.construct(trt.Builder, name)\n",
        "m6_one_builder",
    ),
    Plant(
        "every size on the first profile",
        "trt/ways.py",
        "self.sizes.index(size)",
        "0",
        "each_size",
        tests=CHOICES,
    ),
    Plant(
        "profiles of 8.6 are not shared",
        "trt/build.py",
        "    compat.share_profiles(config)",
        "    pass",
        "share_the_profile",
        "titanxp",
        CHOICES,
    ),
    Plant(
        "code of any plan is run",
        "trt/compat.py",
        '    if "version" in choices.compatible:\n        runtime',
        "    if True:\n        runtime",
        "nobody_else",
        tests=CHOICES,
    ),
    Plant(
        "a plan of a later version is read",
        "trt/compat.py",
        "(8, 6) <= was <= now",
        "(8, 6) <= was",
        "nobody_else",
        tests=CHOICES,
    ),
    Plant(
        "a DLA that is not told its core",
        "trt/compat.py",
        "        runtime.DLA_core = choices.dla\n",
        "        pass\n",
        "for_a_dla",
        tests=CHOICES,
    ),
    Plant(
        "calls at once on one stream",
        "trt/streams.py",
        "                stream = owned.stream()\n",
        "                stream = ways.full.stream\n",
        "several_streams",
        tests=CHOICES,
    ),
    Plant(
        "M7 a blocking stream",
        "cuda/by_pycuda.py",
        "self._cuda.Stream(NON_BLOCKING)",
        "self._cuda.Stream()",
        "m7_no_stream",
    ),
    Plant(
        "M7 a blocking stream of cuda-python",
        "cuda/by_cuda_python.py",
        "self._cuda.cuStreamCreate(flags)",
        "self._cuda.cuStreamCreate(0)",
        "m7_no_stream",
    ),
]


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """hwnas and its data folders, to be spoiled."""
    target = tmp_path_factory.mktemp("planted")
    shutil.copytree(ROOT / "hwnas", target / "hwnas", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", target)
    for data in ("profiles", "kernels"):
        (target / data).symlink_to(ROOT / data)
    return target


USUAL = ("tests/sim/inside/test_inside_backend.py", "tests/sim/inside/test_inside_timing.py")


def run(
    library: Path, device: str, files: Sequence[str], tests: str, home: Path
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "--tb=line"]
    command += [*(str(ROOT / file) for file in files), "-k", tests]
    if device:
        env = environment(MACHINES[device], home, library, HWNAS_SIM="1")
    else:
        env = {**os.environ, "PYTHONPATH": str(library), "HWNAS_HOME": str(home)}
    env["PYTHONDONTWRITEBYTECODE"] = "1"
    return subprocess.run(command, cwd=library, env=env, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("device", sorted({plant.device for plant in PLANTS}))
def test_the_copy_itself_is_sound(copy: Path, device: str, tmp_path: Path) -> None:
    here = [plant for plant in PLANTS if plant.device == device]
    files = sorted({plant.tests for plant in here if plant.tests})
    tests = " or ".join(sorted({f"({plant.shows_in})" for plant in here}))
    done = run(copy, device, [*USUAL, *files] if device else files, tests, tmp_path)
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.name.replace(" ", "-"))
def test_a_planted_fault_is_found(copy: Path, plant: Plant, tmp_path: Path) -> None:
    path = copy / "hwnas" / "backends" / plant.file
    sound = path.read_text()
    assert plant.old in sound, f"{plant.file} has changed; plant the fault anew"
    path.write_text(sound.replace(plant.old, plant.new))
    try:
        done = run(copy, plant.device, [plant.tests] if plant.tests else USUAL, plant.shows_in, tmp_path)
    finally:
        path.write_text(sound)
    said = done.stdout + done.stderr
    assert done.returncode != 0, f"not found: {said[-2000:]}"
    assert "FAILED" in said or "ERROR" in said, f"failed for another reason: {said[-2000:]}"
