"""The torch module, the ONNX graph and the counters read one recipe the same way."""

import json
import logging

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from nets_random import DISTINCT, SEEDS, images, randomised, sample

from hwnas.nets.build import build, weights
from hwnas.nets.count import count
from hwnas.nets.onnx import network
from hwnas.spec import NetworkSpec

FEW = settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.too_slow])
EVERY_SPACE = pytest.mark.parametrize("name", DISTINCT)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def run_onnx(model: bytes, x: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    scores: np.ndarray = session.run(["scores"], {"input": x})[0]
    return scores


@EVERY_SPACE
@FEW
@given(seed=SEEDS)
def test_torch_and_onnx_agree(name: str, seed: int) -> None:
    spec = sample(name, seed)
    net, x = randomised(spec, seed), images(spec, seed)
    model = network(spec, weights(net), batch=None)
    # In double precision: two computations in float32 are each off by roundings of their own.
    with torch.no_grad():
        expected = net.double()(x.double()).numpy()
    onnx.checker.check_model(onnx.load_from_string(model), full_check=True)
    given_scores = run_onnx(model, x.numpy())
    assert given_scores.shape == (2, spec.classes)
    assert np.abs(expected).max() > 0.01
    np.testing.assert_allclose(given_scores, expected, rtol=0, atol=1e-5 * max(1.0, np.abs(expected).max()))


@EVERY_SPACE
@FEW
@given(seed=SEEDS)
def test_counts_agree_with_torch(name: str, seed: int) -> None:
    spec = sample(name, seed)
    net, counts = build(spec, seed=0), count(spec)
    assert counts.params_trainable == sum(p.numel() for p in net.parameters())
    assert counts.params_stored == sum(v.numel() for v in net.state_dict().values() if v.is_floating_point())
    convs = [m for n, m in net.named_modules() if isinstance(m, torch.nn.Conv2d) and ".se_" not in n]
    assert counts.depth == len(convs)
    graph = onnx.load_from_string(network(spec))
    floats = [t for t in graph.graph.initializer if t.data_type == onnx.TensorProto.FLOAT and t.dims]
    deployed = sum(int(np.prod(t.dims)) for t in floats)
    assert counts.weight_bytes == 4 * deployed


# fvcore itself calls torch.jit.script, deprecated in recent torch, when it is imported.
@pytest.mark.filterwarnings("ignore:.torch.jit.*:FutureWarning", "ignore:.torch.jit.*:DeprecationWarning")
@EVERY_SPACE
@settings(FEW, max_examples=2)
@given(seed=SEEDS)
def test_macs_agree_with_fvcore(name: str, seed: int) -> None:
    from fvcore.nn import FlopCountAnalysis

    logging.getLogger("fvcore").setLevel(logging.ERROR)
    spec = sample(name, seed, deepest=20)  # it traces every operation
    analysis = FlopCountAnalysis(build(spec, seed=0).eval(), images(spec, 0, n=1))
    analysis.unsupported_ops_warnings(False)
    by_operator = analysis.by_operator()
    assert count(spec).macs == by_operator["conv"] + by_operator["linear"]


@EVERY_SPACE
@FEW
@given(seed=SEEDS)
def test_json_round_trip(name: str, seed: int) -> None:
    spec = sample(name, seed)
    body = json.loads(spec.to_json())
    assert body.pop("schema") == "hwnas.network/1"
    again = NetworkSpec.model_validate(body)
    assert again == spec
    assert again.key == spec.key


@EVERY_SPACE
@settings(FEW, max_examples=3)
@given(seed=SEEDS)
def test_features_are_the_values_before_the_last_activation(name: str, seed: int) -> None:
    spec = sample(name, seed)
    net, x = randomised(spec, seed), images(spec, seed)
    outputs: list[torch.Tensor] = []
    for built in net.stages:
        list(built.children())[-1].register_forward_hook(lambda _m, _i, out: outputs.append(out))
    with torch.no_grad():
        net(x)
        features = net.features(x)
    assert [tuple(f.shape[1:]) for f in features] == [
        (s[-1].c_out, s[-1].size_out, s[-1].size_out) for s in spec.stages
    ]
    for feature, output, stage in zip(features, outputs, spec.stages):
        last = stage[-1]
        # A pooled convolution that halves the image ends in the maximum.
        ends_in_act = last.kind in ("conv", "basic", "bottleneck") or (
            last.kind == "pooled_conv" and last.stride == 1
        )
        ends_in_act = ends_in_act and last.act != "none"
        # A fused block of expand=1 would end in an activation as well; the space has none.
        acts = {"relu": torch.relu, "relu6": torch.nn.functional.relu6}
        want = acts[stage[-1].act](feature) if ends_in_act else feature
        torch.testing.assert_close(want, output)
