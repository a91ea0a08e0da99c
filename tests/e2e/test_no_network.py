"""No command looks for another machine: every one runs while addresses and connections are refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from e2e_house import BUDGET, SMALL, TINY, House
from replay_log import small_log

from hwnas_cli.main import COMMANDS, cli

NETWORK = {
    *("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "socket.sendmsg"),
    *("urllib.Request", "http.client.connect"),
}
# An audit hook cannot be taken away again: it looks only while `_tried` is a list.
_tried: list[str] | None = None
_hooked: list[bool] = []


def _hook(event: str, args: tuple[Any, ...]) -> None:
    if _tried is not None and event in NETWORK:
        _tried.append(f"{event} {args}")
        raise OSError("the network is blocked by a test")


@pytest.fixture
def tried() -> Iterator[list[str]]:
    """What was tried so far, with the network blocked."""
    global _tried
    if not _hooked:
        sys.addaudithook(_hook)
        _hooked.append(True)
    _tried = []
    yield _tried
    _tried = None


# `hwnas plan` chooses operators in places, which the space of the house does not have.
SLOTS = ("--device", "titanxp", "--space", "mbv2-cifar")
# Arguments by command; RUN, ENGINE and TABLE stand for those of the house. Long ones are planned only.
CALLS: dict[str, list[tuple[str, ...]]] = {
    "quickstart": [("--dry-run",)],
    "doctor": [()],
    "init": [("pipeline.yaml",)],
    "run": [("pipeline.yaml", "--dry-run")],
    "profile": [(*SMALL, "--preset", "quick", "--out", "again.hwlat.jsonl")],
    "predict": [("RUN", "--device", "fake")],
    "bench": [("RUN", "--device", "cpu", "--preset", "quick", "--max-time", "1s")],
    "count": [("RUN",)],
    "model": [("inspect", "RUN")],
    "table": [("list",), ("show", "TABLE"), ("validate", "TABLE"), ("diff", "TABLE", "TABLE")],
    "search": [(*BUDGET, *TINY, "--out", "other")],
    "plan": [("--latency-budget", "1ms", "--strategy", "hournas", "--table", "slots.hwlat.jsonl", *SLOTS)],
    "replay": [("log.json", "--strategy", "macromicro")],
    "train": [("resnet20", "--data", "digits", "--epochs", "0.05", "--limit", "100", "--out", "trained")],
    "export": [("RUN", "--format", "onnx"), ("RUN", "--format", "pt2"), ("RUN", "--format", "ort")],
    "verify": [("ENGINE",)],
    "report": [("RUN",)],
    "runs": [("list",), ("show", "RUN"), ("compare", "RUN", "RUN")],
    "devices": [()],
    "spaces": [()],
    "strategies": [()],
    "backends": [()],
    "benchmark": [("RUN", "--device", "cpu", "--images", "16")],
}


def _checked(*args: str) -> None:
    """Run a command that judges an engine: all must hold but the budget, which the real clock decides."""
    result = CliRunner().invoke(cli, [*args, "--json"])
    assert result.exit_code in (0, 5), f"{args}: {result.output}\n{result.exception!r}"
    body = json.loads(result.stdout)
    failed = {check["name"] for check in body["checks"] if not check["passed"]}
    assert failed <= {"budget"}, result.output
    assert (result.exit_code == 5) == bool(failed)


def test_every_command_is_tried() -> None:
    assert CALLS.keys() == COMMANDS.keys()


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "verify"])
def test_a_command_needs_no_network(
    fake: House, searched: dict[str, Any], tried: list[str], command: str
) -> None:
    names = {"RUN": searched["run"], "TABLE": searched["table"]}
    for args in CALLS.get(command, [()]):
        if command == "run":
            Path("pipeline.yaml").unlink(missing_ok=True)
            fake.run("init", "pipeline.yaml")
        elif command == "init":
            Path("pipeline.yaml").unlink(missing_ok=True)
        elif command == "plan":
            fake.run("profile", *SLOTS, "--estimate", "--out", "slots.hwlat.jsonl")
        elif command == "replay":
            Path("log.json").write_text(json.dumps(small_log()))
        given = (command, *(names.get(arg, arg) for arg in args))
        if command == "export":
            _checked(*given)
        else:
            fake.run(*given)
    assert tried == []


@pytest.mark.slow
def test_verify_needs_no_network(fake: House, searched: dict[str, Any], tried: list[str]) -> None:
    _checked("export", searched["run"], "--out", "apart")
    _checked("verify", "apart/engine.onnx", "--against", searched["run"])
    assert tried == []


def test_the_hook_sees_an_attempt(tried: list[str]) -> None:
    import socket

    with pytest.raises(OSError, match="blocked by a test"):
        socket.create_connection(("127.0.0.1", 9))
    assert tried


def test_openvino_reports_nothing_and_leaves_nothing_at_home(tmp_path: Path) -> None:
    """In a process of its own: it reports on import, and others here may have imported it."""
    pytest.importorskip("openvino", reason="needs hwnas[openvino]")
    home = tmp_path / "home"
    home.mkdir()
    code = (
        "import sys, os\n"
        "tried = []\n"
        "def hook(event, args):\n"
        f"    if event in {NETWORK | {'os.fork', 'os.forkpty', 'subprocess.Popen'}!r}:\n"
        "        tried.append(event)\n"
        "        raise OSError('blocked')\n"
        "from hwnas import backends\n"
        "from hwnas.nets import onnx\n"
        "from hwnas.store import read_network, data_dir\n"
        "spec = read_network(data_dir('examples') / 'networks' / 'resnet20.json')\n"
        "found = backends.get('openvino')\n"
        "setting = found.setting('cpu', 'fp32', 1, 1)\n"  # asks the system for its CPU
        "sys.addaudithook(hook)\n"
        "engine = found.build(onnx.network(spec), setting)\n"
        "engine.time(2)\n"
        "import openvino, time\n"
        "time.sleep(0.5)\n"  # reports are sent by a thread
        "print(tried)\n"
    )
    env = {**os.environ, "HOME": str(home)}
    env.pop("CI", None)  # there it would not report
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    assert out.stdout.strip() == "[]"
    assert [p for p in home.rglob("*") if p.is_file()] == []
