"""A profile near one latency: widths by hand, what is measured, and which searches it serves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hwnas.errors import BudgetInfeasible, DataFormatError, InputError, MissingMeasurement
from hwnas.jobs.profile import ProfileOptions, near, profile
from hwnas.jobs.profile.near import Spans, _begun, span
from hwnas.jobs.profile.plan import PLANS, TRIED_SHARE, Plan, blocks_of, draw, priced_part
from hwnas.jobs.table import listed, show
from hwnas.measure import device, table_folder
from hwnas.measure import table as tables
from hwnas.measure.rows import Header
from hwnas.measure.table import LatencyTable
from hwnas.measure.writer import write
from hwnas.nets import spaces
from hwnas.nets.families import Families, narrowed
from hwnas.records import Setting
from hwnas.spec import NetworkSpec


@pytest.fixture(scope="module")
def space() -> Families:
    found = spaces.make("auto")
    assert isinstance(found, Families)
    return found


@pytest.mark.parametrize(
    ("budget_ms", "expected", "places"),
    [
        # 0.1 ms, doubled every eight widths. From half of 0.21 ms (place 0.6) to twice it (place 16.6), which
        # the 0.8 ms at place 24 are above.
        (0.21, (1, 16), [0, 8, 16, 24]),
        (0.41, (9, 24), [0, 8, 16, 24, 32]),
        (0.001, (0, 0), [0]),  # even the narrowest is too slow
        (1000.0, (-1, -1), None),  # even the widest is too fast: every eighth, and that one
    ],
)
def test_widths_near_a_budget(
    space: Families, budget_ms: float, expected: tuple[int, int], places: list[int] | None
) -> None:
    timed: list[int] = []
    widths = space.families[0].widths

    def time_ms(spec: NetworkSpec) -> float:
        timed.append(widths.index(tuple(stage[0].c_out for stage in spec.stages)))
        return float(0.1 * 2.0 ** (timed[-1] / 8))

    last = len(widths) - 1
    assert span(space.families[0], budget_ms, time_ms) == tuple(at if at >= 0 else last for at in expected)
    assert timed == ([*range(0, last, 8), last] if places is None else places)


def test_runtimes_are_compared_by_what_takes_about_the_budget(
    space: Families, monkeypatch: pytest.MonkeyPatch
) -> None:
    """0.1 ms, doubled every eight widths: 0.3 ms lie at place 12.7, so the thirteenth."""

    def timer(backend: object, setting: object) -> Callable[[NetworkSpec], float]:
        def time_ms(spec: NetworkSpec) -> float:
            family = space.family_of(spec)
            return float(
                0.1 * 2.0 ** (family.widths.index(tuple(stage[0].c_out for stage in spec.stages)) / 8)
            )

        return time_ms

    monkeypatch.setattr(near, "_timer", timer)
    backend, setting = device.conditions("fake", None, precision="fp32", batch=1, threads=1)
    found = near.anchors_near(space, 0.3, backend, setting)
    assert [spec.key for spec in found] == [one.scaled(13, 2).key for one in space.families[:3]]
    narrowest = near.anchors_near(space, 0.001, backend, setting)
    assert [spec.key for spec in narrowest] == [one.scaled(0, 2).key for one in space.families[:3]]


def test_a_budget_below_the_smallest_networks_is_refused_before_a_profile(short: ProfileOptions) -> None:
    """1 ps, where the fake device takes microseconds; a budget that is only tight is left to the search."""
    with pytest.raises(BudgetInfeasible, match="raise the budget") as caught:
        profile(replace(short, near_ms=1e-9))
    assert short.out is not None
    assert not short.out.exists()
    assert caught.value.exit_status == 3
    assert caught.value.smallest_ms is not None
    tight = replace(short, near_ms=caught.value.smallest_ms / 1.4, dry_run=False, max_time_s=1e-6)
    assert not profile(tight).as_json()["complete"]


def test_a_narrowed_space_holds_members_of_the_whole_one(space: Families) -> None:
    few = narrowed(space, {one.label: (3, 5) for one in space.families})
    assert set(few.blocks()) < set(space.blocks())
    assert few.smallest() == space.smallest()
    first = space.families[0]
    assert few.uniform()[1:] == [first.scaled(width, 2) for width in (3, 4, 5)]
    assert all(spec in space for spec in few.uniform())


@pytest.mark.parametrize("wrong", [(5, 3), (-1, 2), (3, 99)])
def test_spans_that_are_none_are_refused(space: Families, wrong: tuple[int, int]) -> None:
    with pytest.raises(InputError, match="no widths"):
        narrowed(space, {one.label: wrong for one in space.families})
    with pytest.raises(InputError, match="not those of the families"):
        narrowed(space, {"other": (1, 2)})


def ends(space: Families, first: int = 3, last: int = 5) -> dict[str, Any]:
    """Widths as a header has them: channels of the narrowest and the widest members of each family."""
    return {one.label: [list(one.widths[first]), list(one.widths[last])] for one in space.families}


def begun(tmp_path: Path, widths: object, space: Families) -> Spans | None:
    path = tmp_path / "one.hwlat.jsonl"
    setting = Setting(device="fake", backend="fake", precision="fp32", batch=1, threads=1)
    write(path, LatencyTable(Header(setting=setting, run={"widths": widths})))
    return _begun(path, space)


def test_the_widths_of_a_table_that_was_begun_are_taken(space: Families, tmp_path: Path) -> None:
    assert begun(tmp_path, ends(space), space) == {one.label: (3, 5) for one in space.families}


@pytest.mark.parametrize(
    "change",
    [
        {"residual, patches": [1]},
        {"residual, patches": ["a", 2]},
        {"residual, patches": [3, 5]},  # places, which mean other widths in another version
        {"residual, patches": [[4, 8, 16], [20, 40, 80]]},  # 20 is no multiple of eight
        {"residual, patches": [[8, 16, 32], [4, 8, 16]]},  # the wrong way round
        {"residual, patches": [[True, 8, 16], [8, 16, 32]]},
        {"residual, patches": [["4", 8, 16], [8, 16, 32]]},
        {"residual, patches": None},
        {"of another version": [[4, 8, 16], [8, 16, 32]]},
    ],
)
def test_widths_of_a_damaged_header_are_refused(
    space: Families, tmp_path: Path, change: dict[str, Any]
) -> None:
    with pytest.raises(DataFormatError, match=r"one\.hwlat\.jsonl.* narrowest and the widest of each family"):
        begun(tmp_path, {**ends(space), **change}, space)


@pytest.mark.parametrize("widths", [None, 3, [[1, 2]], {}])
def test_a_header_without_widths_of_all_families_is_refused(
    space: Families, tmp_path: Path, widths: object
) -> None:
    with pytest.raises(DataFormatError, match="remove it, or profile into a new file"):
        begun(tmp_path, widths, space)


def test_a_profile_near_a_latency(space: Families, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HWNAS_HOME", str(tmp_path))
    short = Plan(calibration=3, probes=0, holdout=2, target=1.0, blocks=30, blocks_near=12)
    monkeypatch.setitem(PLANS, "quick", short)
    options = ProfileOptions(device="fake", space="auto", preset="quick", near_ms=0.5)
    body = profile(options).as_json()
    assert body["complete"]
    table = tables.load(Path(body["table"]))
    (line,) = listed().tables
    shown = show(table.path)
    assert (line.near_ms, line.input) == (shown.near_ms, shown.input) == (0.5, (3, 32, 32))
    assert len(table.rows) < 30  # twelve, or those of the anchors
    spans = _begun(Path(body["table"]), space)
    assert spans is not None
    narrow = narrowed(space, spans)
    assert body["near_ms"] == 0.5
    assert set(table.rows) <= set(narrow.blocks())
    assert table.covers(space.smallest())
    # The table is one for a search near the latency, and for no other.
    found = table_folder.newest("fake", space="auto", budgets_ms=[0.4])
    assert found.table_id == table.table_id
    for budgets in ([1.0], [0.5, 1.0], [None]):
        with pytest.raises(MissingMeasurement):
            table_folder.newest("fake", space="auto", budgets_ms=budgets)
    # Repeated on its own file, it stays what it is.
    assert profile(replace(options, out=Path(body["table"]))).as_json()["table_id"] == table.table_id


@pytest.fixture
def short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ProfileOptions:
    """Of a small profile near 0.5 ms on the fake device, into a file."""
    monkeypatch.setenv("HWNAS_HOME", str(tmp_path))
    few = Plan(calibration=3, probes=0, holdout=2, target=1.0, blocks=30, blocks_near=12)
    monkeypatch.setitem(PLANS, "quick", few)
    return ProfileOptions(
        device="fake", space="auto", preset="quick", near_ms=0.5, out=tmp_path / "one.hwlat.jsonl"
    )


def test_one_file_holds_rows_near_one_latency(short: ProfileOptions) -> None:
    table_id = profile(short).as_json()["table_id"]
    for dry_run in (False, True):
        with pytest.raises(InputError, match=r"was profiled near 0\.5 ms, and this would be near 0\.4 ms"):
            profile(replace(short, near_ms=0.4, dry_run=dry_run))
        with pytest.raises(InputError, match=r"near 0\.5 ms, and this would be for any budget"):
            profile(replace(short, near_ms=None, dry_run=dry_run))
        with pytest.raises(InputError, match="is a table of auto, not of resnet-cifar; choose another --out"):
            profile(replace(short, near_ms=None, space="resnet-cifar", dry_run=dry_run))
    assert short.out is not None
    assert tables.load(short.out).table_id == table_id
    # Extended it stays near, and as small.
    more = profile(replace(short, near_ms=None, only_missing=True)).as_json()
    assert more["near_ms"] == 0.5
    assert more["rows"] < 30


def test_an_estimate_is_near_no_latency(short: ProfileOptions) -> None:
    with pytest.raises(InputError, match="an estimate is of every block"):
        profile(replace(short, estimate=True))


def test_an_unfinished_profile_near_a_latency_is_gone_on_with_in_its_conditions(
    short: ProfileOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the clock would choose now."""
    open_to = replace(short, out=None, backend="auto", precision="fp32,fp16")
    begun = profile(replace(open_to, max_time_s=1e-6)).as_json()
    assert not begun["complete"]

    def never(*args: object, **kwargs: object) -> None:
        raise AssertionError("chosen again")

    monkeypatch.setattr("hwnas.jobs.profile.conditions.choose", never)
    others: list[dict[str, Any]] = [{"near_ms": 0.4}, {"batch": 2}, {"input_shape": (3, 16, 16)}]
    for other in others:
        with pytest.raises(AssertionError, match="chosen again"):
            profile(replace(open_to, **other))
    ended = profile(open_to).as_json()
    assert ended["complete"]
    assert (ended["table"], ended["setting"]) == (begun["table"], begun["setting"])
    with pytest.raises(AssertionError, match="chosen again"):  # a finished one is not gone on with
        profile(open_to)


def test_a_profile_near_a_latency_prices_the_families_that_are_tried_first(space: Families) -> None:
    """So many blocks as the members of three and a half families have: three are priced, and drawn from."""
    narrow = narrowed(space, {one.label: (8, 12) for one in space.families})
    uniform = [
        {b for at in range(len(one.widths)) for b in one.scaled(at, 2).blocks} for one in narrow.families[:4]
    ]
    three, four = len(set().union(*uniform[:3])), len(set().union(*uniform))
    most = round((three + four) / 2 / TRIED_SHARE)
    priced = priced_part(narrow, most)
    assert isinstance(priced, Families)
    assert [one.label for one in priced.families] == [one.label for one in narrow.families[:3]]
    measured = set(blocks_of(narrow, most, seed=0))
    assert set().union(*uniform[:3]) <= measured
    assert len(measured) <= most
    for spec in draw(priced, 20, 0, "random"):
        assert set(spec.blocks) <= measured
    assert priced_part(narrow, 10) is narrow  # too few for three
    assert priced_part(narrow, 10_000) is narrow  # all are measured
