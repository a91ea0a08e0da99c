"""Every end of a command is a sentence and a status, and one object where JSON was asked for."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from hwnas.errors import BudgetInfeasible, DataFormatError
from hwnas_cli import main
from hwnas_cli.console import Output, common
from hwnas_cli.endings import explain


def plant(monkeypatch: pytest.MonkeyPatch, body: Callable[[Output], None]) -> None:
    @click.command("boom")
    @common
    def boom(ui: Output) -> None:
        body(ui)

    monkeypatch.setitem(main.COMMANDS, "boom", ("tests:boom", "Fails."))
    planted = main.command_of
    monkeypatch.setattr(main, "command_of", lambda name: boom if name == "boom" else planted(name))


def run(*args: str) -> Result:
    return CliRunner().invoke(main.cli, list(args), prog_name="hwnas")


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/a/b"), 2, "/a/b: no space is left"),
        (OSError(errno.EROFS, "Read-only file system", "/a/b"), 2, "/a/b: the file system is read-only"),
        (PermissionError(errno.EACCES, "Permission denied", "/a/b"), 2, "/a/b: permission denied"),
        (IsADirectoryError(errno.EISDIR, "Is a directory", "x"), 2, "x: it is a folder"),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "x"), 2, "x: it is a file or lies below"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "x"), 2, "x: the name is too long"),
        (OSError(errno.ELOOP, "Too many levels of symbolic links", "x"), 2, "x: its symbolic links form"),
        (FileNotFoundError(errno.ENOENT, "No such file", "x"), 2, "x: it does not exist"),
        (FileNotFoundError(errno.ENOENT, "No such file", "x", None, "y"), 2, "x to y: it does not exist"),
        (OSError(errno.EBADF, "Bad file descriptor"), 2, "standard streams: a standard stream is closed"),
        (OSError("cannot identify image file"), 6, "cannot identify image file"),
        (MemoryError(), 6, "not enough memory"),
        (RecursionError("maximum recursion depth exceeded"), 6, "nested too deeply"),
        (UnicodeDecodeError("utf-8", b"\xe9", 0, 1, "unexpected end"), 6, "not text in utf-8"),
        (UnicodeEncodeError("utf-8", "d\udce9", 1, 2, "surrogates not allowed"), 2, "rename it"),
        (json.JSONDecodeError("Expecting value", "", 0), 6, "damaged"),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), 141, "has ended"),
        (KeyboardInterrupt(), 130, "Interrupted"),
        (DataFormatError("table x is damaged"), 6, "table x is damaged"),
        (ZeroDivisionError("a bug"), 1, "internal error: ZeroDivisionError: a bug"),
    ],
)
def test_each_error_has_a_sentence_and_a_status(error: BaseException, status: int, words: str) -> None:
    text, found = explain(error)
    assert found == status
    assert words in text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ZeroDivisionError("a bug"), 1),
        (OSError(errno.ENOSPC, "No space left on device", "/a"), 2),
        (BudgetInfeasible("nothing fits", smallest_ms=0.5), 3),
        (MemoryError(), 6),
        (KeyboardInterrupt(), 130),
    ],
)
def test_json_holds_one_object_at_every_end(
    error: BaseException, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(ui: Output) -> None:
        raise error

    plant(monkeypatch, fail)
    result = run("boom", "--json")
    assert result.exit_code == status
    body = json.loads(result.stdout)
    assert body["schema"] == "hwnas.error/1"
    assert body["exit_status"] == status
    assert ("Traceback" in result.stderr) == (status == 1)
    assert body.get("smallest_ms") == (0.5 if status == 3 else None)


@pytest.mark.parametrize(
    "args",
    [("--nothing", "--json"), ("cuont", "--json"), ("count", "--json"), ("count", "--threads", "--json")],
)
def test_usage_errors_are_objects_too(args: tuple[str, ...]) -> None:
    result = run(*args)
    assert result.exit_code == 2
    assert json.loads(result.stdout)["exit_status"] == 2


def test_an_error_after_the_result_prints_no_second_object(monkeypatch: pytest.MonkeyPatch) -> None:
    def late(ui: Output) -> None:
        ui.result("hwnas.x/1", {"a": 1}, lambda: None)
        raise KeyboardInterrupt

    plant(monkeypatch, late)
    result = run("boom", "--json")
    assert result.exit_code == 130
    assert json.loads(result.stdout) == {"schema": "hwnas.x/1", "a": 1}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_standard_output_is_told() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "hwnas_cli.main", "spaces", "list"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert done.returncode == 2
    assert done.stderr.startswith("Error: a file: no space is left")
    assert "Traceback" not in done.stderr


def test_a_reader_that_went_away_is_no_error_to_talk_of() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "hwnas_cli.main", "spaces", "list"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 141


@pytest.mark.parametrize(
    "args",
    [
        ("profile", "--threads", "0"),
        ("profile", "--threads", "99999999999999999999"),
        ("profile", "--batch", "100000000"),
        ("profile", "--input", "3x9999999x9999999"),
        ("profile", "--input", f"3x{'9' * 5000}x1"),
        ("train", "resnet20", "--data", "digits", "--epochs", "nan"),
        ("train", "resnet20", "--data", "digits", "--epochs", "inf"),
        ("search", "--latency-budget", f"{'9' * 400}ms"),
        ("search", "--latency-budget", "nanms"),
        ("search", "--latency-budget", "1ms", "--max-time", f"{'9' * 400}h"),
        ("search", "--latency-budget", "1ms", "--seed", "-1"),
        ("search", "--latency-budget", "1ms", "--seed", "9" * 30),
        ("search", "--latency-budget", "1ms", "--recipe", "lr=nan"),
        ("search", "--latency-budget", "1ms", "--recipe", "lr=NaN"),
        ("search", "--latency-budget", "1ms", "--recipe", "lr=abc"),
        ("search", "--latency-budget", "1ms", "--recipe", "augment=none"),
        ("search", "--latency-budget", "1ms", "--recipe", "batch=2.5"),
        ("search", "--latency-budget", "1ms", "--recipe", "momentum=true"),
        ("search", "--latency-budget", "1ms", "--set", "rounds=0"),
        ("search", "--latency-budget", "1ms", "--set", "confidence=2"),
        ("search", "--latency-budget", "1ms", "--set", f"rounds={'9' * 5000}"),
        ("search", "--latency-budget", "1ms", "--set", "confidence=1e999"),
    ],
)
def test_values_are_bounded_before_anything_starts(
    args: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No table and no data exist here: reaching for one would be another error (6)."""
    monkeypatch.setenv("HWNAS_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    result = run(*args)
    assert result.exit_code == 2, result.stderr
    assert "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_no_file_takes_the_number_of_a_closed_stream(tmp_path: Path) -> None:
    """A library that prints would write into it."""
    script = tmp_path / "closed.py"
    script.write_text(
        "import os\n"
        "from hwnas_cli.endings import occupy\n"
        "for number in (0, 1, 2):\n    os.close(number)\n"
        "occupy()\n"
        "file = os.open('mine', os.O_CREAT | os.O_WRONLY)\n"
        "os.write(1, b'a library')\n"
        "os.write(file, str(file).encode())\n"
    )
    subprocess.run([sys.executable, str(script)], cwd=tmp_path, check=True)
    assert int((tmp_path / "mine").read_text()) > 2
