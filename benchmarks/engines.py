"""hwnas's choice of runtime and precision against the usual engines of the same network, timed in turn.

    python -m benchmarks.engines --prepare                           # only writes the models
    python -m benchmarks.engines                                     # latency of eight networks
    python -m benchmarks.engines --networks resnet20,mbv2-imagenet --seconds 20
    python -m benchmarks.engines --budgets 0.2ms,0.4ms --images 40000 --seeds 0,1,2 --data parquet:PATH

Contestants: ONNX Runtime fp32 and int8 by its own `quantize_static` (per channel, uint8 activations, Q/DQ),
OpenVINO f32, bf16 where the processor has it, int8 by NNCF (`--nncf PYTHON`: the Python of an environment
that has it; it writes the model, which is timed here), torch eager and torch.compile (which needs a C++
compiler; a row says where there is none); and every engine that `hwnas` would build, int8 in each form of its
runtime, of which the fastest is `auto`. All take turns in one process. Ratios are medians over the turns of
the visits' low quantiles of single calls (beyond 2 ms, of their CPU time); milliseconds are the lowest.
Networks that `--work` holds already are not timed again, so that a long run can be split.

With `--budgets`, searches instead: `auto` over runtime and precision against fp32 on ONNX Runtime, by the
test top-1 of the exported engine.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import head, save
from hwnas.backends.openvino import package
from hwnas.documents import read_json
from hwnas.errors import HwnasError
from hwnas.measure.candidates import RuntimeCandidate, candidates
from hwnas.nets import onnx, spaces
from hwnas.spec import NetworkSpec
from hwnas.store import home, scratch, write_json

LOW = 5  # percentile of the calls of a visit
VISIT_S = 0.03  # of calls of one engine before the next has its turn
LEAST_ROUNDS = 6
# Longer calls are interrupted wherever another process runs: their CPU time is taken, of one thread.
SLICE_S = 0.002
COMPILERS = (os.environ.get("CXX", ""), "g++", "clang++")
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

        module = lived_in(getattr(models, name.partition(":")[2])(weights=None).eval())
        with scratch() as folder:
            file = folder / "m.onnx"
            torch.onnx.export(
                module, (torch.zeros(1, 3, 224, 224),), str(file), opset_version=17, dynamo=False
            )
            return file.read_bytes(), module
    from hwnas.nets.build import build, weights

    spec = member(name)
    module = lived_in(build(spec, seed=0).eval())
    return onnx.network(spec, weights(module)), module


def lived_in(module: Any) -> Any:
    """With statistics and shifts of batch norm as after a training: a bias of zero, as new networks have it
    everywhere, is left out by some runtimes, and a trained network has none.
    """
    import torch

    draw = torch.Generator().manual_seed(0)
    for part in module.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            for values in (part.running_mean, part.bias):
                if values is not None:
                    values.data = 0.1 * torch.randn(values.shape, generator=draw)
    return module


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


# What a Python with NNCF does: the paths of the ONNX model, of the input and of the model to write.
BY_NNCF = """
import sys
sys.modules["openvino_telemetry"] = None  # as hwnas.backends.openvino.package: nothing is reported
import numpy, nncf, openvino
core = openvino.Core()
model, images = core.read_model(sys.argv[1]), numpy.load(sys.argv[2])
if model.inputs[0].partial_shape.is_dynamic:
    model.reshape(list(images.shape))
small = nncf.quantize(model, nncf.Dataset([images]))
openvino.save_model(small, sys.argv[3], compress_to_fp16=False)
"""


class Models:
    """The files of one network that are timed, written once and kept.

    Attributes:
        module: torch module that computes the same as the float graph.
        images: the input of all.
    """

    def __init__(self, name: str, folder: Path, nncf: Path | None) -> None:
        self.plain, self.module = graph(name)
        self.images = np.random.default_rng(0).standard_normal(_shape(self.plain), dtype=np.float32)
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self._nncf = folder, nncf

    def static(self) -> bytes:
        """int8 by ONNX Runtime's tool."""
        return self._kept("static.onnx", lambda: _static(self.plain, self.images))

    def ours(self, candidate: RuntimeCandidate) -> bytes:
        """What hwnas would build a candidate's engine from."""
        if candidate.setting.precision != "int8":
            return self.plain
        from hwnas.jobs.own_onnx import Subject, in_int8_form

        subject = Subject(self.plain, self.images, self.images, False)
        return self._kept(
            f"{candidate.name.replace(' ', '-')}.onnx",
            lambda: in_int8_form(self.plain, candidate.backend, subject, candidate.setting.form),
        )

    def nncf(self) -> Path | None:
        """int8 by NNCF, as OpenVINO's file; None where no Python with NNCF is given."""
        made = self.folder / "nncf.xml"
        if self._nncf is not None and not made.exists():
            model, images = self.folder / "plain.onnx", self.folder / "images.npy"
            model.write_bytes(self.plain)
            np.save(images, self.images)
            code = [str(self._nncf), "-c", BY_NNCF, str(model), str(images), str(made)]
            subprocess.run(code, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": ""})
        return made if made.exists() else None

    def _kept(self, name: str, make: Callable[[], bytes]) -> bytes:
        path = self.folder / name
        if not path.exists():
            path.write_bytes(make())
        return path.read_bytes()


def compiled(models: Models) -> Call | str:
    """A call of what torch.compile makes of the module, or why there is none. Compiled code is kept."""
    import torch

    if not any(shutil.which(name) for name in COMPILERS if name):
        return "no C++ compiler here (torch.compile needs one)"
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(models.folder / "inductor")
    fast: Callable[[Any], object] = torch.compile(models.module)
    tensor = torch.from_numpy(models.images)

    def run() -> object:
        with torch.inference_mode():
            return fast(tensor)

    run()
    return run


def prepare(models: Models) -> None:
    """Write every file, so that what is timed later begins at once."""
    models.static()
    models.nncf()
    compiled(models)
    for candidate in candidates("cpu"):
        models.ours(candidate)


def contestants(models: Models) -> tuple[dict[str, Call], dict[str, str]]:
    """A call of every engine, on its own resident input; and why some have none."""
    import torch

    images, module = models.images, models.module
    found: dict[str, Call] = {
        "ort fp32": _ort(models.plain, images),
        "ort int8 (quantize_static)": _ort(models.static(), images),
    }
    if importlib.util.find_spec("openvino"):
        found["openvino f32"] = _openvino(models.plain, images, "f32")
        if any(c.setting.precision == "bf16" for c in candidates("cpu", ("openvino",))):
            found["openvino bf16"] = _openvino(models.plain, images, "bf16")
        if (small := models.nncf()) is not None:
            found["openvino int8 (NNCF)"] = _openvino(small, images, "f32")
    tensor = torch.from_numpy(images)

    def eager() -> object:
        with torch.inference_mode():
            return module(tensor)

    found["torch eager"] = eager
    missing: dict[str, str] = {}
    fast = compiled(models)
    if isinstance(fast, str):
        missing["torch.compile"] = fast
    else:
        found["torch.compile"] = fast
    if "openvino int8 (NNCF)" not in found:
        missing["openvino int8 (NNCF)"] = "no Python with NNCF and OpenVINO was named (--nncf)"
    for candidate in candidates("cpu"):
        found[f"hwnas {candidate.name}"] = _ours(models, candidate)
    return found, missing


def _ours(models: Models, candidate: RuntimeCandidate) -> Call:
    engine: Any = candidate.backend.build(models.ours(candidate), candidate.setting)
    if candidate.setting.backend == "ort":  # input bound, as the other calls have theirs
        return lambda: engine._session.run_with_iobinding(engine._binding)
    if candidate.setting.backend == "openvino":
        return lambda: engine._timed.infer()
    return lambda: engine.run(models.images)


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


def _openvino(model: bytes | Path, images: Any, hint: str) -> Call:
    openvino = package()

    core = openvino.Core()
    read = core.read_model(model)
    if read.inputs[0].partial_shape.is_dynamic:
        read.reshape(list(images.shape))
    compiled = core.compile_model(
        read,
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


def timed(calls: dict[str, Call], seconds: float) -> dict[str, dict[str, float]]:
    """The lowest low quantile of the visits and the median of single calls in ms, everything in turn, and by
    the median over the turns how long each takes over the fastest: what is visited in one turn finds the
    machine in about one state, so that this holds on a busy one, too.
    """
    each: dict[str, int] = {}
    for name, call in calls.items():
        for _ in range(3):
            begun = time.perf_counter()
            call()
            took_s = time.perf_counter() - begun
        each[name] = max(2, int(VISIT_S / took_s))
    visits: dict[str, list[float]] = {name: [] for name in calls}
    kept: dict[str, list[float]] = {name: [] for name in calls}
    rng, ends_s = np.random.default_rng(0), time.perf_counter() + seconds
    names = list(calls)
    while len(visits[names[0]]) < LEAST_ROUNDS or time.perf_counter() < ends_s:
        for at in rng.permutation(len(names)):
            call = calls[names[at]]
            call()  # its caches are another's
            ms = []
            for _ in range(each[names[at]]):
                begun, used = time.perf_counter(), time.thread_time()
                call()
                used, took = time.thread_time() - used, time.perf_counter() - begun
                ms.append(1e3 * (took if took < SLICE_S else min(took, used)))
            kept[names[at]] += ms
            visits[names[at]].append(float(np.percentile(ms, LOW)))
    logs = np.log([visits[name] for name in names])
    middle = np.median(logs - logs.mean(axis=0), axis=1)
    relative = dict(zip(names, np.exp(middle - middle.min()), strict=True))
    return {
        name: {
            "low_ms": min(visits[name]),
            "median_ms": float(np.median(ms)),
            "relative": float(relative[name]),
        }
        for name, ms in kept.items()
    }


def latencies(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Every network's table with the place of hwnas's choice."""
    rows = []
    for name in options.networks.split(","):
        folder = options.work / name.replace(":", "-")
        done = folder / "row.json"
        if options.prepare or not done.exists():
            models = Models(name, folder, options.nncf)
            prepare(models)
            print(f"{name}: models written", flush=True)
            if options.prepare:
                continue
            calls, missing = contestants(models)
            write_json(done, {**_row(name, timed(calls, options.seconds)), "missing": missing})
        rows.append(read_json(done, "row of a network"))
        print(said(rows[-1]), flush=True)
    return rows


def _row(name: str, times: dict[str, dict[str, float]]) -> dict[str, Any]:
    ours = {k: v["relative"] for k, v in times.items() if k.startswith("hwnas ")}
    others = {k: v["relative"] for k, v in times.items() if not k.startswith("hwnas ")}
    auto, best = min(ours, key=lambda k: ours[k]), min(others, key=lambda k: others[k])
    fp32 = min(v for k, v in ours.items() if k.endswith("fp32"))
    int8 = min(v for k, v in ours.items() if " int8" in k)
    return {
        "network": name,
        "auto": auto,
        "auto_ms": times[auto]["low_ms"],
        "best_other": best,
        "best_other_ms": times[best]["low_ms"],
        "auto_over_best": ours[auto] / others[best],
        "int8_speedup": fp32 / int8,
        "times": times,
    }


def said(row: dict[str, Any]) -> str:
    """A row in a sentence."""
    return (
        f"{row['network']}: auto = {row['auto']} {row['auto_ms']:.3f} ms, best other {row['best_other']} "
        f"{row['best_other_ms']:.3f} ms ({row['auto_over_best']:.3f}), int8 {row['int8_speedup']:.2f} times "
        "as fast as fp32"
    )


def searches(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Test top-1 of the exported engine at each budget and seed, with and without the choice.

    A cell that `--work` holds already is not searched again, and one that was interrupted is continued.
    """
    rows = []
    for budget in options.budgets.split(","):
        for seed in map(int, options.seeds.split(",")):
            for kind, given in (("auto", ("auto", "auto")), ("ort fp32", ("ort", "fp32"))):
                done = options.work / f"{budget}-{seed}-{kind.replace(' ', '-')}.json"
                if not done.exists():
                    write_json(done, _search(options, budget, seed, kind, *given))
                rows.append(read_json(done, "cell of a search"))
                print(rows[-1], flush=True)
    return rows


def ahead(rows: list[dict[str, Any]]) -> dict[str, float]:
    """By budget: points of test top-1 by which `auto` is ahead, mean over the seeds."""
    found: dict[str, float] = {}
    for budget in dict.fromkeys(row["budget"] for row in rows):
        mean = {
            kind: float(np.mean([r["test_top1"] for r in rows if (r["budget"], r["kind"]) == (budget, kind)]))
            for kind in ("auto", "ort fp32")
        }
        found[budget] = 100.0 * (mean["auto"] - mean["ort fp32"])
    return found


def _search(
    options: argparse.Namespace, budget: str, seed: int, kind: str, backend: str, precision: str
) -> dict[str, Any]:
    from hwnas.deploy.engine import load, run_all
    from hwnas.jobs.export import ExportOptions, export
    from hwnas.jobs.resolve.origin import origin
    from hwnas.jobs.search import SearchOptions, search
    from hwnas.train.data import load as images_of
    from hwnas.train.data import normalise

    folder = options.work / f"{budget}-{seed}-{kind.replace(' ', '-')}"
    # The first search of a kind measures the table of a budget, which the others go by.
    os.environ["HWNAS_HOME"] = str(options.work / f"home-{kind.replace(' ', '-')}")
    search(
        SearchOptions(
            latency_budget=budget,
            data=options.data,
            space=options.space,
            backend=backend,
            precision=precision,
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
    parser.add_argument("--seconds", type=float, default=20.0, help="of timing a network")
    parser.add_argument("--nncf", type=Path, help="a Python with NNCF, which makes OpenVINO's int8 model")
    parser.add_argument("--prepare", action="store_true", help="only write the models to be timed")
    parser.add_argument("--work", type=Path, help="keeps models, runs and what is done")
    parser.add_argument("--budgets", help="search at these instead, for example 0.2ms,0.4ms")
    parser.add_argument("--space", default="auto")
    parser.add_argument("--images", type=int, default=40_000)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--data", default="digits")
    parser.add_argument(
        "--out",
        type=Path,
        help="folder for the result",
    )
    options = parser.parse_args()
    options.work = options.work or home() / "benchmarks" / "engines"
    options.work.mkdir(parents=True, exist_ok=True)
    body: dict[str, Any]
    if options.budgets:
        rows = searches(options)
        name, body = "engines-search", {"rows": rows, "auto_ahead_points": ahead(rows)}
        print(body["auto_ahead_points"])
    else:
        name, body = "engines", {"rows": latencies(options)}
    if options.prepare:
        return
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        write_json(options.out / f"{name}.json", {**head(name), **body})
        print(options.out / f"{name}.json")
    else:
        print(save(name, body))


if __name__ == "__main__":
    main()
