"""A machine at the other end of a link, and what stands here for its runtimes and engines.

Nothing that comes from there is believed unchecked: sizes, types, finite positive times; and nothing of it
becomes a path.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import math
import os
import socket
import time
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field, TypeAdapter

from hwnas import errors
from hwnas.arrays import Float32s, Float64s
from hwnas.backends.base import Life
from hwnas.backends.cuda.gpus import GpuInfo
from hwnas.backends.forms import form_of
from hwnas.backends.quantized import Quantized
from hwnas.documents import parse_json, read_bytes
from hwnas.errors import BackendUnavailable, DataFormatError, DeviceUnavailable, HwnasError, InputError
from hwnas.measure.host import DeviceInfo
from hwnas.measure.remote.address import Address, parse
from hwnas.measure.remote.link import Link
from hwnas.measure.session import Batch, Recorded, SessionOptions
from hwnas.protocols import CallTimes, Int8Form
from hwnas.record import Record
from hwnas.records import LEAST_MS, MOST_MS, Precision, Setting, now_utc, to_json
from hwnas.store import parse as validated
from hwnas.store import write_bytes

MACHINE_BYTES = 1 << 20
MOST_CALLS = 1 << 24  # of one session
OLD_AGENT_S = 5.0  # the agent of a link that was lost a moment ago needs a little to see it
WORDS, WORD = 20, 80  # what an engine's `watch` may say


class Runtime(Record):
    """A backend of a target, as `backends.describe` tells it there."""

    name: str
    available: bool
    reason: str | None
    version: str
    devices: tuple[str, ...]
    suffix: str = Field(pattern=r"^\.[A-Za-z0-9._-]{1,32}$|^$")
    about: str


class MachineFacts(Record):
    """What a target says of itself: the machine, its runtimes, the state of its clocks, its numpy."""

    info: DeviceInfo
    rows: tuple[Runtime, ...]
    state: dict[str, Any]
    numpy: str


class RemoteMachine:
    """A machine that is reached when it is first needed, and again after a link that broke in between."""

    def __init__(self, address: Address) -> None:
        self.address = address.at("")
        self._link: Link | None = None
        self._machine: MachineFacts | None = None
        self._claimed: set[str] = set()
        self._backends: dict[str, RemoteBackend] = {}

    @property
    def link(self) -> Link:
        """The link, made again where there is none."""
        if self._link is None or not self._link.alive:
            self._link = Link(self.address)
            for device in self._claimed:
                self._claim(device)
        return self._link

    def ask(
        self, verb: str, payload: bytes = b"", *, over: Link | None = None, **fields: Any
    ) -> tuple[dict[str, Any], bytes]:
        """One request; what went wrong there is raised here, as it would have been there.

        Args:
            verb, payload, fields: the request.
            over: the link that it is about; None takes the one there is, or a new one.

        Raises:
            LinkLost: the link ended.
            HwnasError: of the kind that was raised there, with the machine's name.
        """
        body, back = (over or self.link).ask(verb, payload, **fields)
        if "error" not in body:
            return body, back
        text, machine = str(body.get("text", ""))[:4000], self.address.machine
        if body["error"] == "disk":
            raise DeviceUnavailable(f"{machine} cannot write a file: {text}; make room there")
        kind = getattr(errors, str(body["error"]), None)
        if isinstance(kind, type) and issubclass(kind, HwnasError):
            raise kind(f"on {machine}: {text}")
        raise HwnasError(f"the agent on {machine} failed: {text}")

    @property
    def machine(self) -> MachineFacts:
        """What it says of itself."""
        if self._machine is None:
            _, payload = self.ask("machine")
            where = f"the description of {self.address.machine}"
            if len(payload) > MACHINE_BYTES:
                raise DataFormatError(f"{where} has {len(payload)} bytes; at most {MACHINE_BYTES} are read")
            body = parse_json(payload.decode(errors="replace"), where)
            self._machine = validated(MachineFacts, body, where)
        return self._machine

    def rows(self) -> list[dict[str, Any]]:
        """Its backends, as `backends.describe` tells those of this machine."""
        return [row.model_dump(exclude={"about"}) for row in self.machine.rows]

    def own_devices(self) -> dict[str, tuple[str, str]]:
        """Its devices that are part of a backend: name of each, the backend and what that says of itself."""
        return {
            device: (row.name, row.about)
            for row in reversed(self.machine.rows)
            for device in row.devices
            if device not in ("cpu", "gpu")
        }

    def gpus(self) -> tuple[GpuInfo, ...]:
        """Its GPUs."""
        return self.machine.info.gpus

    def claim(self, device: str) -> None:
        """Take the right to measure on a device.

        Raises:
            DeviceUnavailable: another process measures on it; says which.
        """
        if device not in self._claimed or self._link is None or not self._link.alive:
            self.link  # noqa: B018  # a new link claims what the old one held
            self._claim(device)
            self._claimed.add(device)

    def _claim(self, device: str) -> None:
        assert self._link is not None
        who = f"{os.environ.get('USER', 'somebody')}@{socket.gethostname()} since {now_utc()}"
        ends_s = time.monotonic() + OLD_AGENT_S
        while True:
            body, _ = self._link.ask("claim", device=device, who=who)
            if body.get("held") is True or time.monotonic() >= ends_s:
                break
            time.sleep(0.25)
        if body.get("held") is not True:
            by = "".join(c for c in str(body.get("by", ""))[:200] if c.isprintable())
            raise DeviceUnavailable(
                f"another process measures on {device} of {self.address.machine} ({by or 'unknown'}); two at "
                "once would spoil each other's times, so wait until it has ended"
            )

    def backend(self, name: str) -> RemoteBackend:
        """What stands for a backend of it.

        Raises:
            InputError: it has none of that name.
            BackendUnavailable: it cannot run there; the reason and the cure.
        """
        if name not in self._backends:
            row = next((row for row in self.machine.rows if row.name == name), None)
            if row is None:
                raise InputError(
                    f"{self.address.machine} has no backend {name!r}; it has "
                    f"{', '.join(row.name for row in self.machine.rows)}"
                )
            if not row.available:
                raise BackendUnavailable(
                    f"backend {name!r} is not available on {self.address.machine}: {row.reason}"
                )
            self._backends[name] = RemoteBackend(self, row)
        return self._backends[name]

    def close(self) -> None:
        """End the agent."""
        if self._link is not None:
            self._link.close()


_targets: dict[Address, RemoteMachine] = {}


def machine_at(address: str | Address) -> RemoteMachine:
    """The machine of an address; one of each, however many devices of it are asked for."""
    machine = (parse(address) if isinstance(address, str) else address).at("")
    return _targets.setdefault(machine, RemoteMachine(machine))


def close_targets() -> None:
    """End every agent and forget what the machines said."""
    while _targets:
        _targets.popitem()[1].close()


atexit.register(close_targets)


class RemoteBackend:
    """A runtime of a target (`protocols.Backend`): what it builds stays and runs there."""

    def __init__(self, target: RemoteMachine, row: Runtime) -> None:
        self.target, self.name, self.suffix, self.devices = target, row.name, row.suffix, row.devices
        self.version = row.version
        self._quantized = Quantized()
        self._forms: tuple[Int8Form, ...] | None = None

    def unavailable(self) -> str | None:
        """None: `RemoteMachine.backend` has looked."""
        return None

    def setting(self, device: str, precision: Precision, batch: int, threads: int) -> Setting:
        """The conditions there; `device` by its name there, or by its whole address."""
        name = parse(device).device if "://" in device else device
        body, _ = self.target.ask(
            "setting", backend=self.name, device=name, precision=precision, batch=batch, threads=threads
        )
        found = self._setting_of(body)
        wanted = (name, self.name, precision, batch, threads)
        if (found.device, found.backend, found.precision, found.batch, found.threads) != wanted:
            raise DataFormatError(f"{self.target.address.machine} answers with another setting: {found!r}")
        return found.model_copy(update={"device": self.target.address.at(name).text})

    def _setting_of(self, body: dict[str, Any]) -> Setting:
        answer = body.get("setting")
        return validated(Setting, answer if isinstance(answer, dict) else {}, self.target.address.machine)

    def forms(self) -> tuple[Int8Form, ...]:
        """The int8 graphs that its kernels there are fast in."""
        if self._forms is None:
            body: Any = self.target.ask("forms", backend=self.name)[0].get("forms")
            try:
                known = {field.name for field in fields(Int8Form)}
                found = TypeAdapter(tuple[Int8Form, ...]).validate_json(json.dumps(body), strict=True)
                if any(set(form) - known for form in body):
                    raise ValueError("a field that this version does not know")
            except ValueError as exc:
                raise DataFormatError(f"{self.target.address.machine} answers with no int8 forms") from exc
            if any(form.weight_levels not in (63, 127) for form in found):
                raise DataFormatError(f"{self.target.address.machine} answers with no int8 forms: {found}")
            self._forms = found
        return self._forms

    def build(self, model: bytes, setting: Setting) -> RemoteEngine:
        """Build there. At int8 the graph is quantized here, where onnx is."""
        form = form_of(self, setting.form) if setting.precision == "int8" else None
        return self._open(self._quantized(model, form), setting, load=False)

    def load(self, path: Path, setting: Setting) -> RemoteEngine:
        """Send an engine file there and load it."""
        return self._open(read_bytes(path, "engine"), setting, load=True)

    def _open(self, content: bytes, setting: Setting, *, load: bool) -> RemoteEngine:
        """An engine of a content that crosses the link only where the other end does not have it."""
        device = parse(setting.device).device
        self.target.claim(device)
        there = to_json(setting.model_copy(update={"device": device}))
        asked: dict[str, Any] = {
            "backend": self.name,
            "setting": there,
            "sha256": hashlib.sha256(content).hexdigest(),
            "load": load,
        }
        link = self.target.link  # one for all that follows: the number holds for its agent alone
        body, _ = self.target.ask("open", over=link, **asked)
        if "wanted" in body:
            body, _ = self.target.ask("open", content, over=link, **asked)
        number = body.get("engine")
        if type(number) is not int:
            raise DataFormatError(f"{self.target.address.machine} answers with no engine")
        built = self._setting_of(body)
        built = built.model_copy(update={"device": setting.device})
        return RemoteEngine(self.target, link, number, built, warms=body.get("warms") is True)


class RemoteEngine(Life):
    """An engine of a target (`protocols.Engine`), on the link that it was built over."""

    def __init__(
        self, target: RemoteMachine, link: Link, number: int, setting: Setting, *, warms: bool
    ) -> None:
        self.target, self.number, self.setting, self.warms = target, number, setting, warms
        self._link = link

    def _ask(self, verb: str, payload: bytes = b"", **fields: Any) -> tuple[dict[str, Any], bytes]:
        self._check_open()
        # Another link knows another engine by this number, so one that is lost is not replaced here.
        return self.target.ask(verb, payload, over=self._link, engine=self.number, **fields)

    def record(self, options: SessionOptions) -> Recorded:
        """A whole session there."""
        body, payload = self._ask("record", options=asdict(options))
        where = f"a session on {self.target.address.machine}"
        sizes, cpu = body.get("sizes"), body.get("cpu_ms")
        if (
            not isinstance(sizes, list)
            or not isinstance(cpu, list)
            or not sizes
            or len(sizes) != len(cpu)
            or not all(type(n) is int and 0 < n <= MOST_CALLS for n in sizes)
            or not sum(sizes) <= MOST_CALLS
        ):
            raise DataFormatError(f"{where} came back without its batches")
        wall = _times(payload, sum(sizes), where)
        cuts = np.split(wall, np.cumsum(sizes)[:-1])
        batches = [
            Batch(part, None if ms is None else _number(ms, where, least=0.0), self.setting.threads)
            for part, ms in zip(cuts, cpu)
        ]
        watched = body.get("watched")
        if (
            not isinstance(watched, list)
            or len(watched) > WORDS
            or not all(isinstance(w, str) and w.isprintable() and len(w) <= WORD for w in watched)
        ):
            raise DataFormatError(f"{where} came back with gates that are none")
        last = _call_times(batches[-1].wall_ms, body, where)
        return Recorded(batches, last, body.get("unsteady") is True, tuple(watched))

    def time(self, calls: int) -> CallTimes:
        """Calls that are timed there."""
        self._check_calls(calls)
        body, payload = self._ask("time", calls=calls)
        where = f"the times of calls on {self.target.address.machine}"
        return _call_times(_times(payload, calls, where), body, where)

    def run(self, images: Float32s) -> Float32s:
        """Scores that are computed there."""
        array = np.ascontiguousarray(images, dtype="<f4")
        body, payload = self._ask("run", array.tobytes(), shape=list(array.shape))
        shape = body.get("shape")
        if (
            not isinstance(shape, list)
            or not all(type(n) is int and 0 < n < 1 << 31 for n in shape)
            or len(payload) != 4 * math.prod(shape)
        ):
            raise DataFormatError(f"scores of {self.target.address.machine} came back in no shape")
        scores: Float32s = np.frombuffer(payload, "<f4").reshape(shape).astype(np.float32)
        return scores

    def save(self, path: Path) -> None:
        """The engine's own file, fetched."""
        _, payload = self._ask("save")
        write_bytes(path, payload)

    def close(self) -> None:
        """Free it there, where the link still is."""
        if self._open and self._link.alive:
            self.target.ask("close", over=self._link, engine=self.number)
        self._open = False


def _times(payload: bytes, count: int, where: str) -> Float64s:
    """Times of calls in milliseconds, each of which can be one."""
    if len(payload) != 8 * count:
        raise DataFormatError(f"{where}: {len(payload)} bytes came for {count} calls")
    values: Float64s = np.frombuffer(payload, "<f8").astype(np.float64)
    if not (np.isfinite(values).all() and (values >= LEAST_MS).all() and (values <= MOST_MS).all()):
        raise DataFormatError(f"{where}: not every time that came is positive and finite")
    return values


def _number(value: object, where: str, *, least: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= MOST_MS:
        raise DataFormatError(f"{where}: {value!r} is no time in milliseconds")
    return float(value)


def _call_times(wall_ms: Float64s, body: Mapping[str, Any], where: str) -> CallTimes:
    def maybe(name: str) -> float | None:
        value = body.get(name)
        return None if value is None else _number(value, where, least=LEAST_MS)

    each = body.get("each")
    if type(each) is not int or not 0 < each <= MOST_CALLS:
        raise DataFormatError(f"{where}: {each!r} is no number of calls")
    cpu_ms = body.get("cpu_ms")
    return CallTimes(
        wall_ms,
        cpu_ms=None if cpu_ms is None or isinstance(cpu_ms, list) else _number(cpu_ms, where, least=0.0),
        each=each,
        error_ms=_number(body.get("error_ms", 0.0), where, least=0.0),
        host_ms=maybe("host_ms"),
        enqueue_ms=maybe("enqueue_ms"),
    )
