"""Verification passes what is right and catches what is wrong: weights, classes, accuracy, budget."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from deploy_network import images, small, weights

from hwnas import backends
from hwnas.backends.images import prepare
from hwnas.backends.ort import OrtEngine
from hwnas.deploy import engine as engines
from hwnas.deploy.checks import budget as budget_check
from hwnas.deploy.manifest import Parity, read_manifest, write_manifest
from hwnas.deploy.parity import LEAST_IMAGES, TOLERANCES, compare, judge
from hwnas.deploy.verify import CheckOptions, reference_scores, verify
from hwnas.errors import DataFormatError, InputError, VerificationFailed
from hwnas.estimates import Budget
from hwnas.records import Promise

SPEC = small()
WEIGHTS = weights(SPEC)
UNTIMED = CheckOptions(timed=False)


def exported(folder: Path, backend: str = "ort", **about: Any) -> Path:
    runtime = backends.get(backend)
    setting = runtime.setting("fake" if backend == "fake" else "cpu", "fp32", 1, 1)
    return (
        folder / engines.export(SPEC, WEIGHTS, runtime, setting, folder, file_format="onnx", **about).engine
    )


def checks(path: Path, **more: Any) -> dict[str, bool]:
    found = verify(path, **{"weights": WEIGHTS, "images": images(SPEC), "options": UNTIMED, **more})
    return {check.name: check.passed for check in found.report.checks}


def test_a_good_engine_passes(tmp_path: Path) -> None:
    found = verify(exported(tmp_path), weights=WEIGHTS, images=images(SPEC), options=UNTIMED)
    assert found.report.passed
    assert found.parity.max_abs_err < 1e-4 * found.parity.scale
    assert found.parity.top1_agreement == 1.0
    found.require(tmp_path)  # does not raise


def test_a_corrupted_weight_in_the_engine_is_caught(tmp_path: Path) -> None:
    """The engine computes with one weight changed; manifest and hash agree with it, scores do not."""
    broken = {k: v.copy() for k, v in WEIGHTS.items()}
    name = next(k for k, v in broken.items() if v.ndim == 4 and k.startswith("stages.0"))
    broken[name].flat[7] += 0.5
    runtime = backends.get("ort")
    manifest = engines.export(
        SPEC, broken, runtime, runtime.setting("cpu", "fp32", 1, 1), tmp_path, file_format="onnx"
    )
    path = tmp_path / manifest.engine
    found = verify(path, weights=WEIGHTS, images=images(SPEC), options=UNTIMED)
    failed = {c.name for c in found.report.checks if not c.passed}
    assert {"parity", "source"} <= failed
    with pytest.raises(VerificationFailed, match="scores differ by at most"):
        found.require(path)


def test_weights_of_another_training_are_caught(tmp_path: Path) -> None:
    found = checks(exported(tmp_path), weights=weights(SPEC, seed=1))
    assert found["source"] is False
    assert found["parity"] is False


@pytest.mark.parametrize(("off", "passed"), [(0.0, True), (2.0, False)])
def test_an_engine_that_prepares_bytes_itself_must_do_it_as_the_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, off: float, passed: bool
) -> None:
    """As a GPU does; here the engine's own `run` on what the host prepares, brighter by `off` levels."""

    def run_bytes(self: OrtEngine, pictures: Any, mean: Any, std: Any) -> Any:
        return self.run(prepare(pictures, (16, 16), mean - np.float32(off / 255), std))

    path = exported(tmp_path, mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.2))
    assert "preprocessing" not in checks(path)
    monkeypatch.setattr(OrtEngine, "run_bytes", run_bytes, raising=False)
    assert checks(path)["preprocessing"] is passed


def test_accuracy_needs_labels_and_compares_both(tmp_path: Path) -> None:
    path, batch = exported(tmp_path), images(SPEC)
    labels = reference_scores(SPEC, WEIGHTS, batch).argmax(axis=1)
    labels[:6] = (labels[:6] + 1) % 10  # 6 of 24 wrong: top-1 is 18 / 24
    found = verify(path, weights=WEIGHTS, images=batch, labels=labels, options=UNTIMED)
    assert found.report.top1_reference == 0.75
    assert found.report.top1_engine == 0.75
    assert "accuracy" in {c.name for c in found.report.checks}
    assert "accuracy" not in checks(path)


def test_comparison_by_hand() -> None:
    reference = np.array([[3.0, 4.0], [1.0, 0.0]], np.float32)
    given = np.array([[3.0, 4.0], [0.0, 1.0]], np.float32)
    found = compare(reference, given, np.array([1, 0]), "by hand")
    assert found.max_abs_err == 1.0
    assert found.scale == 4.0
    assert found.cosine_min == 0.0  # (1, 0) against (0, 1)
    assert found.top1_agreement == 0.5
    assert (found.top1_reference, found.top1_engine) == (1.0, 0.5)


def test_scores_that_are_no_numbers_fail() -> None:
    reference = np.ones((2, 3), np.float32)
    given = np.full((2, 3), np.nan, np.float32)
    assert not judge(compare(reference, given, None, "nan"), "fp32")[1].passed
    with pytest.raises(DataFormatError, match="network itself gives scores that are NaN"):
        compare(given, reference, None, "nan")


@pytest.mark.parametrize("precision", list(TOLERANCES))
def test_tolerances_are_limits(precision: Any) -> None:
    limit = TOLERANCES[precision]
    good = Parity(
        images=100,
        data="",
        max_abs_err=10 * limit.error * 0.99,
        scale=10.0,
        cosine_min=limit.cosine,
        top1_agreement=limit.agreement,
        top1_reference=0.9,
        top1_engine=0.9 - 0.99 * limit.drop,
    )
    assert [c.passed for c in judge(good, precision)] == [True, True, True, True]
    for change, at in (
        ({"images": LEAST_IMAGES - 1}, 0),
        ({"distinct": LEAST_IMAGES - 1}, 0),
        ({"max_abs_err": 10 * limit.error * 1.01}, 1),
        ({"cosine_min": limit.cosine - 1e-3}, 1),
        ({"scale": 1.01e4}, 1),
        ({"top1_agreement": limit.agreement - 0.01}, 2),
        ({"top1_engine": 0.9 - 1.01 * limit.drop}, 3),
    ):
        verdicts = [c.passed for c in judge(good.model_copy(update=change), precision)]
        assert verdicts[at] is False
        assert sum(verdicts) == 3


def test_budget_is_tested_by_measurement(tmp_path: Path) -> None:
    """The fake device is deterministic: half its price is broken, twice its price is kept."""
    path = exported(tmp_path, "fake")
    engine = engines.load(path)
    price_ms = float(np.median(engine.time(20).wall_ms))
    engine.close()
    for factor, verdict in ((2.0, "kept"), (0.5, "broken")):
        found = verify(
            path, weights=WEIGHTS, images=images(SPEC, 8), budget=Budget(latency_ms=factor * price_ms)
        )
        assert found.report.promise is not None
        assert found.report.promise.verdict == verdict
        assert found.report.passed == (verdict == "kept")
        assert found.report.measured is not None
        assert found.report.measured.median_ms == pytest.approx(price_ms, rel=0.05)


def test_latency_without_a_budget_is_measured_and_not_judged(tmp_path: Path) -> None:
    found = verify(exported(tmp_path, "fake"), weights=WEIGHTS, images=images(SPEC, 8))
    assert found.report.measured is not None
    assert found.report.promise is None
    assert "budget" not in {c.name for c in found.report.checks}


def test_limits_on_counts(tmp_path: Path) -> None:
    # 8 x 3 x 3x3 x 256 in the stem alone are 55,296 MACs; ten parameters are certainly too few.
    found = checks(exported(tmp_path), budget=Budget(macs=1e9, params=10))
    assert found["macs"] is True
    assert found["params"] is False


@pytest.mark.parametrize(
    ("verdict", "misses", "passed", "words"),
    [
        ("kept", 0, True, "5 of 5 sessions within 0.6 ms at p50"),
        ("broken", 5, False, "the budget is exceeded"),
        ("ambiguous", 3, False, "undecided"),
    ],
)
def test_verdicts_in_words(verdict: Any, misses: int, passed: bool, words: str) -> None:
    promise = Promise(
        verdict=verdict,
        budget_ms=0.6,
        percentile="p50",
        session_ms=(0.58,) * 5,
        misses=misses,
        confidence=0.96875,
        note="2 disturbed sessions were repeated",
    )
    check = budget_check(promise)
    assert check.passed is passed
    assert words in check.detail
    assert "2 disturbed sessions" in check.detail


def test_proof_goes_into_the_manifest(tmp_path: Path) -> None:
    path = exported(tmp_path, "fake")
    found = verify(
        path, weights=WEIGHTS, images=images(SPEC, 8), budget=Budget(latency_ms=100.0), data="eight"
    )
    write_manifest(tmp_path, found.complete(read_manifest(path)))
    again = read_manifest(path)
    assert again.passed
    assert again.parity == found.parity
    assert again.parity is not None
    assert again.parity.data == "eight"
    assert again.promise == found.report.promise


def test_images_of_another_shape_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"takes \(n, 3, 16, 16\)"):
        verify(exported(tmp_path), weights=WEIGHTS, images=np.zeros((2, 3, 8, 8), np.float32))


def test_images_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    """One reference image would be compared with every score, and no labels are some."""
    path, some = exported(tmp_path), images(SPEC)
    with pytest.raises(InputError, match="no images to compare on"):
        checks(path, images=[])
    with pytest.raises(InputError, match=f"1 reference images are given for {len(some)} images"):
        checks(path, reference_images=some[:1])
    with pytest.raises(InputError, match=f"2 labels are given for {len(some)} images"):
        checks(path, labels=np.zeros(2, np.int64))
