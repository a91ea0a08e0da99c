"""B1, B5: what the extras and the images ask for can be installed, each as a whole, on their Python.

Resolved against PyPI's metadata by uv, which looks up each package as for the Python and the machine that
are meant, and installs nothing. TensorRT itself comes from NVIDIA's own index, which is not asked: the wheels
of its bindings, which are on PyPI, stand for it. PyCUDA is built from source by intent.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from machines import ROOT
from packaging.requirements import Requirement

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

pytestmark = pytest.mark.sim

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
# The Python of each image: Ubuntu 22.04's and 24.04's, and Debian's image for 3.12.
IMAGES = {"pascal": "3.10", "gpu": "3.12", "cpu": "3.12"}
PYTHONS = {
    "trt": ["3.11", "3.12"],
    "trt-cu12": ["3.11", "3.12"],
    "trt8": ["3.10", "3.11"],
    "trt8-train": ["3.10", "3.11"],
}
# Only there as sources, and of Python alone: nothing is compiled for them.
SOURCES = ("fvcore", "iopath")


def needs(extra: str) -> list[str]:
    """What hwnas asks for with an extra, the extras of extras among it, TensorRT by its bindings."""
    found = []
    for line in EXTRAS[extra]:
        need = Requirement(line)
        if need.name == "hwnas":
            found += [one for more in sorted(need.extras) for one in needs(more)]
        else:
            found.append(re.sub(r"^(tensorrt(-cu1[23])?)(?=[=<>])", r"\1-bindings", line))
    return found


def resolved(wanted: list[str], python: str) -> dict[str, str]:
    """Version by package of everything that pip would have to install; fails where there is no way."""
    uv = Path(sys.executable).parent / "uv"
    command = [str(uv), "pip", "compile", "-", "--quiet", "--no-header", "--no-annotate", "--no-config"]
    command += [f"--python-version={python}", "--python-platform=x86_64-manylinux_2_28"]
    command += ["--only-binary=:all:", *(f"--no-binary={name}" for name in SOURCES)]
    lines = "\n".join(wanted)
    done = subprocess.run(command, input=lines, capture_output=True, text=True, timeout=300)
    said = " ".join(done.stderr.split())  # it folds its lines
    assert done.returncode == 0, f"Python {python} cannot have\n{lines}\n{said[-3000:]}"
    return dict(line.split(" ;")[0].strip().split("==") for line in done.stdout.splitlines() if "==" in line)


def release(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])


@pytest.mark.parametrize(("extra", "python"), [(e, p) for e, ps in PYTHONS.items() for p in ps])
def test_b1_b5_an_extra_with_all_that_hwnas_needs_is_wheels_that_fit_each_other(
    extra: str, python: str
) -> None:
    found = resolved([*PROJECT["dependencies"], *needs(extra)], python)
    assert "pycuda" not in found
    torch, bindings = release(found["torch"]), release(found["cuda-bindings"])
    if extra in ("trt-cu12", "trt8-train"):  # for a driver that serves nothing of CUDA 13
        assert bindings < (13, 0)
        assert torch < (2, 11)
        assert not [name for name in found if name.endswith("-cu13")]
    if extra == "trt8":
        assert release(found["nvidia-cudnn-cu12"]) == (8, 9)
        assert found["tensorrt-bindings"] == "8.6.1"
    if extra == "trt8-train":  # the last on PyPI with code for Pascal and Volta
        assert torch == (2, 7)
        assert found["nvidia-cuda-runtime-cu12"].startswith("12.6")


def test_b1_cudnn_8_and_a_torch_that_trains_on_pascal_exclude_each_other() -> None:
    """Why there are two extras for TensorRT 8.6: with both wanted, no version fits."""
    with pytest.raises(AssertionError, match=r"nvidia-cudnn-cu12.*==9"):
        resolved([*needs("trt8"), "torch>=2.7,<2.8"], "3.10")


def test_b1_tensorrt_8_has_no_wheels_from_python_3_12_on() -> None:
    assert resolved(["tensorrt-bindings==8.6.1"], "3.11") == {"tensorrt-bindings": "8.6.1"}
    with pytest.raises(AssertionError, match=r"no wheels with a matching Python"):
        resolved(["tensorrt-bindings==8.6.1"], "3.12")


@pytest.mark.parametrize("image", IMAGES)
def test_b1_all_that_an_image_installs_with_pip_fits_together_on_its_python(image: str) -> None:
    """Both pip lines of an image as one: what the second wants must not turn out what the first brought."""
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    stage = re.split(r"^FROM \S+ AS (\w+)\n", text, flags=re.MULTILINE)[1:]
    body = dict(zip(stage[::2], stage[1::2], strict=True))[image]
    first, second = re.findall(r"pip install ([^&\n]*)", body)
    words = [w.strip('"') for w in re.sub(r"\$\{[^}]*\}|-\S+", " ", first).split()]
    (extra,) = re.findall(r"\.\[([\w-]+)\]", second)
    assert [Requirement(word).name for word in words] == ["torch", "torchvision"]
    together = resolved([*words, *PROJECT["dependencies"], *needs(extra)], IMAGES[image])
    alone = resolved(words, IMAGES[image])
    for name in ("torch", "torchvision"):
        assert together[name] == alone[name], f"the image installs {name} twice"
