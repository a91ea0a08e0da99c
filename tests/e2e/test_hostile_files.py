"""Files of strangers, one of each format: no code in them runs, nothing outside their folder is touched.

Each plants a payload that leaves a mark when it runs, or names a file outside. An audit hook watches every
file that Python opens meanwhile.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from e2e_house import House
from onnx import helper, numpy_helper

from hwnas import seals
from hwnas_cli.main import cli

_opened: list[str] | None = None
_hooked: list[bool] = []


def _hook(event: str, args: tuple[Any, ...]) -> None:
    if _opened is not None and event in ("open", "os.remove", "os.rename", "os.mkdir", "os.system"):
        _opened.extend(str(arg) for arg in args[:2])


@dataclass(frozen=True)
class Place:
    """Where the hostile files lie, and what must not be touched."""

    folder: Path  # theirs
    outside: Path  # ours
    mark: Path  # left by a payload that ran
    opened: list[str]

    def untouched(self) -> None:
        """Nothing ran; nothing outside was opened or changed."""
        assert not self.mark.exists(), "a payload ran"
        assert sorted(p.name for p in self.outside.iterdir()) == ["secret.bin"]
        assert (self.outside / "secret.bin").read_bytes() == b"\x01" * 4096
        assert not [name for name in self.opened if "secret.bin" in name and name != "secret.bin"]

    def refused(self, *args: str) -> str:
        """Run a command that must end with one sentence."""
        global _opened
        _opened = self.opened
        try:
            result = CliRunner().invoke(cli, list(args))
        finally:
            _opened = None
        assert result.exit_code in (2, 4, 5, 6), f"{args}: {result.output}\n{result.exception!r}"
        assert "Traceback" not in result.output
        self.untouched()
        return result.output


@pytest.fixture
def place(tmp_path: Path, fake: House, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """An empty folder of theirs beside one of ours."""
    if not _hooked:
        sys.addaudithook(_hook)
        _hooked.append(True)
    folder, outside = tmp_path / "theirs", tmp_path / "ours"
    folder.mkdir()
    outside.mkdir()
    (outside / "secret.bin").write_bytes(b"\x01" * 4096)
    found = Place(folder, outside, tmp_path / "ran", [])
    yield found
    found.untouched()


@pytest.fixture
def run(place: Place, searched: dict[str, Any]) -> Path:
    """A whole run folder with a verified engine, in their folder."""
    target = place.folder / "run"
    shutil.copytree(searched["run"], target)
    result = CliRunner().invoke(cli, ["export", str(target), "--format", "onnx", "--no-verify"])
    assert result.exit_code == 0, result.output
    return target


class Payload:
    """Makes the mark when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return (open, (str(self.mark), "w"))


def edited(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    body = json.loads(path.read_text())
    body.pop(seals.OBJECT, None)
    change(body)
    with suppress(ValueError):  # NaN cannot be sealed
        body = seals.sealed(body)  # as a stranger can
    path.write_text(json.dumps(body))


def resigned(engine: Path) -> None:
    """The manifest's hash made right again, as a stranger can."""
    data = engine.read_bytes()
    edited(
        engine.with_name(f"{engine.name}.manifest.json"),
        lambda m: m.update(engine_sha256=hashlib.sha256(data).hexdigest(), engine_bytes=len(data)),
    )


def test_the_hook_and_the_payload_work(place: Place, tmp_path: Path) -> None:
    global _opened
    mark = tmp_path / "other"
    _opened = place.opened
    try:
        pickle.loads(pickle.dumps(Payload(mark))).close()  # noqa: S301  (it is our own)
    finally:
        _opened = None
    assert mark.exists()
    assert str(mark) in place.opened


@pytest.mark.parametrize("verb", ["verify", "export"])
def test_run_manifest_that_names_a_function(place: Place, run: Path, verb: str) -> None:
    (run / "evil.py").write_text(f"open({str(place.mark)!r}, 'w')\ndef data(): return {{}}\n")
    # The folder is where a user would stand, so that the module could be found.
    edited(run / "manifest.json", lambda m: m["config"].update(data="evil:data"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(run)
        said = place.refused(verb, "engine.onnx" if verb == "verify" else ".")
    assert "--data evil:data" in said
    assert "evil" not in sys.modules


def test_run_manifest_that_names_files_outside(place: Place, run: Path) -> None:
    edited(run / "manifest.json", lambda m: m["config"].update(data=f"npz:{run}/../missing.npz"))
    place.refused("verify", str(run / "engine.onnx"))


def test_network_json_of_endless_depth_or_size(place: Place, run: Path) -> None:
    whole = (run / "network.json").read_text()
    for text in ("[" * 100_000, whole.replace('"c_out": 16', '"c_out": 1' + "0" * 400), '{"schema": 1}'):
        (run / "network.json").write_text(text)
        place.refused("count", str(run / "network.json"))


def test_table_whose_content_is_a_path(place: Place, searched: dict[str, Any]) -> None:
    lines = Path(searched["table"]).read_text().splitlines()
    head = json.loads(lines[0])
    head["setting"]["device"] = str(place.outside / "x")
    table = place.folder / "t.hwlat.jsonl"
    table.write_text("\n".join([json.dumps(head), *lines[1:]]) + "\n")
    place.refused("table", "import", str(table))


def test_events_that_are_no_events(place: Place, run: Path) -> None:
    (run / "events.jsonl").write_text('{"event": "__import__(\'os\').system"}\n[1]\n\x00\n')
    (run / "result.json").unlink()
    place.refused("verify", str(run / "engine.onnx"), "--data", f"npz:{place.folder}/none.npz")


def test_safetensors_that_is_a_pickle(place: Place, run: Path) -> None:
    (run / "weights.safetensors").write_bytes(pickle.dumps(Payload(place.mark)))
    place.refused("export", str(run))
    place.refused("verify", str(run / "engine.onnx"))


def test_pt2_with_a_pickle(place: Place, run: Path) -> None:
    made = CliRunner().invoke(cli, ["export", str(run), "--format", "pt2", "--no-verify"])
    assert made.exit_code == 0, made.output
    engine = run / "engine.pt2"
    with zipfile.ZipFile(engine) as archive:
        parts = {info.filename: archive.read(info) for info in archive.infolist()}
    for name in parts:
        if "weight_" in name and not name.endswith(".json"):
            continue  # plain numbers: they are never unpickled, and parity judges them
        if name.endswith("serialization_id"):
            continue  # never read
        with zipfile.ZipFile(engine, "w") as archive:
            for member, data in parts.items():
                evil = pickle.dumps(Payload(place.mark)).ljust(len(data), b".")
                archive.writestr(member, evil if member == name else data)
        resigned(engine)
        place.refused("verify", str(engine), "--images", "16")


@pytest.mark.parametrize("way", ["up", "absolute", "link"])
@pytest.mark.parametrize("backend", ["ort", "openvino"])
def test_onnx_with_weights_outside(place: Place, backend: str, way: str) -> None:
    if backend == "openvino":
        pytest.importorskip("openvino", reason="needs hwnas[openvino]")
    weight = numpy_helper.from_array(np.zeros((16, 3, 3, 3), np.float32), "w")
    location = {"up": "../ours/secret.bin", "absolute": str(place.outside / "secret.bin"), "link": "w.bin"}[
        way
    ]
    if way == "link":
        (place.folder / "w.bin").symlink_to(place.outside / "secret.bin")
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", "1728")):
        entry = weight.external_data.add()
        entry.key, entry.value = key, value
    x = helper.make_tensor_value_info("x", 1, [1, 3, 8, 8])
    y = helper.make_tensor_value_info("y", 1, [1, 16, 8, 8])
    node = helper.make_node("Conv", ["x", "w"], ["y"], pads=[1] * 4)
    model = helper.make_model(
        helper.make_graph([node], "g", [x], [y], [weight]),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    path = place.folder / "net.onnx"
    path.write_bytes(model.SerializeToString())
    said = place.refused("bench", str(path), "--backend", backend, "--device", "cpu", "--preset", "quick")
    assert "outside its own folder" in said


def test_npz_of_objects(place: Place) -> None:
    objects = np.empty(2, dtype=object)
    objects[:] = [Payload(place.mark), Payload(place.mark)]
    np.savez(place.folder / "d.npz", images=objects, labels=np.arange(2))
    place.refused(
        "train", "resnet20", "--data", f"npz:{place.folder}/d.npz", "--out", str(place.folder / "o")
    )


def test_parquet_of_pickles_and_paths(place: Place) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    evil = pickle.dumps(Payload(place.mark))
    rows = [{"bytes": None, "path": str(place.outside / "secret.bin")}, {"bytes": evil, "path": "a.png"}] * 6
    for name, images in (("path", rows[:1] * 12), ("pickle", rows[1:2] * 12)):
        table = pa.table({"image": images, "label": [0, 1] * 6})
        pq.write_table(table, place.folder / f"{name}.parquet")
        uri = f"parquet:{place.folder}/{name}.parquet"
        place.refused("train", "resnet20", "--data", uri, "--out", str(place.folder / "o"))


def test_yaml_with_tags(place: Place) -> None:
    config = place.folder / "c.yaml"
    config.write_text(f"train: !!python/object/apply:builtins.open [{place.mark}, w]\n")
    place.refused("train", "resnet20", "--data", "digits", "--config", str(config))
    place.refused("run", str(config))


@pytest.mark.parametrize("name", ["../ours/secret.bin", "/etc/hostname", "../run/engine.onnx", ""])
def test_engine_manifest_with_another_path(place: Place, run: Path, name: str) -> None:
    edited(run / "engine.onnx.manifest.json", lambda m: m.update(engine=name))
    place.refused("verify", str(run / "engine.onnx"))
    place.refused("bench", str(run / "engine.onnx"), "--preset", "quick")


@pytest.mark.parametrize(
    "change",
    [
        {"std": [0, 0, 0]},
        {"std": [-1, 1, 1]},
        {"mean": [float("nan")] * 3},
        {"mean": [1e9] * 3},
        {"mean": []},
        {"classes": ["a"] * 10},
        {"classes": ["a"]},
        {"engine_bytes": -1},
        {"engine_sha256": "x"},
        {"accuracy": {"val": 7}},
    ],
)
def test_engine_manifest_with_impossible_values(place: Place, run: Path, change: dict[str, Any]) -> None:
    edited(run / "engine.onnx.manifest.json", lambda m: m.update(change))
    place.refused("verify", str(run / "engine.onnx"))
