"""The registry: every group from outside, no silent shadowing, a broken package hurts itself alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from hwnas import plugins

ROOT = Path(__file__).resolve().parents[3]


def install(site: Path, package: str, points: dict[str, str], **modules: str) -> None:
    """What `pip install` would leave of a package."""
    for name, code in modules.items():
        site.mkdir(parents=True, exist_ok=True)
        (site / f"{name}.py").write_text(code)
    info = site / f"{package}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    text = "".join(f"[hwnas.{group}]\n{line}\n" for group, line in points.items())
    (info / "entry_points.txt").write_text(text)


class Ended(NamedTuple):
    """How a command ended."""

    status: int
    stdout: str
    stderr: str


# One process for the commands of a test: importing torch takes longer than most of them.
WORKER = """
import json, sys
from click.testing import CliRunner
from hwnas_cli.main import cli
for args in json.loads(sys.argv[1]):
    done = CliRunner().invoke(cli, args, prog_name="hwnas")
    print(json.dumps([done.exit_code, done.stdout, done.stderr]), flush=True)
"""


def hwnas(site: Path, *commands: str) -> list[Ended]:
    """Commands in their turn, in an interpreter that finds the packages of `site`."""
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(site), str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "HWNAS_HOME": str(site.parent / "home"),
    }
    given = json.dumps([command.split() for command in commands])
    command = [sys.executable, "-c", WORKER, given]
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=site.parent)
    ends = [Ended(*json.loads(line)) for line in done.stdout.splitlines()]
    assert len(ends) == len(commands), done.stdout + done.stderr
    return ends


RINGS = """
import numpy as np
from pathlib import Path
def rings(where, shape):
    Path("read-rings").write_text(where)
    rng = np.random.default_rng(0)
    labels = np.arange(120) % 3
    images = rng.integers(0, 80, (120, 16, 16, 3)) + 80 * labels[:, None, None, None]
    return {"images": images.astype(np.uint8), "labels": labels}
"""
TABLE = """
from hwnas.measure.rows import BlockRow, Header
from hwnas.measure.table import LatencyTable
from hwnas.records import Setting
from hwnas.spec import BlockSpec
def copied(text):
    setting = Setting(device="mine", backend="paper", batch=4, provenance="imported")
    table = LatencyTable(Header(setting=setting, space="s", input_shape=(3, 8, 8), classes=10, source=""))
    for line in text.splitlines():
        width, ms = line.split()
        block = BlockSpec(kind="conv", c_in=3, c_out=int(width), size_in=8)
        table.add(BlockRow(block=block, value_ms=float(ms), method="imported"))
    return table
"""
REPLAY = """
def replay(path):
    return {"candidates": len(path.read_text().split()), "mismatches": 0, "mismatch_details": []}
"""
PRICE = """
from pathlib import Path
from hwnas.search.importance.probe import Probe
def price(*, images, autocast):
    Path("judged").write_text(str(images))
    return Probe(images=images, autocast=autocast)
"""


@pytest.mark.slow
def test_a_data_source_and_an_importance_from_outside_are_searched_with(tmp_path: Path) -> None:
    site = tmp_path / "site"
    install(
        site,
        "mine",
        {"datasets": "rings = rings:rings", "importances": "price = price:price"},
        rings=RINGS,
        price=PRICE,
    )
    small = "--device fake --space resnet-cifar --json"
    wanted = (
        "--strategy stagewise --importance price --set begin=smallest --latency-budget 0.12ms --max-trials 2"
    )
    profile, search, slip = hwnas(
        site,
        f"profile {small} --preset quick --input 3x16x16",
        f"search {small} {wanted} --data rings:far --images 600",
        f"search {small} --latency-budget 1ms --data ring:far",
    )
    assert profile.status == 0, profile.stderr
    assert search.status == 0, search.stdout + search.stderr
    assert (tmp_path / "read-rings").read_text() == "far"
    assert int((tmp_path / "judged").read_text()) > 0
    assert slip.status == 2
    assert "did you mean 'rings'" in slip.stdout + slip.stderr


def test_an_importer_from_outside_reads_a_table(tmp_path: Path) -> None:
    site = tmp_path / "site"
    install(site, "mine", {"importers": "copied = copied:copied"}, copied=TABLE)
    (tmp_path / "lats").write_text("8 0.25\n16 0.5\n")
    done, slip = hwnas(
        site, "table import lats --format copied --json", "table import lats --format copeid --json"
    )
    assert done.status == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["rows"] == 2
    assert "mine" in json.loads(done.stdout)["conditions"]
    assert slip.status == 2
    assert "did you mean 'copied'" in slip.stdout + slip.stderr


def test_a_replay_from_outside_reads_a_log(tmp_path: Path) -> None:
    site = tmp_path / "site"
    install(site, "mine", {"replays": "three = three_replay:replay"}, three_replay=REPLAY)
    (tmp_path / "log").write_text("a b c")
    (done,) = hwnas(site, "replay log --strategy three --json")
    assert done.status == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["candidates"] == 3


def test_a_built_in_name_keeps_its_meaning_and_the_other_package_is_named(tmp_path: Path) -> None:
    site = tmp_path / "site"
    install(site, "taker", {"spaces": "resnet-cifar = nowhere:nothing"})
    (done,) = hwnas(site, "spaces show resnet-cifar --json")
    assert done.status == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["available"] is True
    assert "package taker registers the space 'resnet-cifar', which is a built-in name" in done.stderr


def test_a_name_of_two_packages_is_refused_with_both(tmp_path: Path) -> None:
    site = tmp_path / "site"
    install(site, "first", {"spaces": "twin = a:a"})
    install(site, "second", {"spaces": "twin = b:b"})
    (done,) = hwnas(site, "spaces show twin --json")
    assert done.status == 2
    assert "registered by first and by second" in done.stdout + done.stderr


def test_a_broken_package_is_named_and_hurts_nobody_else(tmp_path: Path) -> None:
    site = tmp_path / "site"
    groups = ("spaces", "strategies", "backends")
    install(site, "wreck", dict.fromkeys(groups, "broken = wreck:Thing"), wreck="raise ValueError('no luck')")
    for group, done in zip(groups, hwnas(site, *(f"{group} --json" for group in groups))):
        assert done.status == 0, done.stdout + done.stderr
        rows = {row["name"]: row for row in json.loads(done.stdout)[group]}
        assert not rows["broken"]["available"]
        assert (
            "of package wreck (wreck:Thing) cannot be loaded: ValueError: no luck" in rows["broken"]["reason"]
        )
        assert sum(row["available"] for row in rows.values()) >= 1


ODD = """
def fails(*args, **kwargs):
    raise KeyError("odd")
def gives(*args, **kwargs):
    return 3
class Half:
    name = "half"
from hwnas.nets.spaces import resnet_cifar
class Space:
    def __init__(self, **given):
        self._real = resnet_cifar(**given)
        self.name = "odd"
    def __getattr__(self, name):
        return getattr(self._real, name)
    def __contains__(self, spec):
        return True
    def blocks(self):
        return {}["blocks"]
    def sample(self, rng): return self._real.sample(rng)
    def mutate(self, spec, rng): return spec
    def smallest(self): return self._real.smallest()
    def uniform(self): return self._real.uniform()
    def grow(self, spec): return self._real.grow(spec)
class Sayer:
    name, suffix, devices = "sayer", ".s", ("cpu",)
    setting = build = load = forms = gives
    def unavailable(self):
        raise RuntimeError("boom")
"""
# Group, what is registered, a command that uses it ({} is the name), and what is said of it.
WRONG = [
    ("spaces", "odd:fails", "spaces show {}", "of package odd (odd:fails) cannot be made: KeyError: 'odd'"),
    ("spaces", "odd:gives", "spaces show {}", "is made as int; expected"),
    ("formats", "odd:fails", "export x --format {}", "is registered as function; expected"),
    ("backends", "odd:Half", "bench resnet20 --backend {}", "lacks suffix, devices, unavailable, setting"),
    (
        "importers",
        "odd:fails",
        "table import lines.txt --format {}",
        "cannot read lines.txt: KeyError: 'odd'",
    ),
    ("importers", "odd:gives", "table import lines.txt --format {}", "gives int; expected"),
    ("spaces", "odd:Space", "spaces show {}", "package odd failed (odd.blocks, line "),
    ("replays", "odd:fails", "replay lines.txt --strategy {}", "cannot replay lines.txt: KeyError: 'odd'"),
    ("replays", "odd:gives", "replay lines.txt --strategy {}", "'int' object is not iterable"),
    ("strategies", "odd:gives", "search --latency-budget 1ms --data digits --strategy {}", "not a subclass"),
    ("spaces", "exits:x", "spaces show {}", "of package odd (exits:x) cannot be loaded: SystemExit: bye"),
]


def test_what_is_wrong_with_a_package_is_one_sentence_that_names_it(tmp_path: Path) -> None:
    site = tmp_path / "site"
    points: dict[str, list[str]] = {"backends": ["sayer = odd:Sayer"], "blocks": ["we ird/../x = odd:gives"]}
    for at, (group, target, _, _) in enumerate(WRONG):
        points.setdefault(group, []).append(f"wrong{at} = {target}")
    lines = {group: "\n".join(found) for group, found in points.items()}
    install(site, "odd", lines, odd=ODD, exits="raise SystemExit('bye')")
    (tmp_path / "lines.txt").write_text("")
    commands = [command.format(f"wrong{at}") for at, (_, _, command, _) in enumerate(WRONG)]
    *ends, listed = hwnas(site, *(f"{command} --json" for command in commands), "backends --json")
    for (group, target, _, said), end in zip(WRONG, ends):
        assert end.status == 2, (group, target, end)
        assert said in end.stdout, (group, target, end)
    rows = {row["name"]: row for row in json.loads(listed.stdout)["backends"]}
    assert "cannot say whether it works here: RuntimeError: boom" in rows["sayer"]["reason"]
    assert rows["fake"]["available"]
    (shown,) = hwnas(site, "count resnet20")  # in a process that has not said it yet
    assert shown.status == 0
    assert "Warning: package odd registers the block kind 'we ird/../x', which is left out" in shown.stderr
    assert "UserWarning" not in shown.stderr


def test_every_built_in_line_leads_somewhere() -> None:
    assert set(plugins.SINGULAR) == set(plugins.BUILT_IN)
    for group in plugins.BUILT_IN:
        for name in plugins.BUILT_IN[group]:
            assert plugins.load(group, name) is not None
