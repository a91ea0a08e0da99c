"""Where a device is that is not in this machine: ``ssh://[user@]host[:port][/NAME][?python=PATH]``.

NAME is the device there ("cpu", "titanxp", "auto" if left out), PATH the Python there that has numpy and the
runtime (``python3`` if left out; a relative one begins in the user's folder there; a space is ``%20``).
``pipe:///NAME`` is the same agent as a child process of this machine, for trying it without ssh.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from urllib.parse import quote, unquote

from hwnas.errors import InputError

_FORM = re.compile(
    r"(?P<scheme>ssh|pipe)://"
    r"(?:(?P<user>[A-Za-z0-9_][A-Za-z0-9._-]{0,63})@)?"
    r"(?P<host>[A-Za-z0-9][A-Za-z0-9._-]{0,252}|\[[0-9A-Fa-f:.]{2,45}\])?"
    r"(?::(?P<port>[0-9]{1,5}))?"
    r"(?:/(?P<device>[A-Za-z0-9][A-Za-z0-9._-]{0,63})?)?"
    r"(?:\?python=(?P<python>[A-Za-z0-9_./~%][A-Za-z0-9_./+%~-]{0,255}))?"
)
PLAIN = "/+"  # in a path; anything else that is not a letter or a digit is written as in a URL
SHAPE = "ssh://user@host[:port][/NAME][?python=PATH]"


@dataclass(frozen=True)
class Address:
    """A device of another machine. `device` is "" where it was left open."""

    scheme: str
    user: str = ""
    host: str = ""
    port: int | None = None
    device: str = ""
    python: str = ""

    @property
    def text(self) -> str:
        """As it is written in a `Setting`: the same device has one text."""
        return f"{self.machine}/{self.device}" + (
            f"?python={quote(self.python, PLAIN)}" if self.python else ""
        )

    @property
    def machine(self) -> str:
        """The machine alone, for messages."""
        user = f"{self.user}@" if self.user else ""
        return f"{self.scheme}://{user}{self.host}" + (f":{self.port}" if self.port else "")

    def at(self, device: str) -> Address:
        """Another device of the same machine."""
        return replace(self, device=device)


def is_remote(text: str) -> bool:
    """Whether a device's name is an address."""
    return "://" in text


def parse(text: str) -> Address:
    """The address of a text; InputError where it is none."""
    found = _FORM.fullmatch(text)
    part = found.groupdict() if found else {}
    if not found or (part["scheme"] == "ssh") != bool(part["host"]):
        raise InputError(f"--device {text!r} is not an address; write {SHAPE}")
    if part["scheme"] == "pipe" and (part["user"] or part["port"]):
        raise InputError(f"--device {text!r}: pipe:///NAME has neither user nor port")
    port = int(part["port"]) if part["port"] else None
    if port is not None and not 0 < port < 65536:
        raise InputError(f"--device {text!r}: the port must be between 1 and 65535")
    python = unquote(part["python"] or "", errors="replace")
    if not python.isprintable() or python[:1] in ("-", "~"):
        raise InputError(
            f"--device {text!r}: the path of Python there begins with / or in your home folder there, and is "
            "one line (a space is written %20)"
        )
    device = part["device"] or ""
    return Address(
        part["scheme"],
        part["user"] or "",
        part["host"] or "",
        None if port == 22 else port,
        "" if device == "auto" else device,
        python,
    )
