"""What a report says of classes, of learning, of data sets and of incomplete tables."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
from report_records import network, write_run

from hwnas import top_losses
from hwnas.by_class import by_class
from hwnas.records import to_json
from hwnas.report import class_plots
from hwnas.report.class_sections import base_lines
from hwnas.report.collect import collect
from hwnas.report.compose import by_data, compose
from hwnas.report.page import Chapter
from hwnas.store import write_json, write_network

# 8 cats, one of which is taken for a dog; 2 dogs, both taken for cats.
FIGURES = by_class(np.array([0] * 8 + [1] * 2), np.array([0] * 7 + [1] + [0] * 2), ("cat", "dog"))
CURVE = [
    {"images": 100, "loss": 2.0, "lr": 0.1, "accuracy": 0.5},
    {"images": 200, "loss": 1.0, "lr": 0.05},
    {"images": 300, "loss": 0.5, "lr": 0.01, "accuracy": 0.7},
]


def write_training(folder: Path, data: str, mark: str = "", **config: Any) -> Path:
    folder.mkdir(parents=True)
    known = {"data": data, "seed": 0, "limit": None, "data_fingerprint": mark, **config}
    write_json(
        folder / "manifest.json", {"schema": "hwnas.run/1", "verb": "train", "config": known}, sealed=True
    )
    (folder / "events.jsonl").write_text("")
    write_network(folder / "network.json", network(1, 1, 1))
    body = {
        "schema": "hwnas.train/1",
        "network": "tiny",
        "accuracy": {"val": 0.75, "test": 0.7},
        "accuracy_se": {"val": 0.1, "test": 0.1},
        "by_class": {"val": to_json(FIGURES), "test": to_json(FIGURES)},
        "curve": CURVE,
        "data_notes": ["3 of 10 test images are training images, too"],
        "epochs": 3,
        "seconds": 90.0,
    }
    write_json(folder / "result.json", body)
    return folder


def texts(chapter: Chapter) -> str:
    return " ".join([chapter.story, *chapter.warnings, *(s.title + " " + s.lead for s in chapter.sections)])


def test_a_training_shows_its_classes_its_base_line_and_its_curve(tmp_path: Path) -> None:
    page = compose([write_training(tmp_path / "train-0001", "folder:pets")])
    (chapter,) = page.chapters
    shown = texts(chapter)
    assert "Of 10 test images 70.0 % are right" in shown
    assert "each counting the same, 43.8 %" in shown  # (7/8 + 0) / 2
    assert "predicting 'cat' always is right for 80.0 %, guessing a class by chance for 50.0 %" in shown
    assert "tiny was trained on folder:pets for 3 epochs in 1 min 30 s." in shown
    assert "3 of 10 test images are training images, too" in chapter.warnings
    assert {"classes", "confusion", "learning"} <= {picture.name for picture in page.pictures}
    assert [(card.label, card.value) for card in chapter.cards] == [
        ("Test accuracy", "70.0 %"),
        ("Balanced accuracy", "43.8 %"),
    ]


def test_the_worst_images_are_shown_and_missing_ones_told(tmp_path: Path) -> None:
    folder = write_training(tmp_path / "train-0001", "folder:pets")
    body = json.loads((folder / "result.json").read_text())
    row = {"true": "<b>cat", "named": "dog", "probability": 0.02, "loss": 3.9}
    write_json(folder / "result.json", {**body, "top_losses": [row]})
    (chapter,) = compose([folder]).chapters
    assert any("the worst images are not shown" in line for line in chapter.missing)
    top_losses.write(folder, np.full((1, 4, 4, 3), 200, np.uint8))
    page = compose([folder])
    (drawn,) = [p.figure for p in page.pictures if p.name == "worst-images"]
    assert not page.chapters[0].missing
    assert drawn["layout"]["images"][0]["source"].startswith("data:image/png;base64,")
    assert drawn["layout"]["annotations"][0]["text"] == "&lt;b&gt;cat<br>not dog<br>2.0 %"
    assert go.Figure(drawn).layout.images[0].sizex == 0.9  # Plotly itself takes it
    write_json(folder / "result.json", {**body, "top_losses": [{**row, "named": "<b>cat"}]})
    (drawn,) = [p.figure for p in compose([folder]).pictures if p.name == "worst-images"]
    assert drawn["layout"]["annotations"][0]["text"] == "&lt;b&gt;cat<br>right, unsure<br>2.0 %"


def test_a_network_that_is_no_better_than_the_base_line_is_told() -> None:
    assert "it has learned nothing" in base_lines(FIGURES)  # 70 % where 80 % are cats
    right = np.array([0] * 50 + [1] * 50)
    assert "better" not in base_lines(by_class(right, right, ("cat", "dog")))
    # 55 of 100: the standard error is 5 %.
    named = np.array([0] * 50 + [1] * 5 + [0] * 45)
    assert "not clearly better" in base_lines(by_class(right, named, ("cat", "dog")))


def test_pictures_of_classes_by_hand() -> None:
    bars = go.Figure(class_plots.recalls(FIGURES))
    assert tuple(bars.data[0].x) == (0.0, 87.5)
    assert tuple(bars.layout.yaxis.ticktext) == ("dog", "cat")
    heat = class_plots.confusion(FIGURES)
    assert heat is not None
    assert go.Figure(heat).data[0].z[0] == [87.5, 12.5]
    learned = class_plots.learning(CURVE, 0.8)
    assert learned is not None
    loss, accuracy, base = go.Figure(learned).data
    assert (tuple(loss.y), tuple(accuracy.x), tuple(base.y)) == ((2.0, 1.0, 0.5), (100, 300), (80.0, 80.0))


def test_long_names_that_are_cut_alike_stay_two_classes() -> None:
    names = tuple(30 * "a" + end for end in "xy")
    bars = go.Figure(class_plots.recalls(by_class(np.array([0, 1]), np.array([0, 1]), names)))
    assert tuple(bars.data[0].y) == (0, 1)
    assert len(set(bars.layout.yaxis.ticktext)) == 1


def test_the_winner_of_a_search_brings_its_curve(tmp_path: Path) -> None:
    run = write_run(tmp_path / "search-0001")
    (run / "weights").mkdir()
    (run / "weights" / "trial-136.json").write_text(
        json.dumps({"schema": "hwnas.evaluation/1", "curve": CURVE})
    )
    assert collect(run).curve == CURVE
    assert "learning" in {picture.name for picture in compose([run]).pictures}


def test_runs_on_other_data_are_compared_apart(tmp_path: Path) -> None:
    runs = [
        write_training(tmp_path / "a", "digits", "one"),
        write_training(tmp_path / "b", "folder:pets", "two"),
        write_training(tmp_path / "c", "digits", "three", seed=1),  # other splits, the same images
    ]
    groups = by_data([collect(run) for run in runs])
    assert [[run.name for run in group] for group in groups] == [["a", "c"], ["b"]]
    page = compose(runs)
    assert [section.title for section in page.comparisons] == [
        "The runs on digits",
        "The runs on folder:pets",
    ]
    names = [picture.name for picture in page.pictures]
    assert len(names) == len(set(names))


def test_data_that_changed_between_two_runs_are_other_data(tmp_path: Path) -> None:
    runs = [write_training(tmp_path / name, "folder:pets", name) for name in ("a", "b")]
    titles = [section.title for section in compose(runs).comparisons]
    assert titles == ["The runs on folder:pets, as it was for a", "The runs on folder:pets, as it was for b"]


@pytest.mark.parametrize(("data", "inherits"), [("digits", True), ("folder:pets", False)])
def test_a_training_shows_a_search_on_its_own_data_only(tmp_path: Path, data: str, inherits: bool) -> None:
    search = write_run(tmp_path / "search-0001")
    run = collect(write_training(tmp_path / "train-0001", data, network=str(search)))
    assert bool(run.trials) is inherits
    assert any("which used other data (digits)" in text for text in run.missing) is not inherits


def test_an_incomplete_table_says_so_on_the_page(tmp_path: Path) -> None:
    from hwnas.jobs.profile import ProfileOptions, profile

    whole = tmp_path / "whole.hwlat.jsonl"
    profile(ProfileOptions(device="fake", space="resnet-cifar", backend="fake", preset="quick", out=whole))
    assert not compose([whole]).chapters[0].warnings
    cut = tmp_path / "cut.hwlat.jsonl"
    shutil.copy(whole, cut)
    cut.write_text("".join(whole.read_text().splitlines(keepends=True)[:-1]))
    (chapter,) = compose([cut]).chapters
    assert chapter.headline.startswith("Incomplete latency table")
    assert any("is incomplete" in text for text in chapter.warnings)
    assert "This table is incomplete: its profile did not end" in texts(chapter)
