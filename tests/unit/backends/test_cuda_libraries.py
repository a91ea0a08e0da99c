"""What an installed runtime misses: said with the package that has it, and loaded where pip put it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

import hwnas
from hwnas import backends
from hwnas.backends.cuda import libraries
from hwnas.backends.trt import compat
from hwnas.errors import BackendUnavailable

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MISSING = "libcudnn.so.8: cannot open shared object file: No such file or directory"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (MISSING, "pip install 'nvidia-cudnn-cu12>=8.9,<9'"),
        ("libcublas.so.12: cannot open shared object file", "pip install nvidia-cublas-cu12"),
        ("libnvinfer.so.8: cannot open shared object file", "NVIDIA's package index"),
        ("libcuda.so.1: cannot open shared object file", "install NVIDIA's driver"),
        ("libother.so.3: cannot open shared object file", "install what holds libother.so.3"),
        ("undefined symbol: createInferBuilder", ""),
    ],
)
def test_b1_a_missing_library_is_named_with_its_package(words: str, said: str) -> None:
    assert said in libraries.cure(words)
    assert bool(libraries.cure(words)) == bool(said)


def test_b1_the_loaders_words_reach_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    package = tmp_path / "tensorrt"
    package.mkdir()
    (package / "__init__.py").write_text(f"raise ImportError({MISSING!r})\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    monkeypatch.setattr(compat, "installed_version", lambda: "8.6.1")
    asked: list[Any] = []
    monkeypatch.setattr(libraries, "preload", lambda **releases: asked.append(releases))
    compat.module.cache_clear()
    with pytest.raises(
        BackendUnavailable, match=r"8\.6\.1 cannot be loaded: libcudnn.*pip install 'nvidia-cudnn"
    ):
        compat.module()
    compat.module.cache_clear()
    assert asked == [{"cuda_runtime": 12, "cuda_nvrtc": 12, "cublas": 12, "cudnn": 8}]


@pytest.mark.skipif(shutil.which("gcc") is None, reason="no C compiler")
def test_b1_libraries_of_wheels_are_found_by_those_that_need_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`liba` needs `libz` of another wheel by its bare name. A later release lies beside it, as torch puts
    cuDNN 9 beside 8: it is left alone, or its functions would be taken for those of the earlier.
    """
    for folder, name, more, release in (
        ("first", "z", [], 8),
        ("second", "a", ["z"], 8),
        ("second", "a", [], 9),
    ):
        lib = tmp_path / "nvidia" / folder / "lib"
        lib.mkdir(parents=True, exist_ok=True)
        source = tmp_path / f"{name}.c"
        calls = f"int in_{more[0]}(void); " if more else ""
        source.write_text(f"{calls}int in_{name}(void) {{ return {f'in_{more[0]}()' if more else '7'}; }}\n")
        links = [str(tmp_path / "nvidia" / "first" / "lib" / "libhwnasz.so.8")] if more else []
        made = lib / f"libhwnas{name}.so.{release}"
        options = ["-shared", "-fPIC", f"-Wl,-soname,{made.name}"]
        subprocess.run(["gcc", *options, "-o", made, source, *links], check=True)
    monkeypatch.syspath_prepend(str(tmp_path))
    code = "from hwnas.backends.cuda.libraries import preload; print(preload(second=8, first=8))"
    env = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['libhwnasz.so.8', 'libhwnasa.so.8']"


def test_b1_a_runtime_is_loaded_in_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    assert backends.load_problem("ort") is None  # nothing to try: it is a wheel without libraries of others
    asked: list[Any] = []

    def ran(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        asked.append(command[-1])
        words = f"Traceback ...\nhwnas.errors.BackendUnavailable: TensorRT cannot be loaded: {MISSING}\n"
        return subprocess.CompletedProcess(command, 1, "", words)

    monkeypatch.setattr("hwnas.backends.subprocess.run", ran)
    assert backends.load_problem("trt") == f"TensorRT cannot be loaded: {MISSING}"
    assert "'trt'" in asked[0]
    dead = subprocess.CompletedProcess([], -11, "", "")
    monkeypatch.setattr("hwnas.backends.subprocess.run", lambda *_, **__: dead)
    assert backends.load_problem("trt") == "loading it ended the process with signal 11"


def extras() -> dict[str, list[Requirement]]:
    """The extras of the tree that hwnas is imported from."""
    body = tomllib.loads((Path(hwnas.__file__).resolve().parents[1] / "pyproject.toml").read_text())
    found = body["project"]["optional-dependencies"]
    return {name: [Requirement(line) for line in lines] for name, lines in found.items()}


def test_b1_the_extra_for_8_6_asks_for_the_cudnn_that_its_plugins_are_linked_to() -> None:
    (cudnn,) = [need for need in extras()["trt8"] if need.name == "nvidia-cudnn-cu12"]
    assert cudnn.specifier.contains("8.9.7.29")
    assert not cudnn.specifier.contains("9.0.0")


@pytest.mark.parametrize("extra", ["trt", "trt-cu12", "trt8", "trt8-train"])
def test_b5_no_extra_of_tensorrt_needs_a_cuda_toolkit(extra: str) -> None:
    """PyCUDA is only there as sources, which nvcc's headers must be at hand for."""
    names = {need.name for need in extras()[extra]}
    assert "pycuda" not in names
    assert "cuda-bindings" in names


@pytest.mark.parametrize("extra", ["trt-cu12", "trt8-train"])
def test_b5_what_is_for_an_older_driver_has_nothing_of_cuda_13(extra: str) -> None:
    """By the bindings' own name: `cuda-python` 12.6 lets those of 13 in (tests/sim/test_sim_extras.py)."""
    (bindings,) = [need for need in extras()[extra] if need.name.startswith("cuda-")]
    assert bindings.specifier.contains("12.9.4")
    assert not bindings.specifier.contains("13.0.3")
