"""The server that the tests reach, and what it needs to run without being installed."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "hwnas-test-remote"
PYTHON39 = CACHE / "python39/bin/python"  # with numpy and ONNX Runtime alone


@dataclass(frozen=True)
class Sshd:
    """A server that runs: what reaches it, and what ends its connections."""

    process: subprocess.Popen[bytes]
    port: int
    folder: Path

    def address(self, device: str = "fake", python: str = sys.executable) -> str:
        """The address of a device behind it."""
        return f"ssh://localhost:{self.port}/{device}?python={python}"

    def key_of(self, command: str) -> str:
        """What connects (for HWNAS_SSH) by a key with which this command is run, whatever is asked for."""
        key = Path(tempfile.mkdtemp(dir=self.folder)) / "key"
        subprocess.run([*tool("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
        quoted = command.replace('"', '\\"')
        with (self.folder / "authorized").open("a") as out:
            out.write(f'command="{quoted}" {key.with_suffix(".pub").read_text()}')
        known = self.folder / "known_hosts"
        options = [f"UserKnownHostsFile={known}", "StrictHostKeyChecking=accept-new", "ControlPath=none"]
        given = [part for one in options for part in ("-o", one)]
        return shlex.join([*tool("ssh"), "-F", "/dev/null", "-i", str(key), *given])

    def cut(self) -> int:
        """Kill the server's side of every connection, as a lost link does; how many there were."""
        found = children(self.process.pid)
        for pid in found:
            os.kill(pid, signal.SIGKILL)
        return len(found)


def libraries() -> str:
    """Where what was fetched finds its libraries."""
    return os.pathsep.join(map(str, (CACHE / "usr/lib").glob("*-linux-gnu*")))


def tool(name: str) -> list[str]:
    """The command of a program of openssh-client: this machine's, or the one that was fetched."""
    if shutil.which(name) is not None:
        return [name]
    return ["env", f"LD_LIBRARY_PATH={libraries()}", str(CACHE / "usr/bin" / name)]


def wrapped(folder: Path) -> dict[str, str]:
    """Environment in which sshd finds its libraries, and the user "sshd" that it needs as root."""
    users = folder / "passwd"
    users.write_text(Path("/etc/passwd").read_text() + "sshd:x:74:65534::/run/sshd:/usr/sbin/nologin\n")
    return {
        "LD_LIBRARY_PATH": libraries(),
        "LD_PRELOAD": "libnss_wrapper.so",
        "NSS_WRAPPER_PASSWD": str(users),
        "NSS_WRAPPER_GROUP": "/etc/group",
    }


def children(parent: int) -> list[int]:
    """Processes that another one started, by their ids."""
    text = Path(f"/proc/{parent}/task/{parent}/children").read_text()
    return [int(pid) for pid in text.split()]


def missing() -> str | None:
    """Why there can be no server here; None where there can."""
    if not (CACHE / "done").is_file():
        return "no sshd: `python tests/remote/prepare_targets.py` could not fetch Debian's openssh-server"
    return None


def wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    """Until the server answers."""
    for _ in range(100):
        if process.poll() is not None:
            pytest.fail(f"sshd ended: {log.read_text()}")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    pytest.fail("sshd does not answer")
