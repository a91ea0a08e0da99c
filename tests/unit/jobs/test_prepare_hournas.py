"""The preparation of hournas: what it trains, what it decides, and that a killed one loses nothing."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from hwnas.errors import InputError
from hwnas.estimates import Budget, Estimate
from hwnas.jobs.preparations.hournas import _HourNasPreparation, prepare
from hwnas.jobs.preparations.prepare import Facts
from hwnas.nets.count import count
from hwnas.nets.hournas.slots import chain_of, slots
from hwnas.nets.spaces import make
from hwnas.protocols import SearchContext
from hwnas.records import Proposal
from hwnas.runs import RunFolder
from hwnas.search.hournas.strategy import HourNas, HourNasOptions
from hwnas.spec import NetworkSpec
from hwnas.train.data import load
from hwnas.train.hournas.shared import Sampled
from hwnas.train.options import Recipe

SHAPE = (3, 8, 8)
SETTINGS = {"networks": 8, "judged": 12, "proposals": 1}


def estimate(spec: NetworkSpec) -> Estimate:
    """A microsecond for 10 kMAC, and five for a block."""
    counts = count(spec)
    ms = counts.macs / 1e7 + 0.005 * len(spec.blocks)
    return Estimate(
        latency_ms=ms,
        low_ms=0.95 * ms,
        high_ms=1.05 * ms,
        coverage=0.9,
        macs=counts.macs,
        params=counts.params,
        activation_bytes=counts.activation_bytes,
        weight_bytes=counts.weight_bytes,
    )


def facts(folder: Path, space: str = "mbv2-cifar", emit: Any = None, **settings: Any) -> Facts:
    data = load("digits", input_shape=SHAPE, seed=0, limit=120)
    return Facts(
        space=make(space, input_shape=SHAPE, classes=10),
        dataset=data,
        estimate=estimate,
        table=None,  # type: ignore[arg-type]  # nothing here looks at a table
        budgets=(Budget(latency_ms=0.3),),
        images=1600,
        settings={"score": "learned", **SETTINGS, **settings},
        recipe=Recipe(threads=1, batch=16, checkpoint_s=0.0),
        seed=0,
        run=RunFolder(folder, "search", {}),
        emit=emit or (lambda kind, fields: None),
    )


class Killed(BaseException):
    """Stands for SIGKILL."""


def test_scores_lead_to_a_network_within_the_budget_and_cost_what_they_say(tmp_path: Path) -> None:
    given = facts(tmp_path)
    prepared = prepare(given)
    assert prepared is not None
    assert prepared.images <= 0.25 * given.images
    assert prepared.images > 0.2 * given.images
    # every image costs three passes of a network of the space, none of which is larger than this
    largest = max(estimate(spec).macs for spec in given.space.uniform()) * 6
    assert 3 * prepared.images * estimate(given.space.smallest()).macs < prepared.train_macs
    assert prepared.train_macs < 3 * prepared.images * largest
    kept = SearchContext(
        given.space, estimate, given.budgets[0], {**SETTINGS, "images": 1200, "scores": prepared.scores}
    )
    strategy = HourNas(kept)
    (proposal,) = strategy.propose([], 1, None)  # type: ignore[arg-type]  # nothing here is random
    assert isinstance(proposal, Proposal)
    assert estimate(proposal.spec).bound_ms <= 0.3
    (decision,) = strategy.explain([])
    assert decision.text.startswith("required (vital) blocks: width 16")
    kinds = [event["event"] for event in given.run.events()]
    assert kinds.count("supernet") == 2
    (event,) = (event for event in given.run.events() if event["event"] == "proposals")
    assert min(event["proposed"]) >= 0.95


def test_killed_anywhere_it_ends_as_if_unbroken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = prepare(facts(tmp_path / "whole"))
    assert whole is not None
    usual = Sampled.forward
    for kill in (4, 18):  # in the first stage; in the second one after its first checkpoint
        calls = itertools.count(1)

        def dying(self: Sampled, x: torch.Tensor, kill: int = kill, calls: Any = calls) -> torch.Tensor:
            if self.training and next(calls) == kill:
                raise Killed
            return usual(self, x)

        with monkeypatch.context() as patch:
            patch.setattr(Sampled, "forward", dying)
            with pytest.raises(Killed):
                prepare(facts(tmp_path / str(kill)))
        again = prepare(facts(tmp_path / str(kill)))
        assert again is not None
        assert again.scores == whole.scores
        assert (again.images, again.train_macs) == (whole.images, whole.train_macs)


def test_the_first_stage_leaves_other_weights_alone(tmp_path: Path) -> None:
    given = facts(tmp_path)
    space = chain_of(given.space)
    job = _HourNasPreparation(given, HourNas.read_options(given.settings), space)
    before = {key: value.detach().clone() for key, value in job.shared.values.items()}
    job._stage("vital", 160, job._draw_vital)
    vital = {slot.place.replace(".", "_") for slot in slots(space, space.reference) if slot.vital}
    changed = {
        key.split("/")[0] for key, value in job.shared.values.items() if not torch.equal(value, before[key])
    }
    assert changed == vital | {"stem", "head"}


def test_joint_search_has_one_stage_and_needs_one_path(tmp_path: Path) -> None:
    given = facts(tmp_path / "joint", joint=True)
    prepared = prepare(given)
    assert prepared is not None
    assert all(isinstance(choice, list) for choice in prepared.scores["choices"])
    assert [e["stage"] for e in given.run.events() if e["event"] == "supernet"] == ["others"]
    with pytest.raises(InputError, match="223"):
        prepare(facts(tmp_path / "wide", space="resnet-cifar-wide", joint=True))


def test_nothing_is_trained_where_nothing_is_asked(tmp_path: Path) -> None:
    assert prepare(facts(tmp_path / "proxy", score="proxy")) is None
    few = facts(tmp_path / "few", score="auto")  # a quarter of 1,600 images
    assert prepare(few) is None
    assert prepare(few) is None
    told = [event["text"] for event in few.run.events() if event["event"] == "note"]
    assert len(told) == 1
    assert "no super-network: its share would be" in told[0]
    assert HourNasOptions(share=0.25).learns(400_000)
    assert not HourNasOptions(share=0.25).learns(399_996)
    # one path and one operator: every vital block is what it is, and only depth is left to learn
    given = facts(tmp_path / "plain", space="resnet-cifar")
    job = _HourNasPreparation(given, HourNas.read_options(given.settings), chain_of(make("resnet-cifar")))
    assert job._plan()["vital"] == 0
    assert job._decide(None).fills == (0, 0, 0)


def test_judging_is_a_small_part_of_the_share_whatever_its_size(tmp_path: Path) -> None:
    for images in (2_000, 20_000, 200_000):
        given = replace(facts(tmp_path / str(images), networks=64, judged=256), images=images)
        space = chain_of(given.space)
        job = _HourNasPreparation(given, HourNas.read_options(given.settings), space)
        networks, judged = job.judging
        assert 16 <= networks <= 64
        assert judged <= min(256, len(given.dataset.val))
        plan = job._plan()
        assert plan["vital"] + plan["others"] + 2 * networks * judged / 3 == pytest.approx(
            0.25 * images, abs=2
        )
        assert plan["vital"] + plan["others"] >= 0.65 * 0.25 * images
