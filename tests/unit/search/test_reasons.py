"""The reason that is named is the limit that binds."""

from __future__ import annotations

import pytest

from hwnas.errors import BudgetInfeasible
from hwnas.estimates import Budget, Estimate
from hwnas.nets import spaces
from hwnas.nets.count import count
from hwnas.protocols import SearchContext
from hwnas.search.winner import refuse_infeasible
from hwnas.spec import NetworkSpec

SPACE = spaces.make("resnet-cifar")


def estimate(spec: NetworkSpec) -> Estimate:
    counts = count(spec)
    return Estimate(
        latency_ms=0.2,
        low_ms=0.19,
        high_ms=0.229,
        coverage=0.9,
        macs=counts.macs,
        params=counts.params,
        activation_bytes=counts.activation_bytes,
        weight_bytes=counts.weight_bytes,
        provenance="imported",  # nobody can measure it: the whole interval counts
    )


def refusal(budget: Budget) -> str:
    with pytest.raises(BudgetInfeasible) as caught:
        refuse_infeasible(SearchContext(SPACE, estimate, budget), [budget])
    return str(caught.value)


def test_parameters_bind_and_the_latency_is_not_blamed() -> None:
    words = refusal(Budget(latency_ms=5.0, params=50_000))
    assert "--max-params" in words.partition("Raise ")[2]
    assert "--latency-budget" not in words
    assert "kparam, 50 kparam allowed" in words


def test_latency_binds_and_the_parameters_are_not_blamed() -> None:
    words = refusal(Budget(latency_ms=0.1, params=1e9))
    assert "Raise --latency-budget to 0.229 ms or more, or take another space" in words
    assert "0.229 ms, 0.1 ms allowed" in words
    assert "--max-params" not in words


def test_both_bind() -> None:
    assert "Raise --latency-budget to 0.229 ms or more and --max-macs" in refusal(
        Budget(latency_ms=0.1, macs=1e3)
    )


def test_overruns_by_hand() -> None:
    found = Budget(latency_ms=0.3, params=10, memory_bytes=2**20)
    over = estimate(SPACE.smallest()).model_copy(
        update={"params": 12_500, "activation_bytes": 2**20, "weight_bytes": 2**20}
    )
    assert found.overruns(over) == {
        "--max-params": "12.5 kparam, 10 param allowed",
        "--max-memory": "2 MiB, 1 MiB allowed",
    }
