"""What the backend `trt` can be asked without TensorRT."""

import enum
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from hwnas.backends.cuda import opening as cuda
from hwnas.backends.cuda.gpus import GpuInfo
from hwnas.backends.trt import backend as trt
from hwnas.backends.trt import build as trt_build
from hwnas.backends.trt import compat as trt_compat
from hwnas.backends.trt.compat import Layer, parse_layers
from hwnas.errors import BackendUnavailable, BuildError, DeviceUnavailable, InputError
from hwnas.nets import onnx as writer
from hwnas.records import Precision, Setting
from hwnas.spec import BlockSpec

PASCAL = GpuInfo(name="NVIDIA TITAN Xp", compute_capability="6.1", memory_bytes=12 << 30, driver="580")
AMPERE = GpuInfo(
    name="NVIDIA GeForce RTX 3090", compute_capability="8.6", memory_bytes=24 << 30, driver="580"
)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str | None]:
    """Pretend a GPU and installed packages; gives a function that sets them."""

    def pretend(
        gpu: GpuInfo | None = None, tensorrt: str = "", driver: Any = None, python: tuple[int, int] = (3, 11)
    ) -> str | None:
        monkeypatch.setattr(trt, "gpus", lambda: (gpu,) if gpu else ())
        monkeypatch.setattr(trt, "find_spec", lambda name: object() if tensorrt else None)
        monkeypatch.setattr(trt_compat, "installed_version", lambda: tensorrt)
        monkeypatch.setattr(cuda, "installed", lambda: driver)
        monkeypatch.setattr(
            trt, "python_fits", lambda support: not support.extra.startswith("trt8") or python < (3, 12)
        )
        return trt.Trt().unavailable()

    return pretend


def test_nothing_here(machine: Callable[..., str | None]) -> None:
    text = machine()
    for words in (
        "no NVIDIA GPU",
        "TensorRT is not installed",
        "neither cuda-python nor pycuda",
        "hwnas[trt8]",
    ):
        assert words in str(text)


def test_a_gpu_without_packages_is_told_its_own_line(machine: Callable[..., str | None]) -> None:
    pascal = "TensorRT 8.6, Python <= 3.11, fp16 not fast, int8 yes: pip install 'hwnas[trt8]'"
    assert pascal in str(machine(PASCAL))
    assert "another Python, then pip install 'hwnas[trt8]'" in str(machine(PASCAL, python=(3, 12)))
    assert "pip install 'hwnas[trt]'" in str(machine(AMPERE, "11.4.0"))


def test_a_tensorrt_that_does_not_serve_the_gpu_is_refused(machine: Callable[..., str | None]) -> None:
    assert "TensorRT 10.13.3 needs compute capability 7.5" in str(machine(PASCAL, "10.13.3", "pycuda"))
    assert machine(PASCAL, "8.6.1", "pycuda") is None
    assert machine(AMPERE, "11.4.0", "cuda-python") is None
    assert machine(AMPERE, "", None) is not None


def test_of_several_gpus_one_that_is_served_is_enough(
    machine: Callable[..., str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trt, "check_device", lambda *_: None)
    assert machine(AMPERE, "11.4.0", "pycuda") is None
    monkeypatch.setattr(trt, "gpus", lambda: (PASCAL, AMPERE))
    assert trt.Trt().unavailable() is None
    # CUDA shows the other one first: refused before TensorRT is imported.
    shown = SimpleNamespace(name=PASCAL.name, capability=(6, 1), bus_id="0")
    monkeypatch.setattr(cuda, "open_driver", lambda: SimpleNamespace(properties=shown))
    with pytest.raises(BackendUnavailable, match=r"11\.4\.0 needs compute capability 7\.5.*VISIBLE"):
        trt.Trt().setting("gpu", "fp32", 1, 1)


def test_commands_for_a_device_that_is_not_here_end_at_once(tmp_path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [
        sys.executable,
        "-c",
        "from hwnas_cli.main import cli; cli()",
        "profile",
        "--device",
        "titanxp",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    if "not in this machine" not in done.stderr:
        pytest.skip("this machine has a TITAN Xp")
    assert done.returncode == 4
    assert "--estimate" in done.stderr
    after = resource.getrusage(resource.RUSAGE_CHILDREN)  # CPU time: others' load must not count
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2


@pytest.mark.parametrize(
    ("text", "layers"),
    [
        ('{"Layers": ["conv + relu", "head"], "Bindings": ["input"]}', (Layer("conv + relu"), Layer("head"))),
        (
            '{"Layers": [{"Name": "conv", "LayerType": "CaskConvolution", "TacticName": "sm80_x", "Outputs": '
            '[{"Name": "y", "Format/Datatype": "Half NHWC8"}]}], "Bindings": []}',
            (Layer("conv", "CaskConvolution", "sm80_x", ("Half NHWC8",)),),
        ),
        (
            '{"Layers": [{"Name": "conv", "LayerType": "conv", "Outputs": [{"Format": "NHWC8", "Datatype": '
            '"Half"}]}], "I/O Tensors": {}}',
            (Layer("conv", "conv", "", ("Half",)),),
        ),
    ],
    ids=["names", "10", "11"],
)
def test_every_form_of_the_inspectors_answer(text: str, layers: tuple[Layer, ...]) -> None:
    assert parse_layers(text) == layers


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "not json",
        "null",
        '{"Layers": [1]}',
        '{"Layers": null}',
        '{"Layers": [{"Outputs": ["x"]}]}',
    ],
)
def test_an_answer_that_is_not_understood(text: str) -> None:
    with pytest.raises(BuildError, match="unexpected answer"):
        parse_layers(text)


def test_flags_are_made_of_names_whatever_their_numbers() -> None:
    numbered = enum.IntEnum("numbered", {"EXPLICIT_BATCH": 0, "STRONGLY_TYPED": 1})
    renumbered = enum.IntEnum("renumbered", {"STRONGLY_TYPED": 0, "PREFER_JIT": 1})
    assert trt_compat.bits(numbered, ("EXPLICIT_BATCH", "STRONGLY_TYPED")) == 0b11
    assert trt_compat.bits(renumbered, ("STRONGLY_TYPED",)) == 0b01
    assert trt_compat.bits(renumbered, ()) == 0


@pytest.mark.parametrize(
    ("version", "precision", "words"),
    [
        ("8.6.1", "fp16", None),
        ("8.6.1", "bf16", "no bf16"),
        ("10.13.3", "bf16", None),
        ("11.4.0", "bf16", "opset 17 has no bf16"),
        ("11.4.0", "int8", None),
    ],
)
def test_precisions_that_a_version_cannot_give(version: str, precision: Precision, words: str | None) -> None:
    refusal = trt_compat.refuses_precision(version, precision)
    assert refusal is None if words is None else words in str(refusal)


def test_options_that_make_no_sense() -> None:
    for wrong in ({"workspace": 0.0}, {"workspace": 1.5}, {"level": 6}, {"timings": 0}):
        with pytest.raises(InputError):
            trt_build.TrtOptions(**wrong)
    with pytest.raises(TypeError):
        cast(Any, trt_build.TrtOptions)(workspaces=1)


def test_the_timing_cache_is_named_by_what_it_holds_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HWNAS_HOME", str(tmp_path))
    setting = Setting(
        device="titanxp",
        device_arch="NVIDIA TITAN Xp, compute capability 6.1",
        backend="trt",
        backend_version="8.6.1",
        driver="580.95",
    )
    path = trt_build.cache_path(setting)
    assert path.name == "trt-8.6.1-nvidia-titan-xp-compute-capability-6.1-580.95.cache"
    others = ({"backend_version": "10.0"}, {"driver": "570"}, {"device_arch": "NVIDIA A100"})
    assert len({path, *(trt_build.cache_path(setting.model_copy(update=o)) for o in others)}) == 4
    assert trt_build.cache_path(setting.model_copy(update={"precision": "int8", "batch": 8})) == path


def test_a_model_is_called_by_its_blocks() -> None:
    block = BlockSpec(kind="basic", c_in=16, c_out=16, size_in=8)
    assert trt_build.title(writer.chain([block])) == "basic-16x16-k3s1e1-relu@8"
    assert trt_build.title(b"rubbish") == "a model of 7 bytes"


def test_the_command_that_finishes_without_hwnas() -> None:
    def command(**asked: Any) -> str:
        return trt_build.trtexec(
            "a.onnx", "a.engine", Setting(device="orin", backend="trt", **asked), (3, 8, 8)
        )

    assert command().endswith("--noTF32")
    assert "Shapes" not in command()
    assert "--int8 with a TensorRT before 11" in command(precision="int8")
    many = command(batch=8, batches=(1, 8), compatible=("version", "ampere"))
    assert "--minShapes=input:1x3x8x8 --optShapes=input:8x3x8x8 --maxShapes=input:8x3x8x8" in many
    assert "--versionCompatible --hardwareCompatibilityLevel=ampere+" in many
    assert many.endswith("(one profile, best at 8)")
    assert "--useDLACore=1 --allowGPUFallback" in command(precision="int8", dla=1)


def test_packages_for_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "find_spec", lambda name: object() if name == "pycuda" else None)
    assert cuda.installed() == "pycuda"
    monkeypatch.setattr(cuda, "find_spec", lambda name: object())
    assert cuda.installed() == "cuda-python"  # a wheel, and with CUDA graphs
    monkeypatch.setattr(cuda, "find_spec", lambda name: None)
    assert cuda.installed() is None
    monkeypatch.setattr(cuda, "_open", {})
    with pytest.raises(BackendUnavailable, match="pip install cuda-python"):
        cuda.open_driver()


def test_the_second_package_serves_where_the_first_does_not_load(monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(package: str, index: int) -> str:
        if package == "cuda-python":
            raise BackendUnavailable("cuda-python cannot be loaded")
        return f"driver of {package}"

    monkeypatch.setattr(cuda, "_open", {})
    monkeypatch.setattr(cuda, "_packages", lambda: ["cuda-python", "pycuda"])
    monkeypatch.setattr(cuda, "_opened", opened)
    assert str(cuda.open_driver()) == "driver of pycuda"
    monkeypatch.setattr(cuda, "_open", {})
    monkeypatch.setattr(cuda, "_packages", lambda: ["cuda-python"])
    with pytest.raises(BackendUnavailable, match="cuda-python cannot be loaded"):
        cuda.open_driver()


def test_devices_by_name_and_alias() -> None:
    from hwnas.backends.cuda.gpus import check_device

    check_device("titanxp", PASCAL.name, (PASCAL,))
    check_device("titan-xp", PASCAL.name, (PASCAL,))
    check_device("gpu", AMPERE.name, (AMPERE,))
    check_device("rtx3090", AMPERE.name, (AMPERE,))
    with pytest.raises(DeviceUnavailable, match="its GPU is NVIDIA GeForce RTX 3090"):
        check_device("titanxp", AMPERE.name, (AMPERE,))
    with pytest.raises(BackendUnavailable, match="CUDA_VISIBLE_DEVICES"):
        check_device("titanxp", AMPERE.name, (AMPERE, PASCAL))
