"""B1, B5: what the extras and the images ask for exists as wheels for their Python, so that it installs.

TensorRT itself comes from NVIDIA's own index, which is not asked; PyCUDA is built from source by intent.
"""

from __future__ import annotations

import re
import subprocess
import sys
from functools import cache

import pytest
from machines import ROOT
from packaging.requirements import Requirement

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

pytestmark = pytest.mark.sim

EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
# The Python of each image: Ubuntu 22.04's and 24.04's, and Debian's image for 3.12.
IMAGES = {"pascal": "3.10", "gpu": "3.12", "cpu": "3.12"}
PYTHONS = {"trt": ["3.11", "3.12"], "trt-cu12": ["3.11", "3.12"], "trt8": ["3.10", "3.11"]}
# Wheels of TensorRT's bindings stand for a release of it.
BINDINGS = {"tensorrt": "tensorrt-bindings", "tensorrt-cu13": "tensorrt-cu13-bindings"}
BINDINGS["tensorrt-cu12"] = "tensorrt-cu12-bindings"


@cache
def wheels(name: str, python: str) -> tuple[str, ...]:
    """Versions of a package that PyPI has a wheel of for a Python on x86-64 Linux."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "index", "versions", name]
    command += ["--only-binary=:all:", f"--python-version={python}", "--implementation=cp"]
    command += [f"--abi=cp{python.replace('.', '')}", "--abi=abi3", "--abi=none"]
    command += [f"--platform=manylinux{form}_x86_64" for form in ("2014", "_2_17", "_2_27", "_2_28", "1")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    found = re.search(r"Available versions: (.*)", done.stdout)
    return tuple(found.group(1).split(", ")) if found else ()


@pytest.mark.parametrize(("extra", "python"), [(e, p) for e, ps in PYTHONS.items() for p in ps])
def test_b1_b5_every_need_of_an_extra_is_a_wheel(extra: str, python: str) -> None:
    for line in EXTRAS[extra]:
        need = Requirement(line)
        assert need.name != "pycuda"
        have = wheels(BINDINGS.get(need.name, need.name), python)
        assert any(need.specifier.contains(v, prereleases=True) for v in have), f"{line}: {have[:5]}"


def test_b1_tensorrt_8_has_no_wheels_from_python_3_12_on() -> None:
    assert wheels("tensorrt-bindings", "3.11") == ("8.6.1",)
    assert wheels("tensorrt-bindings", "3.12") == ()


@pytest.mark.parametrize("image", IMAGES)
def test_b1_what_an_image_installs_with_pip_has_wheels_for_its_python(image: str) -> None:
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    stage = re.split(r"^FROM \S+ AS (\w+)\n", text, flags=re.MULTILINE)[1:]
    body = dict(zip(stage[::2], stage[1::2], strict=True))[image]
    lines = re.findall(r"pip install ([^&\n]*)", body)
    words = [w.strip('"') for line in lines for w in re.sub(r"\$\{[^}]*\}|-\S+", " ", line).split()]
    named = [word for word in words if not word.startswith(".")]
    assert named
    for word in named:
        need = Requirement(word)
        have = wheels(need.name, IMAGES[image])
        assert any(need.specifier.contains(v) for v in have), f"{word} for Python {IMAGES[image]}: {have[:5]}"
