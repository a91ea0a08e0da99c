"""Which networks are drawn for equal latency."""

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from benchmarks import equal_latency
from benchmarks.equal_latency import WINDOW, chosen, drawn, spread, within
from benchmarks.frontier import Bench, Built
from hwnas.arrays import Float64s
from hwnas.nets.count import count
from hwnas.nets.families import auto
from hwnas.protocols import Engine
from hwnas.records import Measurement
from hwnas.spec import NetworkSpec

SPACE = auto()
BUDGET_MS = 5.0


def price(specs: Sequence[NetworkSpec]) -> Float64s:
    """A millisecond for a million multiply-accumulates."""
    return np.array([count(spec).macs / 1e6 for spec in specs])


def test_the_window_ends_at_the_budget() -> None:
    assert within(np.array([4.59, 4.61, 5.0, 5.01]), 5.0).tolist() == [False, True, True, False]


def test_members_are_in_the_window_distinct_and_of_many_families() -> None:
    found = drawn(SPACE, price, BUDGET_MS, 24, np.random.default_rng(0))
    assert len(found) == 24
    for key, one in found.items():
        spec = NetworkSpec.model_validate(one["spec"])
        assert spec.key == key
        assert spec in SPACE
        assert (1 - WINDOW) * BUDGET_MS <= count(spec).macs / 1e6 == one["predicted_ms"] <= BUDGET_MS
    assert len({one["family"] for one in found.values()}) > 8
    depths = {tuple(map(len, one["spec"]["stages"])) for one in found.values()}
    widths = {one["spec"]["stages"][-1][0]["c_out"] for one in found.values()}
    assert len(depths) > 5
    assert len(widths) > 5


def test_a_seed_draws_the_same_and_known_networks_do_not_come_again() -> None:
    first = drawn(SPACE, price, BUDGET_MS, 6, np.random.default_rng(0))
    assert drawn(SPACE, price, BUDGET_MS, 6, np.random.default_rng(0)) == first
    more = drawn(SPACE, price, BUDGET_MS, 6, np.random.default_rng(0), first)
    assert len(more) == 6
    assert not more.keys() & first.keys()


def test_where_nothing_fits_nothing_is_drawn() -> None:
    assert drawn(SPACE, price, 1e-6, 3, np.random.default_rng(0)) == {}


def test_families_take_turns() -> None:
    of = {"1": "a", "2": "a", "3": "a", "4": "b", "5": "c"}
    candidates = {key: {"family": family} for key, family in of.items()}
    assert spread(candidates, 4) == ["1", "4", "5", "2"]


class FakeBench(Bench):
    """Every engine takes what is predicted, times an error that alternates."""

    def __init__(self, errors: Sequence[float]) -> None:
        self.errors, self.runs = errors, list[tuple[str, int]]()
        self.ms: dict[str, float] = {}

    def engine(self, built: Built) -> Callable[[], Engine]:
        assert built.spec is not None
        if built.spec.key not in self.ms:
            self.ms[built.spec.key] = price([built.spec])[0] * self.errors[len(self.ms) % len(self.errors)]
        return lambda: pytest.fail("not to be built")

    def measured(self, engines: dict[str, Callable[[], Engine]], preset: str) -> dict[str, Measurement]:
        self.runs.append((preset, len(engines)))
        return {key: Measurement.model_construct(floor_ms=self.ms[key], median_ms=1.0) for key in engines}


def test_only_what_is_measured_within_the_window_is_chosen_and_measured_again() -> None:
    bench = FakeBench([1.0, 1.2, 0.8])
    found = chosen(bench, SPACE, price, BUDGET_MS, 8, seed=0)
    assert len({one["key"] for one in found}) == 8
    assert all(within(one["floor_ms"], BUDGET_MS) and one["ms"] == 1.0 for one in found)
    assert bench.runs[0] == ("quick", 12)
    assert bench.runs[-1] == ("default", 8)
    assert max(Counter(one["family"] for one in found).values()) <= 2


def test_too_few_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(equal_latency, "ROUNDS", 2)
    with pytest.raises(SystemExit, match=r"0 networks were found .* 3 are asked for"):
        chosen(FakeBench([2.0]), SPACE, price, BUDGET_MS, 3, seed=0)
