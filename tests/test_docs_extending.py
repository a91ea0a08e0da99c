"""The packages of docs/extending.md, copied from the page, work through the command line."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from hwnas import plugins

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r'^```python title="(.*?)"\n(.*?)^```', PAGE, re.MULTILINE | re.DOTALL))
POINTS = [  # group, name, target
    (group, name, target)
    for block in re.findall(r"^```toml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    for group, body in re.findall(r'^\[project\.entry-points\."(.*?)"\]\n((?:.+\n)+)', block, re.MULTILINE)
    for name, target in re.findall(r'^(\S+) = "(.*)"$', body, re.MULTILINE)
]
SMALL = ("--device", "fake", "--preset", "quick", "--input", "3x16x16")


# One process for all commands: importing torch takes longer than most of them.
WORKER = """
import json, sys
from click.testing import CliRunner
from hwnas_cli.main import cli
for line in sys.stdin:
    done = CliRunner().invoke(cli, json.loads(line))
    print(json.dumps([done.exit_code, done.stdout, done.output]), flush=True)
"""


class Stranger:
    """hwnas with the package of the page on its path, as `pip install` would leave it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        path = os.pathsep.join([str(home / "site"), str(ROOT), os.environ.get("PYTHONPATH", "")])
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER],
            env={**os.environ, "PYTHONPATH": path, "HWNAS_HOME": str(home / "home")},
            cwd=home,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def __call__(self, *args: str, status: int = 0) -> dict[str, Any]:
        """The JSON object of a command that ends with `status`."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps([*args, "--json"]) + "\n")
        self.process.stdin.flush()
        ended, stdout, output = json.loads(self.process.stdout.readline())
        assert ended == status, output
        found: dict[str, Any] = json.loads(stdout)
        return found


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stranger]:
    home = tmp_path_factory.mktemp("stranger")
    for name, code in FILES.items():
        (home / "site" / name).parent.mkdir(parents=True, exist_ok=True)
        (home / "site" / name).write_text(code, encoding="utf-8")
    info = home / "site" / "my_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1.0\n")
    lines = [f"[{group}]\n{name} = {target}" for group, name, target in POINTS]
    (info / "entry_points.txt").write_text("\n".join(lines))
    found = Stranger(home)
    with found.process:
        yield found
        assert found.process.stdin is not None
        found.process.stdin.close()


def test_a_space_and_a_strategy_take_less_than_forty_lines() -> None:
    for name in ("my_package/spaces.py", "my_package/strategies.py"):
        assert len(FILES[name].splitlines()) < 40, name


def test_the_page_brings_one_of_each_group() -> None:
    assert {group.removeprefix("hwnas.") for group, _, _ in POINTS} == set(plugins.BUILT_IN)


def test_a_space_and_a_strategy(stranger: Stranger) -> None:
    # 8, 16 and 32 channels, 1 to 4 blocks in each of three stages.
    assert stranger("spaces", "show", "narrow")["members"] == 4**3
    options = {row["name"]: row for row in stranger("strategies", "show", "ladder")["options"]}
    assert (options["steps"]["default"], options["steps"]["low"]) == (3, 1)
    stranger("profile", *SMALL, "--space", "narrow")
    search = ("search", *SMALL, "--space", "narrow", "--strategy", "ladder", "--data", "digits")
    found = stranger(
        *search, "--latency-budget", "1ms", "--limit", "200", "--images", "300", "--set", "steps=2"
    )
    assert found["within_budget"]
    events = (stranger.home / "runs" / "latest" / "events.jsonl").read_text(encoding="utf-8")
    assert events.count("next step") >= 2
    refused = stranger(*search, "--latency-budget", "1ms", "--set", "steps=0", status=2)
    assert "steps is 0; expected an integer, at least 1" in refused["message"]


def test_a_block_kind_a_data_source_and_an_importance(stranger: Stranger) -> None:
    stranger(
        *("search", *SMALL, "--space", "fused", "--strategy", "stagewise", "--latency-budget", "1ms"),
        *("--data", "rings:far", "--importance", "coin", "--set", "begin=smallest", "--images", "600"),
    )
    network = (stranger.home / "runs" / "latest" / "network.json").read_text(encoding="utf-8")
    assert '"my-fused"' in network
    text = (stranger.home / "runs" / "latest" / "events.jsonl").read_text(encoding="utf-8")
    assert '"se": 0.01' in text or '"se":0.01' in text
    refused = stranger("search", "--latency-budget", "1ms", "--data", "ring:far", status=2)
    assert "did you mean 'rings'" in refused["message"]
    refused = stranger("search", "--latency-budget", "1ms", "--importance", "coim", status=2)
    assert "did you mean 'coin'" in refused["message"]


def search(stranger: Stranger) -> None:
    """A run of the strategy with a preparation, in the folder "dense"; again where it is there already."""
    stranger(
        *("search", *SMALL, "--space", "narrow", "--strategy", "dense-first", "--latency-budget", "1ms"),
        *("--data", "rings:", "--images", "600", "--max-trials", "1", "--out", "dense"),
    )


def test_a_strategy_with_a_preparation(stranger: Stranger) -> None:
    assert stranger("strategies", "show", "dense-first")["prepared"]
    search(stranger)
    kept = json.loads((stranger.home / "dense" / "preparation.json").read_text(encoding="utf-8"))
    assert len(kept["scores"]) == 4  # uniform members: 1 to 4 blocks in every stage


def test_a_backend_and_an_export_format(stranger: Stranger) -> None:
    row = next(row for row in stranger("backends")["backends"] if row["name"] == "plain")
    assert (row["available"], row["suffix"], row["devices"]) == (True, ".plain", ["cpu"])
    search(stranger)
    quick = ("--images", "12", "--latency-budget", "10s", "--patience", "1ms")
    body = stranger("export", "dense", "--format", "plain", *quick)
    assert body["engine"].endswith("engine.plain")
    assert body["setting"]["backend"] == "plain"
    assert body["passed"]
    assert stranger("verify", body["engine"], *quick)["passed"]
    refused = stranger("export", "dense", "--format", "plane", status=2)
    assert "did you mean 'plain'" in refused["message"]


def test_an_executor(stranger: Stranger) -> None:
    stranger(
        *("search", *SMALL, "--space", "narrow", "--strategy", "random", "--latency-budget", "1ms"),
        *("--data", "rings:", "--images", "300", "--max-trials", "2", "--executor", "in-turn"),
        *("--out", "in-turn"),
    )
    events = (stranger.home / "in-turn" / "events.jsonl").read_text(encoding="utf-8")
    assert "this very process" in events
    refused = stranger("search", "--latency-budget", "1ms", "--executor", "in-trun", status=2)
    assert "did you mean 'in-turn'" in refused["message"]


def test_an_importer_and_a_replay(stranger: Stranger) -> None:
    (stranger.home / "lats").write_text("8 0.25\n16 0.5\n")
    assert stranger("table", "import", "lats", "--format", "widths")["rows"] == 2
    steps = [{"chosen": 0.9, "accuracies": [0.8, 0.9]}, {"chosen": 0.7, "accuracies": [0.7, 0.8]}]
    (stranger.home / "log").write_text(json.dumps(steps))
    replayed = stranger("replay", "log", "--strategy", "trace")
    assert (replayed["candidates"], replayed["mismatches"]) == (2, 1)


def test_a_section_of_the_report(stranger: Stranger) -> None:
    search(stranger)
    page = Path(stranger("report", "dense")["path"])
    text = (stranger.home / page).read_text(encoding="utf-8")
    assert "Widest block" in text
    assert text.index("Widest block") > text.index("Accuracy against latency")


def test_inside_hwnas_each_is_one_file_and_one_line(tmp_path: Path) -> None:
    """Everything of the page in a copy of hwnas: where the page's table says, and a line of the registry."""
    copy = tmp_path / "hwnas"
    shutil.copytree(ROOT / "hwnas", copy, ignore=shutil.ignore_patterns("__pycache__"))
    row = r'^\| .*? \| `hwnas/([^`]*)/[^`/]*`.*? \| `plugins.BUILT_IN\["(\w+)"\]` \|'
    rooms = {group: room.replace("NAME", "mine") for room, group in re.findall(row, PAGE, re.MULTILINE)}
    assert set(rooms) == set(plugins.BUILT_IN)
    before = (copy / "plugins.py").read_text(encoding="utf-8")
    registry, wanted = before, []
    for entry, name, target in POINTS:
        group = entry.removeprefix("hwnas.")
        source, _, attribute = target.partition(":")
        module = f"hwnas.{rooms[group].replace('/', '.')}.added_{group}_{attribute}"
        code = FILES[f"{source.replace('.', '/')}.py"].replace(f"{source}:", f"{module}:")
        file = copy / rooms[group] / f"added_{group}_{attribute}.py"
        file.parent.mkdir(exist_ok=True)
        file.write_text(code, encoding="utf-8")
        begin = f'    "{group}": {{\n'
        registry = registry.replace(begin, f'{begin}        "{name}": "{module}:{attribute}",\n', 1)
        wanted.append((group, name))
    (copy / "plugins.py").write_text(registry, encoding="utf-8")
    assert len(registry.splitlines()) == len(before.splitlines()) + len(POINTS)
    code = f"from hwnas import plugins\nfor g, n in {wanted!r}: print(g, n, plugins.load(g, n).__module__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    print(done.stderr)
    assert [line.split()[:2] for line in done.stdout.splitlines()] == [list(pair) for pair in wanted]


@pytest.mark.parametrize("place", re.findall(r"\| `((?:\w+\.)+\w+)(?:\[\"(\w+)\"\])?` \|", PAGE))
def test_a_place_that_the_page_names_exists(place: tuple[str, str]) -> None:
    """A module, or a name in a module of hwnas, and its key."""
    name, key = place
    module, _, attribute = f"hwnas.{name}".rpartition(".")
    try:
        found = import_module(f"hwnas.{name}")
    except ModuleNotFoundError:
        found = getattr(import_module(module), attribute)
    assert found is not None
    assert not key or plugins.BUILT_IN[key]
