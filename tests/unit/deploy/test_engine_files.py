"""An engine is what its manifest says, or it is refused before the runtime sees it."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from deploy_network import images, small, weights

from hwnas import backends, seals
from hwnas.backends.cuda.driver import GpuError
from hwnas.deploy import engine as engines
from hwnas.deploy import manifest as manifests
from hwnas.errors import BackendUnavailable, BuildError, DataFormatError, InputError
from hwnas.estimates import Budget

SPEC = small()
WEIGHTS = weights(SPEC)


def exported(folder: Path, backend: str = "fake", file_format: str | None = "onnx", **about: Any) -> Path:
    runtime = backends.get(backend)
    setting = runtime.setting("fake" if backend == "fake" else "cpu", "fp32", about.pop("batch", 1), 1)
    manifest = engines.export(SPEC, WEIGHTS, runtime, setting, folder, file_format=file_format, **about)
    return folder / manifest.engine


def test_manifest_round_trip(tmp_path: Path) -> None:
    path = exported(
        tmp_path,
        table_id="abc",
        budget=Budget(latency_ms=0.5),
        mean=(0.1, 0.2, 0.3),
        std=(0.2, 0.2, 0.2),
        run="r",
    )
    again = manifests.read_manifest(path)
    assert again.network == SPEC
    assert again.network_key == SPEC.key
    assert again.table_id == "abc"
    assert again.budget == Budget(latency_ms=0.5)
    assert again.engine_bytes == path.stat().st_size
    assert again.setting.backend == "fake"
    assert not again.passed  # nothing was verified yet
    body = json.loads((tmp_path / "engine.onnx.manifest.json").read_text())
    assert body["schema"] == "hwnas.engine/1"
    assert manifests.read_manifest(manifests.manifest_path(path)) == again


def test_an_export_that_was_killed_between_its_two_files_can_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    write = manifests.write_manifest

    def killed(folder: Path, manifest: manifests.EngineManifest) -> Path:
        if (folder / manifest.engine).exists():
            raise Killed
        return write(folder, manifest)

    monkeypatch.setattr(engines, "write_manifest", killed)
    with pytest.raises(Killed):
        exported(tmp_path)
    assert (tmp_path / "engine.onnx").is_file()
    with pytest.raises(DataFormatError, match="is not the engine that its manifest describes"):
        engines.load(tmp_path / "engine.onnx")
    monkeypatch.undo()
    path = exported(tmp_path)
    assert manifests.read_manifest(path).engine_bytes == path.stat().st_size


def test_an_export_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("hwnas.store.os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        exported(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("again", [False, True])
def test_b7_engine_and_manifest_are_written_together_or_neither(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, again: bool
) -> None:
    if again:
        exported(tmp_path)

    def lost(*_: object) -> None:
        raise GpuError("work on the GPU failed: an illegal memory access was encountered")

    monkeypatch.setattr(engines, "layer_times", lost)
    with pytest.raises(GpuError):
        exported(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_b7_layers_that_cannot_be_told_do_not_spoil_an_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def odd(*_: object) -> None:
        raise BuildError("the engine inspector gave an unexpected answer: '{}'")

    monkeypatch.setattr(engines, "layer_times", odd)
    path = exported(tmp_path)
    assert manifests.read_manifest(path).layers == ()


def test_plain_onnx_is_the_model_itself(tmp_path: Path) -> None:
    manifest = manifests.read_manifest(exported(tmp_path))
    assert manifest.engine_sha256 == manifest.onnx_sha256  # of the same bytes


@pytest.mark.parametrize("backend", ["fake", "ort"])
def test_load_gives_the_scores_of_the_build(tmp_path: Path, backend: str) -> None:
    path = exported(tmp_path, backend, None if backend == "ort" else "onnx")
    engine = engines.load(path)
    batch = images(SPEC, 1)
    built = backends.get(backend)
    fresh = built.build(manifest_model(), engine.setting)
    np.testing.assert_allclose(engine.run(batch), fresh.run(batch), atol=1e-5)
    engine.close()


def manifest_model() -> bytes:
    from hwnas.nets import onnx

    return onnx.network(SPEC, WEIGHTS, batch=1)


def test_one_changed_byte_is_refused(tmp_path: Path) -> None:
    path = exported(tmp_path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataFormatError, match="not the engine that its manifest describes"):
        engines.load(path)


def edited(path: Path, **changes: Any) -> None:
    file = manifests.manifest_path(path)
    body = json.loads(file.read_text())
    del body["checksum"]  # a seal is no signature: anybody can make one
    file.write_text(json.dumps(seals.sealed({**body, **changes})))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": "hwnas.engine/2"}, "expected 'hwnas.engine/1'"),
        ({"surprise": 1}, "surprise"),
        ({"network_key": "0" * 12}, "the manifest was edited"),
        ({"format": "exe"}, "unknown export format 'exe'"),
        ({"engine": "other.onnx"}, "belongs to 'other.onnx'"),
        ({"mean": [0.5]}, "mean has 1 values for 3 channels"),
        ({"classes": ["cat"]}, "1 class names for 10 classes"),
    ],
)
def test_damaged_manifests_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = exported(tmp_path)
    edited(path, **changes)
    with pytest.raises(DataFormatError, match=message):
        engines.load(path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text.replace('"threads": 1', '"threads": 2'), "content gives another checksum"),
        (lambda text: re.sub(r',\s*"checksum": "\w+"', "", text), "has no checksum"),
    ],
)
def test_a_changed_digit_of_a_manifest_is_refused(
    tmp_path: Path, change: Callable[[str], str], words: str
) -> None:
    """A thread count that nobody measured would still be a possible one."""
    path = exported(tmp_path)
    file = manifests.manifest_path(path)
    text = file.read_text()
    file.write_text(change(text))
    assert file.read_text() != text
    with pytest.raises(DataFormatError, match=words):
        engines.load(path)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no manifest"):
        engines.load(tmp_path / "engine.onnx")
    path = exported(tmp_path)
    path.unlink()
    with pytest.raises(InputError, match="does not exist"):
        engines.load(path)


def test_another_runtime_version_or_processor_is_refused_with_reasons(tmp_path: Path) -> None:
    path = exported(tmp_path, "ort", "ort")
    setting = json.loads(manifests.manifest_path(path).read_text())["setting"]
    edited(path, setting={**setting, "backend_version": "0.1", "device_arch": "Other CPU"})

    def never(*_: object) -> None:
        raise AssertionError("the runtime saw the file")

    backend = backends.get("ort")
    backend.load = never  # type: ignore[method-assign, assignment]  # stands in for the method
    with pytest.raises(BackendUnavailable) as caught:
        engines.load(path, backend)
    text = str(caught.value)
    assert "the ort version '0.1', this machine has" in text
    assert "the processor 'Other CPU', this machine has" in text
    assert "hwnas export --format ort" in text


def test_plain_onnx_is_bound_to_no_version(tmp_path: Path) -> None:
    path = exported(tmp_path, "ort", "onnx")
    setting = json.loads(manifests.manifest_path(path).read_text())["setting"]
    edited(path, setting={**setting, "backend_version": "0.1"})
    engines.load(path).close()


def test_a_backend_writes_its_own_format_only(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="needs the backend trt, not fake"):
        exported(tmp_path, file_format="trt")
    with pytest.raises(InputError, match="unknown export format"):
        exported(tmp_path, file_format="exe")
    assert not list(tmp_path.iterdir())


def test_the_engine_of_a_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no engine"):
        manifests.find_engine(tmp_path)
    path = exported(tmp_path)
    assert manifests.find_engine(tmp_path) == path
    exported(tmp_path, "ort", "ort")
    with pytest.raises(InputError, match=r"name one: engine.onnx, engine.ort"):
        manifests.find_engine(tmp_path)


def test_weights_digest_sees_names_shapes_and_values() -> None:
    one = {"a": np.zeros((2, 3), np.float32)}
    digests = {
        manifests.weights_digest(w)
        for w in (
            one,
            {"b": one["a"]},
            {"a": one["a"].reshape(3, 2)},
            {"a": one["a"] + np.float32(1e-7)},
        )
    }
    assert len(digests) == 4
    assert manifests.weights_digest(dict(one)) == manifests.weights_digest(one)


def test_any_number_of_images_through_an_engine_of_one_batch(tmp_path: Path) -> None:
    engine = engines.load(exported(tmp_path, "ort", "onnx", batch=4))
    batch = images(SPEC, 7)
    scores = engines.run_all(engine, batch)
    assert scores.shape == (7, 10)
    np.testing.assert_allclose(scores[4:], engines.run_all(engine, batch[4:]), atol=1e-6)
    engine.close()


def test_b6_layers_without_int8_kernels_are_named_in_the_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hwnas.backends.ort import OrtEngine

    monkeypatch.setattr(OrtEngine, "float_layers", ("stem.conv",), raising=False)
    path = exported(tmp_path, "ort", "ort")
    assert manifests.read_manifest(path).float_layers == ("stem.conv",)
