"""`export` and `verify` on runs: what is written, what is proven, what is refused and how."""

import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest

from hwnas import backends, runs
from hwnas.deploy.manifest import read_manifest
from hwnas.errors import BackendUnavailable, DataFormatError, InputError, VerificationFailed
from hwnas.estimates import Budget, Estimate
from hwnas.jobs.export import ExportOptions, export
from hwnas.jobs.resolve.origin import export_command, origin, run_of
from hwnas.jobs.verify import VerifyOptions, verify
from hwnas.nets import build
from hwnas.records import Evaluation, Measurement, Precision, Promise, SearchResult, Trial, to_json
from hwnas.report.chapter import next_commands
from hwnas.report.collect import collect
from hwnas.spec import BlockSpec, NetworkSpec
from hwnas.store import write_json, write_network

SPEC = NetworkSpec(
    stem=BlockSpec(kind="conv", c_in=3, c_out=8, size_in=16),
    stages=((BlockSpec(kind="basic", c_in=8, c_out=8, size_in=16),),),
    head=BlockSpec(kind="classifier", c_in=8, c_out=10, kernel=1, act="none", size_in=16),
    space="test",
)


@pytest.fixture(scope="module")
def weights() -> dict[str, Any]:
    module = build.build(SPEC, seed=3)
    found = build.weights(module)
    # A classifier as it is after training, so that scores tell images apart.
    return {k: v * 50 if k.endswith(".weight") and v.ndim == 2 else v for k, v in found.items()}


@pytest.fixture
def run(tmp_path: Path, weights: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished search on the fake device, budget twice the network's price."""
    monkeypatch.chdir(tmp_path)
    return made(Path("runs/search-0001"), weights, factor=2.0)


def made(folder: Path, weights: dict[str, Any], *, factor: float, data: str | None = None) -> Path:
    from hwnas.nets import onnx as writer
    from hwnas.nets.weights import save_weights

    fake = backends.get("fake")
    setting = fake.setting("fake", "fp32", 1, 1)
    engine = fake.build(writer.network(SPEC, weights), setting)
    ms = float(engine.time(5).wall_ms.min())
    measured = Measurement(
        floor_ms=ms, median_ms=ms, p10_ms=ms, p90_ms=ms, p95_ms=ms, p99_ms=ms, samples=5, session_ms=(ms,)
    )
    estimate = Estimate(
        latency_ms=ms,
        low_ms=ms,
        high_ms=ms,
        coverage=0.9,
        macs=1,
        params=1,
        activation_bytes=1,
        weight_bytes=1,
    )
    budget = Budget(latency_ms=ms * factor)
    promise = Promise(
        verdict="kept", budget_ms=ms * factor, percentile="p50", session_ms=(ms,), misses=0, confidence=0.9
    )
    trial = Trial(
        index=0, spec=SPEC, estimate=estimate, state="done", evaluation=Evaluation(accuracy=0.5, loss=1.0)
    )
    result = SearchResult(
        strategy="uniform",
        space="test",
        seed=0,
        budget=budget,
        setting=setting,
        table_id="table",
        trials=(trial,),
        best=0,
        pareto=(0,),
        measured=measured,
        promise=promise,
        seconds={},
        version="0.1.0",
    )
    config = {"data": data, "seed": 0} if data else {"seed": 0}
    runs.RunFolder(folder, "search", config)
    write_json(folder / "result.json", {"schema": "hwnas.search/1", "complete": True, **to_json(result)})
    write_network(folder / "network.json", SPEC)
    save_weights(folder / "weights.safetensors", weights)
    runs.link_latest(folder)
    return folder


def test_onnx_of_the_newest_run_is_proven_under_its_own_conditions(run: Path) -> None:
    said: list[str] = []
    out = export(ExportOptions(), lambda kind, fields: said.append(str(fields.get("text", ""))))
    assert Path(out["engine"]) == run / "engine.onnx"
    assert Path(out["manifest"]).is_file()
    assert out["passed"] is True
    assert out["within_budget"] is True
    assert out["parity"]["top1_agreement"] == 1.0
    assert out["parity"]["data"].startswith("random images")
    assert out["setting"]["backend"] == "fake"
    assert set(out["measured"]) >= {"median_ms", "p95_ms"}
    manifest = read_manifest(run / "engine.onnx")
    assert manifest.table_id == "table"
    assert manifest.run == "search-0001"
    assert manifest.accuracy == {"val": 0.5}
    assert manifest.predicted is not None
    assert any("wrote runs/search-0001/engine.onnx" in text for text in said)


def test_verify_says_the_same_and_writes_nothing(run: Path) -> None:
    export(ExportOptions())
    before = (run / "engine.onnx.manifest.json").read_bytes()
    out = verify(VerifyOptions(engine=str(run)))
    assert out["passed"] is True
    assert {"source", "parity", "top1", "budget"} <= {c["name"] for c in out["checks"]}
    assert (run / "engine.onnx.manifest.json").read_bytes() == before


def test_a_missed_budget_fails_the_command_and_keeps_the_figures(run: Path, weights: dict[str, Any]) -> None:
    slow = made(Path("runs/search-0002"), weights, factor=0.5)
    with pytest.raises(VerificationFailed, match="budget: 0 of 5 sessions within") as caught:
        export(ExportOptions(run=str(slow)))
    assert caught.value.exit_status == 5
    assert caught.value.result is not None
    assert caught.value.result["within_budget"] is False
    assert caught.value.result["passed"] is False
    assert read_manifest(slow / "engine.onnx").passed is False
    # A budget of the user's own goes before the run's.
    ms = caught.value.result["measured"]["median_ms"]
    assert verify(VerifyOptions(engine=str(slow), latency_budget=f"{3 * ms:.6f}ms"))["passed"] is True


def test_verify_catches_a_changed_engine_and_other_weights(run: Path) -> None:
    export(ExportOptions())
    path = run / "weights.safetensors"
    data = bytearray(path.read_bytes())
    data[-3] ^= 0x40  # an exponent bit of the last weight
    path.write_bytes(data)
    with pytest.raises(VerificationFailed, match="other weights"):
        verify(VerifyOptions(engine=str(run / "engine.onnx")))
    engine = run / "engine.onnx"
    engine.write_bytes(engine.read_bytes()[:-1])
    with pytest.raises(DataFormatError, match="changed or cut short"):
        verify(VerifyOptions(engine=str(engine)))


def test_ort_engine_without_a_budget_of_its_own_device(run: Path) -> None:
    """The run was on the fake device; an engine for this CPU is built, and judged by the budget given."""
    out = export(ExportOptions(run="latest", format="ort", latency_budget="1s"))
    assert out["engine"] == "runs/search-0001/engine.ort"
    assert out["setting"]["backend"] == "ort"
    assert out["passed"] is True


def test_pt2_has_parity_and_no_latency(run: Path) -> None:
    out = export(ExportOptions(format="pt2", images=8))
    assert out["passed"] is True
    assert out["measured"] is None
    assert out["within_budget"] is None


def test_real_images_give_accuracy_names_and_normalisation(run: Path, weights: dict[str, Any]) -> None:
    digits = made(Path("runs/search-0003"), weights, factor=2.0, data="digits")
    out = export(ExportOptions(run=str(digits), images=64))
    assert out["parity"]["images"] == 64
    assert out["parity"]["data"] == "validation images of digits, all in their own size"
    assert out["parity"]["top1_reference"] == out["parity"]["top1_engine"]
    manifest = read_manifest(digits / "engine.onnx")
    assert manifest.classes == tuple("0123456789")
    assert len(manifest.mean) == len(manifest.std) == 3


def test_without_verification_nothing_is_claimed(run: Path) -> None:
    out = export(ExportOptions(verify=False))
    assert out["passed"] is None
    assert out["verified"] is False
    assert out["parity"] is None


def test_no_run_no_weights_unknown_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="no finished search or training"):
        export(ExportOptions())
    with pytest.raises(InputError, match="has no weights"):
        origin("resnet20")
    with pytest.raises(InputError, match="unknown export format 'tensorrt'"):
        ExportOptions(format="tensorrt")


def test_backend_must_be_the_formats(run: Path) -> None:
    with pytest.raises(InputError, match="--format ort is written by ort, not by --backend fake"):
        export(ExportOptions(format="ort", backend="fake"))


def test_verify_needs_something_to_compare_with(run: Path, tmp_path: Path) -> None:
    export(ExportOptions(out=tmp_path / "elsewhere"))
    with pytest.raises(InputError, match="--against RUN"):
        verify(VerifyOptions(engine=str(tmp_path / "elsewhere")))
    assert verify(VerifyOptions(engine=str(tmp_path / "elsewhere"), against=str(run)))["passed"] is True


def test_target_of_a_search_for_several_budgets(run: Path) -> None:
    folder = run / "targets" / "0.4ms"
    folder.mkdir(parents=True)
    for name in ("network.json", "weights.safetensors"):
        (folder / name).write_bytes((run / name).read_bytes())
    found = origin(str(folder))
    assert found.folder == folder
    assert found.table_id == "table"
    assert found.setting is not None


def test_training_inherits_the_conditions_of_its_search(run: Path) -> None:
    trained = Path("runs/train-0001")
    runs.RunFolder(trained, "train", {"network": str(run), "data": "digits", "seed": 5})
    body = {
        "schema": "hwnas.train/1",
        "accuracy": {"val": 0.9, "test": 0.8},
        "mean": [0.1] * 3,
        "std": [0.2] * 3,
    }
    write_json(trained / "result.json", body)
    for name in ("network.json", "weights.safetensors"):
        (trained / name).write_bytes((run / name).read_bytes())
    found = origin(str(trained))
    assert found.budget is not None
    assert found.accuracy == {"val": 0.9, "test": 0.8}
    assert (found.data, found.seed) == ("digits", 5)
    assert found.about["mean"] == (0.1, 0.1, 0.1)


@pytest.mark.skipif(backends.describe() == [], reason="never")
def test_trt_without_a_gpu_leaves_the_onnx_and_the_command(run: Path) -> None:
    if any(row["name"] == "trt" and row["available"] for row in backends.describe()):
        pytest.skip("TensorRT works here")
    code = (
        "import sys\nfrom hwnas.errors import BackendUnavailable\n"
        "from hwnas.jobs.export import ExportOptions, export\n"
        "try: export(ExportOptions(format='trt'))\n"
        "except BackendUnavailable as exc: print(exc)\n"
        "print(sorted({'torch', 'sklearn', 'onnxruntime'} & set(sys.modules)))"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert "TensorRT" in out
    assert f"hwnas export {run} --format trt --precision fp32\n" in out
    assert "engine-trt.onnx" in out
    assert (run / "engine-trt.onnx").stat().st_size > 1000
    assert not (run / "engine.onnx").exists()  # that name belongs to an export that was verified
    assert out.strip().endswith("[]")  # nothing slow was imported on the way to exit 4
    # Two seconds, of CPU time: the load of others must not count.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2
    with pytest.raises(BackendUnavailable) as caught:
        export(ExportOptions(format="trt", batch=8, latency_budget="2ms@p95", verify=False))
    assert caught.value.exit_status == 4
    same = f"{run} --format trt --precision fp32 --batch 8 --latency-budget 2ms@p95 --no-verify\n"
    assert f"hwnas export {same}" in str(caught.value)
    assert "trtexec --onnx=engine-trt.onnx --saveEngine=engine-trt.engine" in str(caught.value)
    # What changes the engine or its proof is asked for there as well.
    with pytest.raises(BackendUnavailable) as caught:
        export(ExportOptions(format="trt", threads=2, max_loss=0.02, sustained_s=60.0))
    assert "--threads 2 --max-loss 2% --sustained 60s\n" in str(caught.value)
    # Several sizes: the file takes all of them, and both ways on ask for them.
    with pytest.raises(BackendUnavailable) as caught:
        export(ExportOptions(format="trt", batch=8, batches=(1, 8), compatible=("version",), verify=False))
    assert "--format trt --precision fp32 --batch 1,8 --compatible version" in str(caught.value)
    side = onnx.load(run / "engine-trt.onnx").graph.input[0].type.tensor_type.shape.dim
    assert side[0].dim_param
    assert not side[0].dim_value
    largest = "x".join(["8", *(str(d.dim_value) for d in side[1:])])
    assert f"--maxShapes=input:{largest} --versionCompatible" in str(caught.value)
    with pytest.raises(BackendUnavailable, match=r"ONNX \(fp32\): .*engine-bf16-trt\.onnx(.|\n)*and --bf16"):
        export(ExportOptions(format="trt", precision="bf16"))
    # fp16 and int8 are written into the graph, which is what the target will compute.
    written: tuple[tuple[Precision, str], ...] = (("fp16", "Cast"), ("int8", "QuantizeLinear"))
    for precision, operator in written:
        with pytest.raises(BackendUnavailable):
            export(ExportOptions(format="trt", precision=precision, data="digits", images=8))
        graph = onnx.load(run / f"engine-{precision}-trt.onnx").graph
        assert operator in {node.op_type for node in graph.node}
        assert "HardSwish" not in {node.op_type for node in graph.node}


def test_the_next_command_writes_what_the_searched_runtime_takes(run: Path) -> None:
    assert export_command(str(run)) == f"hwnas export {run} --format onnx"
    body = json.loads((run / "result.json").read_text())
    body.pop("checksum", None)
    body["setting"] |= {"device": "titanxp", "backend": "trt"}
    (run / "result.json").write_text(json.dumps(body))
    assert export_command(str(run)) == f"hwnas export {run} --format trt"
    assert next_commands(collect(run))[0].startswith(f"hwnas export {run} --format trt ")
    assert export_command("runs/none") == "hwnas export runs/none --format onnx"


def test_a_run_is_found_from_its_targets_and_from_nowhere_else(tmp_path: Path) -> None:
    """Other programs, too, have files called manifest.json."""
    (tmp_path / "manifest.json").write_text("{}")
    for name in ("targets/1ms", "nets/a"):
        (tmp_path / name).mkdir(parents=True)
    assert run_of(tmp_path / "targets" / "1ms") == tmp_path
    assert run_of(tmp_path / "nets" / "a") is None


def test_json_ready(run: Path) -> None:
    json.dumps(export(ExportOptions()).as_json(), allow_nan=False)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_openvino_engine_is_the_file_that_was_verified(run: Path, precision: Any) -> None:
    pytest.importorskip("openvino", reason="needs hwnas[openvino]")
    options = ExportOptions(format="openvino", precision=precision, latency_budget="1s", images=32)
    try:
        out = export(options)
    except BackendUnavailable as exc:
        pytest.skip(str(exc))  # a processor without bf16
    assert out["passed"] is True
    assert out["setting"]["precision"] == precision
    name = "engine.blob" if precision == "fp32" else "engine-bf16.blob"
    assert Path(out["engine"]).name == name
    assert verify(VerifyOptions(engine=out["engine"], images=32))["passed"] is True


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_typed_onnx_is_compared_and_not_timed(run: Path, weights: dict[str, Any], precision: Any) -> None:
    digits = made(Path("runs/search-0003"), weights, factor=2.0, data="digits")
    out = export(ExportOptions(run=str(digits), precision=precision, images=128))
    assert Path(out["engine"]).name == f"engine-{precision}.onnx"
    assert out["measured"] is None
    assert out["within_budget"] is None
    assert out["passed"] is True
    assert out["parity"]["max_abs_err"] > 0  # it really computes in another precision
    graph = onnx.load(out["engine"]).graph
    types = {t.data_type for t in graph.initializer if len(t.dims) == 4}
    if precision == "fp16":
        assert types == {onnx.TensorProto.FLOAT16}
    else:
        assert any(node.op_type == "QuantizeLinear" for node in graph.node)
    assert verify(VerifyOptions(engine=out["engine"], images=128))["passed"] is True


def test_int8_needs_images_and_bf16_a_runtime(run: Path) -> None:
    with pytest.raises(InputError, match="int8 needs real images"):
        export(ExportOptions(precision="int8"))
    with pytest.raises(InputError, match="the fake device supports fp32, fp16"):
        export(ExportOptions(precision="bf16"))
