"""int8 that loses too much is fine-tuned; what was lost before and after stands in the manifest."""

from __future__ import annotations

from pathlib import Path

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
from hwnas.spec import BlockSpec, NetworkSpec
from hwnas.train.quantized import TuneOptions

SPEC = NetworkSpec(
    stem=BlockSpec(kind="conv", c_in=3, c_out=16, stride=2, size_in=16),
    stages=((BlockSpec(kind="basic", c_in=16, c_out=16, size_in=8),),),
    head=BlockSpec(kind="classifier", c_in=16, c_out=10, size_in=8),
)


@pytest.mark.parametrize(
    ("losses", "tuned", "word"),
    [
        ([0.004], False, None),  # 0.4 points are allowed at 0.5
        ([0.02, 0.001], True, "int8 loses 0.10 points"),
        ([0.02, 0.03], False, "did not help (3.00 points of top-1 lost)"),
    ],
)
def test_fine_tuning_where_too_much_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, losses: list[float], tuned: bool, word: str | None
) -> None:
    """What is lost is given here; whether tuning helps by itself is test_quantized's business."""
    source = Origin(tmp_path, SPEC, tmp_path / "weights.safetensors")
    save_weights(source.weights, build.weights(build.build(SPEC, seed=3)))
    drawn = samples("digits", source, 100)
    backend = backends.get("ort")
    setting = backend.setting("cpu", "int8", 1, 1)
    written: list[bool] = []

    def write(given: dict[str, Float32s] | None, floats: frozenset[str]) -> EngineManifest:
        assert not floats
        written.append(given is not None)
        return engines.export(
            SPEC,
            source.read_weights(),
            backend,
            setting,
            tmp_path,
            calibration=drawn.calibration,
            tuned=given,
            **drawn.about,
        )

    first = write(None, frozenset())
    share = remedy.lost(tmp_path / first.engine, first, backend, source, drawn)
    assert -1 <= share <= 1
    left, said = list(losses), list[str]()
    monkeypatch.setattr(remedy, "lost", lambda *_: left.pop(0))
    monkeypatch.setattr(remedy, "by_block", lambda *_, **__: None)
    made = remedy.Remedy(
        write,
        tmp_path,
        backend,
        source,
        drawn,
        data="digits",
        max_loss=0.005,
        emit=lambda kind, fields: said.append(fields.get("text", "")),
        options=TuneOptions(steps=2, batch=8),
    ).tried(first)
    assert not left
    assert (made.fine_tuned is not None) == tuned
    assert made.weights_sha256 == first.weights_sha256  # the float network's, which it is compared with
    if made.fine_tuned is not None:
        assert (made.fine_tuned.lost_before, made.fine_tuned.lost_after) == (0.02, 0.001)
        assert made.onnx_sha256 != first.onnx_sha256
    else:
        assert made.onnx_sha256 == first.onnx_sha256
        assert written[-1] is False
    assert word is None or any(word in text for text in said)


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
