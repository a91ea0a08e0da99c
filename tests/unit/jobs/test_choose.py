"""``--backend auto --precision auto``: the fastest of what works here, by a few networks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwnas.errors import BackendUnavailable, InputError
from hwnas.jobs.predict import find
from hwnas.jobs.profile import ProfileOptions, profile, run
from hwnas.jobs.profile.choose import (
    Timed,
    choose,
    is_open,
    ratios,
    said,
    takes,
    tolerated_percent,
    with_errors,
)
from hwnas.jobs.profile.conditions import worth_a_profile
from hwnas.jobs.profile.plan import anchors, representatives
from hwnas.jobs.profile.result import ProfileOutcome
from hwnas.nets import spaces
from hwnas.records import Precision, Setting, to_json


def test_what_is_left_open() -> None:
    assert is_open("auto", "fp32")
    assert is_open(None, "fp32,int8")
    assert not is_open(None, "fp32")
    assert takes("auto", "ort")
    assert takes(None, "int8")
    assert takes("ort,openvino", "openvino")
    assert not takes("ort,openvino", "trt")
    assert not takes("int8", "fp32")


def test_the_fastest_precision_of_the_fake_device() -> None:
    """It moves half the bytes in fp16, so that is faster on every anchor."""
    said_: list[str] = []
    steps: list[tuple[int, int]] = []

    def emit(kind: str, fields: Mapping[str, Any]) -> None:
        if kind == "progress":
            steps.append((fields["done"], fields["total"]))
        else:
            said_.append(fields["text"])

    (setting, *others), compared = choose(spaces.make("resnet-cifar"), "fake", "auto", "fp16,fp32", emit=emit)
    assert steps == [(done, 5) for done in range(6)]  # two candidates are built, three networks timed
    assert (setting.backend, setting.precision) == ("fake", "fp16")
    assert [other.precision for other in others] == ["fp32"]
    first, second = compared
    assert (first.precision, second.precision) == ("fp16", "fp32")
    assert first.relative == 1.0
    ratios = np.divide(second.floor_ms, first.floor_ms)
    assert len(ratios) == 3
    assert second.relative == pytest.approx(float(np.prod(ratios)) ** (1 / 3))
    assert said_[0].startswith("fastest here: fake fp16")
    assert f"fake fp32 takes {second.relative:.2f} times as long" in said_[0]


def test_auto_leaves_out_what_no_engine_is_timed_in() -> None:
    """The fake device is faster in fp16, but fp16 ONNX is made for other machines than this one."""
    (setting,), compared = choose(spaces.make("resnet-cifar"), "fake", "auto", "auto")
    assert setting.precision == "fp32"
    assert [one.precision for one in compared] == ["fp32"]
    (here,), _ = choose(spaces.make("resnet-cifar"), "cpu", "ort", "auto", timed=False)
    assert here.precision == "fp32"
    _, both = choose(spaces.make("resnet-cifar"), "cpu", "ort", "auto", timed=False)
    assert [one.precision for one in both] == ["fp32", "int8"]


def test_runtimes_are_compared_on_every_operator_of_a_space() -> None:
    plain = spaces.make("resnet-cifar")
    assert representatives(plain) == anchors(plain)  # one block in all sizes
    space = spaces.make("mbv2-cifar")
    assert {block.se for spec in anchors(space) for block in spec.blocks} == {0.0}
    found = representatives(space)
    assert found[:3] == anchors(space)
    held = {(block.kernel, block.expand, block.se) for spec in found for block in spec.blocks}
    # Kernels 3, 5 and 7, expansions 1, 3 and 6, gates or none (docs/spaces.md): every combination is held.
    combinations = {(k, e, se) for k in (3, 5, 7) for e in (1, 3, 6) for se in (0.0, 0.25)}
    assert held >= combinations
    assert len(found) <= 6
    assert all(spec in space for spec in found)


def test_one_that_loses_the_scores_is_not_taken() -> None:
    slow = Timed("ort", "fp32", (1.0, 2.0, 3.0), 2.0, keeps=True)
    text = said(slow, [Timed("ort", "int8", (0.5, 1.0, 1.5), 1.0, keeps=False), slow])
    assert "ort int8 takes 0.50 times as long, but its scores differ too much" in text


def test_profile_keeps_what_was_chosen(tmp_path: Path) -> None:
    out = tmp_path / "t.hwlat.jsonl"
    options = ProfileOptions(
        device="fake", backend="auto", precision="fp32,fp16", space="resnet-cifar", preset="quick", out=out
    )
    planned = profile(ProfileOptions(**{**options.__dict__, "dry_run": True}))
    assert planned["dry_run"]
    assert not out.exists()
    body = profile(options)
    assert body["setting"]["precision"] == "fp16"
    assert [(c["precision"], c["keeps_scores"]) for c in body["chosen_among"]] == [
        ("fp16", True),
        ("fp32", True),
    ]
    assert find(out).setting.precision == "fp16"
    slower = body["chosen_among"][1]["relative"]
    assert slower > 1
    assert find(out).summary["runtimes"] == {"fake fp16": 1.0, "fake fp32": slower}
    assert profile(options)["setting"]["precision"] == "fp16"  # continued as it is


@pytest.mark.parametrize(
    ("errors", "taken", "told"),
    # Percent off in fp16, the faster one, and in fp32: up to 5 the first is taken, else the better one.
    [((4.9, 1.0), "fp16", 0), ((12.0, 3.0), "fp32", 1), ((12.0, 13.0), "fp16", 1), ((12.0, 9.0), "fp32", 1)],
)
def test_what_cannot_be_predicted_is_not_taken(
    errors: tuple[float, float], taken: str, told: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, out, words = list(errors), tmp_path / "t.hwlat.jsonl", list[str]()

    def profiled(options: ProfileOptions, plan: object, space: object, found: Any, emit: object) -> Any:
        precision = found.setting.precision
        assert options.out is not None
        assert not options.out.exists()
        options.out.write_text(precision)
        body = {
            "table": str(options.out),
            "table_id": precision,
            "complete": True,
            "space": "",
            "preset": "quick",
        }
        counts = dict.fromkeys(("rows", "probes", "measurements", "seconds"), 1)
        held = {"networks": 4, "mape_percent": left.pop(0)}
        return ProfileOutcome.of({**body, **counts, "setting": to_json(found.setting), "holdout": held})

    def chosen(*args: object, **kwargs: object) -> tuple[list[Setting], list[Timed]]:
        return [Setting(device="fake", backend="fake", precision=name) for name in ("fp16", "fp32")], []

    monkeypatch.setattr("hwnas.jobs.profile.run._profiled", profiled)
    monkeypatch.setattr("hwnas.jobs.profile.conditions.choose", chosen)
    options = ProfileOptions(
        "fake", "resnet-cifar", backend="auto", precision="auto", preset="quick", out=out
    )
    body = profile(options, lambda kind, fields: words.append(fields["text"]) if kind == "note" else None)
    assert body["table_id"] == body["setting"]["precision"] == out.read_text() == taken
    assert body["table"] == str(out)
    assert list(tmp_path.iterdir()) == [out]
    assert sum("fake fp32, which is predicted best, is profiled, too" in text for text in words) == told


def test_a_second_profile_that_was_cut_off_is_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two real tables of the fake device; killed while the second was written, as a kill leaves them."""

    class Killed(BaseException):
        pass

    out = tmp_path / "t.hwlat.jsonl"
    options = ProfileOptions(
        "fake", "resnet-cifar", backend="auto", precision="fp32,fp16", preset="quick", out=out
    )
    calls, real = [], run._profiled

    def cut_off(options: ProfileOptions, *args: Any) -> Any:
        calls.append(options.out)
        if len(calls) == 2:
            profile(replace(options, max_time_s=1e-6, precision="fp32", backend="fake"))
            raise Killed
        return real(options, *args)

    errors = {"fp16": 12.0, "fp32": 3.0}
    monkeypatch.setattr(run, "_error", lambda made: errors[made.setting.precision])
    monkeypatch.setattr(run, "_profiled", cut_off)
    with pytest.raises(Killed):
        profile(options)
    monkeypatch.setattr(run, "_profiled", real)
    assert find(out).setting.precision == "fp16"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".t.second.hwlat.jsonl", out.name]
    again = profile(options).as_json()
    assert (again["complete"], again["table"], again["setting"]["precision"]) == (True, str(out), "fp32")
    assert list(tmp_path.iterdir()) == [out]
    assert find(out).setting.precision == "fp32"


def test_a_second_profile_that_the_time_cut_off_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it measured is not lost; beside a table that the user keeps under a like name."""
    out, mine = tmp_path / "t.hwlat.jsonl", tmp_path / "t-second.hwlat.jsonl"
    mine.write_text("a table of the user's")
    options = ProfileOptions(
        "fake", "resnet-cifar", backend="auto", precision="fp32,fp16", preset="quick", out=out
    )
    errors, real = {"fp16": 12.0, "fp32": 3.0}, run._profiled

    def short(options: ProfileOptions, *args: Any) -> Any:
        return real(replace(options, max_time_s=1e-6 if options.out != out else None), *args)

    monkeypatch.setattr(run, "_error", lambda made: errors[made.setting.precision])
    monkeypatch.setattr(run, "_profiled", short)
    first = profile(options).as_json()
    assert (first["complete"], first["setting"]["precision"]) == (True, "fp16")
    monkeypatch.setattr(run, "_profiled", real)
    assert profile(options)["setting"]["precision"] == "fp32"
    assert sorted(tmp_path.iterdir()) == [mine, out]
    assert mine.read_text() == "a table of the user's"


@pytest.mark.parametrize(
    # Half of how much longer fp32 takes, at least 5 % and at most 10 %.
    ("slower", "percent"),
    [(1.04, 5.0), (1.10, 5.0), (1.14, 7.0), (1.5, 10.0), (None, 5.0)],
)
def test_the_faster_runtime_may_be_off_by_half_of_its_lead(slower: float | None, percent: float) -> None:
    compared: list[Mapping[str, Any]] = [
        {"backend": "openvino", "precision": "int8", "form": "sums", "relative": 1.0},
        {"backend": "ort", "precision": "fp32", "form": "", "relative": slower},
    ]
    int8 = Setting(device="cpu", backend="openvino", precision="int8", form="sums")
    fp32 = Setting(device="cpu", backend="ort", precision="fp32")
    assert tolerated_percent(compared, int8, fp32) == pytest.approx(percent)
    assert tolerated_percent([], int8, fp32) == 5.0


def test_what_is_profiled_at_most() -> None:
    """The fastest, then fp32 of the device's own runtime: ort on a CPU."""

    def setting(backend: str, precision: Precision) -> Setting:
        return Setting(device="cpu", backend=backend, precision=precision)

    int8, other, own = setting("openvino", "int8"), setting("openvino", "fp32"), setting("ort", "fp32")
    assert worth_a_profile([int8, setting("ort", "int8"), other, own], "cpu") == [int8, own]
    assert worth_a_profile([int8, other], "cpu") == [int8, other]
    assert worth_a_profile([own, int8], "cpu") == [own]
    assert worth_a_profile([int8], "cpu") == [int8]


def test_a_table_keeps_what_was_passed_over_for_it() -> None:
    compared: list[Mapping[str, Any]] = [
        {"backend": "ort", "precision": "int8", "form": "sums", "relative": 1.0},
        {"backend": "ort", "precision": "fp32", "form": "", "relative": 1.8},
        {"backend": "trt", "precision": "fp32", "form": "", "relative": None},
    ]
    assert ratios(compared) == {"runtimes": {"ort int8 (sums)": 1.0, "ort fp32": 1.8}}
    assert ratios(with_errors(compared, {"ort int8 (sums)": 12.5})) == {
        "runtimes": {"ort int8 (sums)": 1.0, "ort fp32": 1.8},
        "unpredictable_percent": {"ort int8 (sums)": 12.5},
    }


def test_bad_names() -> None:
    space = spaces.make("resnet-cifar")
    with pytest.raises(InputError, match="unknown precision 'int4'"):
        choose(space, "fake", "auto", "int4,fp32")
    with pytest.raises(InputError, match="nor auto alone"):
        choose(space, "fake", "auto,fake", "auto")
    with pytest.raises(BackendUnavailable, match="'trt' is not available"):
        choose(space, "cpu", "ort,trt", "auto")
    with pytest.raises(InputError, match="unknown precision 'fp23'; did you mean 'fp32'"):
        profile(ProfileOptions(device="fake", precision="fp23"))
