"""hwnas's choice of runtime and precision against the usual engines of the same network, timed in turn.

    python -m benchmarks.engines                                     # latency of eight networks
    python -m benchmarks.engines --networks resnet20,mbv2-imagenet --rounds 40 --out /tmp/e
    python -m benchmarks.engines --budgets 0.2ms,0.4ms --images 40000 --seeds 0,1,2 --data parquet:PATH

Contestants: ONNX Runtime fp32 and int8 by its own `quantize_static` (per channel, uint8 activations, Q/DQ),
OpenVINO f32, bf16 where the processor has it, int8 by NNCF where that is installed, torch eager and
torch.compile (`--compile`); and every engine that `hwnas` would build, of which the fastest is `auto`. All
take turns in one process; the figure is a low quantile of single calls.

With `--budgets`, searches instead: `auto` over runtime and precision against fp32 on ONNX Runtime, by the
test top-1 of the exported engine.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import save
from hwnas.errors import HwnasError
from hwnas.measure.candidates import candidates
from hwnas.nets import onnx, spaces
from hwnas.spec import NetworkSpec
from hwnas.store import home, scratch, write_json

LOW = 5  # percentile of calls
NETWORKS = (
    "resnet20",
    "resnet56",
    "mbv2-cifar:0",
    "mbv2-cifar:1",
    "mbv2-cifar:2",
    "mbv2-imagenet",
    "torchvision:mobilenet_v3_small",
    "torchvision:resnet18",
)
Call = Callable[[], object]


def graph(name: str) -> tuple[bytes, Any]:
    """fp32 ONNX of a network, and the torch module that computes the same."""
    import torch

    if name.startswith("torchvision:"):
        from torchvision import models

        module = getattr(models, name.partition(":")[2])(weights=None).eval()
        with scratch() as folder:
            file = folder / "m.onnx"
            torch.onnx.export(
                module, (torch.zeros(1, 3, 224, 224),), str(file), opset_version=17, dynamo=False
            )
            return file.read_bytes(), module
    from hwnas.nets.build import build, weights

    spec = member(name)
    module = build(spec, seed=0).eval()
    return onnx.network(spec, weights(module)), module


def member(name: str) -> NetworkSpec:
    """An example, or a seeded random member of a space (``SPACE:SEED``; the middle one without a seed)."""
    from hwnas.jobs.resolve.networks import examples, network

    if name in examples():
        return network(name)
    space_name, _, seed = name.partition(":")
    space = spaces.make(space_name)
    if not seed:
        uniform = space.uniform()
        return uniform[len(uniform) // 2]
    return space.sample(np.random.default_rng(int(seed)))


def contestants(model: bytes, module: Any, compiled: bool) -> dict[str, Call]:
    """A call of every engine, on its own resident input."""
    import torch

    images = np.random.default_rng(0).standard_normal(_shape(model), dtype=np.float32)
    found: dict[str, Call] = {
        "ort fp32": _ort(model, images),
        "ort int8 (quantize_static)": _ort(_static(model, images), images),
    }
    if importlib.util.find_spec("openvino"):
        found["openvino f32"] = _openvino(model, images, "f32")
        if any(c.setting.precision == "bf16" for c in candidates("cpu", ("openvino",))):
            found["openvino bf16"] = _openvino(model, images, "bf16")
        if importlib.util.find_spec("nncf"):
            found["openvino int8 (NNCF)"] = _nncf(model, images)
    tensor = torch.from_numpy(images)

    def eager() -> object:
        with torch.inference_mode():
            return module(tensor)

    found["torch eager"] = eager
    if compiled:
        fast: Callable[[Any], object] = torch.compile(module)

        def run() -> object:
            with torch.inference_mode():
                return fast(tensor)

        found["torch.compile"] = run
    for candidate in candidates("cpu"):
        found[f"hwnas {candidate.name}"] = _ours(model, images, candidate)
    return found


def _ours(model: bytes, images: Any, candidate: Any) -> Call:
    from hwnas.jobs.own_onnx import Subject, in_int8_form

    if candidate.setting.precision == "int8":
        model = in_int8_form(model, candidate.backend, Subject(model, images, images, False))
    engine = candidate.backend.build(model, candidate.setting)
    if candidate.setting.backend == "ort":  # input bound, as the other calls have theirs
        return lambda: engine._session.run_with_iobinding(engine._binding)
    return lambda: engine.run(images)


def _shape(model: bytes) -> tuple[int, ...]:
    from hwnas.backends.graphs import read

    dims = [d.dim_value for d in read(model).graph.input[0].type.tensor_type.shape.dim]
    return (1, *dims[1:])


def _ort(model: bytes, images: Any) -> Call:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    binding.bind_ortvalue_input(session.get_inputs()[0].name, ort.OrtValue.ortvalue_from_numpy(images))
    binding.bind_output(session.get_outputs()[0].name)
    return lambda: session.run_with_iobinding(binding)


def _static(model: bytes, images: Any) -> bytes:
    """ONNX Runtime's own tool: pre-processed, per channel, uint8 activations, int8 weights."""
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    name = _input(model)

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]  # the package has no types
        def __init__(self) -> None:
            self.left = [{name: images}]

        def get_next(self) -> dict[str, Any] | None:
            return self.left.pop() if self.left else None

    with scratch() as folder:
        plain, ready, small = folder / "a.onnx", folder / "b.onnx", folder / "c.onnx"
        plain.write_bytes(model)
        quant_pre_process(str(plain), str(ready), skip_symbolic_shape=True)
        quantization.quantize_static(
            str(ready),
            str(small),
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
        )
        return small.read_bytes()


def _input(model: bytes) -> str:
    from hwnas.backends.graphs import read

    return str(read(model).graph.input[0].name)


def _openvino(model: bytes, images: Any, hint: str, graph_of: Callable[[Any], Any] | None = None) -> Call:
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # else it reports home
    import openvino

    core = openvino.Core()
    read = core.read_model(model)
    if read.inputs[0].partial_shape.is_dynamic:
        read.reshape(list(images.shape))
    compiled = core.compile_model(
        graph_of(read) if graph_of else read,
        "CPU",
        {
            "INFERENCE_PRECISION_HINT": hint,
            "INFERENCE_NUM_THREADS": 1,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "ENABLE_CPU_PINNING": False,
        },
    )
    request = compiled.create_infer_request()
    request.set_input_tensor(openvino.Tensor(images.copy()))
    return lambda: request.infer()


def _nncf(model: bytes, images: Any) -> Call:
    nncf = importlib.import_module("nncf")
    return _openvino(model, images, "f32", lambda read: nncf.quantize(read, nncf.Dataset([images])))


def timed(calls: dict[str, Call], rounds: int, each: int) -> dict[str, dict[str, float]]:
    """Low quantile and median of single calls in ms, everything in turn."""
    kept: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        for _ in range(3):
            call()
    rng = np.random.default_rng(0)
    names = list(calls)
    for _ in range(rounds):
        for at in rng.permutation(len(names)):
            call = calls[names[at]]
            call()  # its caches are another's
            for _ in range(each):
                begun = time.perf_counter()
                call()
                kept[names[at]].append((time.perf_counter() - begun) * 1e3)
    return {
        name: {"low_ms": float(np.percentile(ms, LOW)), "median_ms": float(np.median(ms))}
        for name, ms in kept.items()
    }


def latencies(names: list[str], rounds: int, each: int, compiled: bool) -> list[dict[str, Any]]:
    """Every network's table with the place of hwnas's choice."""
    rows = []
    for name in names:
        model, module = graph(name)
        times = timed(contestants(model, module, compiled), rounds, each)
        ours = {k: v["low_ms"] for k, v in times.items() if k.startswith("hwnas ")}
        others = {k: v["low_ms"] for k, v in times.items() if not k.startswith("hwnas ")}
        auto, best = min(ours, key=lambda k: ours[k]), min(others, key=lambda k: others[k])
        fp32 = min(v for k, v in ours.items() if k.endswith("fp32"))
        int8 = min(v for k, v in ours.items() if k.endswith("int8"))
        row = {
            "network": name,
            "auto": auto,
            "auto_ms": ours[auto],
            "best_other": best,
            "best_other_ms": others[best],
            "auto_over_best": ours[auto] / others[best],
            "int8_speedup": fp32 / int8,
            "times": times,
        }
        rows.append(row)
        print(
            f"{name}: auto = {auto} {ours[auto]:.3f} ms, best other {best} {others[best]:.3f} ms "
            f"({row['auto_over_best']:.3f}), int8 {row['int8_speedup']:.2f} times as fast as fp32",
            flush=True,
        )
    return rows


def searches(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Test top-1 of the exported engine at each budget and seed, with and without the choice."""
    rows = []
    for budget in options.budgets.split(","):
        for seed in map(int, options.seeds.split(",")):
            for kind, given in (("auto", ("auto", "auto")), ("ort fp32", ("ort", "fp32"))):
                rows.append(_search(options, budget, seed, kind, *given))
                print(rows[-1], flush=True)
    return rows


def _search(
    options: argparse.Namespace, budget: str, seed: int, kind: str, backend: str, precision: str
) -> dict[str, Any]:
    from hwnas.deploy.engine import load, run_all
    from hwnas.jobs.export import ExportOptions, export
    from hwnas.jobs.profile import ProfileOptions, profile
    from hwnas.jobs.resolve.origin import origin
    from hwnas.jobs.search import SearchOptions, search
    from hwnas.train.data import load as images_of
    from hwnas.train.data import normalise

    folder = options.out / f"{budget}-{seed}-{kind.replace(' ', '-')}"
    table = options.out / f"{kind.replace(' ', '-')}.hwlat.jsonl"  # one a machine, whatever the seed
    profile(
        ProfileOptions(
            device="cpu", space=options.space, backend=backend, precision=precision, preset="quick", out=table
        )
    )
    search(
        SearchOptions(
            latency_budget=budget,
            data=options.data,
            space=options.space,
            table=table,
            images=options.images,
            seed=seed,
            out=folder,
        )
    )
    source = origin(str(folder))
    made = None
    try:
        made = export(ExportOptions(run=str(folder)))
    except HwnasError as exc:  # a check that did not pass is part of the result
        made = getattr(exc, "result", None)
        if made is None:
            raise
    dataset = images_of(options.data, input_shape=source.spec.input_shape, seed=seed)
    held = dataset.test()
    engine = load(Path(made["engine"]))
    scores = run_all(engine, normalise(held.images, dataset.mean, dataset.std).contiguous().numpy())
    engine.close()
    right = float((scores.argmax(axis=1) == held.labels.numpy()).mean())
    return {
        "budget": budget,
        "seed": seed,
        "kind": kind,
        "setting": made["setting"],
        "depths": list(source.spec.depths),
        "test_top1": right,
        "measured": made["measured"],
        "passed": made["passed"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--calls", type=int, default=10, help="calls of an engine in a round")
    parser.add_argument("--compile", action="store_true", help="torch.compile, too")
    parser.add_argument("--budgets", help="search at these instead, for example 0.2ms,0.4ms")
    parser.add_argument("--space", default="resnet-cifar")
    parser.add_argument("--images", type=int, default=40_000)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--out", type=Path, help="folder for runs and result")
    options = parser.parse_args()
    if options.budgets:
        options.out = options.out or home() / "benchmarks" / "engines"
        options.out.mkdir(parents=True, exist_ok=True)
        name, body = "engines-search", {"rows": searches(options)}
    else:
        names = options.networks.split(",")
        name = "engines"
        body = {"rows": latencies(names, options.rounds, options.calls, options.compile)}
        if options.out is not None:
            options.out.mkdir(parents=True, exist_ok=True)
    if options.out is not None:
        write_json(options.out / f"{name}.json", body)
        print(options.out / f"{name}.json")
    else:
        print(save(name, body))


if __name__ == "__main__":
    main()
