"""A search for several devices: one network that keeps all budgets, and one for each."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from hwnas.errors import BudgetInfeasible, InputError
from hwnas.jobs.profile import ProfileOptions, profile
from hwnas.jobs.report import ReportOptions, report
from hwnas.jobs.resolve.origin import origin
from hwnas.jobs.search import SearchOptions, SearchOutcome, search
from hwnas.measure.remote.target import close_targets
from hwnas.records import SearchResult

OTHER = "pipe:///fake"


@pytest.fixture(scope="module")
def home(levels: Path) -> Iterator[Path]:
    """Tables of the fake device here, and of one at the other end of a pipe, which takes the same time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HWNAS_AGENT_HOME", str(levels / "agent"))
        for device in ("fake", OTHER):
            profile(
                ProfileOptions(device=device, space="resnet-cifar", preset="quick", input_shape=(1, 8, 8))
            )
        yield levels
    close_targets()


@pytest.fixture
def options(home: Path, levels_search: SearchOptions) -> SearchOptions:
    return replace(
        levels_search,
        latency_budget="0.12ms",
        further=((OTHER, "0.2ms"),),
        space="resnet-cifar",
        strategy="stagewise",
        importance="gradient",
        images=1000,
        limit=100,
        settings={"begin": "unjudged"},  # by size: the path does not depend on accuracies
        recipe={"batch": 32, "lr": 0.1, "threads": 1},
    )


def test_one_network_for_all_and_one_for_each(options: SearchOptions) -> None:
    found = search(options)
    assert isinstance(found, SearchOutcome)
    assert [target.budget for target in found.targets] == [
        "0.12ms@p50 on fake",
        f"0.2ms@p50 on {OTHER}",
        f"0.12ms@p50 on fake, 0.2ms@p50 on {OTHER}",
    ]
    fake, other, both = found.targets
    # The devices are equally fast, so that what the tighter one holds both hold.
    assert both.best.depths == fake.best.depths == found.best.depths
    assert [one.device for one in both.devices] == ["fake", OTHER]
    assert found.devices == both.devices
    assert all(one.within_budget for target in found.targets for one in target.devices)
    assert all(one.high_ms <= 0.2 for one in other.devices)
    assert all(one.high_ms <= 0.12 for one in both.devices)
    body = json.loads((Path(found.run) / "result.json").read_text())
    kept = SearchResult.model_validate({k: v for k, v in body.items() if k in SearchResult.model_fields})
    assert [one.setting.device for one in kept.devices] == ["fake", OTHER]
    # The path went on where the tighter device had no room any more, and ended where none has.
    high_ms = [t.estimate.by_device[OTHER].high_ms for t in kept.trials if t.evaluation is not None]
    assert 0.12 < max(high_ms) <= 0.2
    # What is exported is judged by the budget of its device.
    known = origin(found.run)
    assert (known.setting and known.setting.device, known.budget and known.budget.latency_ms) == (
        "fake",
        0.12,
    )
    there = known.on(OTHER)
    assert there.budget is not None
    assert there.predicted is not None
    assert (there.budget.latency_ms, there.budget.by_device_ms) == (0.2, {})
    assert there.predicted.latency_ms == pytest.approx(both.devices[1].predicted_ms)
    own = origin(str(Path(found.run) / "targets" / "pipe-fake"))
    assert own.budget is not None
    assert own.budget.latency_ms == 0.2
    page = Path(report(ReportOptions((found.run,))).path).read_text()
    assert "0.2ms@p50" in page
    assert OTHER in page
    again = search(options)  # which a finished run answers
    assert again.get("targets") == found.get("targets")


def test_a_device_that_nothing_fits_is_told(options: SearchOptions) -> None:
    with pytest.raises(BudgetInfeasible, match=f"on {OTHER}"):
        search(replace(options, further=((OTHER, "0.001ms"),)))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"further": (("fake", "0.2ms"),)}, "named twice"),
        ({"further": ((OTHER, "0.2ms,0.3ms"),)}, "one budget for each"),
        ({"further": ((OTHER, "0.2ms@p95"),)}, "same percentile"),
        ({"strategy": "hournas", "importance": None, "settings": {}}, "learns from the table of one device"),
        ({"distill": True}, "left out"),
    ],
)
def test_what_makes_no_sense_is_refused(
    options: SearchOptions, change: dict[str, object], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        search(replace(options, **change))  # type: ignore[arg-type]
