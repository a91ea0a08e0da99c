"""The cost model of a table: sums, intervals, extrapolation, learning."""

import math
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[1] / "measure"))
import table_samples as samples
from table_samples import DOWN, HEAD, NEXT, REST, STEM, measurement, network, network_row, setting

from hwnas.cost.model import cost_model
from hwnas.errors import DataFormatError, InputError
from hwnas.measure.rows import SlotRow
from hwnas.measure.table import LatencyTable
from hwnas.nets.count import count
from hwnas.protocols import CostModel
from hwnas.spec import NetworkSpec


def truth(first: int, second: int) -> float:
    """In a network blocks cost 0.9 of their time alone, less 1 us, plus 5 us for the call."""
    times = {b: 0.9 * t - 0.001 for b, t in samples.TIMES.items()}
    blocks = [times[STEM], times[DOWN], times[HEAD], first * times[REST], second * times[NEXT]]
    return 0.005 + sum(blocks)


def learned(n: int = 30, noise: float = 0.005, seed: int = 0) -> LatencyTable:
    rng = np.random.default_rng(seed)
    out = samples.table()
    for i in range(n):
        first, second = int(rng.integers(1, 19)), int(rng.integers(0, 18))
        ms = truth(first, second) * (1 + noise * rng.normal())
        out.add(network_row(network(first, second), ms, campaign=i // 5))
    return out


def test_without_networks_the_sum_of_the_blocks() -> None:
    estimate = cost_model(samples.table()).estimate(network(2, 1))
    # 0.010 + 2 * 0.060 + 0.040 + 0.050 + 0.003, by hand
    assert estimate.latency_ms == pytest.approx(0.223)
    assert estimate.by_stage_ms == pytest.approx(
        {"stem": 0.010, "stages.0": 0.12, "stages.1": 0.09, "head": 0.003}
    )
    assert estimate.low_ms < 0.19 < 0.26 < estimate.high_ms, "nothing measured whole: a wide interval"
    assert estimate.extrapolated == ()


def test_counts_are_those_of_the_network() -> None:
    spec = network(2, 1)
    estimate, counts = cost_model(samples.table(setting=setting(batch=2))).estimate(spec), count(spec)
    assert (estimate.macs, estimate.params) == (counts.macs, counts.params)
    assert estimate.activation_bytes == 2 * counts.activation_bytes, "a batch of two"
    assert estimate.weight_bytes == counts.weight_bytes


def test_networks_teach_what_blocks_alone_do_not() -> None:
    model = cost_model(learned())
    for first, second in ((1, 0), (5, 5), (18, 2), (3, 17)):
        estimate = model.estimate(network(first, second))
        assert estimate.latency_ms == pytest.approx(truth(first, second), rel=0.015)
        assert estimate.high_ms < 1.05 * estimate.latency_ms
        assert sum(estimate.by_stage_ms.values()) == pytest.approx(estimate.latency_ms)


def test_intervals_hold_what_they_promise() -> None:
    """Fresh networks with fresh noise: 95 % of them inside, give or take the draw."""
    inside = []
    for seed in range(10):
        model = cost_model(learned(n=40, noise=0.01, seed=seed))
        rng = np.random.default_rng(1000 + seed)
        for _ in range(40):
            first, second = int(rng.integers(1, 19)), int(rng.integers(0, 18))
            estimate = model.estimate(network(first, second))
            ms = truth(first, second) * (1 + 0.01 * rng.normal())
            inside.append(estimate.low_ms <= ms <= estimate.high_ms)
    assert 0.92 <= np.mean(inside) <= 0.99


def test_predict_equals_estimate() -> None:
    model = cost_model(learned())
    specs = [network(3, 2), network(9, 9)]
    mean, sd = model.predict(specs)
    for spec, m, s in zip(specs, mean, sd):
        estimate = model.estimate(spec)
        assert estimate.latency_ms == pytest.approx(m)
        # Two parts, in squares: of the prediction, and of the state at another time.
        half = math.hypot(model.width * s / m, 1.959964 * model.later)
        assert estimate.high_ms == pytest.approx(m * math.exp(half))


def test_estimates_are_medians_where_the_table_holds_floors() -> None:
    calm, busy = learned(), learned()
    for table, gates in ((calm, ()), (busy, ("contention",))):
        for i, net in enumerate(table.networks):
            sessions = tuple(net.measurement.floor_ms * f for f in (1.01, 1.02, 1.06))
            told = net.measurement.model_copy(update={"session_ms": sessions, "gates": gates})
            table.networks[i] = net.model_copy(update={"measurement": told})
    plain, medians, unknown = (cost_model(t) for t in (learned(), calm, busy))
    spec = network(5, 5)
    assert plain.median_over_floor == unknown.median_over_floor == 1.0
    assert medians.median_over_floor == pytest.approx(1.01), "that of the least disturbed session"
    one, other = plain.estimate(spec), medians.estimate(spec)
    assert other.latency_ms == pytest.approx(1.01 * one.latency_ms)
    assert other.high_ms == pytest.approx(1.01 * one.high_ms)
    assert sum(other.by_stage_ms.values()) == pytest.approx(other.latency_ms)
    assert medians.predict([spec])[0] == pytest.approx(one.latency_ms), "floors are predicted as floors"


def test_an_unmeasured_block_is_extrapolated_never_free() -> None:
    wide = DOWN.model_copy(update={"c_out": 48})
    spec = NetworkSpec(
        stem=STEM, stages=((REST,), (wide,)), head=HEAD.model_copy(update={"c_in": 48, "c_out": 10})
    )
    model = cost_model(learned())
    estimate = model.estimate(spec)
    assert estimate.extrapolated == (spec.stages[1][0].key, spec.head.key)
    small, known = model.estimate(network(1, 0)), model.block_ms(DOWN)
    assert known < model.block_ms(wide) < 3 * known
    relative = [e.high_ms / e.latency_ms for e in (small, estimate)]
    assert relative[1] > 1.0 + 2 * (relative[0] - 1.0), "a guess says that it is one"


def test_asking_for_unknown_blocks_does_not_change_other_answers() -> None:
    model = cost_model(learned())
    before = model.estimate(network(4, 4))
    model.block_ms(DOWN.model_copy(update={"c_out": 48}))
    model.block_ms(STEM.model_copy(update={"size_in": 224}))
    assert model.estimate(network(4, 4)).latency_ms == pytest.approx(before.latency_ms, rel=1e-6)


def test_observing_a_network_moves_its_prediction_towards_it() -> None:
    model = cost_model(learned(n=10))
    spec = network(18, 17)
    before = model.estimate(spec).latency_ms
    for _ in range(5):
        model.observe(spec, measurement(1.05 * before))
    assert 1.02 * before < model.estimate(spec).latency_ms < 1.06 * before


def test_a_network_that_was_measured_counts_by_that() -> None:
    """5 % above its prediction: its own estimate is what was measured, its neighbour's moves a little."""
    model = cost_model(learned(n=10))
    spec, other = network(18, 17), network(17, 17)
    before, beside = model.estimate(spec).latency_ms, model.estimate(other).latency_ms
    found = measurement(1.05 * before / model.median_over_floor)
    model.observe(spec, found)
    after = model.estimate(spec)
    assert after.latency_ms == pytest.approx(1.05 * before)
    # 0.8 % of noise; how far the table's predictions are off has no part in it.
    assert after.high_ms / after.latency_ms == pytest.approx(
        math.exp(1.959964 * math.hypot(0.008, found.se_ms / found.floor_ms))
    )
    assert model.estimates([spec])[0] == after
    assert beside < model.estimate(other).latency_ms < 1.05 * beside


@pytest.mark.parametrize("gate", ["contention", "sentinel", "load"])
def test_a_measurement_of_a_disturbed_machine_is_evidence_and_no_more(gate: str) -> None:
    model = cost_model(learned(n=10))
    spec = network(18, 17)
    before = model.estimate(spec).latency_ms
    model.observe(spec, measurement(1.2 * before).model_copy(update={"gates": (gate,)}))
    assert before < model.estimate(spec).latency_ms < 1.19 * before
    # But a disturbance makes nothing faster: what was fast then is fast.
    quick = measurement(0.9 * before / model.median_over_floor).model_copy(update={"gates": (gate,)})
    model.observe(spec, quick)
    assert model.estimate(spec).latency_ms == pytest.approx(0.9 * before)


def test_slots_that_a_network_leaves_empty_cost_what_they_were_measured_at() -> None:
    out = samples.table(setting=setting(device="titanxp", provenance="imported"))
    out.add(SlotRow(width=32, size=16, slots=3, value_ms=0.004))
    estimate = cost_model(out).estimate(network(2, 1))
    assert estimate.latency_ms == pytest.approx(0.223 + 2 * 0.004)
    assert estimate.by_stage_ms["stages.1"] == pytest.approx(0.098)
    assert estimate.provenance == "imported"


def test_holdout_networks_are_never_fitted() -> None:
    out = learned()
    honest = cost_model(out).estimate(network(4, 4)).latency_ms
    for i in range(20):
        out.add(network_row(network(4 + i % 3, 4), 9.0, role="holdout", campaign=100))
    assert cost_model(out).estimate(network(4, 4)).latency_ms == honest


def test_it_is_a_cost_model_and_refuses_nonsense() -> None:
    model: CostModel = cost_model(samples.table())
    assert model.setting == setting()
    with pytest.raises(DataFormatError, match="no block rows; run hwnas profile --device cpu"):
        cost_model(LatencyTable(samples.header()))
    with pytest.raises(InputError, match="coverage"):
        cost_model(samples.table(), coverage=1.0)


def test_only_blocks_that_are_asked_for_are_keys() -> None:
    """A table of very many blocks costs no more than the networks that are looked at."""
    table = samples.table()
    for width in range(1, 2_001):
        block = NEXT.model_copy(update={"c_in": 32 + width, "c_out": 32 + width})
        table.add(samples.block_row(block, 0.05))
    model = cost_model(table)
    assert model.keys == []
    plain = cost_model(samples.table()).estimate(network(2, 2))
    assert model.estimate(network(2, 2)).latency_ms == pytest.approx(plain.latency_ms)
    assert len(model.keys) == len(set(network(2, 2).blocks))


def test_a_useless_table_gives_finite_bounds_that_fit_no_budget() -> None:
    """Where the noise is a million times the latency, exp(1e6) would be no number."""
    found = cost_model(learned())._estimate(network(1, 1), 1e-6, 1.0)
    assert 0 < found.low_ms < found.latency_ms < found.high_ms
    assert np.isfinite(found.high_ms)
    assert found.high_ms / found.latency_ms == pytest.approx(np.exp(20.0))
