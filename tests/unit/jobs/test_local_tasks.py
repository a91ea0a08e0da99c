"""Tasks of the executor ``local``: what they tell arrives with their names, and what dies is begun again."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from hwnas import executors
from hwnas.cluster.telling import told
from hwnas.errors import InputError
from hwnas.jobs.profile import ProfileOptions, profile_each
from hwnas.jobs.profile.several import _by_machine
from hwnas.protocols import Emit, Needs


def count(folder: Path, *, emit: Emit) -> int:
    """Tells how far it is; the first time it is killed after that."""
    emit("progress", {"task": "counting", "done": 1, "total": 2})
    if not (folder / "once").exists():
        (folder / "once").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return os.getpid()


def test_what_a_task_tells_arrives_though_its_process_is_killed(tmp_path: Path) -> None:
    heard: list[tuple[str, Mapping[str, Any]]] = []
    executor = executors.made(
        "local", jobs=1, device="", emit=lambda kind, fields: heard.append((kind, fields))
    )
    try:
        running = executor.submit("job", Needs(), count, tmp_path)
        executor.wait([running])
        pid = running.result()
    finally:
        executor.close()
    assert [kind for kind, _ in heard] == ["began", "progress", "began", "progress", "ended"]
    assert heard[1][1] == {"task": "job: counting", "done": 1, "total": 2}
    assert heard[-1][1]["where"].endswith(f"process {pid}")
    assert running.where == heard[-1][1]["where"]


def test_a_task_without_parts_has_its_own_name() -> None:
    assert told("trial 3", {"task": "trial 3"}) == told("trial 3", {}) == {"task": "trial 3"}


def test_devices_of_one_machine_are_profiled_in_turn() -> None:
    names = ["cpu", "ssh://a/x", "pipe:///fake", "ssh://a/y", "ssh://u@b:7/x"]
    found = _by_machine((name, ProfileOptions(device=name)) for name in names)
    machines = {machine: [one.device for one in group] for machine, group in found.items()}
    assert machines == {
        "": ["cpu", "pipe:///fake"],
        "ssh://a": ["ssh://a/x", "ssh://a/y"],
        "ssh://u@b:7": ["ssh://u@b:7/x"],
    }


def test_two_devices_have_two_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HWNAS_HOME", str(tmp_path))
    options = ProfileOptions(space="resnet-cifar", input_shape=(1, 8, 8), dry_run=True)
    planned = profile_each(["fake", "cpu"], options)
    assert [Path(one["table"]).name.partition("-")[0] for one in planned["profiles"]] == ["fake", "cpu"]
    with pytest.raises(InputError, match="named twice"):
        profile_each(["fake", "fake"], options)
    with pytest.raises(InputError, match="a table each"):
        profile_each(["fake", "cpu"], ProfileOptions(out=tmp_path / "t"))
