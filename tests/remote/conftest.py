"""A real sshd on loopback, which ``make test-remote`` gets from Debian, without installing it.

Starts as the user who runs the tests, on a free port, with keys of its own; ends with the tests.
"""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from remote_server import CACHE, Sshd, children, missing, tool, wait_for, wrapped

from hwnas.measure.remote.target import close_targets

# Without the set-up nothing here is collected; `make test` stays fast and offline.
collect_ignore_glob = ["*"] if "HWNAS_REMOTE" not in os.environ else []


@pytest.fixture(scope="session")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """A server that lets one new key in."""
    if (why := missing()) is not None:
        if "HWNAS_REQUIRED" in os.environ:  # where nobody would see that these tests do not run
            pytest.fail(why)
        pytest.skip(why)
    folder = tmp_path_factory.mktemp("sshd")
    for name in ("host", "user"):
        subprocess.run(
            [*tool("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True
        )
    (folder / "authorized").write_text((folder / "user.pub").read_text())
    (folder / "authorized").chmod(0o600)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nPidFile none\nUsePAM no\n"
        f"AuthorizedKeysFile {folder}/authorized\nPasswordAuthentication no\nStrictModes no\n"
        f"KbdInteractiveAuthentication no\nMaxStartups 100\nPermitRootLogin yes\n"
        f"SetEnv HWNAS_AGENT_HOME={folder}/agent\n"
    )
    (folder / "config").write_text(
        f"Host *\n  IdentityFile {folder}/user\n  IdentitiesOnly yes\n  StrictHostKeyChecking accept-new\n"
        f"  UserKnownHostsFile {folder}/known_hosts\n  LogLevel ERROR\n"
    )
    if os.getuid() == 0:  # where it drops its rights; any other user has none to drop
        Path("/run/sshd").mkdir(exist_ok=True)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [str(CACHE / "usr/sbin/sshd"), "-D", "-e", "-f", str(folder / "sshd_config")],
            env={**os.environ, **wrapped(folder)},
            stderr=log,
        )
    try:
        wait_for(port, process, folder / "log")
        with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(dir="/tmp") as sockets:
            patch.setenv("HWNAS_SSH", shlex.join([*tool("ssh"), "-F", str(folder / "config")]))
            patch.setenv("XDG_RUNTIME_DIR", sockets)  # a socket's name has 107 characters at most
            yield Sshd(process, port, folder)
    finally:
        if process.poll() is None:
            for pid in [*children(process.pid), process.pid]:
                os.kill(pid, signal.SIGTERM)
            process.wait(10)


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    """Links of a test end with it."""
    yield
    close_targets()


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder of the test alone."""
    monkeypatch.setenv("HWNAS_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"
