"""The link to an agent: the system's ssh (keys, jump hosts and settings are its own), or a child process.

Whatever ends it is said in words: a `LinkLost` once the agent runs, a `DeviceUnavailable` before that.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import weakref
from pathlib import Path
from typing import IO, Any

from hwnas.errors import DeviceUnavailable, LinkLost
from hwnas.measure.remote import wire
from hwnas.measure.remote.address import Address
from hwnas.measure.remote.archive import BOOT, archive, digest

# A dead link is seen after 15 s, also where nothing is being sent; nobody is asked for a password.
OPTIONS = {
    "BatchMode": "yes",
    "ConnectTimeout": "10",
    "ServerAliveInterval": "5",
    "ServerAliveCountMax": "3",
    "ControlMaster": "auto",
    "ControlPersist": "60",
}
SSH_FAILED, NOT_FOUND = 255, 127
NOISE_BYTES = 64 << 10  # of what a login shell may print before the agent speaks
MARK = b"hwnas-boot "
START_S = 120.0  # a login shell or a forced command that waits for something would keep us for ever
# The name of a socket has 107 characters at most: a folder, 40 of "%C", and what ssh adds while it makes it.
LONGEST_SOCKETS = 40
SAID = 2000  # characters of standard error that are read
FOREIGN_ENDS_S = 5

# What OpenSSH says, and what it means.
CAUSES = (
    ("Permission denied", "it accepts none of your keys; try `ssh {host} true`, then `ssh-copy-id {host}`"),
    ("Host key verification failed", "its key is not the one that ssh knows; run `ssh {host} true` and look"),
    ("Could not resolve", "there is no machine of that name; is it written right?"),
    ("Connection refused", "nothing answers at that port; is sshd running there?"),
    ("timed out", "there is no answer; is it switched on, and is there a route to it?"),
    ("No route to host", "there is no route to it"),
    ("Network is unreachable", "there is no route to it"),
)


class Link:
    """An agent that runs on another machine, and the way there.

    Raises:
        DeviceUnavailable: it cannot be reached, or has no Python or numpy that fits, or no room.
    """

    def __init__(self, address: Address) -> None:
        self.address = address
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  # lives as long as the process
        try:
            self._process = subprocess.Popen(
                _command(address), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said
            )
        except OSError as exc:
            raise DeviceUnavailable(
                f"{address.machine}: {exc.filename or 'the agent'} cannot be started: {exc.strerror or exc}"
            ) from exc
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._into: IO[bytes] = self._process.stdin
        self._out: IO[bytes] = self._process.stdout
        self._end = weakref.finalize(self, _end, self._process, self._said)
        try:
            self._start()
        except BaseException:
            self.close()
            raise

    @property
    def alive(self) -> bool:
        """Whether it was not seen to end."""
        return self._end.alive and self._process.poll() is None

    def ask(self, verb: str, payload: bytes = b"", **fields: Any) -> tuple[dict[str, Any], bytes]:
        """One request and its answer, not looked at yet.

        Raises:
            LinkLost: the link ended, or brings something that is no answer.
        """
        try:
            wire.send(self._into, {"verb": verb, **fields}, payload)
            return wire.receive(self._out)
        except wire.LinkClosed as exc:
            raise self.lost() from exc
        except wire.WireError as exc:
            self.close()
            raise LinkLost(f"what came from {self.address.machine} is no answer of an agent: {exc}") from exc
        except (OSError, ValueError) as exc:
            raise self.lost() from exc

    def lost(self) -> LinkLost:
        """The link as lost, closed, with what ssh said of it."""
        said = self._words()
        self.close()
        return LinkLost(
            f"the link to {self.address.machine} was lost{f' ({said})' if said else ''}; what was measured "
            "so far is kept: repeat the command to continue"
        )

    def close(self) -> None:
        """End the agent; again does nothing."""
        self._end()

    def _start(self) -> None:
        """Push the agent where it is not there yet."""
        late = threading.Timer(START_S, self._process.kill)
        late.daemon = True
        late.start()
        try:
            self._push(BOOT.encode())
            if not self._hear()["have"]:
                self._push(archive())
            self._hear()
        except DeviceUnavailable as exc:
            if late.is_alive():
                raise
            raise DeviceUnavailable(
                f"{self.address.machine}: no agent of hwnas answers within {START_S:.0f} s; does its login "
                "shell, or a command that sshd forces, wait for something?"
            ) from exc
        finally:
            late.cancel()

    def _push(self, data: bytes) -> None:
        try:
            self._into.write(data)
            self._into.flush()
        except OSError:
            raise self._failed() from None

    def _hear(self) -> dict[str, Any]:
        """What the start-up says next; what a login shell prints before it is passed over."""
        noise = 0
        while noise < NOISE_BYTES:
            line = self._out.readline(NOISE_BYTES)
            if not line:
                raise self._failed()
            _, mark, said = line.partition(MARK)
            if not mark:
                noise += len(line)
                continue
            try:
                body = json.loads(said)
            except ValueError:
                break
            if not isinstance(body, dict) or not {"have", "ready", "error"} & set(body):
                break
            if "error" in body:
                raise self._refused(body)
            return {"have": bool(body.get("have"))}
        raise DeviceUnavailable(
            f"{self.address.machine} answers something that is not hwnas's agent; does its login shell "
            "print, or sshd force another command?"
        )

    def _refused(self, body: dict[str, Any]) -> DeviceUnavailable:
        machine, text = self.address.machine, _printable(str(body.get("text", "")))
        python = self.address.python or "python3"
        cures = {
            "python": f"{python} there is Python {text}; 3.9 or later is needed. Name another one: "
            "--device 'ssh://...?python=PATH'",
            "import": f"{python} there lacks something that measuring needs ({text}); on that machine: "
            f"{python} -m pip install numpy, or name a Python that has it: --device 'ssh://...?python=PATH'",
            "disk": f"the agent cannot be written there ({text}); make room, or set HWNAS_AGENT_HOME there",
            "damaged": "the agent was damaged on its way; run the command again",
        }
        return DeviceUnavailable(f"{machine}: {cures.get(str(body['error']), 'its agent does not start')}")

    def _failed(self) -> DeviceUnavailable:
        """Why there is no agent, from the exit status and from what ssh or the shell said."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(FOREIGN_ENDS_S)
        status, said = self._process.poll(), self._words()
        machine, python = self.address.machine, self.address.python or "python3"
        if status in (NOT_FOUND, 126):
            return DeviceUnavailable(
                f"{machine} has no {python} ({said}); install Python 3.9 or later with numpy there, or name "
                "one: --device 'ssh://...?python=PATH'"
            )
        if status == SSH_FAILED and self.address.scheme == "ssh":
            host = (f"{self.address.user}@" if self.address.user else "") + self.address.host
            cause = next((why for words, why in CAUSES if words in said), "see `ssh -v {host} true`")
            return DeviceUnavailable(f"{machine} cannot be reached: {cause.format(host=host)} ({said})")
        return DeviceUnavailable(f"{machine}: its agent ended before it began ({said or f'status {status}'})")

    def _words(self) -> str:
        """The last line of standard error; what has ended has said all, and what was closed is not asked."""
        if self._said.closed:
            return ""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1)
        self._said.seek(0, os.SEEK_END)
        self._said.seek(max(self._said.tell() - SAID, 0))
        lines = [line.strip() for line in self._said.read().decode(errors="replace").splitlines()]
        return _printable(next((line for line in reversed(lines) if line), ""))


def _end(process: subprocess.Popen[bytes], said: IO[bytes]) -> None:
    """Close the agent's input, at which it ends by itself, and see that it did."""
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError, ValueError):
                pipe.close()
    try:
        process.wait(FOREIGN_ENDS_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    finally:
        said.close()


def _command(address: Address) -> list[str]:
    """What starts the agent; short, and one line, so that any shell reads it: its program comes behind it."""
    boot = f"import sys; exec(getattr(sys.stdin, 'buffer', sys.stdin).read({len(BOOT.encode())}))"
    agent = [address.python or "python3", "-u", "-c", boot, digest(), str(len(archive()))]
    if address.scheme == "pipe":
        return [address.python or sys.executable, *agent[1:]]
    ssh = shlex.split(os.environ.get("HWNAS_SSH", "")) or ["ssh"]
    if shutil.which(ssh[0]) is None:
        raise DeviceUnavailable(
            f"{address.machine} cannot be reached: there is no {ssh[0]} here (Debian: apt install "
            "openssh-client)"
        )
    options = {**OPTIONS, "ControlPath": f'"{_sockets()}/%C"'}  # a folder's name may hold a space
    port = ["-p", str(address.port)] if address.port else []
    user = ["-l", address.user] if address.user else []
    given = [part for name, value in options.items() for part in ("-o", f"{name}={value}")]
    return [*ssh, *given, *port, *user, "-T", "--", address.host.strip("[]"), f"exec {shlex.join(agent)}"]


def _sockets() -> Path:
    """A folder of this user's alone for the sockets of shared connections; their names must be short."""
    own = f"hwnas-ssh-{os.getuid()}"
    folder = Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()) / own
    if len(str(folder)) > LONGEST_SOCKETS:
        folder = Path("/tmp") / own
    folder.mkdir(mode=0o700, exist_ok=True)
    state = folder.lstat()
    if state.st_uid != os.getuid() or state.st_mode & 0o077 or folder.is_symlink():
        raise DeviceUnavailable(f"{folder} is not a folder of yours alone; remove it, and ssh can be used")
    return folder


def _printable(text: str) -> str:
    """One short line that may be shown on a terminal."""
    return "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))[:300]
