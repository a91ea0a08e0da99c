"""The wheel: built without network, it holds code, data and the command, and works where it lies."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("hwnas", "cli", "profiles", "kernels", "examples", "pyproject.toml", "README.md", "LICENSE")


def pip(*args: object) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of this tree; built in a copy, since setuptools writes beside the sources."""
    copy = tmp_path_factory.mktemp("source")
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, copy / name)
    out = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", out, copy)
    (found,) = out.glob("hwnas-*.whl")
    return found


def test_the_wheel_holds_code_and_data(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder, inside in (
        ("hwnas", "hwnas"),
        ("cli", "hwnas_cli"),
        ("profiles", "hwnas/profiles"),
        ("kernels", "hwnas/kernels"),
        ("examples/networks", "hwnas/examples/networks"),
    ):
        kept = (".py", ".json", ".jsonl", ".cu", ".cuh", ".html", ".css", ".typed")
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and path.suffix in kept and "__pycache__" not in path.parts:
                assert f"{inside}/{path.relative_to(ROOT / folder).as_posix()}" in names
    assert {n.split("/")[0] for n in names if ".dist-info" not in n} == {"hwnas", "hwnas_cli"}
    assert any(n.endswith("/licenses/LICENSE") for n in names)


def test_the_command_works_from_the_wheel(wheel: Path, tmp_path: Path) -> None:
    """Installed apart from this tree: the script, the shipped networks and device descriptions."""
    site = tmp_path / "site"
    pip("install", "--no-deps", "--no-index", "--target", site, wheel)
    env = {**os.environ, "PYTHONPATH": str(site), "HWNAS_HOME": str(tmp_path / "home")}

    def run(*args: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(site / "bin" / "hwnas"), *args]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=env)

    where = subprocess.run(
        [sys.executable, "-c", "import hwnas, hwnas_cli; print(hwnas.__file__, hwnas_cli.__file__)"],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env=env,
    ).stdout.split()
    assert all(str(site) in path for path in where)
    counted = run("count", "resnet20", "--json")
    assert counted.returncode == 0, counted.stderr
    assert str(site) in json.loads(counted.stdout)["networks"][0]["path"]
    refused = run("profile", "--device", "titanxp")
    assert refused.returncode == 4, refused.stderr
    assert "NVIDIA TITAN Xp" in refused.stderr
