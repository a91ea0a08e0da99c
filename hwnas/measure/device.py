"""The devices that hwnas knows, which of them is here, and the setting that a user's options mean.

A device of another machine is named by its address (`measure.remote.address`), or by the name that the user
gave that (`measure.remote.names`); its `Setting` holds the address.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from hwnas import backends, plugins, store
from hwnas.backends.base import cpu_model
from hwnas.backends.cuda.gpus import GpuInfo, gpus, plain_name, same_model
from hwnas.backends.cuda.state import conditions as gpu_conditions
from hwnas.backends.forms import form_of
from hwnas.documents import read_json
from hwnas.errors import DataFormatError, DeviceUnavailable, HwnasError, InputError
from hwnas.measure.host import DeviceInfo, detect, power
from hwnas.measure.remote import names
from hwnas.measure.remote.address import Address, is_remote, parse
from hwnas.measure.remote.target import machine_at
from hwnas.protocols import Backend, Choosy
from hwnas.records import BuildChoices, Precision, Setting

__all__ = [
    "Device",
    "DeviceInfo",
    "MeasuredMachine",
    "Usual",
    "conditions",
    "detect",
    "known",
    "machine_of",
    "resolve",
    "usual",
]


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


@dataclass(frozen=True)
class MeasuredMachine:
    """A machine that has devices: this one, or one at the other end of ssh.

    Attributes:
        address: of the other one; None for this machine.
        cpu: model of its processor.
        gpus: its GPUs.
        own: its devices that are part of a backend: name, and that backend and what it says of itself.
        get: its backends by name.
        describe: all of them, as `backends.describe`.
        info: what there is to know of it.
        state: clocks, power mode and what a GPU is doing, given the architecture of a device.
    """

    address: Address | None
    cpu: str
    gpus: tuple[GpuInfo, ...]
    own: Mapping[str, tuple[str, str]]
    get: Callable[[str], Backend]
    describe: Callable[[], list[dict[str, Any]]]
    info: Callable[[], DeviceInfo]
    state: Callable[[str], dict[str, Any]]

    def spelled(self, device: str) -> str:
        """How a device of this machine is written in a `Setting`."""
        return device if self.address is None else self.address.at(device).text

    def usual(self, kind: str) -> str:
        """Name of the backend that serves a kind of device where the user names none."""
        return self.own[kind][0] if kind in self.own else backends.usual(kind)


def _here() -> MeasuredMachine:
    return MeasuredMachine(
        address=None,
        cpu=cpu_model(),
        gpus=gpus(),
        own={name: (backend, backends.about(backend)) for name, backend in backends.own_devices().items()},
        get=backends.get,
        describe=backends.describe,
        info=detect,
        state=lambda arch: {**gpu_conditions(arch), **({"power": told} if (told := power()) else {})},
    )


def machine_of(device: str) -> tuple[MeasuredMachine, str]:
    """The machine of a device, and the device's name on it; "auto" where an address leaves it open.

    Raises:
        InputError: an address that is none.
        DeviceUnavailable: that machine cannot be reached, or has nothing that measures.
    """
    text = names.address_of(device)
    if not is_remote(text):
        return _here(), text
    there = machine_at(text)
    found = there.machine
    machine = MeasuredMachine(
        address=there.address,
        cpu=found.info.cpu,
        gpus=found.info.gpus,
        own=there.own_devices(),
        get=there.backend,
        describe=there.rows,
        info=lambda: found.info,
        state=lambda arch: {k: v for k, v in found.state.items() if v},
    )
    return machine, parse(text).device or "auto"


def refuse_unasked(setting: Setting, asked: str | None, what: str) -> None:
    """InputError where a file that may come from someone else names a machine that the user did not name.

    Args:
        setting: out of a file.
        asked: what the user gave as ``--device``.
        what: the file, for the message.
    """
    if is_remote(setting.device) and (asked is None or spelling(asked) != setting.device):
        raise InputError(
            f"{what} is of {setting.device}, and a machine is only connected to where you name it; give "
            f"--device {shlex.quote(setting.device)}"
        )


def backend_of(setting: Setting) -> Backend:
    """The backend that measures under a setting, on the machine that the setting names.

    Raises:
        InputError: no such backend.
        BackendUnavailable: it cannot run there, or the machine cannot be reached.
    """
    return machine_of(setting.device)[0].get(setting.backend)


def known(machine: MeasuredMachine | None = None) -> dict[str, Device]:
    """Every device by name: ``cpu``, those that backends bring, and those under ``profiles/devices``."""
    machine = machine or _here()
    found = machine.gpus
    table = {
        "cpu": Device("cpu", "cpu", machine.usual("cpu"), machine.cpu, here=True),
        **{
            name: Device(name, name, backend, label, here=True)
            for name, (backend, label) in machine.own.items()
        },
    }
    for body in _descriptions():
        kind = "gpu" if body["kind"] == "gpu" else "cpu"
        models = [gpu.name for gpu in found] if kind == "gpu" else [machine.cpu]
        here = any(same_model(alias, model) for alias in _names(body) for model in models)
        table[body["name"]] = Device(
            body["name"], kind, machine.usual(kind), body.get("label", body["name"]), here, body
        )
    for gpu in found:
        described = (d.description for d in table.values() if d.kind == "gpu" and d.description)
        if not any(same_model(alias, gpu.name) for body in described for alias in _names(body)):
            name = plain_name(gpu.name)
            table[name] = Device(name, "gpu", machine.usual("gpu"), gpu.name, here=True)
    return table


def resolve(name: str = "auto", *, here: bool = True) -> Device:
    """The device that a user means by ``--device``.

    Args:
        name: a known name or alias, "auto" (the GPU where TensorRT can run, else the CPU), "gpu" (the
            first one of this machine), or an address of another machine with one of these behind it.
        here: whether it must be in the machine; False for planning and for imported tables.

    Raises:
        InputError: no such device; offers the nearest name.
        DeviceUnavailable: it is not in the machine; names the three alternatives.
    """
    machine, plain = machine_of(name)
    found = resolve_on(machine, plain, here=here)
    return found if machine.address is None else replace(found, name=machine.spelled(found.name))


def resolve_on(machine: MeasuredMachine, name: str, *, here: bool = True) -> Device:
    """The device of a machine by its name there; as `resolve`."""
    table = known(machine)
    if name in ("auto", "gpu"):
        local = [d for d in table.values() if d.kind == "gpu" and d.here]
        usable = [d for d in local if name == "gpu" or _runs(machine, d.backend)]
        if usable:
            return usable[0]
        if name == "auto":
            return table["cpu"]
        raise DeviceUnavailable(f"no NVIDIA GPU found in {_named(machine)}; see `hwnas doctor`")
    device = table.get(name) or _by_alias(name, table)
    if device is None:
        raise InputError(plugins.unknown("device", name, [*table, "auto", "gpu"]))
    if here and not device.here:
        raise DeviceUnavailable(_ways_on(machine, device))
    return device


@dataclass(frozen=True)
class Usual:
    """What a device is usually asked for, from its description.

    Attributes:
        space: what is profiled where the user names nothing.
        batch: images a call.
        why: for display.
    """

    space: str
    batch: int
    why: str


def usual(name: str) -> Usual | None:
    """What the device that a user means is usually asked for; None where its description says nothing.

    Raises:
        InputError, DeviceUnavailable: as `resolve`.
        DataFormatError: the description is damaged.
    """
    found = resolve(name, here=False)
    told = (found.description or {}).get("usual")
    if told is None:
        return None
    try:
        return Usual(str(told["space"]), int(told["batch"]), str(told["why"]))
    except (KeyError, TypeError, ValueError) as exc:
        raise DataFormatError(
            f"the description of {found.name} needs space, batch and why under 'usual', got {told!r}"
        ) from exc


def spelling(name: str) -> str:
    """How tables write the device that a user means; asks no other machine where the address is whole."""
    text = names.address_of(name)
    if is_remote(text) and (address := parse(text)).device:
        return address.text
    return resolve(name, here=False).name


def conditions(
    device: str = "auto",
    backend: str | None = None,
    *,
    precision: Precision = "fp32",
    batch: int = 1,
    threads: int = 1,
    choices: BuildChoices | None = None,
) -> tuple[Backend, Setting]:
    """The backend and the full setting that a user's options stand for.

    Raises:
        InputError: an unknown name, or a combination that the backend does not offer.
        BackendUnavailable: device or runtime is not here; says how to get it.
    """
    machine, plain = machine_of(device)
    found = resolve_on(machine, plain, here=True)
    runtime = machine.get(backend or found.backend)
    if found.kind not in runtime.devices:
        raise InputError(
            f"backend {runtime.name!r} runs on {' and '.join(runtime.devices)}, not on the device "
            f"{found.name!r} ({found.kind}); `hwnas backends list` lists all"
        )
    return runtime, with_choices(
        runtime, runtime.setting(place_of(found), precision, batch, threads), choices
    )


def conditions_of(setting: Setting) -> tuple[Backend, Setting]:
    """The backend, and the full setting now, of the conditions that a table or a run states.

    Raises:
        InputError: a combination that the backend does not offer.
        BackendUnavailable: device or runtime is not here; says how to get it.
    """
    s = setting
    given: dict[str, Any] = {"precision": s.precision, "batch": s.batch, "threads": s.threads}
    runtime, now = conditions(s.device, s.backend, **given, choices=s.choices)
    if s.form:
        form_of(runtime, s.form)  # which says so where there is no such form any more
        now = now.model_copy(update={"form": s.form})
    return runtime, now


def with_choices(runtime: Backend, setting: Setting, choices: BuildChoices | None) -> Setting:
    """The setting of an engine that is built as a user chooses besides.

    Raises:
        InputError: the runtime does not offer that.
    """
    if not choices:
        return setting
    if not isinstance(runtime, Choosy):
        if is_remote(setting.device):
            raise InputError(
                f"{_options_of(choices)}: not over ssh; run hwnas on that machine, or leave it out"
            )
        able = ", ".join(name for name in plugins.names("backends") if _is_choosy(name))
        raise InputError(
            f"{_options_of(choices)}: backend {runtime.name!r} does not offer that; --backend {able} does"
        )
    return runtime.chosen(setting, choices)


def _is_choosy(name: str) -> bool:
    try:
        return isinstance(plugins.load("backends", name)(), Choosy)
    except HwnasError:
        return False  # a broken one of another package


def _options_of(choices: BuildChoices) -> str:
    """The options that stand for choices, as a user wrote them."""
    named = {"--batch with several sizes": choices.batches, "--compatible": choices.compatible}
    given = [name for name, value in named.items() if value]
    return ", ".join([*given, *(["--dla"] if choices.dla is not None else [])])


def place_of(device: Device) -> str:
    """What a backend calls a device: a processor is "cpu" whatever its description is called."""
    return "cpu" if device.kind == "cpu" else device.name


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


def _runs(machine: MeasuredMachine, backend: str) -> bool:
    return any(row["name"] == backend and row["available"] for row in machine.describe())


def _named(machine: MeasuredMachine) -> str:
    return "this machine" if machine.address is None else machine.address.machine


def _ways_on(machine: MeasuredMachine, device: Device) -> str:
    present = ", ".join(d.name for d in known(machine).values() if d.here)
    return (
        f"the device {device.name!r} ({device.label}) is not in {_named(machine)}, which has: {present}. "
        f"Three ways on: run `hwnas profile --device {device.name}` on a machine that has it, copy the table "
        "here and read it with `hwnas table import FILE`; profile another device (--device cpu); or estimate "
        f"without measuring: `hwnas profile --device {device.name} --estimate`"
    )
