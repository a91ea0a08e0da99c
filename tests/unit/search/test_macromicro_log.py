"""Logs replayed: a small one made by hand rules, the published ones, and what is no log."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from replay_log import COLUMNS, params_million, small_log

from hwnas.errors import DataFormatError, InputError
from hwnas.jobs.replay import ReplayOptions
from hwnas.search.macromicro.log import replay


def written(folder: Path, log: object) -> Path:
    path = folder / "log.json"
    path.write_text(json.dumps(log))
    return path


def test_a_log_made_by_hand(tmp_path: Path) -> None:
    log = small_log()
    # what the repair would do is in test_macromicro; here none may be needed
    assert params_million(3, 8, [0, 2], []) <= params_million(3, 8, [], []) + 0.01
    ours = replay(written(tmp_path, log))
    assert ours["mismatch_details"] == []
    assert {k: ours[k] for k in log["result"]} == log["result"]
    assert (ours["candidates"], ours["mismatches"]) == (12, 0)


@pytest.mark.parametrize(
    ("row", "column", "value"), [(1, 0, 5), (2, 1, 6), (6, 2, [1]), (10, 3, [2]), (3, 4, 14), (5, 5, 0.001)]
)
def test_a_changed_row_is_noticed(tmp_path: Path, row: int, column: int, value: object) -> None:
    log = small_log()
    log["rows"][row][column] = value
    ours = replay(written(tmp_path, log))
    assert ours["mismatches"] == 1
    assert ours["mismatch_details"][0].startswith(f"row {row}: {COLUMNS[column]}")


def test_a_changed_accuracy_leads_elsewhere(tmp_path: Path) -> None:
    log = small_log()
    log["rows"][1][-1] = 70.0  # depth 4 is a gain now
    ours = replay(written(tmp_path, log))
    assert ours["mismatches"] > 5
    assert ours["depth"] == 4


def test_rows_after_the_end_and_another_result_are_noticed(tmp_path: Path) -> None:
    log = small_log()
    log["rows"].append(log["rows"][-1])
    log["result"]["width"] = 7
    details = replay(written(tmp_path, log))["mismatch_details"]
    assert details == ["row 12: the controller had already ended", "result: width is 7, expected 8"]


def test_a_log_that_ends_early_is_refused(tmp_path: Path) -> None:
    log = small_log()
    del log["rows"][8:]
    with pytest.raises(DataFormatError, match="ends after 8 candidates"):
        replay(written(tmp_path, log))


def broken(how: str) -> object:
    log = small_log()
    if how == "empty":
        return {}
    if how == "list":
        return []
    if how == "no rows":
        return {**log, "rows": []}
    if how == "dataset":
        log["settings"]["dataset"] = "ImageNet"
    elif how == "text":
        log["settings"]["max_width"] = "8"
    elif how == "limits":
        log["settings"]["width_resolution"] = 0
    elif how == "no width":
        del log["settings"]["max_width"]
    elif how == "column":
        log["columns"] = ["depths", *COLUMNS[1:]]
    elif how == "short row":
        log["rows"][3] = log["rows"][3][:-1]
    elif how == "layers":
        log["rows"][3][2] = [0.5]
    elif how == "nan":
        log["rows"][3][-1] = float("nan")
    elif how == "percent":
        log["rows"][3][-1] = 140.0
    elif how == "result":
        log["result"] = 3
    return log


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("empty", "settings is missing"),
        ("list", "not a JSON object"),
        ("no rows", "no rows"),
        ("dataset", "ImageNet"),
        ("text", "max_width is '8'"),
        ("limits", "width_resolution is 0"),
        ("no width", "max_width is missing"),
        ("column", "'depth'"),
        ("short row", "row 3 has 6 values for 7 columns"),
        ("layers", "row 3: full_conv_layers"),
        ("nan", "the number NaN, which is not finite"),
        ("percent", "140"),
        ("result", "result is a int"),
    ],
)
def test_what_is_not_a_log_is_refused(tmp_path: Path, how: str, words: str) -> None:
    with pytest.raises(DataFormatError, match="search log") as failure:
        replay(written(tmp_path, broken(how)))
    assert words in str(failure.value)
    assert failure.value.exit_status == 6


def test_a_missing_file_and_another_strategy_are_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        replay(tmp_path / "absent.json")
    with pytest.raises(InputError, match="--strategy macromicro"):
        ReplayOptions(tmp_path / "log.json", "stagewise")


def logs() -> list[Path]:
    folder = os.environ.get("HWNAS_TEST_DATA")
    return sorted((Path(folder) / "globalnas").glob("*.json")) if folder else []


@pytest.mark.skipif(not logs(), reason="HWNAS_TEST_DATA with the published logs is not set")
def test_published_logs_replay_without_a_mismatch() -> None:
    for path in logs():
        log = json.loads(path.read_text())
        ours = replay(path)
        assert ours["mismatches"] == 0, ours["mismatch_details"]
        assert ours["candidates"] == len(log["rows"])
        assert {k: ours[k] for k in log["result"]} == log["result"]
