"""int8 by block: costs in context, what goes back to float, and what the manifest says of it."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
from int8_fakes import FakeOfInt8

from hwnas.backends.fake import FakeEngine
from hwnas.backends.onnx_format import TypedOnnx
from hwnas.deploy import engine as engines
from hwnas.deploy.manifest import EngineManifest, read_manifest, write_manifest
from hwnas.jobs.export.mixed import Mixing, by_block
from hwnas.nets import build
from hwnas.records import Setting
from hwnas.spec import BlockSpec, NetworkSpec

SPEC = NetworkSpec(
    stem=BlockSpec(kind="conv", c_in=3, c_out=8, size_in=8),
    stages=((BlockSpec(kind="basic", c_in=8, c_out=8, size_in=8),) * 2,),
    head=BlockSpec(kind="classifier", c_in=8, c_out=4, size_in=8),
)
PLACES = [place for place, _ in SPEC.walk()]
WEIGHTS = build.weights(build.build(SPEC, seed=1))
IMAGES = np.random.default_rng(0).standard_normal((8, 3, 8, 8), dtype=np.float32)
# What int8 saves in each block, and what a change of precision costs wherever it is.
GAINS_MS, SWITCH_MS, FLOAT_MS = (-0.01, 0.20, 0.15, 0.05), 0.02, 1.0


class Int8Fake(FakeOfInt8):
    """The fake device with int8, at prices of the blocks."""

    def build(self, model: bytes, setting: Setting) -> FakeEngine:
        nodes = onnx.load_model_from_string(model).graph.node
        back = {node.output[0] for node in nodes if node.op_type == "DequantizeLinear"}
        mix = [
            any(
                n.name.startswith(place) and n.input[1] in back
                for n in nodes
                if n.op_type in ("Conv", "Gemm")
            )
            for place in PLACES
        ]
        price = FLOAT_MS - sum(gain for gain, int8 in zip(GAINS_MS, mix) if int8)
        price += SWITCH_MS * sum(a != b for a, b in pairwise(mix))
        return FakeEngine(self, model, setting, price, price, np.random.default_rng(0))


@pytest.fixture(scope="module")
def mixing() -> Mixing:
    backend = Int8Fake()
    return Mixing(SPEC, WEIGHTS, backend, backend.setting("fake", "int8", 1, 1), IMAGES)


def test_costs_in_context_are_those_of_the_device(mixing: Mixing) -> None:
    found, float_ms, int8_ms = mixing.timed(None)
    assert found.gain_ms == pytest.approx(GAINS_MS)
    assert found.switch_ms == pytest.approx((SWITCH_MS,) * 3)
    assert (float_ms, int8_ms) == pytest.approx((FLOAT_MS, FLOAT_MS - sum(GAINS_MS)))


def test_losses_are_those_of_each_block_alone(mixing: Mixing) -> None:
    """Each is from an engine of its own, and small in a network whose scores hardly move in int8."""
    losses = mixing.losses()
    assert losses.shape == (4,)
    assert (losses > 0).all()
    assert losses.max() < 0.1


class Written:
    """Engines as they are written, on paper: what was left in float each time."""

    def __init__(self, mixing: Mixing, folder: Path, losses: list[float]) -> None:
        self.mixing, self.folder, self.left = mixing, folder, losses
        self.floats: list[frozenset[str]] = []

    def write(self, floats: frozenset[str]) -> EngineManifest:
        self.floats.append(floats)
        return engines.export(
            SPEC,
            WEIGHTS,
            self.mixing.backend,
            self.mixing.setting,
            self.folder,
            file_format="onnx",
            calibration=IMAGES,
            floats=floats,
        )

    def lost(self, manifest: EngineManifest) -> float:
        return self.left.pop(0)


def places(mixing: Mixing, floats: frozenset[str]) -> list[str]:
    return [place for place, names in mixing.blocks.items() if names <= floats]


def test_blocks_go_back_until_it_holds(
    mixing: Mixing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """2 points are lost in all; by divergence 0.1, 0.8, 0.9 and 0.2 of them are the blocks'.

    0.5 points are allowed: the first two of stem, stages.0.0, stages.0.1, head are 0.1 + 0.8 > 0.5. What
    fits is stem and head (0.3): the stem is slower in int8, so the head alone, which saves 0.05 - 0.02.
    """
    monkeypatch.setattr(mixing, "losses", lambda: np.array([0.1, 0.8, 0.9, 0.2]))
    written = Written(mixing, tmp_path, [0.004])
    said: list[str] = []
    made = by_block(
        mixing,
        written.write,
        written.lost,
        written.write(frozenset()),
        before=0.02,
        max_loss=0.005,
        emit=lambda kind, fields: said.append(str(fields.get("text", ""))),
    )
    assert made is not None
    assert made.mixed is not None
    assert places(mixing, written.floats[-1]) == PLACES[:3]
    assert [b.precision for b in made.mixed.blocks] == ["fp32", "fp32", "fp32", "int8"]
    assert [b.loss for b in made.mixed.blocks] == pytest.approx([0.001, 0.008, 0.009, 0.002])
    assert made.mixed.predicted_ms == pytest.approx(1.0 - 0.05 + 0.02)
    assert (made.mixed.lost_before, made.mixed.lost_after) == (0.02, 0.004)
    assert any("3 of 4 blocks stay in float (stem, stages.0.0, stages.0.1)" in text for text in said)
    write_manifest(tmp_path, made)
    assert read_manifest(tmp_path / made.engine).mixed == made.mixed


def test_the_block_that_loses_most_goes_back_first(
    mixing: Mixing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 2 points 0.4, 0.4, 0.6, 0.6 are the blocks': 1.6 are allowed, so stages.0.0, stages.0.1 and head
    (1.6) are in int8. The whole loses too much twice: stages.0.1 goes back (the first of two equal ones),
    then the head.
    """
    monkeypatch.setattr(mixing, "losses", lambda: np.array([0.4, 0.4, 0.6, 0.6]))
    written = Written(mixing, tmp_path, [0.05, 0.03, 0.01])
    made = by_block(
        mixing, written.write, written.lost, written.write(frozenset()), before=0.02, max_loss=0.0161
    )
    assert made is not None
    assert made.mixed is not None
    assert [places(mixing, floats) for floats in written.floats[1:]] == [
        ["stem"],
        ["stem", "stages.0.1"],
        ["stem", "stages.0.1", "head"],
    ]
    assert [b.block for b in made.mixed.blocks if b.returned] == ["stages.0.1", "head"]
    assert not written.left


def test_nothing_in_int8_is_no_engine(
    mixing: Mixing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mixing, "losses", lambda: np.ones(4))
    written = Written(mixing, tmp_path, [0.9, 0.9])
    whole = written.write(frozenset())
    # 0.25 points a block, 0.5 allowed: two blocks, and both go back.
    assert by_block(mixing, written.write, written.lost, whole, before=0.01, max_loss=0.005) is None
    assert len(written.floats) == 3


def test_a_file_for_another_machine_is_not_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain ONNX in int8 has no time here: as many blocks as the loss allows."""
    stand_in = TypedOnnx()
    setting = stand_in.setting("cpu", "int8", 1, 1)
    mixing = Mixing(SPEC, WEIGHTS, stand_in, setting, IMAGES)
    monkeypatch.setattr(mixing, "losses", lambda: np.array([0.1, 0.8, 0.9, 0.2]))

    def write(floats: frozenset[str]) -> EngineManifest:
        return engines.export(
            SPEC, WEIGHTS, stand_in, setting, tmp_path, file_format="onnx", calibration=IMAGES, floats=floats
        )

    made = by_block(mixing, write, lambda _: 0.0, write(frozenset()), before=0.02, max_loss=0.012)
    assert made is not None
    assert made.mixed is not None
    # 0.1 + 0.8 + 0.2 of 2 points fit 1.2: three blocks.
    assert [b.precision for b in made.mixed.blocks] == ["int8", "int8", "fp32", "int8"]
    assert made.mixed.float_ms is None
    assert {b.gain_ms for b in made.mixed.blocks} == {None}
