"""`profile`, `predict` and `table` on the fake device: whole, resumed, refused."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwnas import seals
from hwnas.backends.fake import Fake
from hwnas.cost.heldout import summary
from hwnas.cost.model import cost_model
from hwnas.errors import DataFormatError, DeviceUnavailable, InputError, MissingMeasurement, StaleTable
from hwnas.jobs import table as verbs
from hwnas.jobs.predict import PredictOptions, find, predict
from hwnas.jobs.profile import ProfileOptions, profile
from hwnas.jobs.profile.plan import PLANS, Plan, anchors, blocks_of, schedule
from hwnas.measure import table as tables
from hwnas.measure import table_folder
from hwnas.measure.rows import NetworkRow, Row
from hwnas.measure.table import LatencyTable
from hwnas.measure.writer import TableWriter, write
from hwnas.nets import spaces
from hwnas.spec import NetworkSpec

SMALL = Plan(calibration=20, probes=10, holdout=6, target=0.0, blocks=250)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HWNAS_HOME", str(tmp_path / "home"))
    monkeypatch.setitem(PLANS, "quick", SMALL)
    return tmp_path / "home"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """One profile of the fake device for all tests that only read it."""
    path = tmp_path_factory.mktemp("made") / "fake.hwlat.jsonl"
    plans = dict(PLANS)
    PLANS["quick"] = SMALL
    try:
        body = profile(ProfileOptions(device="fake", space="resnet-cifar", preset="quick", out=path))
    finally:
        PLANS.update(plans)
    return path, body.as_json()


def test_a_profile_says_how_good_it_is(made: tuple[Path, dict[str, Any]]) -> None:
    path, body = made
    assert body["complete"]
    assert body["rows"] == 7
    assert body["probes"] == 33, "20 random, 10 chosen, 3 anchors"
    assert body["measurements"] == 7 + 33 + 6 + 6
    holdout = body["holdout"]
    assert holdout["networks"] == 6
    # The fake device has no noise: what is left is the model's own error.
    assert holdout["mape_percent"] < 0.5
    assert holdout["repeat_mape_percent"] == pytest.approx(0.0, abs=1e-9)
    assert holdout["kendall_tau"] == pytest.approx(1.0)
    assert body["isolated_sum_mape_percent"] > 5, "this device too charges separate engines for their edges"
    assert tables.load(path).summary["holdout"] == holdout
    json.dumps(body, allow_nan=False)


def test_networks_of_all_roles_are_spread_over_the_campaigns() -> None:
    space = spaces.make("resnet-cifar")
    plan = Plan(calibration=40, probes=0, holdout=20, target=0.0, blocks=250)
    order = schedule(space, plan, seed=3)
    assert order == schedule(space, plan, seed=3)
    assert Counter(role for _, role in order) == {"calibration": 40, "holdout": 20, "probe": 3}
    assert len({spec.key for spec, _ in order}) == 63
    assert {spec.key for spec, role in order if role == "probe"} == {s.key for s in anchors(space)}
    for at in range(0, 60, 10):
        roles = Counter(role for _, role in order[at : at + 10])
        assert roles["holdout"] >= 2
        assert roles["calibration"] >= 5


def test_repeating_the_command_goes_on_with_an_unfinished_table(home: Path) -> None:
    options = ProfileOptions(device="fake", space="resnet-cifar", preset="quick", max_time_s=0.3)
    first = profile(options)
    assert not first["complete"]
    again = profile(ProfileOptions(device="fake", space="resnet-cifar", preset="quick"))
    assert again["table"] == first["table"]
    assert again["complete"]
    assert again["measurements"] == 52 - first["measurements"]
    third = profile(ProfileOptions(device="fake", space="resnet-cifar", preset="quick", dry_run=True))
    assert third["table"] != first["table"], "a finished table is left alone"


def test_an_interrupted_profile_ends_with_the_networks_of_an_unbroken_one(
    home: Path, made: tuple[Path, dict[str, Any]]
) -> None:
    profile(ProfileOptions(device="fake", space="resnet-cifar", preset="quick", max_time_s=0.5))
    resumed = profile(ProfileOptions(device="fake", space="resnet-cifar", preset="quick"))
    whole, parts = tables.load(made[0]), tables.load(Path(resumed["table"]))
    for role in ("calibration", "holdout"):
        keys = [[net.spec.key for net in t.networks if net.role == role] for t in (whole, parts)]
        assert keys[0] == keys[1]


def test_dry_run_touches_nothing(home: Path) -> None:
    body = profile(ProfileOptions(device="fake", space="resnet-cifar", preset="quick", dry_run=True))
    assert body["missing"] == 7
    assert body["measurements"] == 7 + 33 + 12
    assert body["seconds"] > 0
    assert not home.exists()


def test_only_missing(home: Path, made: tuple[Path, dict[str, Any]]) -> None:
    with pytest.raises(MissingMeasurement, match="leave out --only-missing"):
        profile(ProfileOptions(device="fake", space="resnet-cifar", preset="quick", only_missing=True))
    table = tables.load(made[0])
    table.rows.pop(next(iter(table.rows)))
    copy = write(home / "copy.hwlat.jsonl", table)
    body = profile(
        ProfileOptions(device="fake", space="resnet-cifar", preset="quick", only_missing=True, out=copy.path)
    )
    assert body["measurements"] == 1
    assert body["rows"] == 7
    assert body["complete"]


def test_a_noisy_table_is_improved_where_it_is_worst(home: Path, made: tuple[Path, dict[str, Any]]) -> None:
    table = tables.load(made[0])
    good, row = table.networks[0], next(iter(table.rows.values()))
    assert row.measurement is not None
    spoilt = {"gates": ("sentinel",)}
    slow = good.measurement.model_copy(update={**spoilt, "floor_ms": 1.3 * good.measurement.floor_ms})
    table.networks[0] = good.model_copy(update={"measurement": slow})
    slow = row.measurement.model_copy(update={**spoilt, "floor_ms": 1.3 * row.value_ms})
    table.rows[row.block] = row.model_copy(update={"measurement": slow, "value_ms": slow.floor_ms})
    copy = write(home / "noisy.hwlat.jsonl", table)
    body = profile(
        ProfileOptions(device="fake", space="resnet-cifar", preset="quick", only_missing=True, out=copy.path)
    )
    again = tables.load(home / "noisy.hwlat.jsonl")
    assert body["complete"]
    assert again.complete
    assert again.table_id != copy.table_id
    assert again.networks[0].measurement.floor_ms < 1.1 * good.measurement.floor_ms
    assert again.rows[row.block].value_ms < 1.1 * row.value_ms
    assert "sentinel" not in again.networks[0].measurement.gates
    untouched = [n for n in table.networks[1:] if not set(n.measurement.gates) - {"spikes"}]
    assert untouched
    assert all(net in again.networks for net in untouched)


def test_a_network_that_stands_out_is_measured_again(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first calibration network is written down 25 % too slow, as in a slow spell that no gate saw."""
    append, spoilt = TableWriter.append, list[NetworkSpec]()

    def slow(self: TableWriter, row: Row) -> None:
        if isinstance(row, NetworkRow) and row.role == "calibration" and not spoilt:
            spoilt.append(row.spec)
            told = row.measurement.model_copy(update={"floor_ms": 1.25 * row.measurement.floor_ms})
            row = row.model_copy(update={"measurement": told})
        append(self, row)

    monkeypatch.setattr(TableWriter, "append", slow)
    said: list[str] = []
    body = profile(
        ProfileOptions(device="fake", space="resnet-cifar", preset="quick"),
        lambda kind, fields: said.append(str(fields.get("text", ""))),
    )
    (text,) = (one for one in said if "measuring again" in one)
    assert f"{spoilt[0].depths_text} by 2" in text
    table = tables.load(Path(body["table"]))
    assert table.again == {spoilt[0].key}
    assert cost_model(table).slower() == []
    assert body["holdout"]["mape_percent"] < 0.5


def test_a_table_that_noise_made_wide_says_so_and_is_improved(
    home: Path, made: tuple[Path, dict[str, Any]]
) -> None:
    table, rng = tables.load(made[0]), np.random.default_rng(0)
    for at, net in enumerate(table.networks):
        ms = net.measurement.floor_ms * (1 + abs(0.06 * rng.standard_normal()))
        told = net.measurement.model_copy(update={"floor_ms": ms, "gates": ()})
        table.networks[at] = net.model_copy(update={"measurement": told})
    table.summary = summary(table)
    before = table.summary["width_percent"]
    assert before["noise"] > 4
    path = home / "wide.hwlat.jsonl"
    write(path, table)
    (warning,) = tables.load(path).warnings
    assert "measurements repeat badly" in warning
    assert (
        f"hwnas profile --device fake --space resnet-cifar --input 3x32x32 --only-missing --out {path}"
        in (warning.replace(" --backend fake", ""))
    )
    assert warning in predict(PredictOptions(("resnet20",), table=path))["warnings"]
    profile(ProfileOptions(device="fake", space="resnet-cifar", preset="quick", only_missing=True, out=path))
    again = tables.load(path)
    assert again.summary["width_percent"]["half_width"] < 0.5 * before["half_width"]
    assert again.warnings == []
    assert len(again.rows) == len(table.rows)
    assert len(again.networks) == len(table.networks), "improved, not begun again"


def test_a_device_that_is_not_here_names_the_ways_on(home: Path) -> None:
    with pytest.raises(DeviceUnavailable, match="--estimate") as caught:
        profile(ProfileOptions(device="titanxp", space="resnet-cifar"))
    assert caught.value.exit_status == 4


def test_estimate_plans_without_the_device(home: Path) -> None:
    body = profile(ProfileOptions(device="titanxp", space="resnet-cifar", estimate=True))
    assert body["setting"]["provenance"] == "estimated"
    assert body["holdout"] is None
    assert body["supports"]["tensorrt"]["newest"] == "8.6.1"
    estimate = predict(PredictOptions(("resnet20",), device="titanxp"))["networks"][0]
    assert estimate["provenance"] == "estimated"
    assert estimate["high_ms"] > 1.5 * estimate["latency_ms"], "an estimate's interval is wide"


def test_unknown_preset(home: Path) -> None:
    with pytest.raises(InputError, match="unknown preset 'fast'"):
        profile(ProfileOptions(device="fake", space="resnet-cifar", preset="fast"))


def test_predict(made: tuple[Path, dict[str, Any]]) -> None:
    body = predict(PredictOptions(("resnet20", "resnet56"), table=made[0]))
    small, large = body["networks"]
    assert small["path"] == "resnet20"
    assert small["low_ms"] < small["latency_ms"] < small["high_ms"] < large["low_ms"]
    assert sum(small["by_stage_ms"].values()) == pytest.approx(small["latency_ms"])
    assert body["table_id"] == tables.load(made[0]).table_id
    assert body["warnings"] == []


def test_predict_warns_of_guesses(made: tuple[Path, dict[str, Any]]) -> None:
    body = predict(PredictOptions(("densenas-a",), table=made[0]))
    assert body["networks"][0]["extrapolated"]
    assert "were not measured" in body["warnings"][0]


def test_predict_without_any_table(home: Path) -> None:
    with pytest.raises(MissingMeasurement, match="hwnas profile --device fake"):
        predict(PredictOptions(("resnet20",), device="fake"))
    with pytest.raises(InputError, match="name at least one network"):
        predict(PredictOptions(()))


def test_a_table_of_another_runtime_is_not_picked_but_may_be_named(
    home: Path, made: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    verbs.import_(made[0])
    assert find(device="fake").table_id == tables.load(made[0]).table_id
    real = Fake.setting

    def newer(self: Fake, *args: Any) -> Any:
        return real(self, *args).model_copy(update={"backend_version": "99"})

    monkeypatch.setattr(Fake, "setting", newer)
    with pytest.raises(StaleTable, match="backend_version was '1', is '99'"):
        find(device="fake")
    assert "backend_version" in find(made[0]).warnings[0]
    with pytest.raises(StaleTable):
        verbs.validate(made[0])


def test_b4_the_newest_table_of_this_very_machine_is_picked(
    home: Path, made: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU and its slices (MIG) have one device name; a slice's times are not the whole card's."""
    verbs.import_(made[0])
    whole = tables.load(made[0])
    real = Fake.setting

    def a_slice(self: Fake, *args: Any) -> Any:
        setting = real(self, *args)
        return setting.model_copy(update={"device_arch": f"{setting.device_arch} MIG 1g.5gb"})

    with monkeypatch.context() as sliced:
        sliced.setattr(Fake, "setting", a_slice)
        with pytest.raises(StaleTable, match="device_arch was"):
            find(device="fake")  # there is the whole card's only
        bodies = [json.loads(line) for line in made[0].read_text().splitlines()]
        bodies[0]["setting"]["device_arch"] += " MIG 1g.5gb"
        bodies[0]["created"] = "2099-01-02T03:04:05+00:00"  # the newest
        before, lines = "", []
        for body in bodies:
            body.pop(seals.LINE, None)
            before, line = seals.line(before, body)
            lines.append(line)
        (tmp_path / "slice.hwlat.jsonl").write_text("\n".join(lines) + "\n")
        verbs.import_(tmp_path / "slice.hwlat.jsonl")
        assert find(device="fake").setting.device_arch.endswith("MIG 1g.5gb")
    assert find(device="fake").table_id == whole.table_id


def test_validate(made: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    body = verbs.validate(made[0])
    assert body["verdict"] == "valid"
    assert [check["passed"] for check in body["checks"]] == [True] * 3
    assert len(body["sentinels"]) == 3
    assert body["seconds"] < 60


def scaled(table: LatencyTable, factor: Callable[[int], float], path: Path) -> Path:
    """A copy of a table whose networks were taken on a device slower by `factor(i)`."""
    for i, net in enumerate(sorted(table.networks, key=lambda n: n.measurement.floor_ms)):
        slower = net.measurement.model_copy(update={"floor_ms": net.measurement.floor_ms * factor(i)})
        table.networks[table.networks.index(net)] = net.model_copy(update={"measurement": slower})
    write(path, table)
    return path


def test_validate_finds_a_device_that_moved(made: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    evenly = scaled(tables.load(made[0]), lambda i: 1.2, tmp_path / "a.hwlat.jsonl")
    body = verbs.validate(evenly)
    assert body["verdict"] == "scaled"
    assert body["factor"] == pytest.approx(1 / 1.2, rel=0.01)
    apart = scaled(tables.load(made[0]), lambda i: 1.0 + 0.02 * i, tmp_path / "b.hwlat.jsonl")
    with pytest.raises(StaleTable, match="reference networks changed by different factors"):
        verbs.validate(apart)


def test_validate_allows_what_the_intervals_allow(
    made: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same moves as above, by a table whose own intervals reach from a third to three times."""

    class Vague:
        def predict(self, specs: Sequence[NetworkSpec]) -> tuple[np.ndarray, np.ndarray]:
            return np.ones(len(specs)), np.ones(len(specs))

        def bounds(self, specs: Sequence[NetworkSpec]) -> tuple[np.ndarray, np.ndarray]:
            return np.full(len(specs), 1 / 3), np.full(len(specs), 3.0)

    apart = scaled(tables.load(made[0]), lambda i: 1.0 + 0.02 * i, tmp_path / "c.hwlat.jsonl")
    monkeypatch.setattr("hwnas.jobs.table.check.cost_model", lambda table: Vague())
    assert verbs.validate(apart)["verdict"] == "valid"


def test_show_diff_merge_export_import(home: Path, made: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    shown = verbs.show(made[0])
    assert shown["rows"] == len(shown["blocks"]) == 7
    assert shown["networks"] == {"calibration": 20, "holdout": 6, "probe": 13}
    assert shown["holdout"]["networks"] == 6
    taken = verbs.import_(made[0])
    assert Path(taken["table"]).parent == table_folder.folder()
    assert verbs.listed()["tables"][0]["path"] == taken["table"]
    assert verbs.diff(made[0], Path(taken["table"]))["verdict"] == "same"
    sent = verbs.export(tmp_path / "sent.hwlat.jsonl")
    assert sent["table_id"] == taken["table_id"] == shown["table_id"]
    with pytest.raises(InputError, match="exists already"):
        verbs.export(tmp_path / "sent.hwlat.jsonl")
    merged = verbs.merge([made[0], tmp_path / "sent.hwlat.jsonl"], tmp_path / "merged.hwlat.jsonl")
    assert merged["rows"] == 7
    assert merged["networks"] == 78


def test_import_of_unknown_formats(tmp_path: Path) -> None:
    file = tmp_path / "x"
    file.write_text("no")
    with pytest.raises(InputError, match=r"unknown table format 'csv' \(known: densenas, hwlat, ofa\)"):
        verbs.import_(file, fmt="csv")
    with pytest.raises(DataFormatError):
        verbs.import_(file)


def test_a_large_space_is_profiled_where_its_searches_begin() -> None:
    space = spaces.make("macromicro")
    chosen = blocks_of(space, 250, seed=0)
    assert len(set(chosen)) == len(chosen) <= 250
    assert set(chosen) <= set(space.blocks())
    assert set(space.smallest().blocks) <= set(chosen)
