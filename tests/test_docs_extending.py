"""The package of docs/extending.md, copied from the page, works through the command line."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from hwnas import plugins

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")


def test_the_package_of_the_page_is_used_without_a_change(tmp_path: Path) -> None:
    site = tmp_path / "site"
    files = re.findall(r'^```python title="(.*?)"\n(.*?)^```', PAGE, re.MULTILINE | re.DOTALL)
    assert {name for name, _ in files} == {"my_package/spaces.py", "my_package/strategies.py"}
    for name, code in files:
        assert len(code.splitlines()) <= 40, name
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_text(code, encoding="utf-8")
    # What `pip install` would leave: the entry points of the page's TOML.
    (toml,) = re.findall(r"^```toml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    info = site / "my_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1.0\n")
    points = re.sub(r'\[project\.entry-points\."(.*)"\]', r"[\1]", toml).replace('"', "")
    (info / "entry_points.txt").write_text(points)

    def hwnas(*args: str) -> dict[str, Any]:
        env = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(site), str(ROOT), os.environ.get("PYTHONPATH", "")]),
            "HWNAS_HOME": str(tmp_path / "home"),
        }
        command = [sys.executable, "-c", "from hwnas_cli.main import cli; cli()", *args, "--json"]
        done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    # 8 + 16 + 32 channels, 1 to 4 blocks in each of three stages.
    assert hwnas("spaces", "show", "narrow")["members"] == 4**3
    small = ("--device", "fake", "--space", "narrow")
    hwnas("profile", *small, "--preset", "quick", "--input", "3x16x16")
    search = ("search", *small, "--strategy", "ladder", "--data", "digits", "--input", "3x16x16")
    found = hwnas(*search, "--latency-budget", "1ms", "--limit", "200", "--images", "300", "--set", "steps=2")
    assert found["within_budget"]
    events = (tmp_path / "runs" / "latest" / "events.jsonl").read_text(encoding="utf-8")
    assert events.count("next step") >= 2


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
