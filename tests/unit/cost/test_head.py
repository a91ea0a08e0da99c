"""The classifier of another number of classes is priced by a rule; no table of its own is needed."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "measure"))
import table_samples as samples
from table_samples import HEAD, NEXT, STEM, block_row, network

from hwnas.cost.head import priced
from hwnas.cost.model import cost_model
from hwnas.measure.table import LatencyTable
from hwnas.nets.count import count_block
from hwnas.spec import BlockSpec, NetworkSpec


def head(classes: int) -> BlockSpec:
    return HEAD.model_copy(update={"c_out": classes})


def small() -> LatencyTable:
    """A stem of 16*3*9*32*32 = 442,368 MACs in 0.01 ms and a head of 32*10 = 320 MACs in 0.003 ms."""
    out = LatencyTable(samples.header())
    out.add(block_row(STEM))
    out.add(block_row(HEAD))
    return out


def test_the_rule_by_hand() -> None:
    table = small()
    assert (count_block(STEM).macs, count_block(HEAD).macs) == (442_368, 320)
    ms_a_mac = 0.013 / 442_688
    ms, sd = priced(table, head(1010)) or (0.0, 0.0)
    change = 32 * 1000 * ms_a_mac  # 0.94 us
    assert ms == pytest.approx(0.003 + change)
    assert sd == pytest.approx((0.00003**2 + change**2) ** 0.5)
    fewer, _ = priced(table, head(2)) or (0.0, 0.0)
    assert fewer == pytest.approx(0.003 - 32 * 8 * ms_a_mac)
    assert priced(table, HEAD.model_copy(update={"c_in": 64})) is None
    assert priced(table, NEXT) is None


def test_never_less_than_half_of_the_measured_head() -> None:
    table = LatencyTable(samples.header())
    table.add(block_row(head(100_000), 0.003))
    assert (priced(table, head(2)) or (0.0, 0.0))[0] == pytest.approx(0.0015)


def test_the_nearest_number_of_classes_is_taken() -> None:
    table = small()
    table.add(block_row(head(1000), 0.030))
    row = table.head_like(head(200))
    assert row is not None
    assert row.block.c_out == 1000, "200 is 5 times 1000 and 20 times 10"


@pytest.mark.parametrize("classes", [2, 3, 100, 1000])
def test_a_table_of_ten_classes_serves_any_number(classes: int) -> None:
    table, spec = samples.table(), network(3, 2)
    other = NetworkSpec(stem=spec.stem, stages=spec.stages, head=head(classes))
    assert table.covers(other)
    model = cost_model(table)
    estimate, usual = model.estimate(other), model.estimate(spec)
    assert not estimate.extrapolated
    assert estimate.latency_ms == pytest.approx(usual.latency_ms, rel=0.05)
    assert estimate.macs - usual.macs == 32 * (classes - 10)


def test_one_and_many_are_estimated_alike() -> None:
    specs = [network(a, b) for a in (1, 3) for b in (0, 2)]
    model = cost_model(samples.table())
    for one, other in zip(model.estimates(specs), map(model.estimate, specs), strict=True):
        assert one.latency_ms == pytest.approx(other.latency_ms, rel=1e-9)
        assert one.high_ms == pytest.approx(other.high_ms, rel=1e-9)
