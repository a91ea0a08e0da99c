"""What every command shares: units, exit statuses, --json, --config, where words go."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from hwnas import errors, locks
from hwnas.traced import own_function
from hwnas_cli import config, main, options
from hwnas_cli.console import Output, common


def run(*args: str) -> Any:
    return CliRunner().invoke(main.cli, list(args))


def plant(monkeypatch: pytest.MonkeyPatch, command: click.Command) -> None:
    """Make `hwnas <name>` run a command of the test's own."""
    module = type(sys)("planted")
    module.command = command  # type: ignore[attr-defined]  # a module made for the test
    monkeypatch.setitem(sys.modules, "planted", module)
    monkeypatch.setitem(main.COMMANDS, str(command.name), ("planted:command", ""))


def raising(error: BaseException) -> click.Command:
    @click.command("boom")
    @common
    def boom(ui: Output) -> None:
        raise error

    return boom


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.InputError("bad"), 2),
        (errors.BudgetInfeasible("too small", smallest_ms=0.25), 3),
        (errors.BackendUnavailable("no trt"), 4),
        (errors.DeviceUnavailable("no titanxp"), 4),
        (errors.VerificationFailed("differs"), 5),
        (errors.DataFormatError("damaged"), 6),
        (errors.MissingMeasurement("no row"), 6),
        (errors.StaleTable("old"), 6),
        (errors.BuildError("refused"), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_errors_become_the_documented_status(
    monkeypatch: pytest.MonkeyPatch, error: BaseException, status: int
) -> None:
    plant(monkeypatch, raising(error))
    result = run("boom")
    assert result.exit_code == status
    assert "Traceback" not in result.output
    if status != 130:
        assert f"Error: {error}" in result.stderr
    assert result.stdout == ""


def test_an_error_under_json_is_one_object(monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, raising(errors.BudgetInfeasible("too small", smallest_ms=0.25)))
    result = run("boom", "--json")
    assert result.exit_code == 3
    body = json.loads(result.stdout)
    assert body["schema"] == "hwnas.error/1"
    assert body["smallest_ms"] == 0.25
    assert body["exit_status"] == 3


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, raising(ZeroDivisionError("a bug")))
    result = run("boom")
    assert result.exit_code == 1
    assert result.stderr.rstrip().endswith("ZeroDivisionError: a bug")
    assert "Traceback" in result.stderr


def test_verbose_shows_where_an_error_arose(monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, raising(errors.DataFormatError("damaged")))
    result = run("boom", "-v")
    assert result.exit_code == 6
    assert "Traceback" in result.stderr


@pytest.mark.parametrize("args", [["serch"], ["runs", "rm"], ["count", "--nosuch", "x"], ["count"]])
def test_usage_errors_exit_2(args: list[str]) -> None:
    assert run(*args).exit_code == 2


def test_an_unknown_command_names_the_nearest() -> None:
    assert "did you mean 'search'" in run("serch").stderr


@click.command("measureit")
@options.options(options.max_time, options.input_shape, options.space, options.threads, options.device)
@common
def measureit(ui: Output, **values: Any) -> None:
    body = options.given(**values)
    ui.emit("progress", {"task": "measuring", "done": 1, "total": 1})
    ui.emit("note", {"text": "a word"})
    ui.emit("debug", {"text": "a detail"})
    ui.result("hwnas.test/1", {"values": body}, lambda: click.echo("for people"))
    ui.next("hwnas search")


def test_json_is_the_only_thing_on_stdout(monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, measureit)
    result = run("measureit", "--json", "--max-time", "10min", "--input", "3x32x32")
    assert json.loads(result.stdout) == {
        "schema": "hwnas.test/1",
        "values": {"max_time": 600.0, "input_shape": [3, 32, 32]},
    }
    assert result.stderr.splitlines() == ["a word", "measuring: 1 of 1, in 0.0 s"]


def test_quiet_and_verbose(monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, measureit)
    assert run("measureit", "-q").output == "for people\n"
    assert "a detail" in run("measureit", "-v").stderr
    assert run("measureit").stderr.splitlines()[-1] == "Next: hwnas search"


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--max-time", "10"], "10min"),
        (["--max-time", "10parsecs"], "unknown unit"),
        (["--input", "32"], "3x32x32"),
        (["--input", "3x32x0"], "positive"),
        (["--space", "resnet-cifr"], "did you mean 'resnet-cifar'"),
        (["--threads", "0"], "--threads"),
    ],
)
def test_a_bad_value_says_what_to_write(monkeypatch: pytest.MonkeyPatch, args: list[str], words: str) -> None:
    plant(monkeypatch, measureit)
    result = run("measureit", *args)
    assert result.exit_code == 2
    assert words in result.stderr


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.yaml", "max-time: 10min\nthreads: 2\n"),
        ("a.toml", 'max_time = "10min"\nthreads = 2\n'),
        ("sections.yaml", "measureit: {max-time: 10min, threads: 2}\nsearch: {data: digits}\n"),
    ],
)
def test_options_from_a_file_and_flags_win(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, text: str
) -> None:
    plant(monkeypatch, measureit)
    (tmp_path / name).write_text(text)
    result = run("measureit", "--json", "--config", str(tmp_path / name), "--threads", "1")
    assert json.loads(result.stdout)["values"] == {"max_time": 600.0, "threads": 1}


def test_a_file_that_the_environment_names_is_read_where_no_other_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plant(monkeypatch, measureit)
    (tmp_path / "usual.yaml").write_text("measureit: {max-time: 10min, threads: 2}\n")
    (tmp_path / "other.yaml").write_text("threads: 3\n")
    monkeypatch.setenv("HWNAS_CONFIG", str(tmp_path / "usual.yaml"))
    usual = run("measureit", "--json")
    assert json.loads(usual.stdout)["values"] == {"max_time": 600.0, "threads": 2}
    other = run("measureit", "--json", "--config", str(tmp_path / "other.yaml"))
    assert json.loads(other.stdout)["values"] == {"threads": 3}
    monkeypatch.setenv("HWNAS_CONFIG", str(tmp_path / "absent.yaml"))
    assert "does not exist" in run("measureit").stderr


@pytest.mark.parametrize(
    ("name", "text", "status", "words"),
    [
        ("a.yaml", "max-tyme: 10min\n", 2, "did you mean 'max-time'"),
        ("a.yaml", "max-time: 10\n", 2, "10min"),
        ("a.yaml", "- 1\n", 6, "not a mapping"),
        ("a.yaml", "a: [\n", 6, "not valid YAML"),
        ("a.toml", "a = [", 6, "not valid TOML"),
        ("a.json", "{}", 2, "must end in .yaml or .toml"),
        ("a.yaml", "measureit: {threads: 1}\nserch: {data: digits}\n", 2, "did you mean 'search'"),
        ("a.yaml", "measureit: {threads: 1}\ncommon: {treads: 2}\n", 2, "did you mean 'threads'"),
        (None, "", 2, "does not exist"),
    ],
)
def test_a_bad_config_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str | None, text: str, status: int, words: str
) -> None:
    plant(monkeypatch, measureit)
    path = tmp_path / (name or "absent.yaml")
    if name:
        path.write_text(text)
    result = run("measureit", "--config", str(path))
    assert result.exit_code == status
    assert words in result.stderr


def test_common_options_of_a_sectioned_file(monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, measureit)
    body = {"common": {"threads": 2, "space": "resnet-cifar"}, "measureit": {"space": "mbv2-cifar"}}
    assert config.defaults_for(measureit, body, "file") == {"threads": 2, "space": "mbv2-cifar"}


def test_help_is_fast() -> None:
    """Under 0.4 s; the least of several, since other work on the machine only ever adds time."""

    def once() -> float:
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "hwnas_cli.main", "--help"], check=True, capture_output=True)
        return time.perf_counter() - start

    assert min(once() for _ in range(5)) < 0.4


@pytest.mark.parametrize("name", sorted(main.COMMANDS))
def test_every_command_has_help_without_heavy_imports(name: str) -> None:
    code = (
        "import sys; from hwnas_cli.main import cli\n"
        f"try: cli([{name!r}, '--help'])\n"
        "except SystemExit as e: assert e.code == 0, e.code\n"
        "heavy = [m for m in ('torch', 'onnxruntime', 'onnx', 'sklearn', 'tensorrt') if m in sys.modules]\n"
        "assert heavy == [], heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Usage: " in done.stdout


def test_ctrl_c_exits_130(tmp_path: Path) -> None:
    code = (
        "import signal, sys, types, click, time; from hwnas_cli import main\n"
        # A shell without job control starts its background jobs, a test run among them, deaf to it.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from hwnas_cli.console import common\n"
        "@click.command('wait')\n"
        "@common\n"
        "def wait(out):\n"
        f"    out.emit('run', {{'run': {str(tmp_path)!r}, 'text': 'ready'}}); time.sleep(60)\n"
        "sys.modules['planted'] = types.SimpleNamespace(wait=wait)\n"
        "main.COMMANDS['wait'] = ('planted:wait', '')\n"
        "main.cli(['wait'])\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) as child:
        assert child.stderr is not None
        assert child.stderr.readline() == "ready\n"
        os.kill(child.pid, signal.SIGINT)
        try:
            _, rest = child.communicate(timeout=30)
        finally:
            child.kill()
    assert child.returncode == 130
    assert f"--out {tmp_path}" in rest


def test_what_an_option_sets_ends_with_the_command() -> None:
    """A program, as these tests, may call several commands in one process."""
    done = run("export", "nothing", "--format", "onnx", "--model", "mine.py:build", "--wait", "1s")
    assert done.exit_code == 2
    assert (own_function.get(), locks.patience_s.get()) == ("", 0.0)
