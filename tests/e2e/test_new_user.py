"""A folder of photographs to a verified engine, without an edit: `hwnas init`, `hwnas run`.

On the fake device, so that it is quick; `tests/campaign/new_user.py` is the same on a real one, from
``pip install`` on, timed.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from e2e_house import house

sys.path.insert(0, str(Path(__file__).parents[1] / "campaign"))
import photographs


@pytest.mark.slow
def test_photographs_to_a_verified_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = house(tmp_path, monkeypatch)
    corrupt = photographs.make(Path("photos"), 200, seed=0)
    begun = here.json("init")
    assert (begun["data"], begun["input"], begun["space"]) == ("folder:photos", [3, 64, 64], "auto")
    text = Path("hwnas.yaml").read_text()
    # The device is the one thing that this test changes; fewer images make it quick.
    text = text.replace("device: cpu", "device: fake").replace("max-time: 10min", "images: 1500")
    Path("hwnas.yaml").write_text(text)
    done = here.run("run", "hwnas.yaml")
    assert corrupt.name in done.stderr + done.stdout, "the corrupt photograph is named"
    (manifest,) = Path("runs/hwnas").glob("*.manifest.json")
    checks = json.loads(manifest.read_text())["checks"]
    assert checks
    assert all(check["passed"] for check in checks)
