"""Element-wise functions by name, in torch and as ONNX nodes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from hwnas.lazy import lazy_import

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from hwnas.nets.graph_writer import GraphWriter
else:
    torch, nn = lazy_import("torch"), lazy_import("torch.nn")


def _node(kind: str) -> Callable[[GraphWriter, str, str], str]:
    return lambda graph, x, name: graph.node(kind, (x,), name)


def _clip6(graph: GraphWriter, x: str, name: str) -> str:
    return graph.node("Clip", (x, graph.number("zero", 0.0), graph.number("six", 6.0)), name)


def _swish(graph: GraphWriter, x: str, name: str) -> str:
    return graph.node("Mul", (x, graph.node("Sigmoid", (x,), f"{name}.sigmoid")), name)


def _gelu(graph: GraphWriter, x: str, name: str) -> str:
    # x / 2 * (1 + erf(x / sqrt(2))), the form that runtimes fuse; opset 17 has no Gelu.
    root, one, half = (graph.number(n, v) for n, v in (("root2", 2**0.5), ("one", 1.0), ("half", 0.5)))
    erf = graph.node("Erf", (graph.node("Div", (x, root), f"{name}.div"),), f"{name}.erf")
    share = graph.node("Add", (erf, one), f"{name}.share")
    return graph.node("Mul", (graph.node("Mul", (x, share), f"{name}.twice"), half), name)


# In torch, and as ONNX nodes. Torch's functions are looked up when they are called.
ACTIVATIONS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[GraphWriter, str, str], str]]] = {
    "relu": (lambda x: nn.functional.relu(x), _node("Relu")),
    "relu6": (lambda x: nn.functional.relu6(x), _clip6),
    "hswish": (lambda x: nn.functional.hardswish(x), _node("HardSwish")),
    "swish": (lambda x: nn.functional.silu(x), _swish),
    "gelu": (lambda x: nn.functional.gelu(x), _gelu),
    "sigmoid": (lambda x: torch.sigmoid(x), _node("Sigmoid")),
}
