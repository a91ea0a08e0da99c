"""Half-widths: by hand, by simulation, beside one bad measurement, and what would make them narrower."""

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[1] / "measure"))
import table_samples as samples
from table_samples import DOWN, HEAD, NEXT, REST, STEM, measurement, network, network_row

from hwnas.cost import interval
from hwnas.cost.heldout import summary
from hwnas.cost.model import cost_model
from hwnas.measure import reliability
from hwnas.measure.rows import AgainRow
from hwnas.measure.table import LatencyTable
from hwnas.nets.count import count
from hwnas.spec import NetworkSpec

INSIDE = {b: 0.9 * t - 0.001 for b, t in samples.TIMES.items()}
LAST = network(9, 4)


def truth(spec: NetworkSpec) -> float:
    return 0.005 + sum(INSIDE[b] for b in spec.blocks)


def drawn(n: int, seed: int) -> list[NetworkSpec]:
    rng = np.random.default_rng(seed)
    return [network(int(rng.integers(1, 19)), int(rng.integers(0, 18))) for _ in range(n)]


def table(seed: int = 0, n: int = 20, own: float = 0.004, state: float = 0.003) -> LatencyTable:
    """Whole networks measured in one state of a machine."""
    rng = np.random.default_rng(seed + 100)
    out, factor = samples.table(), math.exp(state * rng.standard_normal())
    for spec in drawn(n, seed):
        ms = truth(spec) * factor * math.exp(own * rng.standard_normal())
        out.add(network_row(spec, ms))
    return out


def spoilt(by: float, seed: int = 0) -> LatencyTable:
    """The same, with one more that was measured in a slow spell."""
    out = table(seed)
    out.add(network_row(LAST, (1 + by) * truth(LAST)))
    return out


def half_width(found: LatencyTable) -> float:
    return cost_model(found, states=0.0).widths(drawn(30, 77))["half_width"]


def test_the_half_width_by_hand() -> None:
    assert interval.gaussian(0.95) == pytest.approx(1.959964)
    assert interval.half_width(np.empty(0)) == pytest.approx(1.959964), "nothing known: a Gaussian"
    # The 97.5 % point of four degrees of freedom is 2.776445, so the scale of the prior is 0.705925; scores
    # that are all as large confirm it, however many there are.
    for n in (1, 20, 500):
        assert interval.half_width(np.full(n, -0.705925)) == pytest.approx(1.959964, rel=1e-5)
    # Four scores of 2 and the prior, which counts as four; s is the squared scale, a weight 5 / (4 + 4/s):
    #   8 s = 4 * 0.498330 + 4 * 4 * 5 / (4 + 4/s)   or   2 s^2 - 3.498330 s - 0.498330 = 0,   s = 1.881561
    assert interval.half_width(np.array([2.0, -2.0, 2.0, -2.0])) == pytest.approx(
        2.776445 * math.sqrt(1.881561), rel=1e-5
    )


def test_no_single_score_decides() -> None:
    rng = np.random.default_rng(0)
    scores = rng.standard_normal(20)
    plain = interval.half_width(scores)
    for worst in (10.0, 1e3, 1e9):
        # It adds less than five squares of the scale, to a sum that is divided by 25.
        assert plain < interval.half_width(np.append(scores, worst)) < plain * math.sqrt(25 / 19)
    assert interval.half_width(3 * scores) > 2.5 * plain, "all of them do"


def test_later_measurements_of_other_networks_are_inside() -> None:
    """Tables with a state and 1 % of noise of their own, and one network in every fourth in a slow spell."""
    inside, widths = [], []
    for seed in range(24):
        found = table(seed, own=0.01, state=0.005)
        if seed % 4 == 0:
            found.add(network_row(LAST, 1.16 * truth(LAST)))
        model = cost_model(found, states=0.005)
        rng = np.random.default_rng(seed + 5000)
        later = math.exp(0.005 * rng.standard_normal())
        specs = drawn(50, seed + 9000)
        ms = np.array([truth(s) * later * math.exp(0.01 * rng.standard_normal()) for s in specs])
        low, high = model.bounds(specs)
        inside += list((low <= ms) & (ms <= high))
        widths.append(100 * float(np.log(high / low).mean()) / 2)
    assert 0.92 <= np.mean(inside) <= 0.98
    # 1.96 times the noise and the states of both times are 2.4 %; blocks are known by 20 networks alone.
    assert np.mean(widths) < 3.5
    assert max(widths) < 5.0


def test_one_bad_network_is_named_and_decides_nothing() -> None:
    plain, bad = table(), spoilt(0.16)
    model = cost_model(bad, states=0.0)
    (one,) = model.slower()
    assert one.spec == LAST
    assert one.percent == pytest.approx(16, abs=1.5)
    assert cost_model(plain).slower() == []
    assert half_width(bad) < 1.2 * half_width(plain)
    assert model.predict([LAST])[0][0] == pytest.approx(cost_model(plain).predict([LAST])[0][0], rel=0.003)
    assert summary(bad)["width_percent"]["slower_networks"] == 1


def test_a_network_that_is_slow_twice_counts_for_the_others() -> None:
    once, cured, twice = spoilt(0.16), spoilt(0.16), spoilt(0.16)
    cured.add(AgainRow(network=LAST.key, measurement=measurement(truth(LAST))))
    twice.add(AgainRow(network=LAST.key, measurement=measurement(1.15 * truth(LAST))))
    assert cost_model(cured).slower() == []
    assert half_width(cured) <= half_width(once)
    alone, believed = (cost_model(found).predict([LAST])[0][0] for found in (once, twice))
    assert believed > 1.005 * alone
    assert [one.spec for one in cost_model(twice).slower()] == [LAST], "and is still named"


def test_a_network_whose_sessions_disagree_counts_less() -> None:
    """6 % too slow, which its own standard error of 5 % says."""
    sure, unsure = table(), table()
    ms = 1.06 * truth(LAST)
    sure.add(network_row(LAST, ms))
    row = network_row(LAST, ms)
    told = row.measurement.model_copy(update={"se_ms": 0.05 * ms})
    unsure.add(row.model_copy(update={"measurement": told}))
    assert [one.spec for one in cost_model(sure).slower()] == [LAST]
    assert cost_model(unsure).slower() == []
    assert cost_model(unsure).width < cost_model(sure).width


def test_intervals_hold_the_states_that_the_device_was_met_in() -> None:
    found = table()
    assert cost_model(found).later == pytest.approx(0.004, rel=0.01)
    found.summary = {"states_percent": 1.5}
    assert cost_model(found).later == pytest.approx(math.hypot(0.004, 0.015), rel=0.01)
    assert cost_model(found, states=0.03).later == pytest.approx(math.hypot(0.004, 0.02), rel=0.01), (
        "at most 2 %"
    )
    parts = cost_model(found).widths(drawn(10, 3))
    squares = sum(parts[name] ** 2 for name in ("costs", "noise", "states"))
    assert parts["half_width"] ** 2 == pytest.approx(squares, rel=0.02)


def test_weights_in_the_shared_cache_make_intervals_wider() -> None:
    """Networks with weights beyond the core's own cache, and without."""
    found, specs = table(), drawn(10, 3)
    weights = np.array([count(spec).weight_bytes for spec in specs], dtype=float)
    floors = cost_model(found).predict(specs)[0]
    cache = float(np.median(weights))
    found.summary = {
        "memory": {"states_percent": 4.0, "ms": 1e3, "weight_bytes": cache + 1e6, "cache_bytes": cache}
    }
    model, plain = cost_model(found), cost_model(table())
    share = np.maximum(weights - cache, 0.0) / 1e6
    assert (share > 0).any()
    assert (share == 0).any()
    low, high = model.bounds(specs)
    above = plain.bounds(specs)[1]
    by_hand = np.hypot(np.log(above / floors), 1.959964 * 0.04 * share)
    assert np.log(high / floors) == pytest.approx(by_hand, rel=1e-4)
    assert np.log(low / floors) == pytest.approx(-by_hand, rel=1e-4)
    for spec, end, floor in zip(specs, high, floors):
        one = model.estimate(spec)
        assert one.high_ms / one.latency_ms == pytest.approx(end / floor)


@pytest.mark.parametrize(
    ("parts", "part", "words"),
    [
        (
            {"half_width": 9.0, "costs": 3.0, "noise": 8.0, "states": 1.0},
            "noise",
            "measure the worst of them again: X",
        ),
        ({"half_width": 9.0, "costs": 8.0, "noise": 3.0, "states": 1.0}, "costs", "a larger --preset"),
        (
            {"half_width": 5.0, "costs": 1.0, "noise": 2.0, "states": 4.0},
            "states",
            "when less else runs on it",
        ),
        ({"half_width": 3.9, "costs": 1.0, "noise": 3.5, "states": 1.0}, "", ""),
        ({"half_width": 9.0}, "", ""),
        (None, "", ""),
        ("wide", "", ""),
    ],
)
def test_a_wide_table_says_what_would_make_it_narrower(parts: Any, part: str, words: str) -> None:
    found = table()
    found.summary = {"width_percent": parts}
    assert reliability.decided_by(found) == part
    text = reliability.wide(found, "X")
    assert words in text
    assert bool(text) == bool(words)
    if words:
        assert f"+-{parts['half_width']:.2g} % wide" in text


def test_blocks_of_the_samples_are_those_of_the_truth() -> None:
    assert {STEM, REST, DOWN, NEXT, HEAD} == set(INSIDE)
