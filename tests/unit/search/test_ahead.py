"""Trainings at once: the events are those of one after the other."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from strategy_fakes import SETTING, FakeCost, FakeTrainer, context, folder

from hwnas.errors import BuildError, HwnasError
from hwnas.estimates import Budget
from hwnas.protocols import Evaluate
from hwnas.records import Evaluation, Proposal
from hwnas.search.driver import search
from hwnas.search.state import Limits
from hwnas.search.strategy import made


@dataclass
class Backwards:
    """Several trainings at once, of which the newest (or the oldest) is always done first.

    Attributes:
        most: the largest number that ran at once.
        order: in which they were done, by the trials' numbers.
    """

    evaluate: Evaluate
    jobs: int
    in_waves: bool = False
    newest: bool = True
    most: int = 0
    order: list[int] = field(default_factory=list)
    running: list[Late] = field(default_factory=list)

    def begin(self, proposal: Proposal, index: int) -> Late:
        self.running.append(Late(self, proposal, index))
        self.most = max(self.most, len(self.running))
        return self.running[-1]

    def wait(self) -> None:
        one = self.running.pop(-1 if self.newest else 0)
        self.order.append(one.index)
        try:
            one.outcome = self.evaluate(one.proposal, one.index)
        except HwnasError as exc:
            one.outcome = exc

    def abandon(self) -> int:
        return len(self.running)


@dataclass
class Late:
    owner: Backwards
    proposal: Proposal
    index: int
    where: str = ""
    took_s: float = 0.0
    outcome: Evaluation | HwnasError | None = None

    def done(self) -> bool:
        return self.outcome is not None

    def result(self) -> Evaluation:
        while self.outcome is None:
            self.owner.wait()
        if isinstance(self.outcome, HwnasError):
            raise self.outcome
        return self.outcome


def run(path: Path, strategy: str, jobs: int, fails: tuple[int, ...] = (), **more: Any) -> Any:
    """A search with trainings that fail at the given trials; its events, and who trained."""
    cost = FakeCost(error=0.05)
    samples = {"samples": 9} if strategy in ("random", "tpe") else {}
    space, budget_ms = ("auto", 0.2) if strategy == "families" else ("resnet-cifar", 0.6)
    plain = context(space, budget_ms, cost, **samples, **more.pop("options", {}))
    trainer = FakeTrainer(path, plain.space)

    def evaluate(proposal: Proposal, index: int) -> Evaluation:
        if index in fails:
            raise HwnasError(f"trial {index} fails")
        return trainer(proposal, index)

    workers = Backwards(evaluate, jobs, more.pop("in_waves", False), more.pop("newest", True))
    try:
        search(
            made(strategy, plain),
            plain,
            evaluate=workers if jobs else evaluate,
            confirm=cost.confirm,
            run=folder(path),
            setting=SETTING,
            table_id="t",
            seed=3,
            limits=more.pop("limits", Limits(images=100_000)),
            measure=cost.measure,
            observe=cost.observe,
            **more,
        )
    finally:
        events = [json.loads(line) for line in (path / "events.jsonl").read_text().splitlines()]
        workers.__dict__["events"] = [plain_event(one) for one in events]
    return workers


def plain_event(event: Any) -> Any:
    """An event without its time and seal."""
    if isinstance(event, dict):
        apart = ("at", "hash", "measuring_s", "training_s", "taken_at", "wall_s")
        return {name: plain_event(value) for name, value in event.items() if name not in apart}
    return [plain_event(one) for one in event] if isinstance(event, list) else event


@pytest.mark.parametrize("strategy", ["random", "uniform"])
@pytest.mark.parametrize("in_waves", [False, True])
def test_many_at_once_leave_the_events_of_one_after_the_other(
    tmp_path: Path, strategy: str, in_waves: bool
) -> None:
    alone = run(tmp_path / "alone", strategy, 0)
    four = run(tmp_path / "four", strategy, 4, in_waves=in_waves)
    assert four.events == alone.events
    # Three uniform members fit. The newest is done first; the log is in order all the same.
    assert four.most == (4 if strategy == "random" else 3)
    assert four.order[0] == four.most - 1


def test_tpe_waits_for_a_batch(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    alone = run(tmp_path / "alone", "tpe", 0, options={"batch": 3})
    many = run(tmp_path / "many", "tpe", 8, options={"batch": 3})
    assert many.events == alone.events
    assert many.most == 3
    by_one = run(tmp_path / "by-one", "tpe", 8)
    assert by_one.most == 1


@pytest.mark.parametrize(("fails", "begin"), [((), 9), ((0, 4), 11)])
def test_contestants_of_a_round_are_trained_at_once(
    tmp_path: Path, fails: tuple[int, ...], begin: int
) -> None:
    """Nine and three; two that fail in the first round are replaced when it is over."""
    more: dict[str, Any] = {"options": {"images": 100_000, "race_share": 0.3}}
    more["limits"] = Limits(images=100_000, trials=16)
    alone = run(tmp_path / "alone", "families", 0, fails, **more)
    eight = run(tmp_path / "eight", "families", 8, fails, **more)
    assert eight.events == alone.events
    assert eight.most == 8
    trials = [event["trial"] for event in alone.events if event["event"] == "trial"]
    rounds = [trial["notes"].get("round") for trial in trials if trial["state"] != "over_budget"]
    assert [rounds.count(0), rounds.count(1)] == [begin, 3]


@pytest.mark.parametrize("distill", [False, True])
def test_final_trainings_of_several_budgets_run_at_once(tmp_path: Path, distill: bool) -> None:
    """All three; where the largest budget's winner teaches, the two others after it."""
    more: dict[str, Any] = {
        "targets": [Budget(latency_ms=ms) for ms in (0.2, 0.4, 0.6)],
        "options": {"images": 50_000, "targets_ms": (0.2, 0.4)},
        "distill": distill,
    }
    alone = run(tmp_path / "alone", "random", 0, **more)
    four = run(tmp_path / "four", "random", 4, **more)
    assert four.events == alone.events
    finals = [
        event["trial"]["index"]
        for event in alone.events
        if event["event"] == "trial" and event["trial"]["role"] == "final"
    ]
    first, second, third = finals
    assert four.order[-3:] == ([first, third, second] if distill else [third, second, first])


def test_growth_waits_for_each_result(tmp_path: Path) -> None:
    alone = run(tmp_path / "alone", "stagewise", 0)
    many = run(tmp_path / "many", "stagewise", 8)
    assert many.events == alone.events
    assert many.most == 1


def test_failures_count_in_the_order_of_the_log(tmp_path: Path) -> None:
    fails = (2, 3, 4)
    for jobs in (0, 4):
        with pytest.raises(BuildError, match="three networks in a row"):
            run(tmp_path / str(jobs), "random", jobs, fails, newest=False)
    texts = [
        [json.loads(line) for line in (tmp_path / str(jobs) / "events.jsonl").read_text().splitlines()]
        for jobs in (0, 4)
    ]
    alone, four = ([e for e in events if e["event"] == "trial"] for events in texts)
    assert [plain_event(e) for e in four] == [plain_event(e) for e in alone]
    # Trainings that had begun are told of, not dropped.
    assert (texts[1][-1]["event"], texts[1][-1]["trainings"]) == ("abandoned", 3)


def test_a_failed_training_leaves_its_images_to_another(tmp_path: Path) -> None:
    """Nine samples of 10 images each, 35 in all: the fourth does not fit, unless one before it fails."""
    limits = Limits(images=35)
    options = {"images": 90, "search_share": 1.0}
    for jobs in (0, 4):
        found = run(tmp_path / f"{jobs}-whole", "random", jobs, limits=limits, options=options)
        assert sum(e["event"] == "trial" for e in found.events) >= 3
    alone = run(tmp_path / "alone", "random", 0, (1,), limits=limits, options=options)
    four = run(tmp_path / "four", "random", 4, (1,), limits=limits, options=options)
    assert four.events == alone.events


def test_a_strategy_sees_no_result_of_a_batch_that_is_not_whole() -> None:
    seven: list[Any] = [None] * 7  # of which only the number is looked at
    assert made("random", context("resnet-cifar", 0.3, FakeCost())).sees(seven) == 0
    assert made("stagewise", context("resnet-cifar", 0.3, FakeCost())).sees(seven) == 7
    assert made("tpe", context("resnet-cifar", 0.3, FakeCost(), batch=3)).sees(seven) == 6
