"""Devices of other machines, by a pipe: the agent as a child process of this one."""

from __future__ import annotations

import ast
import io
import struct
import sys
import zipfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwnas.errors import (
    BackendUnavailable,
    BuildError,
    DataFormatError,
    DeviceUnavailable,
    InputError,
    LinkLost,
)
from hwnas.measure import device
from hwnas.measure.remote import archive, link, names, wire
from hwnas.measure.remote.address import Address, parse
from hwnas.measure.remote.agent import Agent
from hwnas.measure.remote.target import RemoteBackend, RemoteEngine, close_targets, machine_at
from hwnas.measure.session import Gates, SessionOptions, run_session
from hwnas.nets import onnx
from hwnas.protocols import Int8Form
from hwnas.spec import BlockSpec

BLOCK = BlockSpec(kind="basic", c_in=16, c_out=16, size_in=8)
FAKE = "pipe:///fake"


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("HWNAS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HWNAS_AGENT_HOME", str(tmp_path / "agent"))
    yield
    close_targets()


def model() -> bytes:
    return onnx.chain([BLOCK], batch=1, seed=0)


def engine() -> RemoteEngine:
    backend, setting = device.conditions(FAKE)
    made = backend.build(model(), setting)
    assert isinstance(made, RemoteEngine)
    return made


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("ssh://pi@10.0.0.7", Address("ssh", "pi", "10.0.0.7")),
        ("ssh://box:2222/titanxp", Address("ssh", "", "box", 2222, "titanxp")),
        ("ssh://box:22/auto", Address("ssh", "", "box")),
        (
            "ssh://me@[fe80::1]/cpu?python=venv/bin/python",
            Address("ssh", "me", "[fe80::1]", None, "cpu", "venv/bin/python"),
        ),
        ("pipe:///fake", Address("pipe", device="fake")),
        (
            "ssh://box/cpu?python=/home/me/my%20env/bin/python3",
            Address("ssh", "", "box", None, "cpu", "/home/me/my env/bin/python3"),
        ),
    ],
)
def test_addresses(text: str, address: Address) -> None:
    assert parse(text) == address
    assert parse(address.text) == address


@pytest.mark.parametrize(
    "text",
    [
        "ssh://",
        "ssh://-oProxyCommand=x",
        "ssh://-x@host",
        "ssh://host:0",
        "ssh://host:99999",
        "ssh://host/a/b",
        "ssh://host/../x",
        "ssh://host/cpu?python=-c",
        "ssh://host/cpu?python=a b",
        "ssh://host/cpu;rm",
        "http://host",
        "pipe://host/cpu",
        "ssh://host/cpu\n",
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        parse(text)


def test_a_session_there_is_a_session_here() -> None:
    """The fake device has a clock of its own: a session is the same wherever it runs."""
    local, setting = device.conditions("fake")
    options, gates = SessionOptions(), Gates()
    here = run_session(local.build(model(), setting), options, gates)
    there = run_session(engine(), options, gates)
    assert np.array_equal(here.wall_ms, there.wall_ms)
    assert (here.floor_ms, here.gates, here.disturbed) == (there.floor_ms, there.gates, there.disturbed)


def test_scores_and_engine_files_cross_the_link(tmp_path: Path) -> None:
    made = engine()
    images = np.random.default_rng(0).standard_normal((1, 16, 8, 8)).astype(np.float32)
    local, setting = device.conditions("fake")
    assert np.array_equal(made.run(images), local.build(model(), setting).run(images))
    made.save(tmp_path / "engine.fake")
    again = device.conditions(FAKE)[0].load(tmp_path / "engine.fake", made.setting)
    assert np.array_equal(again.time(3).wall_ms, made.time(3).wall_ms)


def test_errors_come_back_as_what_they_are() -> None:
    backend, setting = device.conditions(FAKE)
    with pytest.raises(BuildError, match=r"on pipe://: "):
        backend.build(b"no model", setting)
    with pytest.raises(InputError, match="the fake device has 4 cores"):
        device.conditions(FAKE, threads=5)
    with pytest.raises(InputError, match="nowhere"):
        device.conditions("pipe:///nowhere")
    with pytest.raises(BackendUnavailable):
        device.conditions("pipe:///cpu", "trt")


def test_a_link_that_is_lost_is_said_and_made_again() -> None:
    made = engine()
    made.target.link._process.kill()
    with pytest.raises(LinkLost, match="repeat the command"):
        made.record(SessionOptions())
    made.close()  # nothing to free, no second error
    assert engine().time(1).wall_ms.shape == (1,)


def test_an_engine_is_asked_for_over_its_own_link_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """A link may die between a look at it and a request; the next one has another engine of that number."""
    made = engine()
    lost = made.target.link
    lost._process.kill()
    lost._process.wait()
    again = engine()
    assert again.number == made.number
    monkeypatch.setattr(type(lost), "alive", True)
    with pytest.raises(LinkLost, match="repeat the command"):
        made.time(1)
    with pytest.raises(LinkLost):  # nor once the link was closed
        made.time(1)
    assert again.time(1).wall_ms.shape == (1,)


def test_a_second_process_is_told() -> None:
    engine()
    other = type(machine_at(FAKE))(parse(FAKE))
    with pytest.raises(DeviceUnavailable, match="another process measures on fake"):
        other.claim("fake")
    other.claim("cpu")  # another device of the same machine
    close_targets()
    other.claim("fake")
    other.close()


@cache
def idle() -> RemoteEngine:
    """An engine whose answers a test makes up."""
    return engine()


def times(values: list[float]) -> bytes:
    return struct.pack(f"<{len(values)}d", *values)


GOOD = {
    "sizes": [2], "cpu_ms": [1.0], "each": 1, "error_ms": 0.0, "host_ms": None, "enqueue_ms": None,
    "unsteady": False, "watched": [],
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "payload"),
    [
        ({}, times([1.0])),  # too few
        ({}, times([1.0, 0.0])),
        ({}, times([1.0, -1.0])),
        ({}, times([1.0, float("nan")])),
        ({}, times([1.0, float("inf")])),
        ({"sizes": []}, b""),
        ({"sizes": [True]}, times([1.0])),
        ({"sizes": [-1, 3]}, times([1.0, 1.0])),
        ({"sizes": [1 << 40]}, times([1.0, 1.0])),
        ({"cpu_ms": [1.0, 1.0]}, times([1.0, 1.0])),
        ({"cpu_ms": ["1"]}, times([1.0, 1.0])),
        ({"cpu_ms": [-1.0]}, times([1.0, 1.0])),
        ({"each": 0}, times([1.0, 1.0])),
        ({"error_ms": float("nan")}, times([1.0, 1.0])),
        ({"host_ms": 0}, times([1.0, 1.0])),
        ({"watched": ["\x1b[2J"]}, times([1.0, 1.0])),
        ({"watched": "gate"}, times([1.0, 1.0])),
    ],
)
def test_a_session_that_cannot_be_one_is_refused(
    change: dict[str, Any], payload: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = idle()
    ask: Callable[..., Any] = lambda *a, **k: ({**GOOD, **change}, payload)  # noqa: E731  # shorter so
    monkeypatch.setattr(made, "_ask", ask)
    with pytest.raises(DataFormatError):
        made.record(SessionOptions())


def test_a_good_session_is_not_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    made = idle()
    monkeypatch.setattr(made, "_ask", lambda *a, **k: (GOOD, times([1.0, 2.0])))
    assert made.record(SessionOptions()).batches[0].wall_ms.tolist() == [1.0, 2.0]


FORM = {"name": "", "activations": "uint8", "weight_levels": 127, "sums": "all", "integers": True}


@pytest.mark.parametrize(
    ("told", "is_one"),
    [
        ([FORM], True),
        ([{**FORM, "depthwise": False, "rest": "bf16"}], True),
        ([{**FORM, "mystery": 3}], False),  # of another version: its graph is not what is written here
        ([{**FORM, "weight_levels": "127"}], False),
        ([{**FORM, "weight_levels": 5}], False),
        ([{**FORM, "depthwise": "no"}], False),
        ([{**FORM, "sums": "some"}], False),
        ([[]], False),
        ([], True),
        ({}, False),
        (None, False),
    ],
)
def test_forms_of_int_8_are_read_strictly(told: Any, is_one: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    backend, _ = device.conditions(FAKE)
    assert isinstance(backend, RemoteBackend)
    monkeypatch.setattr(backend, "_forms", None)
    monkeypatch.setattr(backend.target, "ask", lambda *a, **k: ({"forms": told}, b""))
    if is_one:
        assert all(isinstance(form, Int8Form) for form in backend.forms())
        return
    with pytest.raises(DataFormatError, match="no int8 forms"):
        backend.forms()


@pytest.mark.parametrize(
    "line",
    [b"[]\n", b'{"bytes": -1}\n', b'{"bytes": "1"}\n', b'{"bytes": 1e3}\n', b"\xff\n", b"[" * 3000 + b"\n"],
)
def test_what_is_no_message_is_refused(line: bytes) -> None:
    with pytest.raises(wire.WireError):
        wire.receive(io.BytesIO(line))


def test_messages_round_trip() -> None:
    stream = io.BytesIO()
    wire.send(stream, {"verb": "run"}, b"\n\0")
    stream.seek(0)
    assert wire.receive(stream) == ({"verb": "run", "bytes": 2}, b"\n\0")
    with pytest.raises(wire.LinkClosed):
        wire.receive(stream)


@pytest.mark.parametrize(
    ("raised", "kind", "words"),
    [
        (BuildError("refused"), "BuildError", "refused"),
        (ModuleNotFoundError("no onnx", name="onnx"), "BackendUnavailable", "pip install onnx"),
        (OSError(28, "No space left on device"), "disk", "No space left"),
        (KeyError("x"), "bug", "KeyError"),
    ],
)
def test_what_goes_wrong_there_is_told(
    raised: Exception, kind: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = Agent(tmp_path, io.BytesIO(), io.BytesIO())

    def broken(*given: object) -> None:
        raise raised

    monkeypatch.setattr(agent, "_answer", broken)
    body, payload = agent.reply({"verb": "open"}, b"")
    assert (body["error"], payload) == (kind, b"")
    assert words in body["text"]


def target(folder: Path, script: str) -> str:
    """The address of a target whose Python is reached by a script: what a login shell may do before it."""
    folder.mkdir()
    path = folder / "python"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return parse(f"pipe:///fake?python={str(path).replace(' ', '%20')}").text


AGENT = f'exec {sys.executable} "$@"'


def test_what_a_login_shell_prints_is_passed_over(tmp_path: Path) -> None:
    """Lines, and words without the end of a line, which stand before the agent's first one."""
    noisy = target(tmp_path / "my env", f"echo Welcome; printf 'last login: today '; {AGENT}")
    assert machine_at(noisy).machine.numpy == np.__version__


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("exec sleep 60", "no agent of hwnas answers within"),
        ("exec cat", "answers something that is not hwnas's agent"),
        ("echo only git here", "its agent ended before it began"),
    ],
)
def test_a_forced_command_is_told_of(
    script: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "START_S", 1.0)
    with pytest.raises(DeviceUnavailable, match=words):
        machine_at(target(tmp_path / "forced", script)).rows()


def test_any_shell_reads_the_command_that_starts_the_agent() -> None:
    """One line, without what csh looks at within quotes, and shorter than a word of it may be."""
    command = link._command(parse("ssh://box/cpu"))[-1]
    assert len(command) < 400
    assert not set(command) & set("\n!`$\\")


def test_a_long_folder_of_temporary_files_is_no_place_for_sockets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name of a socket has 107 characters at most."""
    (tmp_path / ("x" * 60)).mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / ("x" * 60)))
    assert link._sockets().parent == Path("/tmp")


def test_names_stand_for_addresses() -> None:
    assert names.add("jetson", "ssh://pi@box:22/auto") == "ssh://pi@box/"
    assert names.named() == {"jetson": "ssh://pi@box/"}
    names.add("here", FAKE)
    assert device.resolve("here").name == FAKE
    names.remove("here")
    with pytest.raises(InputError):
        names.remove("here")
    with pytest.raises(InputError):
        names.add("a/b", FAKE)
    with pytest.raises(InputError):
        names.add("cpu", FAKE)


def test_the_archive_has_one_hash_and_reads_on_python_3_9() -> None:
    """Every file that the agent imports compiles for 3.9, and evaluates no annotation of a later Python."""
    with zipfile.ZipFile(io.BytesIO(archive.archive())) as files:
        listed = set(files.namelist())
        reached, todo = set(), ["hwnas.measure.remote.agent"]
        while todo:
            name = todo.pop().replace(".", "/")
            path = next((p for p in (f"{name}.py", f"{name}/__init__.py") if p in listed), None)
            if path is None or path in reached:
                continue
            reached.add(path)
            tree = ast.parse(files.read(path), feature_version=(3, 9))
            lazy = any(isinstance(n, ast.ImportFrom) and n.module == "__future__" for n in tree.body)
            annotated = any(
                getattr(n, "annotation", None) or getattr(n, "returns", None) for n in ast.walk(tree)
            )
            assert lazy or path == "hwnas/__init__.py" or not annotated, path
            for node in tree.body:  # what is imported when the module is
                if isinstance(node, ast.ImportFrom) and node.module:
                    todo += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
                elif isinstance(node, ast.Import):
                    todo += [alias.name for alias in node.names]
    assert "hwnas/backends/base.py" in reached
    assert "pydantic.py" in reached
    assert not [path for path in reached if "/train/" in path or "/nets/" in path]
