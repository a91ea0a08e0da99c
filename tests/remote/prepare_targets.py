"""Fetch Debian's openssh-server into a folder of the user's cache; nothing is installed.

Says what it could not do and ends well all the same: the tests then skip, with that reason.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "hwnas-test-remote"
PACKAGES = ("openssh-server", "openssh-client", "libnss-wrapper")


def main() -> None:
    """Download and unpack, once; and an environment of the oldest Python that a target may have."""
    server()
    old_python()


def old_python() -> None:
    """A virtual environment of Python 3.9 with numpy and ONNX Runtime, where there is such a Python."""
    folder = CACHE / "python39"
    named = [shutil.which("python3.9"), *Path.home().glob(".pyenv/versions/3.9.*/bin/python3.9")]
    found = next((p for p in map(str, filter(None, named)) if ".pyenv/shims" not in p), None)
    if found is None or (folder / "done").is_file():
        return
    subprocess.run([found, "-m", "venv", "--clear", str(folder)], check=True)
    pip = [str(folder / "bin/pip"), "install", "--quiet", "--disable-pip-version-check"]
    if subprocess.run([*pip, "numpy", "onnxruntime"], check=False).returncode == 0:
        (folder / "done").touch()
    else:
        shutil.rmtree(folder)


def server() -> None:
    """Debian's packages, with those that they depend on and this machine lacks."""
    if (CACHE / "done").is_file():
        return
    missing = [tool for tool in ("apt-get", "dpkg") if shutil.which(tool) is None]
    if missing:
        print(f"no sshd for the tests of ssh: there is no {', '.join(missing)} here", file=sys.stderr)
        return
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        why = fetch(Path(folder)) and fetch(Path(folder), own_lists=True)
        if why:
            print(f"no sshd for the tests of ssh: {why}", file=sys.stderr)
            return
        for package in Path(folder).glob("cache/archives/*.deb"):
            subprocess.run(["dpkg", "-x", str(package), str(CACHE)], check=True)
    (CACHE / "done").touch()


def fetch(folder: Path, *, own_lists: bool = False) -> str:
    """Download into a folder; why that failed, or nothing. No right of root is needed.

    Args:
        folder: of the download.
        own_lists: fetch lists of packages, too: a new container has none, and old ones name what has gone.
    """
    for name in ("cache/archives/partial", "lists/partial"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    options = ["-q", "-y", "-o", f"Dir::Cache={folder}/cache", "-o", "Debug::NoLocking=1"]
    if os.getuid() == 0:
        options += ["-o", "APT::Sandbox::User=root"]  # no other user may write into the folder
    commands = [["install", "--download-only", "--reinstall", "--no-install-recommends", *PACKAGES]]
    if own_lists:
        options += ["-o", f"Dir::State::lists={folder}/lists"]
        commands.insert(0, ["update"])
    for command in commands:
        done = subprocess.run(
            ["apt-get", *options, *command], capture_output=True, text=True, check=False, timeout=300
        )
        if done.returncode:
            return done.stderr.strip()[-300:]
    return "" if list(folder.glob("cache/archives/openssh-server*.deb")) else "apt-get fetched nothing"


if __name__ == "__main__":
    main()
