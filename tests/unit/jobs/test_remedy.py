"""int8 that loses too much is fine-tuned; what was lost before and after stands in the manifest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwnas import backends
from hwnas.arrays import Float32s
from hwnas.deploy import engine as engines
from hwnas.deploy.manifest import EngineManifest
from hwnas.jobs.export import remedy
from hwnas.jobs.export.samples import samples
from hwnas.jobs.resolve.origin import Origin
from hwnas.nets import build
from hwnas.nets.weights import save_weights
from hwnas.search.solve.precision import PrecisionCosts
from hwnas.spec import BlockSpec, NetworkSpec
from hwnas.train.quantized import TuneOptions

SPEC = NetworkSpec(
    stem=BlockSpec(kind="conv", c_in=3, c_out=16, stride=2, size_in=16),
    stages=((BlockSpec(kind="basic", c_in=16, c_out=16, size_in=8),),),
    head=BlockSpec(kind="classifier", c_in=16, c_out=10, size_in=8),
)


class Case:
    """An untrained network with digits, its engines in int8, and a note of each that was written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.source = Origin(folder, SPEC, folder / "weights.safetensors")
        save_weights(self.source.weights, build.weights(build.build(SPEC, seed=3)))
        self.drawn = samples("digits", self.source, 100)
        self.backend = backends.get("ort")
        self.written: list[
            tuple[bool, frozenset[str]]
        ] = []  # whether weights were tuned; what stays in float

    def write(self, given: dict[str, Float32s] | None, floats: frozenset[str]) -> EngineManifest:
        self.written.append((given is not None, floats))
        return engines.export(
            SPEC,
            self.source.read_weights(),
            self.backend,
            self.backend.setting("cpu", "int8", 1, 1),
            self.folder,
            calibration=self.drawn.calibration,
            tuned=given,
            floats=floats,
            run=str(len(self.written)),
            **self.drawn.about,
        )

    def remedy(self, **more: Any) -> remedy.Remedy:
        return remedy.Remedy(
            self.write, self.folder, self.backend, self.source, self.drawn, data="digits", **more
        )


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path)


@pytest.mark.parametrize(
    ("losses", "tuned", "word"),
    [
        ([0.004], False, None),  # 0.4 points are allowed at 0.5
        ([0.02, 0.001], True, "int8 loses 0.10 points"),
        ([0.02, 0.03], False, "did not help (3.00 points of top-1 lost)"),
    ],
)
def test_fine_tuning_where_too_much_is_lost(
    case: Case, monkeypatch: pytest.MonkeyPatch, losses: list[float], tuned: bool, word: str | None
) -> None:
    """What is lost is given here; whether tuning helps by itself is test_quantized's business."""
    first = case.write(None, frozenset())
    share = remedy.lost(case.folder / first.engine, first, case.backend, case.source, case.drawn)
    assert -1 <= share <= 1
    left, said = list(losses), list[str]()
    monkeypatch.setattr(remedy, "lost", lambda *_: left.pop(0))
    monkeypatch.setattr(remedy.Remedy, "_by_block", lambda *_: None)
    made = case.remedy(
        max_loss=0.005,
        emit=lambda kind, fields: said.append(fields.get("text", "")),
        options=TuneOptions(steps=2, batch=8),
    ).tried(first)
    assert not left
    assert not any(floats for _, floats in case.written)
    assert (made.fine_tuned is not None) == tuned
    assert made.weights_sha256 == first.weights_sha256  # the float network's, which it is compared with
    if made.fine_tuned is not None:
        assert (made.fine_tuned.lost_before, made.fine_tuned.lost_after) == (0.02, 0.001)
        assert made.onnx_sha256 != first.onnx_sha256
    else:
        assert made.onnx_sha256 == first.onnx_sha256
        assert case.written[-1][0] is False
    assert word is None or any(word in text for text in said)


def test_blocks_in_float_are_of_the_network_s_own_weights(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fine-tuning that does not do is left; what the mix is told to be lost is what int8 lost before it."""
    left = [0.3, 0.25, 0.01]  # in int8, fine-tuned, mixed; of three blocks one loses 0.1 at most
    monkeypatch.setattr(remedy, "lost", lambda *_: left.pop(0))
    costs = PrecisionCosts((0.1, 0.1, 0.1), (0.0, 0.0))
    monkeypatch.setattr("hwnas.jobs.export.mixed.Mixing.timed", lambda *_: (costs, 1.0, 0.7))
    made = case.remedy(max_loss=0.12, options=TuneOptions(steps=1, batch=8)).tried(
        case.write(None, frozenset())
    )
    assert made.mixed is not None
    assert (made.mixed.lost_before, made.mixed.lost_after) == (0.3, 0.01)
    assert made.fine_tuned is None
    assert [tuned for tuned, _ in case.written] == [False, True, False]
    assert {b.precision for b in made.mixed.blocks} == {"int8", "fp32"}
    assert case.written[-1][1]


def test_the_manifest_is_that_of_the_file_that_was_written_last(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some runtimes build other bytes each time: after a mix that lost too much the engine is another one."""
    left = [0.3, 0.25]  # in int8, fine-tuned
    monkeypatch.setattr(remedy, "lost", lambda *_: left.pop(0))
    monkeypatch.setattr(remedy.Remedy, "_by_block", lambda *_: None)
    made = case.remedy(max_loss=0.12, options=TuneOptions(steps=1, batch=8)).tried(
        case.write(None, frozenset())
    )
    assert [tuned for tuned, _ in case.written] == [False, True, True]
    assert made.run == "3"
    assert made.fine_tuned is not None
    assert (made.fine_tuned.lost_before, made.fine_tuned.lost_after) == (0.3, 0.25)


def test_few_images_are_not_tuned_on(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch of 2,000 would see every image of the digits at once; one of 100 images may be lost."""
    first = case.write(None, frozenset())
    said: list[str] = []
    monkeypatch.setattr(remedy, "lost", lambda *_: 0.02)
    monkeypatch.setattr(remedy.Remedy, "_by_block", lambda *_: None)
    task = case.remedy(
        max_loss=0.005,
        emit=lambda kind, fields: said.append(str(fields.get("text", ""))),
        options=TuneOptions(batch=2000),
    )
    assert task.allowed == pytest.approx(0.01)
    made = task.tried(first)
    assert (made.onnx_sha256, made.fine_tuned) == (first.onnx_sha256, None)
    assert not any(tuned for tuned, _ in case.written)
    assert any("training images are too few for fine-tuning" in text for text in said)


def test_loss_by_hand(tmp_path: Path) -> None:
    """An fp32 engine of the same weights gets no image more or less wrong."""
    source = Origin(tmp_path, SPEC, tmp_path / "weights.safetensors")
    save_weights(source.weights, build.weights(build.build(SPEC, seed=3)))
    drawn = samples("digits", source, 40)
    backend = backends.get("ort")
    setting = backend.setting("cpu", "fp32", 1, 1)
    made = engines.export(SPEC, source.read_weights(), backend, setting, tmp_path, **drawn.about)
    assert remedy.lost(tmp_path / made.engine, made, backend, source, drawn) == 0.0
    assert drawn.labels is not None
    other = {**source.read_weights()}
    bias = next(n for n in other if n.startswith("head.") and n.endswith(".bias"))
    other[bias] = other[bias] + np.float32(1e3) * np.eye(10, dtype=np.float32)[7]
    made = engines.export(SPEC, other, backend, setting, tmp_path, **drawn.about)  # says 7 to everything
    share = remedy.lost(tmp_path / made.engine, made, backend, source, drawn)
    sevens = float((drawn.labels == 7).mean())
    from hwnas.deploy.verify import reference_scores

    assert drawn.prepared is not None
    right = reference_scores(SPEC, source.read_weights(), drawn.prepared).argmax(axis=1) == drawn.labels
    assert share == pytest.approx(float(right.mean()) - sevens)
