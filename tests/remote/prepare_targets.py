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
PACKAGES = ("openssh-server", "libwrap0", "libnss-wrapper")


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
    """Debian's package."""
    if (CACHE / "done").is_file():
        return
    missing = [tool for tool in ("apt-get", "dpkg", "ssh", "ssh-keygen") if shutil.which(tool) is None]
    if missing:
        print(f"no sshd for the tests of ssh: there is no {', '.join(missing)} here", file=sys.stderr)
        return
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            ["apt-get", "download", *PACKAGES], cwd=folder, capture_output=True, text=True, check=False
        )
        if done.returncode:
            print(f"no sshd for the tests of ssh: {done.stderr.strip()[-300:]}", file=sys.stderr)
            return
        for package in Path(folder).glob("*.deb"):
            subprocess.run(["dpkg", "-x", str(package), str(CACHE)], check=True)
    (CACHE / "done").touch()


if __name__ == "__main__":
    main()
