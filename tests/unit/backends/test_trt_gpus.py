"""What serves which GPU, and how GPUs are found."""

import types
from pathlib import Path
from typing import Any, cast

import pytest

from hwnas.backends.cuda import gpus
from hwnas.backends.cuda import state as gpu_state
from hwnas.backends.cuda.gpus import _ask_smi, parse_gpus, serves


def test_pascal_as_people_read_it() -> None:
    support = serves((6, 1))
    assert support.describe() == "TensorRT 8.6, Python <= 3.11, fp16 not fast, int8 yes"
    assert support.install == "pip install 'hwnas[trt8]'"


@pytest.mark.parametrize(
    ("capability", "extra", "precisions"),
    [
        ((5, 2), "", ()),
        ((6, 0), "trt8", ("fp16",)),
        ((6, 1), "trt8", ("int8",)),
        ((6, 2), "trt8", ("fp16",)),
        ((7, 0), "trt8", ("fp16", "int8")),
        ((7, 5), "trt", ("fp16", "int8")),
        ((8, 6), "trt", ("fp16", "int8", "bf16")),
        ((12, 0), "trt", ("fp16", "int8", "bf16")),
    ],
)
def test_extras_and_fast_precisions(
    capability: tuple[int, int], extra: str, precisions: tuple[str, ...]
) -> None:
    support = serves(capability)
    assert (support.extra, support.precisions) == (extra, precisions)
    assert bool(support.tensorrt) == bool(extra)


@pytest.mark.parametrize(
    ("capability", "version", "word"),
    [
        ((6, 1), "8.6.1", None),
        ((6, 1), "10.13.3.9", "needs compute capability 7.5"),
        ((7, 0), "10.0.1", None),
        ((7, 0), "10.5.0", "7.5"),
        ((7, 5), "11.4.0.106", None),
        ((8, 6), "8.5.3", "hwnas supports 8.6"),
        ((8, 6), "9.2.0", "hwnas supports 8.6 and 10.0 or later"),
        ((12, 0), "8.6.1", "older than this GPU"),
        ((5, 2), "8.6.1", "6.0"),
    ],
)
def test_versions_that_do_not_serve_a_gpu_are_refused_in_words(
    capability: tuple[int, int], version: str, word: str | None
) -> None:
    refusal = serves(capability).refuses(version)
    assert refusal is None if word is None else word in str(refusal)


def test_b5_an_older_driver_takes_the_extra_for_cuda_12() -> None:
    assert serves((8, 6), "580.95.05").extra == "trt"
    assert serves((8, 6), "535.104").extra == "trt-cu12"
    assert serves((6, 1), "580.95.05").extra == "trt8"
    assert serves((6, 1), "535.104").extra == "trt8-train"  # with nothing of CUDA 13
    assert serves((8, 6)).extra == "trt"


def test_a_jetsons_tensorrt_comes_with_its_system() -> None:
    orin = serves((8, 7), "540.4.0")
    assert orin.describe() == "TensorRT 8.6 or 10 of JetPack 6, JetPack's Python, fp16 yes, int8 yes"
    assert "--system-site-packages" in orin.install
    assert "hwnas[" not in orin.install  # the extras name wheels for x86
    assert orin.refuses("8.6.2") is None
    assert orin.refuses("10.3.0") is None
    assert "no supported TensorRT" in serves((7, 2)).install  # JetPack 5 ends at 8.5


def test_smi_lines() -> None:
    (gpu,) = parse_gpus("NVIDIA TITAN Xp, 6.1, 12288, 580.95.05, [N/A]\nNo devices were found\n")
    assert (gpu.name, gpu.capability, gpu.memory_bytes) == ("NVIDIA TITAN Xp", (6, 1), 12288 << 20)
    assert not gpu.slices
    for mode, slices in (("Enabled", True), ("Disabled", False)):
        (gpu,) = parse_gpus(f"NVIDIA A100-SXM4-40GB, 8.0, 40960, 580.95.05, {mode}\n")
        assert gpu.slices is slices


def test_memory_that_the_driver_does_not_tell() -> None:
    (gpu,) = parse_gpus("NVIDIA GB10, 12.1, [N/A], 580.95.05, [N/A]\n")
    assert (gpu.capability, gpu.memory_bytes) == ((12, 1), None)


OLD_SMI = """#!/bin/sh
case "$1" in
  *mig.mode*) echo 'Field "mig.mode.current" is not a valid field to query.'; exit 2;;
esac
echo 'NVIDIA TITAN Xp, 6.1, 12288, 440.33'
"""


def test_a_driver_whose_nvidia_smi_knows_no_slices_still_tells_its_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nvidia-smi").write_text(OLD_SMI)
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    (gpu,) = _ask_smi()
    assert (gpu.name, gpu.memory_bytes, gpu.slices) == ("NVIDIA TITAN Xp", 12 << 30, False)


def test_what_nvml_does_not_tell_is_none_and_fires_no_gate() -> None:
    class Refused(Exception):
        pass

    def refuse(*_: object) -> None:
        raise Refused

    asked = ("PowerManagementLimit", "CurrentClocksThrottleReasons", "ComputeRunningProcesses", "Temperature")
    nvml = types.SimpleNamespace(
        NVMLError=Refused,
        NVML_CLOCK_SM=1,
        NVML_CLOCK_MEM=2,
        NVML_TEMPERATURE_GPU=0,
        nvmlDeviceGetClockInfo=lambda _, kind: {1: 900}[kind] if kind == 1 else refuse(),
        **{f"nvmlDeviceGet{name}": refuse for name in asked},
    )
    state = gpu_state.read_state(nvml, "handle")
    assert state == gpu_state.GpuState(900, None, None, None, None, None)
    judge = gpu_state.Judge(cast(Any, types.SimpleNamespace(state=lambda: state)))
    assert judge.gates() == ()


@pytest.mark.parametrize(
    ("name", "model", "same"),
    [
        ("a100", "NVIDIA A100-SXM4-40GB MIG 1g.5gb", True),
        ("h100", "NVIDIA H100 80GB HBM3 MIG 1g.10gb+me", True),
        ("h100", "NVIDIA H100 NVL", True),
        ("titanxp", "NVIDIA TITAN Xp COLLECTORS EDITION", True),
        ("a100", "NVIDIA A1000 MIG 1g.5gb", False),
        ("rtx3080", "NVIDIA GeForce RTX 3080 Ti", False),
        ("rtx3080", "NVIDIA GeForce RTX 3080 Laptop GPU", False),
        ("rtx2080", "NVIDIA GeForce RTX 2080 with Max-Q Design", False),
    ],
)
def test_b4_slices_and_editions_are_the_model_other_chips_are_not(name: str, model: str, same: bool) -> None:
    assert gpus.same_model(name, model) is same


class NoPermission(Exception):
    """As NVML answers without root in a container or under MIG."""


def _refused(*_: object) -> None:
    raise NoPermission("Insufficient Permissions")


def test_b4_a_gpu_that_may_not_be_asked_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def handle(index: int) -> int:
        if index == 0:
            _refused()
        return index

    nvml = types.SimpleNamespace(
        NVMLError=NoPermission,
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlSystemGetDriverVersion=lambda: "580.95.05",
        nvmlDeviceGetCount=lambda: 2,
        nvmlDeviceGetHandleByIndex=handle,
        nvmlDeviceGetName=lambda _: b"NVIDIA A100-SXM4-40GB",
        nvmlDeviceGetCudaComputeCapability=lambda _: (8, 0),
        nvmlDeviceGetMemoryInfo=_refused,
        NVML_DEVICE_MIG_ENABLE=1,
        nvmlDeviceGetMigMode=lambda _: [1, 1],
    )
    monkeypatch.setattr(gpus, "nvml", nvml)
    found = gpus._ask_nvml()
    assert found == (
        gpus.GpuInfo(
            name="NVIDIA A100-SXM4-40GB",
            compute_capability="8.0",
            memory_bytes=None,
            driver="580.95.05",
            slices=True,
        ),
    )


def test_throttle_reasons_by_name() -> None:
    nvml = types.SimpleNamespace(
        nvmlClocksThrottleReasonGpuIdle=1,
        nvmlClocksThrottleReasonSwPowerCap=4,
        nvmlClocksThrottleReasonHwThermalSlowdown=64,
        nvmlClocksThrottleReasonNone=0,
        nvmlClocksThrottleReasonAll=69,
    )
    assert gpu_state.reasons(nvml, 1) == ()
    assert gpu_state.reasons(nvml, 4 | 1) == ("SwPowerCap",)
    assert gpu_state.reasons(nvml, 69) == ("HwThermalSlowdown", "SwPowerCap")


def test_without_a_driver_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "find_spec", lambda _: None)
    monkeypatch.setattr("hwnas.backends.cuda.gpus.shutil.which", lambda _: None)
    gpus.gpus.cache_clear()
    assert gpus.gpus() == ()
    gpus.gpus.cache_clear()
