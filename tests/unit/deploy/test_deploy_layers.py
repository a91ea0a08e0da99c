"""Layer times of runtimes that tell them: into the manifest, and from there into the report."""

from pathlib import Path

from hwnas.backends.trt.compat import Layer
from hwnas.deploy.engine import layer_times
from hwnas.deploy.manifest import EngineManifest, LayerTime
from hwnas.nets.spaces import make
from hwnas.records import Setting
from hwnas.report.record_sections import engine as section

SPEC = make("resnet-cifar").smallest()


class Telling:
    """An engine that tells its layers, as TensorRT's does."""

    def layer_ms(self) -> dict[str, float]:
        return {"stem.conv + stem.act": 0.3, "head": 0.1, "reformat": 0.0}

    def layers(self) -> tuple[Layer, ...]:
        return (Layer("head", "MatrixMultiply", "sm80_gemm", ("Float", "Half")),)


def test_an_engine_that_tells_nothing_has_no_layers() -> None:
    assert layer_times(object()) == ()


def test_layers_in_order_with_their_kinds() -> None:
    assert layer_times(Telling()) == (
        LayerTime(name="stem.conv + stem.act", ms=0.3),
        LayerTime(name="head", ms=0.1, kind="MatrixMultiply", kernel="sm80_gemm", types="Float, Half"),
        LayerTime(name="reformat", ms=0.0),
    )


def test_the_report_shows_where_the_time_goes(tmp_path: Path) -> None:
    manifest = EngineManifest(
        engine="engine.engine",
        format="trt",
        setting=Setting(device="titanxp", backend="trt"),
        engine_sha256="0" * 64,
        engine_bytes=1000,
        weights_sha256="0" * 64,
        network_key=SPEC.key,
        network=SPEC,
        layers=layer_times(Telling()),
        float_layers=("stage1.depthwise",),
    )
    assert ("no int8 kernels, kept in float", "stage1.depthwise") in section(manifest).tables[0].rows
    table = section(manifest).tables[-1]
    assert "3 layers" in table.folded
    assert table.head == ("layer", "kind", "kernel", "types", "time", "share")
    assert [(row[0], row[-1]) for row in table.rows] == [
        ("stem.conv + stem.act", "75.0 %"),
        ("head", "25.0 %"),
    ]
