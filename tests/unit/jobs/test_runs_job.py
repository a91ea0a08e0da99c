"""The history of runs, and removing them."""

from pathlib import Path

import pytest

from hwnas.errors import InputError
from hwnas.jobs.doctor import problems
from hwnas.jobs.runs import compare, history, remove, show
from hwnas.runs import RunFolder, link_latest
from hwnas.store import write_json


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "runs"
    for number, accuracy in ((1, 0.5), (2, 0.75)):
        run = RunFolder(root / f"train-{number:04d}", "train", {"data": "digits", "epochs": number})
        run.append("note", {"text": f"epoch {number}"})
        write_json(
            run.path / "result.json", {"schema": "x", "accuracy": {"val": accuracy, "test": 0.4}}, sealed=True
        )
        link_latest(run.path)
    RunFolder(root / "train-0003", "train", {"data": "digits", "epochs": 3})
    return root


def test_history_lists_every_run_once(root: Path) -> None:
    runs = history(root)["runs"]
    assert [r["name"] for r in runs] == ["train-0001", "train-0002", "train-0003"]
    assert [r["state"] for r in runs] == ["done", "done", "unfinished"]
    assert [r["accuracy"] for r in runs] == [0.5, 0.75, None]


def test_a_damaged_run_does_not_hide_the_others(root: Path) -> None:
    (root / "train-0001" / "manifest.json").write_text("{")
    (root / "train-0002" / "result.json").write_text("{")
    runs = {r["name"]: r for r in history(root)["runs"]}
    assert {n: r["state"] for n, r in runs.items()} == {
        "train-0001": "damaged",
        "train-0002": "damaged",
        "train-0003": "unfinished",
    }
    assert "not valid JSON" in runs["train-0002"]["note"]


def test_show_names_configuration_and_files(root: Path) -> None:
    body = show("train-0002", root)
    assert body["config"] == {"data": "digits", "epochs": 2}
    assert [f["path"] for f in body["files"]] == ["events.jsonl", "log.txt", "manifest.json", "result.json"]
    assert body["files"][1]["bytes"] == (root / "train-0002" / "log.txt").stat().st_size > 0


def test_show_counts_trainings_by_their_machine(root: Path) -> None:
    run = RunFolder(root / "search-0009", "search", {"data": "digits"})
    for where in ("ant, process 7", "bee, process 7", "ant, process 8"):
        run.append("note", {"where": where})
    run.append("note", {"text": "trained here"})
    assert show("search-0009", root).where == {"ant": 2, "bee": 1}
    assert show("train-0003", root).where == {}


def test_compare_shows_only_what_differs(root: Path) -> None:
    body = compare(["train-0001", "train-0002"], root)
    assert body["differences"] == {"epochs": [1, 2]}
    with pytest.raises(InputError, match="at least two"):
        compare(["train-0001"], root)


def test_remove_resolves_all_before_deleting_any(root: Path) -> None:
    with pytest.raises(InputError, match="train-0009"):
        remove(["train-0001", "train-0009"], root)
    assert (root / "train-0001").is_dir()


def test_remove_keeps_latest_true(root: Path) -> None:
    assert remove(["latest"], root, dry_run=True)["removed"] == [str((root / "train-0002").resolve())]
    assert (root / "train-0002").is_dir()
    remove(["latest"], root)
    assert not (root / "train-0002").exists()
    assert (root / "latest").resolve().name in ("train-0001", "train-0003")
    remove(["train-0001", "train-0003"], root)
    assert list(root.iterdir()) == []


def test_only_runs_are_removed(root: Path, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    with pytest.raises(InputError):
        remove([str(precious)], root)
    assert precious.is_dir()


def test_a_foreign_hwnas_and_two_runtimes_are_problems() -> None:
    assert problems({"hwnas": ["hwnas"], "onnxruntime": ["onnxruntime"]}) == []
    found = problems({"hwnas": ["hwnas", "slimnet"], "onnxruntime": ["onnxruntime", "onnxruntime-gpu"]})
    assert "slimnet installs a folder called hwnas" in found[0]
    assert "pip uninstall onnxruntime onnxruntime-gpu" in found[1]


def test_a_run_that_is_worked_in_says_where(root: Path) -> None:
    run = RunFolder(root / "search-0004", "search", {"data": "digits"})
    run.append("began", {"task": "preparing densenas", "where": "red, process 6"})
    assert show("search-0004", root)["running"]["preparing densenas"] == "red, process 6"
    run.append("preparation", {"strategy": "densenas"})
    for task, place in (("trial 0", "red, process 7"), ("trial 1", "blue, process 8")):
        run.append("began", {"task": task, "where": place})
    run.append("trial", {"trial": {"index": 0}})
    found = show("search-0004", root)
    assert found["state"] == "running"
    assert found["running"].keys() == {"process", "trial 1"}
    assert found["running"]["trial 1"] == "blue, process 8"
    run.close()
    found = show("search-0004", root)
    assert (found["state"], found["running"]) == ("unfinished", {})
