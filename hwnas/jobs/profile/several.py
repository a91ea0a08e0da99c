"""Several devices profiled by one command: at once where they are of different machines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from hwnas import executors
from hwnas.errors import HwnasError, InputError
from hwnas.jobs.profile.options import ProfileOptions
from hwnas.jobs.profile.result import ProfileOutcome
from hwnas.jobs.profile.run import profile
from hwnas.measure.remote.address import is_remote, parse
from hwnas.measure.remote.names import address_of
from hwnas.protocols import Emit, Needs, Running
from hwnas.results import DryRun, Result


class Profiles(Result):
    """The tables of several devices, in the order in which they were named."""

    profiles: tuple[ProfileOutcome, ...]


class PlannedProfiles(Result):
    """What a profile of several devices would do."""

    dry_run: bool
    profiles: tuple[DryRun, ...]


def profile_each(
    devices: Sequence[str], options: ProfileOptions, emit: Emit | None = None
) -> Profiles | PlannedProfiles:
    """Profile each device as `profile` does.

    Other machines are measured at the same time, each by one process of its own; the devices of one machine
    one after the other; and those of this machine last, when nothing else runs on it.

    Raises:
        InputError: a device is named twice, or `options` name a file for all tables.
        HwnasError: a device could not be profiled; the others are, and their tables are named.
    """
    told = emit or (lambda kind, fields: None)
    orders = [replace(options, device=device) for device in devices]
    addresses = [address_of(device) for device in devices]
    if len(set(addresses)) < len(addresses):
        raise InputError(f"a device is named twice: {', '.join(devices)}; name each once")
    if options.out is not None:
        raise InputError("several devices have a table each, so --out names no file for them; leave it out")
    if options.dry_run:
        plans = [profile(order, emit).as_json() for order in orders]
        return PlannedProfiles.of({"dry_run": True, "profiles": plans})
    found: dict[str, dict[str, Any] | HwnasError] = {}
    machines = _by_machine(zip(addresses, orders, strict=True))
    here = machines.pop("", [])
    if len(machines) > 1:
        found |= _at_once(machines, told)
    else:
        here = [*(order for group in machines.values() for order in group), *here]
    found |= _in_turn(here, emit=told)
    return _all_of(found, devices)


def _by_machine(pairs: Any) -> dict[str, list[ProfileOptions]]:
    """Devices by their machine; this one is ""."""
    machines: dict[str, list[ProfileOptions]] = {}
    for address, order in pairs:
        remote = parse(address) if is_remote(address) else None
        machine = remote.machine if remote is not None and remote.scheme == "ssh" else ""
        machines.setdefault(machine, []).append(order)
    return machines


def _at_once(machines: Mapping[str, list[ProfileOptions]], emit: Emit) -> dict[str, Any]:
    executor = executors.made("local", jobs=len(machines), device="", emit=emit)
    try:
        running: list[Running] = [
            executor.submit(name, Needs(timing=True), _in_turn, orders) for name, orders in machines.items()
        ]
        left = list(running)
        while left:
            executor.wait(left)
            left = [one for one in left if not one.done()]
        return {name: one for task in running for name, one in task.result().items()}
    finally:
        executor.close()


def _in_turn(orders: Sequence[ProfileOptions], *, emit: Emit) -> dict[str, Any]:
    """The devices of one machine, by name: what was measured, or why it was not."""
    found: dict[str, Any] = {}
    for order in orders:
        try:
            found[order.device] = profile(order, _named(order.device, emit)).as_json()
        except HwnasError as exc:
            found[order.device] = exc
    return found


def _named(device: str, emit: Emit) -> Emit:
    """Progress with the device's name before that of the task."""

    def told(kind: str, fields: Mapping[str, Any]) -> None:
        named = {**fields, "task": f"{device}: {fields['task']}"} if "task" in fields else fields
        emit(kind, named)

    return told


def _all_of(found: Mapping[str, dict[str, Any] | HwnasError], devices: Sequence[str]) -> Profiles:
    """The tables; the first error where there is one, with what is done all the same."""
    done = {name: one for name, one in found.items() if not isinstance(one, HwnasError)}
    for name in devices:
        one = found[name]
        if isinstance(one, HwnasError):
            tables = ", ".join(f"{other} ({body['table']})" for other, body in done.items())
            rest = f"; profiled were {tables}" if done else ""
            raise type(one)(f"{name}: {one}{rest}. Repeat the command for the others alone") from one
    return Profiles.of({"profiles": [found[name] for name in devices]})
