"""A small good file of every format that hwnas reads, and a command that reads it."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import tiny

FAKE = ("--device", "fake", "--input", "1x8x8", "--preset", "quick")
RECIPE = tuple(
    word for pair in ("batch=16", "threads=1", "lr=0.05", "checkpoint_s=0") for word in ("--recipe", pair)
)
DATA = ("--data", "digits", "--limit", "80")
PROFILE = ("profile", *FAKE, "--space", "tiny")
SEARCH = (
    *("search", *FAKE, "--space", "tiny", "--latency-budget", "0.05ms", *DATA, "--images", "160", *RECIPE),
    *("--table", "t.hwlat.jsonl", "--strategy", "random"),
)
TRAIN = ("train", "s", "--epochs", "1", *RECIPE)


@dataclass(frozen=True)
class Format:
    """A file to damage.

    Attributes:
        name: of the format, and of what is looked at.
        house: folder that holds everything that the command reads.
        file: the file to damage, within the house.
        argv: the command.
        own: whether hwnas itself wrote it to go on from: then a damaged one is refused, or does not
            change `figures` of what the command prints.
        lies: "lines" or "object" where damage with right hashes is tried instead.
        copy: whether the command changes the house, which is then made anew each time.
    """

    name: str
    house: Path
    file: str
    argv: tuple[str, ...]
    own: bool = False
    lies: str = ""
    copy: bool = False

    def figures(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """What of an answer must not depend on damage."""
        return {name: _plain(body[name]) for name in FIGURES if name in body}


# What commands answer about results; times of the day, seconds spent and paths differ each time.
FIGURES = (
    "rows", "blocks", "networks", "best", "accuracy", "trials", "trained", "train_macs",
    "within_budget", "loss", "train_loss", "images", "engine_sha256", "weights_sha256", "data", "steps",
)  # fmt: skip
_TIMES = ("_s", "seconds", "taken_at", "created", "finished", "path", "run", "median_ms", "p95_ms")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items() if not k.endswith(_TIMES)}
    return [_plain(v) for v in value] if isinstance(value, list) else value


def made(folder: Path) -> list[Format]:
    """Make good files under `folder` by commands in forked children."""
    folder.mkdir(parents=True, exist_ok=True)

    def done(*argv: str, at: Path = folder) -> None:
        status = tiny.run(argv, at, folder.parent / "log", environment=environment(at))
        assert status == 0, f"{argv}: {(folder.parent / 'log.err').read_text()[-2000:]}"

    done(*PROFILE, "--out", "t.hwlat.jsonl")
    done(*SEARCH, "--out", "s")
    return [*_texts(folder, done), *_runs(folder, done), *_images(folder)]


def environment(folder: Path) -> dict[str, str]:
    """Of commands in a house."""
    return {"HWNAS_HOME": str(folder / "home"), "CI": "1", "NO_COLOR": "1"}


def _house(folder: Path, name: str, *things: Path) -> Path:
    """A folder that holds copies."""
    house = folder.parent / "houses" / name
    house.mkdir(parents=True)
    for thing in things:
        if thing.is_dir():
            shutil.copytree(thing, house / thing.name, symlinks=True)
        else:
            shutil.copy2(thing, house / thing.name)
    return house


def _texts(folder: Path, done: Callable[..., None]) -> list[Format]:
    from replay_log import small_log  # of tests/contract

    house = _house(folder, "texts", folder / "t.hwlat.jsonl", folder / "s" / "network.json")
    ofa = "".join(
        f"expanded_conv-input:112x112x16-output:112x112x16-expand:{e}-kernel:3-stride:1-idskip:1: "
        "{count: 5, mean: 1.5, var: 0.1}\n"
        for e in (1, 3)
    )
    texts = {
        "ofa.yaml": ofa,
        "dense.txt": repr(_densenas()),
        "pipeline.yaml": "profile:\n  space: resnet-cifar\n  threads: 1\nsearch:\n  latency-budget: 1ms\n",
        "options.toml": '[profile]\nspace = "resnet-cifar"\nthreads = 1\npreset = "quick"\n',
        "options.yaml": "profile:\n  space: resnet-cifar\n  threads: 1\n",
        "log.json": json.dumps(small_log()),
    }
    for name, text in texts.items():
        (house / name).write_text(text)
    table = "t.hwlat.jsonl"
    importing = ("--out", "i.hwlat.jsonl")
    return [
        Format("network.json", house, "network.json", ("count", "network.json")),
        Format("OFA YAML", house, "ofa.yaml",
               ("table", "import", "ofa.yaml", "--format", "ofa", *importing), copy=True),
        Format("DenseNAS list", house, "dense.txt",
               ("table", "import", "dense.txt", "--format", "densenas", *importing), copy=True),
        Format("pipeline YAML", house, "pipeline.yaml", ("run", "pipeline.yaml", "--dry-run")),
        Format("options TOML", house, "options.toml", ("devices", "list", "--config", "options.toml")),
        Format("options YAML", house, "options.yaml", ("devices", "list", "--config", "options.yaml")),
        Format("macromicro log", house, "log.json", ("replay", "log.json", "--strategy", "macromicro")),
        Format("table", house, table, ("table", "show", table), own=True),
        Format("table, right hashes", house, table, ("table", "show", table), lies="lines"),
        Format("table, predicted from", house, table, ("predict", "network.json", "--table", table),
               lies="lines"),
    ]  # fmt: skip


def _densenas() -> list[Any]:
    """A list of the right shape."""
    from hwnas.nets.densenas.graph import densenas_mbv2

    space = densenas_mbv2()
    blocks = [
        [
            [[1.5] * len(space.head_ops) for _ in space.in_edges[j]],
            [[2.5] * len(space.stack_ops) for _ in range(space.routing[j].stack)],
        ]
        for j in range(1, space.sink)
    ]
    return [2.0, blocks, [[0.5] for _ in space.in_edges[space.sink]], 0.25]


def _runs(folder: Path, done: Callable[..., None]) -> list[Format]:
    """Run folders: finished, without a result, cut in the middle of a training."""
    table, run = folder / "t.hwlat.jsonl", folder / "s"
    finished = _house(folder, "finished", table, run, folder / "home")
    done("export", "s", "--format", "onnx", "--no-verify", at=finished)
    cut = _house(folder, "cut", table, run, folder / "home")
    (cut / "s" / "result.json").unlink()
    events = (cut / "s" / "events.jsonl").read_text().splitlines()
    first = next(at for at, line in enumerate(events) if json.loads(line)["event"] == "trial")
    (cut / "s" / "events.jsonl").write_text("\n".join(events[: first + 1]) + "\n")
    best = json.loads((run / "result.json").read_text())["best"]
    early = _house(folder, "early", cut / "t.hwlat.jsonl", cut / "s", folder / "home")
    (early / "s" / "events.jsonl").write_text("\n".join(events[:first]) + "\n")
    trained = _house(folder, "trained", table, run, folder / "home")
    checkpoint = _checkpoint(trained)
    journal = _house(folder, "journal", folder / "home")
    _journal(journal)
    (finished / "s" / ".hwnas-lock").write_text(
        json.dumps({"schema": "hwnas.lock/1", "pid": 1, "command": "hwnas search", "since": "2026-01-01"})
    )
    (finished / "net.onnx").write_bytes((finished / "s" / "engine.onnx").read_bytes())
    again, weights = (*SEARCH, "--out", "s"), f"s/weights/trial-{best:04d}"
    export = ("export", "s", "--format", "onnx", "--no-verify")
    bench = ("--device", "fake", "--backend", "fake", "--preset", "quick")
    manifest = "s/engine.onnx.manifest.json"
    return [
        Format("run manifest", finished, "s/manifest.json", ("runs", "show", "s")),
        Format("run manifest, trained from", finished, "s/manifest.json", (*TRAIN, "--dry-run"),
               lies="object"),
        Format("events, resumed", cut, "s/events.jsonl", again, own=True, copy=True),
        Format("events, right hashes", cut, "s/events.jsonl", again, lies="lines", copy=True),
        Format("events, reported", cut, "s/events.jsonl", ("report", "s"), lies="lines", copy=True),
        Format("result", finished, "s/result.json", again, own=True, copy=True),
        Format("result, shown", finished, "s/result.json", ("runs", "show", "s"), own=True),
        Format("result, right hashes", finished, "s/result.json", ("report", "s"), lies="object", copy=True),
        Format("result, exported from", finished, "s/result.json", export, lies="object", copy=True),
        Format("evaluation", early, f"{weights}.json", again, own=True, copy=True),
        Format("evaluation, right hashes", early, f"{weights}.json", again, lies="object", copy=True),
        Format("weights of a trial", early, f"{weights}.safetensors", again, own=True, copy=True),
        Format("weights of a run", finished, "s/weights.safetensors", export, own=True, copy=True),
        Format("checkpoint", trained, checkpoint, (*TRAIN, "--out", "tr"), own=True, copy=True),
        Format("journal of a profile", journal, "j.hwlat.jsonl.sessions",
               (*PROFILE, "--out", "j.hwlat.jsonl"), own=True, copy=True),
        Format("journal, right hashes", journal, "j.hwlat.jsonl.sessions",
               (*PROFILE, "--out", "j.hwlat.jsonl", "--max-time", "0.001s"), lies="lines", copy=True),
        Format("engine manifest", finished, manifest, ("bench", "s/engine.onnx", *bench)),
        Format("engine manifest, lies", finished, manifest, ("verify", "s/engine.onnx", "--images", "8"),
               lies="object"),
        Format("engine", finished, "s/engine.onnx", ("bench", "s/engine.onnx", *bench), own=True),
        Format("ONNX", finished, "net.onnx", ("bench", "net.onnx", *bench)),
        Format("lock", finished, "s/.hwnas-lock", again, copy=True),
    ]  # fmt: skip


def _killed(work: Callable[[], None], folder: Path) -> None:
    """Run something in a child that kills itself; the parent must compute nothing, or its forks hang."""
    child = os.fork()
    if not child:
        try:
            os.chdir(folder)
            os.environ.update(environment(folder))
            with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
                work()
        finally:
            os._exit(1)
    assert tiny.ended(child) == -signal.SIGKILL


def _checkpoint(house: Path) -> str:
    """A training that was cut off after a checkpoint; gives the checkpoint's place."""

    def work() -> None:
        loop: Any = import_module("hwnas.train.loop")

        write = loop.write_tensors

        def then_stop(*given: Any) -> None:
            write(*given)
            os.kill(os.getpid(), signal.SIGKILL)

        loop.write_tensors = then_stop  # the only one is after the last step, before the result
        tiny.command([*TRAIN, "--out", "tr"])

    _killed(work, house)
    (place,) = (house / "tr").glob("checkpoint*")
    return str(place.relative_to(house))


def _journal(house: Path) -> None:
    """A profile that was cut off in its networks, with a journal."""

    def work() -> None:
        from hwnas.measure import journal

        append, seen = journal.Journal.append, []

        def then_stop(self: Any, name: str, session: Any) -> None:
            append(self, name, session)
            seen.append(name)
            if sum(name.startswith("networks") for name in seen) == 6:
                os.kill(os.getpid(), signal.SIGKILL)

        journal.Journal.append = then_stop  # type: ignore[method-assign]  # stands in for the method
        tiny.command([*PROFILE, "--out", "j.hwlat.jsonl"])

    _killed(work, house)
    assert (house / "j.hwlat.jsonl.sessions").is_file()


def _images(folder: Path) -> list[Format]:
    """Data sources; ``train --dry-run`` reads them whole and trains nothing."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image

    house = _house(folder, "data", folder / "s")
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (40, 8, 8), dtype=np.uint8)
    labels = np.arange(40) % 2
    np.savez(house / "d.npz", images=pixels, labels=labels)
    (house / "cifar").mkdir()
    rows = np.concatenate(
        [np.arange(20, dtype=np.uint8)[:, None] % 10, rng.integers(0, 256, (20, 3072), dtype=np.uint8)], 1
    )
    for name in (*(f"data_batch_{n}.bin" for n in range(1, 6)), "test_batch.bin"):
        (house / "cifar" / name).write_bytes(rows.tobytes())
    found = []
    for kind in ("png", "jpg", "gif", "bmp", "tiff", "webp", "ppm"):
        for n in range(6):
            place = house / kind / f"class{n % 2}" / f"{n}.{kind}"
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.stack([pixels[n]] * 3, -1).repeat(2, 0).repeat(2, 1)).save(place)
        found.append(Format(f"image {kind}", house, f"{kind}/class0/0.{kind}", _read(f"folder:{kind}")))
    encoded = [(house / "png" / f"class{n % 2}" / f"{n}.png").read_bytes() for n in range(6)]
    pq.write_table(
        pa.table({"image": [{"bytes": one, "path": "x.png"} for one in encoded * 4], "label": [0, 1] * 12}),
        house / "d.parquet",
    )
    return [
        *found,
        Format("npz", house, "d.npz", _read("npz:d.npz")),
        Format("parquet", house, "d.parquet", _read("parquet:d.parquet")),
        Format("CIFAR-10", house, "cifar/data_batch_1.bin", _read("cifar10:cifar")),
    ]


def _read(data: str) -> tuple[str, ...]:
    return ("train", "s/network.json", "--scratch", "--data", data, "--epochs", "1", "--dry-run")
