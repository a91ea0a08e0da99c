"""Who am I, which devices are known, and what happens when one is not here."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from hwnas import store
from hwnas.backends.cuda.gpus import GpuInfo, same_model
from hwnas.errors import DataFormatError, DeviceUnavailable, InputError
from hwnas.measure import device, host
from hwnas.protocols import Int8Form

H200 = GpuInfo(name="NVIDIA H200", compute_capability="9.0", memory_bytes=1 << 37, driver="580.1")


@pytest.fixture
def profiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installation that knows two GPUs, on a machine that has none."""
    folder = tmp_path / "devices"
    folder.mkdir()
    known = {"titanxp": ["TITAN Xp"], "h200": ["NVIDIA H200", "H200 SXM"]}
    for name, aliases in known.items():
        body = {"name": name, "kind": "gpu", "label": aliases[0], "aliases": aliases}
        (folder / f"{name}.json").write_text(json.dumps(body))
    monkeypatch.setattr(store, "data_dir", lambda name: tmp_path)
    monkeypatch.setattr(device, "gpus", tuple)
    return folder


def test_detect_describes_this_machine() -> None:
    info = device.detect()
    assert info.cores >= 1
    assert info.cpu
    assert info.memory_bytes > 0
    assert info.fingerprint == device.detect().fingerprint
    assert info.fingerprint != info.model_copy(update={"cores": info.cores + 1}).fingerprint
    assert info.fingerprint == info.model_copy(update={"load": 99.0}).fingerprint


def test_cpu_and_fake_are_always_here(profiles: Path) -> None:
    assert device.resolve("cpu").backend == "ort"
    assert device.resolve("fake").backend == "fake"
    assert device.resolve("auto").name == "cpu"
    assert device.resolve("titanxp", here=False).backend == "trt"


def test_absent_device_names_the_three_ways_on(profiles: Path) -> None:
    with pytest.raises(DeviceUnavailable) as caught:
        device.resolve("titanxp")
    text = str(caught.value)
    assert caught.value.exit_status == 4
    for way in ("profile --device titanxp`", "table import", "--device cpu", "--estimate"):
        assert way in text
    assert device.resolve("titanxp", here=False).kind == "gpu"
    assert device.resolve("TITAN Xp", here=False).name == "titanxp"


def test_misspelt_device(profiles: Path) -> None:
    with pytest.raises(InputError, match="did you mean 'titanxp'"):
        device.resolve("titanpx")


def test_no_gpu_at_all(profiles: Path) -> None:
    with pytest.raises(DeviceUnavailable, match="no NVIDIA GPU"):
        device.resolve("gpu")


def test_gpu_of_this_machine_is_found_by_its_name(profiles: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "gpus", lambda: (H200,))
    assert device.resolve("h200").here
    assert device.resolve("gpu").name == "h200"
    assert not device.known()["titanxp"].here
    # Another GPU that no file describes gets its own plain name.
    other = H200.model_copy(update={"name": "NVIDIA GeForce RTX 5090"})
    monkeypatch.setattr(device, "gpus", lambda: (other,))
    assert device.resolve("rtx5090").label == "NVIDIA GeForce RTX 5090"


@pytest.mark.parametrize(
    ("alias", "model", "same"),
    [
        ("TITAN Xp", "NVIDIA TITAN Xp", True),
        ("TITAN X", "NVIDIA TITAN Xp", False),
        ("A100", "NVIDIA A100-SXM4-40GB", True),
        ("A100", "NVIDIA A1000", False),
        ("H100", "NVIDIA H100 80GB HBM3", True),
        ("A100", "NVIDIA RTX A1000", False),
        ("GTX 1080", "NVIDIA GeForce GTX 1080 Ti", False),
        ("T4", "Tesla T4", True),
        ("T4", "NVIDIA T400 4GB", False),
    ],
)
def test_names_of_models(alias: str, model: str, same: bool) -> None:
    assert same_model(alias, model) is same


def test_damaged_description(profiles: Path) -> None:
    (profiles / "bad.json").write_text('{"name": "bad", "kind": "tpu"}')
    with pytest.raises(DataFormatError, match=r"bad\.json.*kind"):
        device.known()


def test_conditions_join_device_and_backend() -> None:
    backend, setting = device.conditions("fake", batch=2, threads=2)
    assert (backend.name, setting.device, setting.batch, setting.threads) == ("fake", "fake", 2, 2)
    with pytest.raises(InputError, match="runs on cpu, not on the device 'fake'"):
        device.conditions("fake", "ort")


def test_shipped_descriptions_are_read() -> None:
    table = device.known()
    assert {"cpu", "fake"} <= set(table)
    for name, found in table.items():
        assert found.name == name
        assert found.label


def test_load_of_others_is_counted_in_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    # Ten seconds go by, all processes used 15 CPU seconds, this one 4: others kept 1.1 cores busy.
    seconds, own, busy = iter([100.0, 110.0]), iter([1.0, 5.0]), iter([50.0, 65.0])
    monkeypatch.setattr("hwnas.measure.host.time.perf_counter", lambda: next(seconds))
    monkeypatch.setattr("hwnas.measure.host.time.process_time", lambda: next(own))
    monkeypatch.setattr(host, "_busy_s", lambda: next(busy))
    assert host.others_load()() == pytest.approx(1.1)


def test_only_the_cores_that_this_process_may_use_count(monkeypatch: pytest.MonkeyPatch) -> None:
    # user nice system idle iowait irq softirq steal: core 0 was busy for 10+2+3+1+4+5 = 25 hundredths.
    stat = "cpu 999 0 0 0 0 0 0 0 0 0\ncpu0 10 2 3 700 9 1 4 5 0 0\ncpu1 900 0 0 0 0 0 0 0 0 0\nintr 5\n"
    monkeypatch.setattr(host, "_read", lambda path: stat)
    monkeypatch.setattr(host, "cores", lambda: (0,))
    ticks_per_s = os.sysconf("SC_CLK_TCK")
    assert host._busy_s() == pytest.approx(25 / ticks_per_s)


def test_conditions_of_a_table_keep_the_form_of_its_int8(monkeypatch: pytest.MonkeyPatch) -> None:
    """A winner is measured in the form that its table is of."""
    runtime, usual = device.conditions("cpu", "ort", precision="int8", batch=1, threads=1)
    forms = (*runtime.forms(), Int8Form("by sign", activations="by sign"))
    monkeypatch.setattr(type(runtime), "forms", lambda self: forms)
    by_sign = usual.model_copy(update={"form": "by sign"})
    assert device.conditions_of(by_sign)[1] == by_sign
    assert device.conditions_of(usual)[1] == usual
    with pytest.raises(InputError, match="no int8 graphs in the form 'lost'"):
        device.conditions_of(usual.model_copy(update={"form": "lost"}))
