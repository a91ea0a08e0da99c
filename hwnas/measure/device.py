"""The devices that hwnas knows, which of them is here, and the setting that a user's options mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hwnas import backends, plugins, store
from hwnas.backends.base import cpu_model
from hwnas.backends.cuda.gpus import gpus, plain_name, same_model
from hwnas.documents import read_json
from hwnas.errors import DataFormatError, DeviceUnavailable, InputError
from hwnas.measure.host import DeviceInfo, detect
from hwnas.protocols import Backend
from hwnas.records import Precision, Setting

__all__ = ["Device", "DeviceInfo", "conditions", "detect", "known", "resolve"]


@dataclass(frozen=True)
class Device:
    """A device by its canonical name.

    Attributes:
        name: as it is written in a `Setting` ("cpu", "titanxp").
        kind: "cpu", "gpu", or the name of a device that is part of a backend; says which backends serve it.
        backend: the one that is used where the user names none.
        label: for display.
        here: whether it is in this machine.
        description: its file under ``profiles/devices``, if there is one.
    """

    name: str
    kind: str
    backend: str
    label: str
    here: bool
    description: dict[str, Any] | None = None


def known() -> dict[str, Device]:
    """Every device by name: ``cpu``, those that backends bring, and those under ``profiles/devices``."""
    found = gpus()
    table = {
        "cpu": Device("cpu", "cpu", backends.usual("cpu"), cpu_model(), here=True),
        **{
            name: Device(name, name, backend, backends.about(backend), here=True)
            for name, backend in backends.own_devices().items()
        },
    }
    for body in _descriptions():
        kind = "gpu" if body["kind"] == "gpu" else "cpu"
        models = [gpu.name for gpu in found] if kind == "gpu" else [cpu_model()]
        here = any(same_model(alias, model) for alias in _names(body) for model in models)
        table[body["name"]] = Device(
            body["name"], kind, backends.usual(kind), body.get("label", body["name"]), here, body
        )
    for gpu in found:
        described = (d.description for d in table.values() if d.kind == "gpu" and d.description)
        if not any(same_model(alias, gpu.name) for body in described for alias in _names(body)):
            name = plain_name(gpu.name)
            table[name] = Device(name, "gpu", backends.usual("gpu"), gpu.name, here=True)
    return table


def resolve(name: str = "auto", *, here: bool = True) -> Device:
    """The device that a user means by ``--device``.

    Args:
        name: a known name or alias, "auto" (the GPU where TensorRT can run, else the CPU) or
            "gpu" (the first one of this machine).
        here: whether it must be in this machine; False for planning and for imported tables.

    Raises:
        InputError: no such device; offers the nearest name.
        DeviceUnavailable: it is not in this machine; names the three alternatives.
    """
    table = known()
    if name in ("auto", "gpu"):
        local = [d for d in table.values() if d.kind == "gpu" and d.here]
        usable = [d for d in local if name == "gpu" or _runs(d.backend)]
        if usable:
            return usable[0]
        if name == "auto":
            return table["cpu"]
        raise DeviceUnavailable("no NVIDIA GPU found in this machine; see `hwnas doctor`")
    device = table.get(name) or _by_alias(name, table)
    if device is None:
        raise InputError(plugins.unknown("device", name, [*table, "auto", "gpu"]))
    if here and not device.here:
        raise DeviceUnavailable(_ways_on(device))
    return device


def conditions(
    device: str = "auto",
    backend: str | None = None,
    *,
    precision: Precision = "fp32",
    batch: int = 1,
    threads: int = 1,
) -> tuple[Backend, Setting]:
    """The backend and the full setting that a user's options stand for on this machine.

    Raises:
        InputError: an unknown name, or a combination that the backend does not offer.
        BackendUnavailable: device or runtime is not here; says how to get it.
    """
    found = resolve(device)
    runtime = backends.get(backend or found.backend)
    if found.kind not in runtime.devices:
        raise InputError(
            f"backend {runtime.name!r} runs on {' and '.join(runtime.devices)}, not on the device "
            f"{found.name!r} ({found.kind}); `hwnas backends list` lists all"
        )
    name = "cpu" if found.kind == "cpu" else found.name
    return runtime, runtime.setting(name, precision, batch, threads)


def _descriptions() -> list[dict[str, Any]]:
    bodies = []
    for path in sorted((store.data_dir("profiles") / "devices").glob("*.json")):
        body = read_json(path, "device description")
        if not isinstance(body.get("name"), str) or body.get("kind") not in ("cpu", "gpu"):
            raise DataFormatError(f"{path}: a device description needs a name and a kind, 'cpu' or 'gpu'")
        bodies.append(body)
    return bodies


def _names(body: dict[str, Any]) -> list[str]:
    return [body["name"], *body.get("aliases", ())]


def _by_alias(name: str, table: dict[str, Device]) -> Device | None:
    plain = plain_name(name)
    for device in table.values():
        if device.description and plain in map(plain_name, _names(device.description)):
            return device
    return None


def _runs(backend: str) -> bool:
    return any(row["name"] == backend and row["available"] for row in backends.describe())


def _ways_on(device: Device) -> str:
    present = ", ".join(d.name for d in known().values() if d.here)
    return (
        f"the device {device.name!r} ({device.label}) is not in this machine, which has: {present}. "
        f"Three ways on: run `hwnas profile --device {device.name}` on a machine that has it, copy the table "
        "here and read it with `hwnas table import FILE`; profile another device (--device cpu); or estimate "
        f"without measuring: `hwnas profile --device {device.name} --estimate`"
    )
