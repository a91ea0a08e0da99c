"""What a new user meets first: tables that fit, tables that are bad, dry runs, advice."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from PIL import Image

sys.path.append(str(Path(__file__).parents[1] / "measure"))
import table_samples as samples
from table_samples import network, setting

from hwnas.cost.roofline import describe
from hwnas.cost.roofline import table as planning_table
from hwnas.errors import DataFormatError, DeviceUnavailable, MissingMeasurement
from hwnas.jobs.predict import PredictOptions, predict
from hwnas.jobs.profile import ProfileOptions
from hwnas.jobs.search import SearchOptions, first_table, plan, search
from hwnas.measure import advice, reliability, table_folder
from hwnas.measure.table import LatencyTable
from hwnas.measure.writer import write
from hwnas.nets import spaces
from hwnas.protocols import Emit
from hwnas.results import Result
from hwnas.train.data import load
from hwnas.train.outline import outline


@pytest.fixture(autouse=True)
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HWNAS_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def photographs(folder: Path, size: int, number: int = 6) -> str:
    """Two classes of flat pictures, of different width and height."""
    for name, level in (("dark", 40), ("light", 200)):
        (folder / name).mkdir(parents=True)
        for at in range(number):
            picture = Image.new("RGB", (size + 3 * at, size), (level + at, level, level))
            picture.save(folder / name / f"{at}.png")
    return f"folder:{folder}"


def keep(table: LatencyTable, name: str, **header: object) -> LatencyTable:
    table.header = table.header.model_copy(update=header)
    return write(table_folder.folder() / f"{name}.hwlat.jsonl", table)


def planned(space: str, classes: int, created: str, name: str) -> LatencyTable:
    made = spaces.make(space, classes=classes)
    table = planning_table(describe("titanxp"), made.blocks(), precision="fp32", batch=1, threads=1)
    return keep(table, name, space=space, created=created)


def test_the_table_that_fits_is_taken_not_the_newest() -> None:
    fits = planned("resnet-cifar", 10, "2026-01-01T00:00:00+00:00", "old")
    planned("mbv2-cifar", 10, "2026-02-01T00:00:00+00:00", "new")
    found = predict(PredictOptions(("resnet20",), device="titanxp"))
    assert found["table_id"] == fits.table_id
    assert found["networks"][0]["extrapolated"] == []


def test_no_table_fits_a_network_of_another_image_size() -> None:
    planned("resnet-cifar", 10, "2026-01-01T00:00:00+00:00", "old")
    with pytest.raises(MissingMeasurement, match="--space densenas-mbv2 --input 3x224x224"):
        predict(PredictOptions(("densenas-a",), device="titanxp"))


def test_a_head_of_other_classes_is_priced_and_said() -> None:
    planned("resnet-cifar", 37, "2026-01-01T00:00:00+00:00", "old")
    found = predict(PredictOptions(("resnet20",), device="titanxp"))
    assert found["networks"][0]["extrapolated"] == []
    assert any("classifier of 37 classes stands for 10" in text for text in found["warnings"])


def off(percent: float) -> LatencyTable:
    table = samples.table()
    table.summary = {"holdout": {"mape_percent": percent, "repeat_mape_percent": 20.0}}
    return keep(table, f"off-{percent:g}")


@pytest.mark.parametrize(("percent", "doubted", "refused"), [(4.9, 0, 0), (5.1, 1, 0), (19.0, 1, 1)])
def test_a_table_that_is_far_off_is_not_used_in_silence(percent: float, doubted: int, refused: int) -> None:
    table = off(percent)
    assert any("unreliable" in text for text in table.warnings) == bool(doubted)
    assert reliability.refused(table) == bool(refused)
    spec = Path("network.json")
    spec.write_text(network(2, 2).to_json())
    asked = PredictOptions((str(spec),), table=table.path)
    if refused:
        with pytest.raises(DataFormatError, match=r"19 % off.*profile again.*--insist"):
            predict(asked)
        asked = PredictOptions((str(spec),), table=table.path, insist=True)
    assert any("unreliable" in text for text in predict(asked)["warnings"]) == bool(doubted)


def test_a_reliable_table_wins_over_a_newer_unreliable_one() -> None:
    good = keep(samples.table(), "good", created="2026-01-01T00:00:00+00:00")
    bad = samples.table()
    bad.summary = {"holdout": {"mape_percent": 19.0}}
    keep(bad, "bad", created="2026-02-01T00:00:00+00:00")
    assert table_folder.newest("cpu", covering=[network(1, 1)]).table_id == good.table_id


@pytest.mark.parametrize("insist", [False, True])
def test_a_first_table_that_is_far_off_is_used_where_the_user_insists(
    insist: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The quick profile before a search may itself be disturbed."""
    made = spaces.make("resnet-cifar")
    table = planning_table(describe("titanxp"), made.blocks(), precision="fp32", batch=1, threads=1)
    table.summary = {"holdout": {"mape_percent": 19.0}}
    path = keep(table, "first", space="resnet-cifar").path

    def quick(options: ProfileOptions, emit: Emit | None = None) -> Result:
        planned = {"seconds": 1.0, "table": str(path), "complete": True}
        return Result.of({**planned, "dry_run": True} if options.dry_run else planned)

    monkeypatch.setattr(first_table, "job", quick)
    options = SearchOptions("1000ms", "digits", "uniform", "resnet-cifar", device="cpu", insist=insist)
    if insist:
        with pytest.raises(DeviceUnavailable, match="titanxp"):  # it goes on: the winner cannot be measured
            search(options)
    else:
        with pytest.raises(DataFormatError, match=r"19 % off.*--insist"):
            search(options)


def test_hints_repeat_what_differs_from_the_usual() -> None:
    odd = setting(precision="fp16", batch=8)
    hint = advice.profile(advice.conditions(odd), "mbv2-cifar", (1, 28, 28))
    assert hint == (
        "hwnas profile --device cpu --backend ort --precision fp16 --batch 8 --space mbv2-cifar "
        "--input 1x28x28"
    )
    assert advice.command("search", data="folder:my photos", dry_run=True) == (
        "hwnas search --data 'folder:my photos' --dry-run"
    )


def test_spaces_are_advised_by_the_size_of_the_images() -> None:
    assert [spaces.advised((3, side, side)) for side in (28, 64, 96, 128, 224)] == (
        ["mbv2-cifar"] * 3 + ["mbv2-imagenet"] * 2
    )
    assert spaces.advised(None) == "mbv2-cifar"


def test_few_large_photographs_are_made_small_and_it_is_said(house: Path) -> None:
    uri = photographs(house / "photos", 300)
    data = load(uri)
    assert data.input_shape == (3, 64, 64)
    assert any("--input 3x224x224 takes them larger" in note for note in data.notes)
    assert load(uri, input_shape=(3, 80, 80)).input_shape == (3, 80, 80)


def test_an_outline_tells_what_loading_would_give_and_writes_nothing(house: Path) -> None:
    uri = photographs(house / "photos", 50)
    told = outline(uri)
    assert not (house / "home").exists(), "no cache"
    data = load(uri)
    assert told.describe() == data.describe()
    assert (told.train, told.val, told.test) == (len(data.train), len(data.val), len(data.test()))


def test_a_dry_run_of_a_search_on_photographs_writes_nothing(house: Path) -> None:
    uri = photographs(house / "photos", 300)
    before = sorted(house.rglob("*"))
    told = search(SearchOptions("2x:smallest", uri, device="fake", dry_run=True))
    assert sorted(house.rglob("*")) == before
    assert told["seconds"] > 0
    assert "quick profile" in told["table"]


def test_images_of_a_preset_are_bounded_by_passes_over_few_images() -> None:
    quick = plan.preset("quick")  # 4 epochs, 40,000 images, at most 31 epochs
    assert [quick.images_of(n) for n in (100, 2_000, 50_000)] == [3_100, 40_000, 200_000]
