"""The long commands, each small enough for a second, and what of their results must be equal."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from formats import DATA, FAKE, RECIPE

SEARCHES = {
    "uniform": "tiny",
    "random": "tiny",
    "tpe": "tiny",
    "stagewise": "tiny",
    "auto": "tiny",
    "hournas": "tiny",
    "macromicro": "tiny-macromicro",
    "densenas": "densenas-cifar",
}
TABLES = {"tiny": "t", "tiny-macromicro": "m", "densenas-cifar": "d"}
PIPELINE = f"""
run: p
profile: {{device: fake, space: tiny, input: 1x8x8, preset: quick}}
search: {{latency-budget: 0.05ms, device: fake, space: tiny, input: 1x8x8, preset: quick, data: digits,
  limit: 80, images: 160, strategy: random, recipe: {[pair for pair in RECIPE if "=" in pair]}}}
export: {{format: onnx, verify: false}}
report: {{}}
"""


HERE = ("--device", "fake", "--backend", "fake")


@dataclass(frozen=True)
class Job:
    """A command that may be cut off anywhere and repeated.

    Attributes:
        name: in the table of figures.
        argv: the command.
        result: what it left in a folder, without times; equal after a resume.
    """

    name: str
    argv: tuple[str, ...]
    result: Callable[[Path], Any]


def _bytes(*names: str) -> Callable[[Path], Any]:
    return lambda folder: [hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names]


def _searched(name: str) -> Callable[[Path], Any]:
    """Every trial, the winner, its weights."""

    def result(folder: Path) -> Any:
        body = json.loads((folder / name / "result.json").read_text())
        trials = [
            (t["index"], t["spec"], t["state"], (t["evaluation"] or {}).get("accuracy"),
             (t["evaluation"] or {}).get("loss"), (t["evaluation"] or {}).get("weights_sha256"))
            for t in body["trials"]
        ]  # fmt: skip
        return [
            trials,
            body["best"],
            body["accuracy"],
            body["stopped"],
            *_bytes(f"{name}/weights.safetensors")(folder),
        ]

    return result


def _profiled(name: str) -> Callable[[Path], Any]:
    """Every row's time, to a hundredth of a percent: sessions are in another order after a kill."""

    def result(folder: Path) -> Any:
        found = {}
        for line in (folder / name).read_text().splitlines():
            row = json.loads(line)
            if row["row"] == "block":
                found[json.dumps(row["block"])] = float(f"{row['value_ms']:.4g}")
            elif row["row"] == "network":
                found[json.dumps(row["spec"])] = float(f"{row['measurement']['floor_ms']:.4g}")
        return [sorted(found.items()), row["row"]]

    return result


def _trained(folder: Path) -> Any:
    body = json.loads((folder / "tr" / "result.json").read_text())
    return [body["accuracy"], body["loss"], *_bytes("tr/weights.safetensors")(folder)]


def _there(name: str) -> Callable[[Path], Any]:
    return lambda folder: (folder / name).stat().st_size > 0


def _piped(folder: Path) -> Any:
    return [
        _searched("p")(folder),
        (folder / "p" / "engine.onnx").is_file(),
        (folder / "p" / "report.html").is_file(),
    ]


def search(strategy: str, out: str | None = "new") -> tuple[str, ...]:
    """A small search."""
    space = SEARCHES[strategy]
    budget = "0.05ms" if space == "tiny" else "0.1ms"
    where = () if out is None else ("--out", out)
    return (
        *("search", *FAKE, "--space", space, "--latency-budget", budget, *DATA, "--images", "160", *RECIPE),
        *("--table", f"{TABLES[space]}.hwlat.jsonl", "--strategy", strategy, *where),
    )


def jobs() -> list[Job]:
    """Every long command; the folder that they start in holds tables and a finished search ``s``."""
    profile = ("profile", *FAKE, "--space", "tiny", "--out", "new.hwlat.jsonl")
    found = [Job("profile", profile, _profiled("new.hwlat.jsonl"))]
    found += [Job(f"search {name}", search(name), _searched("new")) for name in SEARCHES]
    found += [
        Job("train", ("train", "s", "--epochs", "2", *RECIPE, "--out", "tr"), _trained),
        Job("export", ("export", "s", "--format", "onnx", *HERE, "--images", "8"), _bytes("s/engine.onnx")),
        Job("export ort", ("export", "s", "--format", "ort", "--no-verify"), _there("s/engine.ort")),
        Job("bench", ("bench", "s", "--device", "fake", "--preset", "quick"), lambda folder: True),
        Job("report", ("report", "s"), _there("s/report.html")),
        Job("table import", ("table", "import", "t.hwlat.jsonl", "--out", "i.hwlat.jsonl"),
            _bytes("i.hwlat.jsonl")),
        Job("init", ("init", "new.yaml", "--force"), _bytes("new.yaml")),
        Job("run", ("run", "p.yaml"), _piped),
    ]  # fmt: skip
    return found
