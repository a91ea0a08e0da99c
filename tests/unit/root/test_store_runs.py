"""Files are written whole or not at all; a run folder resumes, and refuses another configuration."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from hwnas import plugins, runs, store
from hwnas.documents import read_bytes, read_json
from hwnas.errors import DataFormatError, InputError, MissingMeasurement


def test_what_is_no_file_is_told_in_one_sentence(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.json"
    os.mkfifo(pipe)
    with pytest.raises(InputError, match=f"^table {re.escape(str(pipe))} is not a file$"):
        read_bytes(pipe, "table")
    with pytest.raises(InputError, match="is not a valid file name"):
        read_bytes(Path("a\0b"), "table")


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    store.write_text(path, "old")

    def torn() -> None:
        with store.atomic_path(path) as temporary:
            temporary.write_text("half of the n")
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        torn()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]  # nothing left over


def test_nan_never_reaches_a_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        store.write_json(tmp_path / "a.json", {"x": float("nan")})
    assert not (tmp_path / "a.json").exists()


def test_reading_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        read_json(tmp_path / "no.json", "table")
    with pytest.raises(InputError, match="not a file"):
        read_json(tmp_path, "table")


def test_home_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HWNAS_HOME", str(tmp_path))
    assert store.home() == tmp_path


def test_run_folder_resumes_and_refuses(tmp_path: Path) -> None:
    path = tmp_path / "search-0001"
    run = runs.RunFolder(path, "search", {"seed": 0, "budget": [1, 2]})
    assert not run.resumed
    run.append("trial", {"index": 0})
    again = runs.RunFolder(path, "search", {"seed": 0, "budget": (1, 2)})  # a tuple is JSON's list
    assert again.resumed
    assert [(e["event"], e["index"]) for e in again.events()] == [("trial", 0)]
    with pytest.raises(InputError, match="seed was 0, is 1"):
        runs.RunFolder(path, "search", {"seed": 1, "budget": [1, 2]})
    with pytest.raises(InputError, match="holds a 'search' run"):
        runs.RunFolder(path, "train", {})


def test_a_torn_last_event_is_dropped_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    path = tmp_path / "r"
    run = runs.RunFolder(path, "search", {})
    run.append("a", {})
    run.append("b", {})
    events = path / "events.jsonl"
    events.write_bytes(events.read_bytes()[:-5])
    resumed = runs.RunFolder(path, "search", {})
    assert [e["event"] for e in resumed.events()] == ["a"]
    resumed.append("c", {})
    assert [e["event"] for e in resumed.events()] == ["a", "c"]
    events.write_text("{broken\n" + events.read_text())
    with pytest.raises(DataFormatError, match="line 1"):
        resumed.events()


def test_a_foreign_folder_is_not_taken_over(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(InputError, match="not empty"):
        runs.RunFolder(tmp_path, "search", {})


def test_numbering_latest_and_resolve(tmp_path: Path) -> None:
    assert runs.next_path("search", tmp_path).name == "search-0001"
    for name in ("search-0001", "search-0009", "train-0003"):
        runs.RunFolder(tmp_path / name, name.split("-")[0], {})
    assert runs.next_path("search", tmp_path).name == "search-0010"
    runs.link_latest(tmp_path / "search-0009")
    runs.link_latest(tmp_path / "train-0003")
    assert (tmp_path / "latest").resolve().name == "train-0003"
    assert runs.resolve("latest", root=tmp_path).name == "train-0003"
    assert runs.resolve("search-0001", root=tmp_path).name == "search-0001"
    assert runs.resolve(None, "search", root=tmp_path).name.startswith("search-")
    with pytest.raises(InputError, match="no run at"):
        runs.resolve("nope", root=tmp_path)
    with pytest.raises(InputError, match="no export run"):
        runs.resolve(None, "export", root=tmp_path)


def test_manifest_says_how_it_came_about(tmp_path: Path) -> None:
    runs.RunFolder(tmp_path / "r", "search", {"seed": 3})
    manifest = json.loads((tmp_path / "r" / "manifest.json").read_text())
    assert manifest["config"] == {"seed": 3}
    assert {"hwnas", "python", "platform", "created", "verb", "schema"} <= manifest.keys()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text.replace('"seed": 3', '"seed": 4'), "damaged: its content gives another checksum"),
        (lambda text: re.sub(r',\s*"checksum": "\w+"', "", text), "has no checksum"),
    ],
)
def test_a_changed_manifest_is_refused_wherever_it_is_read(
    tmp_path: Path, change: Callable[[str], str], words: str
) -> None:
    """A changed seed would draw other splits."""
    runs.RunFolder(tmp_path / "r", "search", {"seed": 3}).close()
    path = tmp_path / "r" / "manifest.json"
    text = path.read_text()
    path.write_text(change(text))
    assert path.read_text() != text
    reads: list[Callable[[], object]] = [
        lambda: runs.read_manifest(tmp_path / "r"),
        lambda: runs.resolve("r", root=tmp_path),
        lambda: runs.RunFolder(tmp_path / "r", "search", {"seed": 4}),
    ]
    for read in reads:
        with pytest.raises(DataFormatError, match=words):
            read()
    assert not runs.is_run(tmp_path / "r")


def test_unknown_plugin_names_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean 'resnet-cifar'"):
        plugins.load("spaces", "resnet-cifr")
    with pytest.raises(InputError, match="unknown strategy"):
        plugins.load("strategies", "zzz")


def test_missing_measurement_reads_like_a_sentence() -> None:
    assert str(MissingMeasurement("run hwnas profile")) == "run hwnas profile"


def test_a_full_disk_is_an_error_of_the_system_whoever_says_it(tmp_path: Path) -> None:
    """safetensors is written in Rust and has an exception of its own for it."""
    with pytest.raises(OSError, match="No space left") as caught, store.atomic_path(tmp_path / "w"):
        raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")
    assert caught.value.errno == 28
    assert caught.value.filename == str(tmp_path / "w")
    with pytest.raises(RuntimeError, match="other"), store.atomic_path(tmp_path / "w"):
        raise RuntimeError("other")
