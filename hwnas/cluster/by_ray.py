"""Executor ``ray``: tasks on a Ray cluster, by Ray's core alone.

A machine tells what it has when it joins: its cores and GPUs by itself, its device by a label, and that times
may be measured on it by a resource, which is a mutex:

    ray start --address HEAD:6379 --labels hwnas-device=titanxp --resources '{"hwnas_timing": 1}'

Ray begins a task again whose process or machine has gone. A device that no machine has is an error at once,
one that has gone an error after `GRACE_S`, where Ray alone would wait for ever.
"""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import hwnas
from hwnas.cluster.telling import told
from hwnas.errors import BackendUnavailable, DeviceUnavailable, HwnasError, InputError
from hwnas.protocols import Emit, Needs, Running, Work

LABEL, MUTEX = "hwnas-device", "hwnas_timing"
# A task whose process or machine went so often is at fault itself.
RETRIES = 20
# A machine that has gone may come back; longer is not waited for.
GRACE_S = 120.0
ANSWER_S = 10.0
# Of starting a cluster.
TRIES = 3
LOOK_S = 0.5


class _OnRay:
    """A task of `ByRay`."""

    def __init__(self, owner: ByRay, name: str, needs: Needs, ref: Any, number: int) -> None:
        self.name, self.where, self.took_s = name, "", 0.0
        self.needs, self.ref, self.number = needs, ref, number
        self._owner = owner

    def done(self) -> bool:
        """See `Running.done`."""
        return bool(self._owner.ray.wait([self.ref], timeout=0, fetch_local=False)[0])

    def result(self) -> Any:
        """See `Running.result`."""
        self._owner.wait([self])
        ray = self._owner.ray
        try:
            value, self.where, self.took_s = ray.get(self.ref)
        except (ray.exceptions.WorkerCrashedError, ray.exceptions.ObjectLostError) as exc:
            raise HwnasError(
                f"{self.name}: the process or machine that ran it went {RETRIES} times; is there "
                "enough memory?"
            ) from exc
        except (ray.exceptions.RaySystemError, ray.exceptions.RayTaskError) as exc:
            lacking = re.search(r"No module named '([\w.]+)'", str(exc))
            if lacking is None:  # a bug, which keeps its traceback
                raise
            raise InputError(
                f"{self.name}: a machine of the Ray cluster lacks the Python package {lacking[1]}; install "
                f"hwnas {hwnas.__version__} on each, in the Python that runs `ray start` there"
            ) from exc
        if isinstance(value, HwnasError):
            raise value
        return value

    def cancel(self) -> None:
        """See `Running.cancel`."""
        self._owner.ray.cancel(self.ref, force=True)


class _Board:
    """What tasks have told, until the driver asks; it runs beside the driver."""

    def __init__(self) -> None:
        self._told: list[tuple[int, str, dict[str, Any]]] = []

    def tell(self, number: int, kind: str, fields: dict[str, Any]) -> None:
        self._told.append((number, kind, fields))

    def take(self) -> list[tuple[int, str, dict[str, Any]]]:
        told, self._told = self._told, []
        return told


class ByRay:
    """Tasks on a Ray cluster. See `hwnas.protocols.Executor`."""

    times_elsewhere = True

    def __init__(self, address: str, *, jobs: int, device: str, emit: Emit, grace_s: float = GRACE_S) -> None:
        """Join a cluster, or start one of this machine alone.

        Args:
            address: ``auto`` or ``HOST:PORT`` of a running cluster that this machine belongs to; empty for
                that of RAY_ADDRESS, else for a new one of this machine with `jobs` cores.
            jobs, device, emit: see `hwnas.executors.made`.
            grace_s: how long a machine that is needed may be away.

        Raises:
            BackendUnavailable: there is no cluster at the address.
        """
        self.ray = ray = import_module("ray")
        self.jobs, self._emit, self._grace_s = jobs, emit, grace_s
        self._tasks: dict[int, _OnRay] = {}
        self._missing_since: dict[int, float] = {}
        address = address or os.environ.get("RAY_ADDRESS", "")
        plain: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        own = {
            "address": "local",
            "num_cpus": jobs,
            "resources": {MUTEX: 1},
            "labels": {LABEL: device},
            "include_dashboard": False,
        }
        try:
            _knock(address)
            _join({**plain, **({"address": address} if address else own)}, 1 if address else TRIES)
        except Exception as exc:  # a machine that is slow to start is a bare one of Ray's
            raise BackendUnavailable(
                f"no Ray cluster answers at {address or 'this machine'}: {_said(exc)}; "
                "start one with `ray start --head`, and join it from each machine with `ray start --address "
                "HOST:6379`"
            ) from exc
        here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
            ray.get_runtime_context().get_node_id(), soft=False
        )
        board = ray.remote(num_cpus=0, max_restarts=-1, scheduling_strategy=here)(_Board)
        self._board = board.remote()
        self._run = ray.remote(_run)  # once: Ray sends every such function to every machine
        self._looked_at = 0.0

    @classmethod
    def unavailable(cls) -> str | None:
        """None where Ray is installed; does not import it."""
        return None if find_spec("ray") else "needs Ray: pip install 'hwnas[ray]'"

    def apart(self, device: str) -> bool:
        """See `Executor.apart`."""
        return any(
            node["Labels"].get(LABEL) != device and node["Resources"].get("CPU", 0) >= 1
            for node in self._nodes()
        )

    def share(self, value: Any) -> Any:
        """See `Executor.share`."""
        return self.ray.put(value)

    def submit(self, name: str, needs: Needs, task: Work, *args: Any) -> Running:
        """See `Executor.submit`."""
        able = self._able(needs)
        if not able:
            raise DeviceUnavailable(self._none(needs))
        cores = needs.cores
        if needs.timing:  # a neighbour costs 3 to 9 %
            cores = max(int(node["Resources"].get("CPU", 0)) for node in able)
        labels = {LABEL: needs.device} if needs.device else {LABEL: f"!{needs.avoid}"} if needs.avoid else {}
        number = len(self._tasks)
        run = self._run.options(
            name=name,
            num_cpus=cores,
            num_gpus=needs.gpus,
            max_retries=RETRIES,
            resources={MUTEX: 1} if needs.timing else {},
            label_selector=labels,
        )
        ref = run.remote(hwnas.__version__, self._board, number, task, *args)
        self._tasks[number] = one = _OnRay(self, name, needs, ref, number)
        return one

    def wait(self, running: Sequence[Running]) -> None:
        """See `Executor.wait`."""
        mine = {one.ref: one for one in running if isinstance(one, _OnRay)}
        while mine:
            ready, rest = self.ray.wait(list(mine), num_returns=1, timeout=LOOK_S)
            if ready or time.monotonic() - self._looked_at >= LOOK_S:
                self._looked_at = time.monotonic()
                self._hear()
            if ready:
                return
            for ref in rest:
                self._look_for_machine(mine[ref])

    def close(self) -> None:
        """See `Executor.close`."""
        self.ray.shutdown()

    def _nodes(self) -> list[dict[str, Any]]:
        return [node for node in self.ray.nodes() if node["Alive"]]

    def _able(self, needs: Needs) -> list[dict[str, Any]]:
        """The machines that could run a task if nothing else ran."""

        def fits(node: Mapping[str, Any]) -> bool:
            label, has = node["Labels"].get(LABEL), node["Resources"]
            return (
                (needs.device is None or label == needs.device)
                and (needs.avoid is None or label != needs.avoid)
                and has.get("CPU", 0) >= needs.cores
                and has.get("GPU", 0) >= needs.gpus
                and (not needs.timing or has.get(MUTEX, 0) >= 1)
            )

        return [node for node in self._nodes() if fits(node)]

    def _none(self, needs: Needs) -> str:
        """That no machine can run a task, what there is, and what would help."""
        rows = []
        for node in self._nodes():
            has, label = node["Resources"], node["Labels"].get(LABEL, "none")
            timing = ", times" if has.get(MUTEX) else ""
            gpus = f", {has['GPU']:g} GPUs" if has.get("GPU") else ""
            rows.append(
                f"{node['NodeManagerAddress']} (device {label}, {has.get('CPU', 0):g} cores{gpus}{timing})"
            )
        what = f"{needs.cores} cores" + (f" and {needs.gpus} GPUs" if needs.gpus else "")
        flags = ""
        if needs.device is not None:
            what = f"the device {needs.device!r}" + (" for timing" if needs.timing else "")
            flags = f" --labels {LABEL}={needs.device}" + f" --resources '{{\"{MUTEX}\": 1}}'" * needs.timing
        return (
            f"no machine of the Ray cluster has {what}; it has: {'; '.join(rows) or 'no machine'}. Join one "
            f"that has it: `ray start --address HOST:6379{flags}`"
        )

    def _look_for_machine(self, one: _OnRay) -> None:
        if self._able(one.needs):
            self._missing_since.pop(one.number, None)
            return
        since = self._missing_since.setdefault(one.number, time.monotonic())
        if time.monotonic() - since > self._grace_s:
            raise DeviceUnavailable(f"{one.name} waits in vain: {self._none(one.needs)}")

    def _hear(self) -> None:
        """Pass on what tasks have told; a board whose process died has nothing to tell."""
        with suppress(self.ray.exceptions.RayActorError, self.ray.exceptions.GetTimeoutError):
            for number, kind, fields in self.ray.get(self._board.take.remote(), timeout=5.0):
                if kind == "began":
                    self._tasks[number].where = str(fields["where"])
                self._emit(kind, told(self._tasks[number].name, fields))


def _join(given: Mapping[str, Any], tries: int) -> None:
    """Join a cluster, or start one, for which Ray allows 30 seconds, however busy the machine is."""
    ray = import_module("ray")
    for left in reversed(range(tries)):
        try:
            ray.init(**given)
        except Exception:
            ray.shutdown()
            if not left:
                raise
        else:
            return


def _said(exc: Exception) -> str:
    """What an error of Ray's says, in one line."""
    return " ".join(str(exc).split())[:300].rstrip(".")


def _knock(address: str) -> None:
    """OSError where nothing answers at HOST:PORT: Ray would wait for minutes."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_S).close()


def _run(version: str, board: Any, number: int, task: Work, *args: Any) -> tuple[Any, str, float]:
    """On the machine that Ray chose: the value or an error meant for the user, where, and how long."""
    where = f"{socket.gethostname()}, process {os.getpid()}"
    if version != hwnas.__version__:
        text = f"{where} has hwnas {hwnas.__version__}, and the search runs with {version}; install the same"
        return InputError(text), where, 0.0

    def emit(kind: str, fields: Mapping[str, Any]) -> None:
        board.tell.remote(number, kind, dict(fields))

    emit("began", {"where": where})
    start = time.monotonic()
    try:
        value = task(*args, emit=emit)
    except HwnasError as exc:
        value = exc
    emit("ended", {"where": where})
    return value, where, time.monotonic() - start
