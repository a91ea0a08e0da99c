"""Fetch Debian's openssh-server into ``tests/remote/.cache``; nothing is installed.

Says what it could not do and ends well all the same: the tests then skip, with that reason.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

CACHE = Path(__file__).resolve().parent / ".cache"
PACKAGES = ("openssh-server", "libwrap0", "libnss-wrapper")


def main() -> None:
    """Download and unpack, once."""
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
