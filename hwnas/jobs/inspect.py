"""Looking without measuring: what networks cost in counts, and what is built in or plugged in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from hwnas import plugins
from hwnas.backends import describe
from hwnas.errors import InputError
from hwnas.jobs.resolve.networks import find, network
from hwnas.measure.device import known, resolve
from hwnas.measure.remote import names
from hwnas.nets.count import count as count_spec
from hwnas.nets.spaces import describe as describe_space
from hwnas.nets.spaces import make
from hwnas.options import described
from hwnas.plugins import unknown
from hwnas.results import Result
from hwnas.search.strategy import find as find_strategy
from hwnas.spec import NetworkSpec
from hwnas.store import write_network


class Count(Result):
    """What one network costs in counts."""

    path: str
    name: str
    key: str
    macs: int
    params: int
    depth: int
    activation_bytes: int
    depths: tuple[int, ...]
    input: tuple[int, ...]
    classes: int


class CountOutcome(Result):
    """Counts of networks, in the order given."""

    networks: tuple[Count, ...]


class Listed(Result):
    """Something built in or plugged in: whether it can be used here, and why not.

    Of a device also `kind`, `label` and `backend`; of a runtime `version`, `devices` and `suffix`; of a
    space or a strategy `summary`.
    """

    name: str
    available: bool
    reason: str | None


class SampleOutcome(Result):
    """The networks that were drawn and written."""

    paths: tuple[str, ...]
    space: str
    seed: int


class NamedDevice(Result):
    """A device of another machine, by the name that the user gave it."""

    name: str
    address: str


def count(given: Sequence[str]) -> CountOutcome:
    """MACs, parameters, depth and memory of networks (files, runs or examples)."""

    listed = []
    for name in given:
        spec = network(name)
        listed.append(
            {
                "path": str(find(name)),
                "name": spec.name,
                "key": spec.key,
                **asdict(count_spec(spec)),
                "depths": list(spec.depths),
                "input": list(spec.input_shape),
                "classes": spec.classes,
            }
        )
    return CountOutcome.of({"networks": listed})


def devices() -> list[Listed]:
    """Every known device: name, available (it is this machine's), reason where not, kind, label, backend."""

    rows = [
        {
            "name": device.name,
            "available": device.here,
            "reason": None
            if device.here
            else "not in this machine; `hwnas profile --estimate` estimates without it",
            "kind": device.kind,
            "label": device.label,
            "backend": device.backend,
        }
        for device in known().values()
    ]
    far = [_named(name, address) for name, address in sorted(names.named().items())]
    return [Listed.of(row) for row in [*rows, *far]]


def _named(name: str, address: str) -> dict[str, Any]:
    """A device of another machine, which is not asked: listing must not wait for it."""
    reason = f"on another machine; `hwnas doctor --device {name}` asks it"
    return {"name": name, "available": False, "reason": reason, "label": address, "address": address}


def add_device(name: str, address: str) -> NamedDevice:
    """Give a device of another machine a name.

    Raises:
        InputError: no address, or a name that cannot be one or is that of a known device.
    """
    if name in known():
        raise InputError(f"{name!r} is the name of a known device (`hwnas devices`); take another one")
    return NamedDevice.of({"name": name, "address": names.add(name, address)})


def remove_device(name: str) -> NamedDevice:
    """Forget a name; InputError where there is none."""
    address = names.named().get(name, "")
    names.remove(name)
    return NamedDevice.of({"name": name, "address": address})


def device(name: str) -> Listed:
    """One device with its description; InputError for an unknown name."""

    if (address := names.named().get(name)) is not None:
        return Listed.of({**_named(name, address), "description": None})
    found = resolve(name, here=False)
    row = next(row for row in devices() if row.name == found.name)
    return Listed.of({**row.as_json(), "description": found.description})


def backends() -> list[Listed]:
    """Every runtime: name, available, reason where not, version, devices, suffix of its engine files."""

    return [Listed.of(row) for row in describe()]


def strategies() -> list[Listed]:
    """Every search strategy: name, available, reason where not, summary."""
    return [Listed.of(_strategy(name)) for name in plugins.names("strategies")]


def strategy(name: str) -> Listed:
    """One strategy with its options: name, default, what is expected, help, types and bounds of each.

    `prepared` says whether something is trained before its first proposal, `plans` whether `hwnas plan` can
    ask it.
    """
    row = _strategy(name)
    try:
        found = find_strategy(name)
    except InputError:  # of another package, and broken; the row has the reason
        return Listed.of(row)
    listed = [{**asdict(option), "default": _json(option.default)} for option in described(found.Options)]
    body = {**row, "prepared": found.preparation is not None, "plans": found.plans(), "options": listed}
    return Listed.of(body)


def spaces() -> list[Listed]:
    """Every search space: name, available, reason where not, summary."""
    return [Listed.of(_plugged("spaces", name)) for name in plugins.names("spaces")]


def space(name: str, input_shape: tuple[int, int, int] | None = None) -> Listed:
    """One search space: what it holds, and the costs of its smallest member."""
    made = make(name, input_shape=input_shape) if input_shape else make(name)
    smallest = made.smallest()
    body = {
        **_plugged("spaces", name),
        **describe_space(made),
        "smallest": {"depths": list(smallest.depths), **asdict(count_spec(smallest))},
    }
    return Listed.of(body)


def one(rows: Sequence[Listed], what: str, name: str) -> Listed:
    """The row of a name; InputError with the nearest one where there is none."""
    for row in rows:
        if row.name == name:
            return row
    raise InputError(unknown(what, name, [row.name for row in rows]))


def sample(
    name: str, n: int, seed: int, out: Path, input_shape: tuple[int, int, int] | None = None
) -> SampleOutcome:
    """Write `n` different random members of a space as ``<space>-<seed>-<number>.json``.

    Raises:
        InputError: the space does not yield so many different members.
    """

    made = make(name, input_shape=input_shape) if input_shape else make(name)
    rng = np.random.default_rng(seed)
    found: dict[str, NetworkSpec] = {}
    for _ in range(100 * n):
        if len(found) == n:
            break
        spec = made.sample(rng)
        found.setdefault(spec.key, spec)
    if len(found) < n:
        raise InputError(f"{100 * n} draws from {name} gave {len(found)} different networks, not {n}")
    paths = []
    for number, spec in enumerate(found.values()):
        path = out / f"{name}-{seed}-{number:03d}.json"
        write_network(path, spec.model_copy(update={"name": path.stem, "space": name}))
        paths.append(str(path))
    return SampleOutcome.of({"paths": paths, "space": name, "seed": seed})


def _plugged(group: str, name: str) -> dict[str, Any]:
    """Whether a plug-in can be used here, and the first line of what it says about itself."""
    try:
        thing = plugins.load(group, name)
    except InputError as exc:
        return {"name": name, "available": False, "reason": str(exc), "summary": ""}
    return {"name": name, "available": True, "reason": None, "summary": _summary(thing)}


def _strategy(name: str) -> dict[str, Any]:
    """The same of a strategy, which may need a package that is not installed."""
    try:
        found = find_strategy(name)
    except InputError as exc:
        return {"name": name, "available": False, "reason": str(exc), "summary": ""}
    with plugins.blamed("strategies", name, "cannot say whether it works here"):
        reason = found.unavailable()
    return {"name": name, "available": reason is None, "reason": reason, "summary": _summary(found)}


def _json(value: object) -> object:
    """A default as JSON has it; in Python's own form where it has not."""
    if value is None or isinstance(value, (str, int)) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return [_json(v) for v in value] if isinstance(value, (list, tuple)) else repr(value)


def _summary(thing: object) -> str:
    return (thing.__doc__ or "").strip().split("\n", 1)[0]
