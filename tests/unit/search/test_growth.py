"""The judgement of growths, against values worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import NormalDist

import pytest

from hwnas.estimates import Budget, Estimate
from hwnas.nets.spaces import make
from hwnas.protocols import SearchContext
from hwnas.records import StageImportance
from hwnas.search.stagewise import growth
from hwnas.search.stagewise.gains import Gains
from hwnas.spec import NetworkSpec

SPACE = make("resnet-cifar")
START = SPACE.smallest()  # (1, 1, 1)
PRICES = (0.06, 0.05, 0.04)  # ms for one block more in each stage


def estimate(spec: NetworkSpec) -> Estimate:
    """0.15 ms and the prices; +-10 % at the coverage of one standard deviation, all of which counts."""
    ms = 0.15 + sum(price * (depth - 1) for price, depth in zip(PRICES, spec.depths, strict=True))
    coverage = NormalDist().cdf(1) - NormalDist().cdf(-1)
    return Estimate(
        latency_ms=ms,
        low_ms=0.9 * ms,
        high_ms=1.1 * ms,
        coverage=coverage,
        macs=1,
        params=1,
        activation_bytes=1,
        weight_bytes=1,
        provenance="imported",
    )


def gains(values: Mapping[int, tuple[float, float]]) -> Gains:
    return {(s, "deeper"): StageImportance(stage=s, value=v, se=e) for s, (v, e) in values.items()}


def weigh(
    values: Mapping[int, tuple[float, float]], budget_ms: float, stride_ms: float = 0.0
) -> list[growth.Growth]:
    budget = Budget(latency_ms=budget_ms)
    context = SearchContext(SPACE, estimate, budget)
    moves = growth.growths(START, budget, stride_ms, context)
    return growth.weigh(START, moves, gains(values), 0.95, budget, context)


def test_costs_and_their_error_are_differences_of_predictions() -> None:
    judged = weigh({0: (0.01, 0.001), 1: (0.01, 0.001), 2: (0.01, 0.001)}, 1.0)
    assert [g.cost_ms for g in judged] == pytest.approx(PRICES)
    # 10 % of the whole at one standard deviation: 10 % of the difference.
    assert [g.cost_se_ms for g in judged] == pytest.approx([0.1 * price for price in PRICES])


def test_the_best_gain_per_millisecond_wins_not_the_largest_gain() -> None:
    # 0.010 / 0.06 = 0.167, 0.009 / 0.05 = 0.180, 0.008 / 0.04 = 0.200 a millisecond.
    judged = weigh({0: (0.010, 1e-4), 1: (0.009, 1e-4), 2: (0.008, 1e-4)}, 1.0)
    assert [g.fate for g in judged] == ["weaker", "weaker", "grows"]
    taken = growth.taken(judged)
    assert taken is not None
    assert taken.spec.depths == (1, 1, 2)


def test_the_last_growths_are_chosen_together() -> None:
    """At most 0.235 ms: one block fits (0.231, 0.220, 0.209), two of stage 3 (0.253) do not."""
    judged = weigh({0: (0.010, 1e-4), 1: (0.009, 1e-4), 2: (0.008, 1e-4)}, 0.235)
    assert [g.fate for g in judged] == ["grows", "weaker", "weaker"]
    words = [decision.text for decision in growth.decisions(judged, Budget(latency_ms=0.235), "%")]
    assert words[1].endswith("for 50 us: its best final set gains less than stage 1's")
    # At most 0.2545 ms of mean: two blocks fit, of stages 1 and 3 at best (0.25 ms, 0.018; twice stage 3
    # is 0.008 log2 3 = 0.0127). Of these two, stage 3 has the better gain for each millisecond.
    judged = weigh({0: (0.010, 0.0), 1: (0.009, 0.0), 2: (0.008, 0.0)}, 0.28)
    assert [g.ending.gain for g in judged if g.ending] == pytest.approx([0.018, 0.017, 0.018])
    assert [g.fate for g in judged] == ["weaker", "weaker", "grows"]


def test_of_sets_that_cannot_be_told_apart_the_fullest_is_taken() -> None:
    """At most 0.2545 ms: stages 1 and 3 (0.25 ms) bring 0.0180, stages 2 and 3 (0.24 ms) 0.0182."""
    judged = weigh({0: (0.010, 0.0), 1: (0.0102, 0.0), 2: (0.008, 0.0)}, 0.28)
    assert [g.fate for g in judged] == ["weaker", "grows", "weaker"]
    assert [g.ending.members for g in judged if g.ending] == [(0, 2), (1, 2), (1, 2)]
    # With errors of 0.00028 of each set they are as good as equal.
    judged = weigh({0: (0.010, 2e-4), 1: (0.0102, 2e-4), 2: (0.008, 2e-4)}, 0.28)
    assert [g.ending.members for g in judged if g.ending] == [(0, 2), (1, 2), (0, 2)]
    words = [decision.text for decision in growth.decisions(judged, Budget(latency_ms=0.28), "%")]
    assert words[0].startswith("grow stage 3 by 1")
    assert words[1].endswith("in the same final set; stage 3 is grown first")
    assert words[2].endswith(
        "gain within one standard error of stage 3's final set, and more of the budget left unused"
    )


def test_depth_has_falling_returns_in_a_set() -> None:
    judged = weigh({2: (0.008, 0.0)}, 1.1 * 0.281)
    # Three fit: 0.27 ms. From depth 1 to 4 is log2 4 = 2 times what one block brings.
    ending = judged[2].ending
    assert ending is not None
    assert ending.gain == pytest.approx(0.016)
    assert ending.latency_ms == pytest.approx(0.27)
    # Four fit: the end is not near, and milliseconds decide.
    assert weigh({2: (0.008, 0.0)}, 1.1 * 0.311)[2].ending is None


def test_an_uncertain_gain_gives_way_to_a_sure_one() -> None:
    # At one-sided 95 % (z = 1.645): stage 3 is sure of 0.020 - 1.645 * 0.010 = 0.0036, stage 1 of 0.0097.
    judged = weigh({0: (0.010, 2e-4), 2: (0.020, 0.010)}, 1.0)
    assert [g.fate for g in judged] == ["grows", "unknown", "weaker"]


@pytest.mark.parametrize(("gain", "fate"), [(0.00164, "not significant"), (0.00165, "grows")])
def test_a_gain_counts_from_1645_standard_errors(gain: float, fate: str) -> None:
    assert weigh({2: (gain, 0.001)}, 1.0)[2].fate == fate


def test_a_stage_whose_next_block_does_not_fit_is_closed() -> None:
    # Upper bounds after growth: 1.1 * (0.21, 0.20, 0.19) = 0.231, 0.220, 0.209 ms.
    judged = weigh(dict.fromkeys(range(3), (0.1, 0.0001)), 0.225)
    assert [g.fate for g in judged] == ["closed", "grows", "weaker"]  # of equal ones, the larger
    assert [g.fate for g in weigh(dict.fromkeys(range(3), (0.1, 0.0001)), 0.2)] == ["closed"] * 3


def steps(budget_ms: float, stride_ms: float) -> list[int]:
    budget = Budget(latency_ms=budget_ms)
    context = SearchContext(SPACE, estimate, budget)
    return [move.steps for move in growth.growths(START, budget, stride_ms, context)]


def test_growths_add_about_equal_milliseconds() -> None:
    # 0.12 ms are 2 blocks of 0.06, 2.4 of 0.05, 3 of 0.04.
    assert steps(9.0, 0.12) == [2, 2, 3]
    assert steps(9.0, 0.0) == [1, 1, 1]


def test_several_steps_as_far_as_they_fit() -> None:
    # Four blocks of stage 3 would be 0.31 ms, at most 0.341; three 0.27, at most 0.297.
    assert steps(0.3, 0.16) == [2, 2, 3]
    # Where one does not fit, it stays one, to be judged.
    assert steps(0.2, 0.16) == [1, 1, 1]


def test_a_further_step_that_costs_nothing_is_taken() -> None:
    """From 32 to 40 channels takes 0.08 ms, to 48 only 0.03: two steps are one growth."""
    space = make("resnet-cifar-wide")
    start = space.uniform()[1]
    prices = {32: 0.0, 40: 0.08, 48: 0.03, 64: 0.05}

    def stepped(spec: NetworkSpec) -> Estimate:
        ms = 0.2 + prices[spec.stages[1][0].c_out] + 0.04 * (sum(spec.depths) - 3)
        return estimate(START).model_copy(update={"latency_ms": ms, "low_ms": ms, "high_ms": ms})

    for limit_ms in (9.0, 0.24):  # the step between may be over the budget
        budget = Budget(latency_ms=limit_ms)
        moves = growth.growths(start, budget, 0.01, SearchContext(space, stepped, budget))
        wider = next(m for m in moves if (m.stage, m.kind) == (1, "wider"))
        assert (wider.steps, wider.spec.stages[1][0].c_out) == (2, 48)


def test_a_gain_for_other_steps_has_falling_returns_too() -> None:
    budget = Budget(latency_ms=9.0)
    context = SearchContext(SPACE, estimate, budget)
    moves = growth.growths(START, budget, 0.12, context)  # 2, 2 and 3 steps
    found = {(2, "deeper"): StageImportance(stage=2, value=0.04, se=0.002, steps=4)}
    judged = growth.weigh(START, moves, found, 0.95, budget, context)[2]
    share = 2 / math.log2(5)  # from 1 block to 4 instead of 5
    assert (judged.gain, judged.gain_se) == pytest.approx((0.04 * share, 0.002 * share))
    assert judged.cost_ms == pytest.approx(0.12)


def test_nothing_significant_takes_nothing() -> None:
    assert growth.taken(weigh(dict.fromkeys(range(3), (-0.1, 0.001)), 1.0)) is None


def test_verdicts_in_words_and_figures() -> None:
    judged = weigh({0: (0.004, 0.003), 1: (0.02, 0.001)}, 0.225)
    budget = Budget(latency_ms=0.225)
    words = [decision.text for decision in growth.decisions(judged, budget, "%")]
    assert words == [
        "grow stage 2 by 1: +2.00 % +- 0.10 % for 50 us",
        "stage 1: over the budget: 0.231 ms, 0.225 ms allowed",
        "stage 3: not judged yet",
    ]
    judged = weigh({0: (0.004, 0.003)}, 1.0)
    first = growth.decisions(judged, Budget(latency_ms=1.0), "%")[0]
    assert first.kind == "refusal"
    assert first.text == "stage 1: +0.40 % +- 0.30 % for 60 us: not significant"
    assert first.fields["gain_se"] == 0.003


@pytest.mark.parametrize(
    ("value", "se", "unit", "text"),
    [
        (0.004, 0.0031, "%", "+0.40 % +- 0.31 %"),
        (0.000052, 0.0000114, "%", "+0.0052 % +- 0.0011 %"),
        (-0.2, 0.1, "%", "-20.0 % +- 10.0 %"),
        (0.05, 0.0071, "VIP", "+0.0500 VIP +- 0.0071 VIP"),
        (0.01, 0.0, "%", "+1.00 % +- 0.00 %"),
    ],
)
def test_values_are_shown_to_the_second_digit_of_their_error(
    value: float, se: float, unit: str, text: str
) -> None:
    assert growth._with_error(value, se, unit) == text
