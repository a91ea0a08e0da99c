"""The five lines that a user deploys with."""

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from deploy_network import small, weights

from hwnas import backends
from hwnas.deploy import engine as engines
from hwnas.deploy.manifest import read_manifest, write_manifest
from hwnas.deploy.session import Session
from hwnas.deploy.verify import reference_scores
from hwnas.errors import InputError, VerificationFailed
from hwnas.records import Check

SPEC = small()
WEIGHTS = weights(SPEC)
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
NAMES = tuple(f"class {i}" for i in range(10))


@pytest.fixture(params=["onnx", "ort"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    runtime = backends.get("ort")
    setting = runtime.setting("cpu", "fp32", 2, 1)
    engines.export(
        SPEC,
        WEIGHTS,
        runtime,
        setting,
        tmp_path,
        file_format=request.param,
        mean=MEAN,
        std=STD,
        classes=NAMES,
    )
    return tmp_path


def test_probabilities_of_uint8_images(folder: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    # What training does, written out: to [0, 1], channels first, minus mean, over std.
    ready = (images.transpose(0, 3, 1, 2) / 255.0 - np.reshape(MEAN, (1, 3, 1, 1))) / np.reshape(
        STD, (1, 3, 1, 1)
    )
    scores = reference_scores(SPEC, WEIGHTS, ready.astype(np.float32)).astype(np.float64)
    expected = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    with Session(folder) as session:
        got = session(images)
        assert got.shape == (3, 10)
        np.testing.assert_allclose(got, expected, atol=1e-4)
        np.testing.assert_allclose(got.sum(axis=1), 1.0, atol=1e-6)
        np.testing.assert_allclose(session(ready.astype(np.float32)), got, atol=1e-5)
        np.testing.assert_allclose(session(images[0]), got[:1], atol=1e-6)  # a single image


def test_images_of_another_size_are_cropped_and_resized_as_in_training(folder: Path) -> None:
    torch = pytest.importorskip("torch")
    images = np.random.default_rng(1).integers(0, 256, (2, 40, 50, 3), dtype=np.uint8)
    square = torch.from_numpy(images[:, :, 5:45].copy()).permute(0, 3, 1, 2).float()
    small = torch.nn.functional.interpolate(square, (16, 16), mode="bilinear", antialias=True).round()
    as_bytes = small.byte().permute(0, 2, 3, 1).numpy()
    with Session(folder) as session:
        np.testing.assert_allclose(session(images), session(as_bytes), atol=1e-3)
    with Session(folder, bgr=True) as session:
        np.testing.assert_allclose(session(images[..., ::-1].copy()), session(as_bytes[..., ::-1]), atol=1e-3)


def test_names_of_the_likeliest_classes(folder: Path) -> None:
    image = np.full((16, 16, 3), 100, np.uint8)
    with Session(folder) as session:
        rows = session.top(image, 3)
        probabilities = session(image)[0]
    order = np.argsort(-probabilities)[:3]
    (row,) = rows
    assert [name for name, _ in row] == [f"class {i}" for i in order]
    assert [p for _, p in row] == pytest.approx([float(probabilities[i]) for i in order])


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((2, 3, 16, 16), np.uint8),  # bytes are channels last
        np.zeros((2, 16, 16, 3), np.float32),  # floats are channels first
        np.zeros((2, 3, 8, 8), np.float32),  # floats are as the network takes them
        np.zeros((2, 16, 16, 3), np.int64),
        np.zeros((0, 16, 16, 3), np.uint8),
    ],
    ids=["uint8-nchw", "float-nhwc", "size", "int64", "none"],
)
def test_other_images_are_refused(folder: Path, images: np.ndarray) -> None:
    with (
        Session(folder) as session,
        pytest.raises(InputError, match=r"expected uint8 \(n, height, width, 3\)"),
    ):
        session(images)


@pytest.mark.parametrize("images", ["x", [[1]], ["x"], None, 3])
def test_what_is_no_picture_is_refused(folder: Path, images: Any) -> None:
    with Session(folder) as session, pytest.raises(InputError, match="a list of arrays"):
        session.top(images, 2)


def test_more_classes_than_there_are(folder: Path) -> None:
    with Session(folder) as session, pytest.raises(InputError, match="1 to 10"):
        session.top(np.zeros((16, 16, 3), np.uint8), 11)
    two: Any = "2"
    with Session(folder) as session, pytest.raises(InputError, match="1 to 10"):
        session.top(np.zeros((16, 16, 3), np.uint8), two)


def test_an_engine_with_wrong_scores_is_refused(folder: Path) -> None:
    path = next(folder.glob("*.manifest.json"))
    manifest = read_manifest(path)
    wrong = Check(name="parity", passed=False, detail="scores differ by at most 3")
    write_manifest(folder, manifest.model_copy(update={"checks": (wrong,)}))
    with pytest.raises(VerificationFailed, match="scores differ by at most 3"):
        Session(folder)


def test_m7_a_session_runs_one_call_at_a_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    running, most = [0], [0]

    def slow(*_: Any, **__: Any) -> Any:
        running[0] += 1
        most[0] = max(most[0], running[0])
        time.sleep(0.01)
        running[0] -= 1
        return np.zeros((1, 10), np.float32)

    monkeypatch.setattr("hwnas.deploy.session.preprocess.scores", slow)
    with Session(folder) as session:
        threads = [threading.Thread(target=session.scores, args=(np.zeros(1),)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert most == [1]
