"""What a graph computes, as digits that are the same for graphs of the same operations."""

from __future__ import annotations

import hashlib
import inspect
import json
from typing import Any

from torch import fx, nn

from hwnas.nets.model.segments import does_nothing, operation_name

_SAME_NAME = {
    "ReLU": "relu", "relu_": "relu", "ReLU6": "relu6", "iadd": "add", "add_": "add", "imul": "mul", "mul_":
    "mul", "SiLU": "silu", "Swish": "silu", "swish": "silu", "GELU": "gelu", "Hardswish": "hardswish",
    "hard_swish": "hardswish", "Hardsigmoid": "hardsigmoid", "hard_sigmoid": "hardsigmoid", "Sigmoid":
    "sigmoid", "sigmoid_": "sigmoid", "Flatten": "flatten", "reshape": "view", "HardSwish": "hardswish",
    "HardSwishMe": "hardswish", "SwishMe": "silu",
}  # fmt: skip
_LAYERS = {
    nn.modules.conv._ConvNd: ("kernel_size", "stride", "padding", "dilation", "groups", "padding_mode"),
    nn.Linear: ("in_features", "out_features"),
    nn.modules.batchnorm._NormBase: ("num_features", "affine"),
}


def structure(graph: fx.GraphModule) -> str:
    """Sixteen hexadecimal digits of what a graph computes with: operations, shapes and types.

    Names, weights, dropout, and whether an activation is a module, a function or in place are not in it.
    """
    place: dict[fx.Node, Any] = {}
    lines: list[Any] = []
    for node in graph.graph.nodes:
        if node.op == "call_module" and does_nothing(graph, node):
            place[node] = place[node.args[0]]
            continue
        shape = tuple(node.meta.get("shape", ()))[1 if node.op != "get_attr" else 0 :]
        args = [_plain(a, place) for a in node.args]
        kwargs = {k: _plain(v, place) for k, v in sorted(node.kwargs.items()) if k != "inplace"}
        if node.op == "call_module":
            what: Any = _settings(graph.get_submodule(str(node.target)))
        elif node.op in ("placeholder", "get_attr"):
            what, args = node.op, []
        elif node.op == "output":
            what = node.op
        else:
            name = operation_name(graph, node)
            what = _SAME_NAME.get(name, name)
            if what in ("relu", "silu", "hardswish"):
                args, kwargs = args[:1], {}
        place[node] = len(lines)
        lines.append([what, args, kwargs, shape, str(node.meta.get("dtype", ""))])
    text = json.dumps(lines, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _plain(value: Any, place: dict[fx.Node, Any]) -> Any:
    if isinstance(value, fx.Node):
        return f"%{place[value]}"
    if isinstance(value, (list, tuple)):
        return [_plain(v, place) for v in value]
    if isinstance(value, dict):
        return {str(k): _plain(v, place) for k, v in value.items()}
    return str(value)


def _settings(module: nn.Module) -> Any:
    """What decides how long a module takes, besides the shapes of what enters and leaves it."""
    name = type(module).__name__
    if name in _SAME_NAME:
        return _SAME_NAME[name]
    for kind, names in _LAYERS.items():
        if isinstance(module, kind) and type(module).__module__.startswith("torch.nn"):
            bias = getattr(module, "bias", None) is not None
            return [name, [str(getattr(module, n)) for n in names], bias]
    shapes = sorted((n, tuple(p.shape)) for n, p in module.state_dict().items())
    own = type(module).__module__
    code = "" if own.startswith(("torch.", "torchvision.", "timm.")) else _source(type(module))
    return [own, name, repr(module), shapes, code]


def _source(kind: type) -> str:
    try:
        return hashlib.sha256(inspect.getsource(kind).encode()).hexdigest()[:16]
    except (OSError, TypeError):
        return ""
