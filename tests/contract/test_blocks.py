"""What every registered kind of block promises: both builders, counts, growth and the fake device agree."""

from __future__ import annotations

import copy
import logging
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn
from torchvision.models.convnext import CNBlock
from torchvision.models.efficientnet import FusedMBConv, FusedMBConvConfig

from hwnas import plugins
from hwnas.backends.fake_price import FakeDevice, price_ms
from hwnas.cost import roofline
from hwnas.errors import BuildError, InputError
from hwnas.nets import growth
from hwnas.nets.blocks import kind_of, recipe
from hwnas.nets.build import Block, build, inherit, weights
from hwnas.nets.count import count, count_block
from hwnas.nets.draft import Draft
from hwnas.nets.kind import GrowthRule
from hwnas.nets.onnx import chain, network
from hwnas.nets.op import INPUT, Op
from hwnas.nets.sources import NORM_EPS
from hwnas.spec import BlockSpec, NetworkSpec, with_skips

EVERY_KIND = pytest.mark.parametrize("kind", plugins.names("blocks"))


def block(kind: str, **fields: object) -> BlockSpec:
    """A small block of a kind that its check accepts, at an odd size: equal shapes where it may."""
    size = fields.get("size_in", 9)
    base: dict[str, object] = {"kind": kind, "c_in": 24, "c_out": 24, "size_in": size}
    tries: list[dict[str, object]] = [{}, {"c_skip": 24, "size_skip": size}]
    tries.append({"c_skip": 24, "size_skip": size, "stride": 2})
    for more in tries:
        try:
            return BlockSpec.model_validate(base | more | fields)
        except ValueError:
            continue
    raise AssertionError(f"no block of kind {kind} with {fields}")


def variants(kind: str) -> list[BlockSpec]:
    """The block itself, with a stride, other widths, an expansion and a gate, as far as the kind has them."""
    changes: list[dict[str, object]] = [
        {"stride": 2},
        {"c_out": 36},
        {"expand": 3},
        {"act": "swish"},
        {"se": 0.25},
        {"act": "gelu", "kernel": 5},
        {"size_in": (5, 12)},
        {"size_in": (5, 12), "stride": 2},
    ]
    found = [block(kind)]
    for change in changes:
        try:
            found.append(block(kind, **change))
        except AssertionError:
            continue
    return list(dict.fromkeys(found))


def around(b: BlockSpec) -> NetworkSpec:
    """A network that holds a block."""
    act = {"act": "none"}
    stem = BlockSpec(kind="conv", c_in=3, c_out=b.c_in, act=b.act, size_in=b.size_in)
    head = BlockSpec.model_validate(
        {"kind": "classifier", "c_in": b.c_out, "c_out": 5, "kernel": 1, "size_in": b.size_out} | act
    )
    if b.kind == "classifier":
        middle = BlockSpec(kind="conv", c_in=b.c_in, c_out=b.c_in, size_in=b.size_in)
        return NetworkSpec(stem=stem, stages=((middle,),), head=b)
    return NetworkSpec(stem=stem, stages=with_skips(stem, ((b,),)), head=head)


def randomised(spec: NetworkSpec, seed: int) -> nn.Module:
    """A network in eval mode in which nothing is at its initial value."""
    net, rng = build(spec, seed=seed), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in net.state_dict().items():
            if value.is_floating_point() and value.dim() == 1:
                low, high = (0.5, 1.5) if name.endswith(("weight", "var")) else (-0.3, 0.3)
                value.uniform_(low, high, generator=rng)
    return net.eval()


def images(spec: NetworkSpec) -> torch.Tensor:
    return torch.randn(2, *spec.input_shape, generator=torch.Generator().manual_seed(1))


@EVERY_KIND
def test_torch_and_onnx_agree(kind: str) -> None:
    for b in variants(kind):
        spec = around(b)
        net, x = randomised(spec, 3), images(spec)
        with torch.no_grad():
            want = net(x).numpy()
        model = network(spec, weights(net), batch=None)
        onnx.checker.check_model(onnx.load_from_string(model), full_check=True)
        session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        given = session.run(["scores"], {"input": x.numpy()})[0]
        assert np.abs(want).max() > 0.005
        np.testing.assert_allclose(given, want, rtol=0, atol=1e-5 * max(1.0, np.abs(want).max()))


# fvcore itself calls torch.jit.script, deprecated in recent torch, when it is imported.
@pytest.mark.filterwarnings("ignore:.torch.jit.*:FutureWarning", "ignore:.torch.jit.*:DeprecationWarning")
@EVERY_KIND
def test_counts_agree_with_torch_and_fvcore(kind: str) -> None:
    from fvcore.nn import FlopCountAnalysis

    logging.getLogger("fvcore").setLevel(logging.ERROR)
    for b in variants(kind):
        spec = around(b)
        net, counts = build(spec, seed=0).eval(), count(spec)
        stored = [v for v in net.state_dict().values() if v.is_floating_point()]
        assert counts.params_trainable == sum(p.numel() for p in net.parameters())
        assert counts.params_stored == sum(v.numel() for v in stored)
        analysis = FlopCountAnalysis(net, images(spec)[:1]).unsupported_ops_warnings(False)
        by_operator = analysis.by_operator()
        assert counts.macs == by_operator["conv"] + by_operator["linear"]
        graph = onnx.load_from_string(network(spec)).graph
        floats = [t for t in graph.initializer if t.data_type == onnx.TensorProto.FLOAT and t.dims]
        assert counts.weight_bytes == 4 * sum(int(np.prod(t.dims)) for t in floats)
        assert count_block(b).activation_bytes >= 4 * b.elements_out


@EVERY_KIND
def test_names_of_weights_are_those_of_the_module(kind: str) -> None:
    for b in variants(kind):
        ops = recipe(b).ops
        declared = {k: v for op in ops for k, v in {**op.weights(), **op.statistics()}.items()}
        state = Block(b, "torch").state_dict()
        assert declared == {k: tuple(v.shape) for k, v in state.items() if v.is_floating_point()}


@EVERY_KIND
def test_growth_keeps_the_function_where_it_says_so(kind: str) -> None:
    kept = 0
    for b in variants(kind):
        spec = around(b)
        others = [around(o) for o in variants(kind) if o != b]
        if kind != "classifier" and kind_of(kind).repeats:
            others += [spec.grow(0), spec.grow(0, 2)]
        for size in ("kernel", "expand"):
            try:
                others.append(around(b.model_validate(b.model_dump() | {size: getattr(b, size) + 2})))
            except ValueError:
                continue
        net = randomised(spec, 5)
        x = images(spec).double()
        with torch.no_grad():
            old = copy.deepcopy(net).double()(x)
            for other in others:
                grown = inherit(net, spec, other, seed=7)
                assert all(torch.isfinite(p).all() for p in grown.parameters())
                if growth.preserves(spec, other):
                    kept += [recipe(o) for o in other.blocks] != [recipe(o) for o in spec.blocks]
                    new = grown.double()(x)
                    # 1e-6 relative to the largest score: the weights are single precision.
                    assert float((new - old).abs().max()) <= 2e-6 * max(1.0, float(old.abs().max()))
    # A rule with axes is a promise: some growth of the kind must keep it.
    promises = kind_of(kind).growth
    assert promises is not None
    assert (kept > 0) == bool(promises.axes) or kind == "classifier"


@EVERY_KIND
def test_the_fake_device_and_the_roofline_price_it(kind: str) -> None:
    device = roofline.describe("cpu-avx512")
    for b in variants(kind):
        alone = price_ms(chain([b]), FakeDevice(), "fp32", 1, 1)
        more = price_ms(chain([b], batch=4), FakeDevice(), "fp32", 4, 1)
        assert 0 < alone < more
        assert 0 < roofline.block_ms(b, device) < roofline.block_ms(b, device, batch=64)


# -- an operation or a kind that says too little is an error ------------------------------------------


def test_an_operation_that_declares_nothing_cannot_be_made() -> None:
    class Silent(Op):
        pass

    with pytest.raises(TypeError, match="abstract"):
        Silent(name="silent", inputs=(INPUT,), channels=1, size=1)  # type: ignore[abstract]  # what is tried here is wrong


@pytest.mark.parametrize("part", ["weights", "macs", "arithmetic", "overwrites", "layers", "run", "write"])
def test_every_part_of_an_operation_is_asked_for(part: str) -> None:
    assert part in Op.__abstractmethods__


def test_the_fake_device_refuses_an_operator_that_it_does_not_know() -> None:
    node = onnx.helper.make_node("Einsum", ["x", "x"], ["y"], equation="ij,kj->ik", name="odd")
    ports = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [2, 2]) for n in ("x", "y")]
    graph = onnx.helper.make_graph([node], "odd", ports[:1], ports[1:])
    opsets = [onnx.helper.make_opsetid("", 17)]
    model = onnx.helper.make_model(graph, opset_imports=opsets).SerializeToString()
    with pytest.raises(BuildError, match="no price for the ONNX operator 'Einsum'"):
        price_ms(model, FakeDevice(), "fp32", 2, 1)


def test_unknown_activation() -> None:
    draft = Draft(block("conv"), "torch")
    with pytest.raises(InputError, match="unknown activation 'softplus'"):
        draft.act("act", INPUT, "softplus")


def test_unknown_kind_names_the_nearest() -> None:
    with pytest.raises(ValueError, match="unknown block kind 'convnet'; did you mean 'convnext'"):
        BlockSpec(kind="convnet", c_in=3, c_out=3, size_in=8)


RULELESS = replace(kind_of("basic"), growth=None)


@pytest.fixture
def ruleless(monkeypatch: pytest.MonkeyPatch) -> Iterator[BlockSpec]:
    """A block of a kind that was registered without a growth rule."""
    monkeypatch.setitem(plugins.BUILT_IN["blocks"], "ruleless", f"{__name__}:RULELESS")
    monkeypatch.setitem(sys.modules, __name__, sys.modules[__name__])
    plugins.forget()
    yield block("ruleless")
    monkeypatch.undo()
    plugins.forget()


def test_growth_refuses_a_kind_without_a_rule(ruleless: BlockSpec) -> None:
    spec = around(ruleless)
    net = build(spec, seed=0)
    for other in (spec.grow(0), around(block("ruleless", c_out=36)), around(block("ruleless", kernel=5))):
        assert not growth.preserves(spec, other)
        with pytest.raises(InputError, match="block kind 'ruleless' has no growth rule"):
            inherit(net, spec, other, seed=0)
    # The same network again needs no rule.
    assert growth.preserves(spec, spec)
    again = weights(inherit(net, spec, spec, seed=1))
    assert all(np.array_equal(value, again[name]) for name, value in weights(net).items())


def test_a_growth_rule_that_says_nothing_promises_nothing() -> None:
    one = block("basic")
    assert not GrowthRule().inserts(one, one, one)
    assert not GrowthRule().axes


# -- the blocks of torchvision ---------------------------------------------------------------------------


def copied(ours: Block, theirs: nn.Module) -> None:
    """The state of a torchvision block in ours, in the order of both."""
    mine = [v for v in ours.state_dict().values() if v.is_floating_point()]
    other = [v for v in theirs.state_dict().values() if v.is_floating_point()]
    assert sum(v.numel() for v in mine) == sum(v.numel() for v in other)
    with torch.no_grad():
        for to, value in zip(mine, other, strict=True):
            to.copy_(value.reshape(to.shape))


def shaken(module: nn.Module) -> nn.Module:
    """Every parameter and statistic away from its initial value, in eval mode."""
    rng = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for value in module.state_dict().values():
            if value.is_floating_point():
                value.uniform_(0.1, 0.9, generator=rng) if value.dim() == 1 else value.normal_(
                    std=0.1, generator=rng
                )
    return module.eval()


def fvcore_macs(module: nn.Module, x: torch.Tensor) -> int:
    from fvcore.nn import FlopCountAnalysis

    logging.getLogger("fvcore").setLevel(logging.ERROR)
    by_operator = FlopCountAnalysis(module, x).unsupported_ops_warnings(False).by_operator()
    return int(by_operator["conv"] + by_operator["linear"])


@pytest.mark.filterwarnings("ignore:.torch.jit.*:FutureWarning", "ignore:.torch.jit.*:DeprecationWarning")
def test_convnext_is_torchvisions() -> None:
    theirs = shaken(CNBlock(24, 1e-6, 0.0))
    b = BlockSpec(kind="convnext", c_in=24, c_out=24, kernel=7, expand=4, act="gelu", size_in=9)
    ours = Block(b, "torch").eval()
    names = ("project_scale.weight", "depth.weight", "depth.bias", "layer_norm.weight", "layer_norm.bias")
    state = theirs.state_dict()
    given = dict(zip(names, list(state.values())[:5], strict=True))
    for name, at in (("expand", 3), ("project", 5)):
        given[f"{name}.weight"] = state[f"block.{at}.weight"][:, :, None, None]
        given[f"{name}.bias"] = state[f"block.{at}.bias"]
    given["project_scale.weight"] = given["project_scale.weight"].flatten()
    ours.load_state_dict(given)
    x = torch.randn(2, 24, 9, 9, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)
    counts = count_block(b)
    assert counts.params_trainable == sum(p.numel() for p in theirs.parameters())
    # 9x9 pixels of 24 x (49 depthwise + 96 to the hidden width + 96 back).
    assert counts.macs == fvcore_macs(theirs, x[:1]) == 81 * 24 * (49 + 96 + 96)


@pytest.mark.filterwarnings("ignore:.torch.jit.*:FutureWarning", "ignore:.torch.jit.*:DeprecationWarning")
@pytest.mark.parametrize(("expand", "stride", "c_out"), [(1, 1, 24), (4, 1, 24), (4, 2, 40), (1, 2, 40)])
def test_fused_mbconv_is_torchvisions(expand: int, stride: int, c_out: int) -> None:
    config = FusedMBConvConfig(expand, 3, stride, 24, c_out, 1)
    theirs = shaken(FusedMBConv(config, 0.0, partial(nn.BatchNorm2d, eps=NORM_EPS)))
    fields = {"kind": "fused_mbconv", "c_in": 24, "c_out": c_out, "expand": expand, "stride": stride}
    b = BlockSpec.model_validate(fields | {"act": "swish", "size_in": 9})
    ours = Block(b, "torch").eval()
    copied(ours, theirs)
    x = torch.randn(2, 24, 9, 9, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)
    counts = count_block(b)
    assert counts.params_trainable == sum(p.numel() for p in theirs.parameters())
    assert counts.macs == fvcore_macs(theirs, x[:1])
