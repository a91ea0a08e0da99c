"""An ONNX graph as a torch network that can be cut, changed and trained: layers again layers, names kept.

Images, convolutions and what goes with them; anything else (int8 graphs, loops, detection heads) is refused
by the name of its operator.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import numpy_helper
from torch import fx, nn

from hwnas.arrays import ImageShape
from hwnas.errors import DataFormatError, InputError

_ONE: dict[str, Callable[..., Any]] = {
    "Relu": F.relu, "Sigmoid": torch.sigmoid, "Tanh": torch.tanh, "HardSwish": F.hardswish,
    "Sqrt": torch.sqrt,
    "Exp": torch.exp, "Neg": torch.neg, "Abs": torch.abs, "Softplus": F.softplus, "Mish": F.mish,
    "Erf": torch.erf,
}  # fmt: skip
_TWO: dict[str, Callable[..., Any]] = {
    "Add": operator.add,
    "Sub": operator.sub,
    "Mul": operator.mul,
    "Div": operator.truediv,
    "Pow": torch.pow,
}
_NOTHING = ("Identity", "Dropout")


def network(data: bytes, path: Path) -> tuple[nn.Module, ImageShape | None]:
    """A network in eval mode, and the size of its images where the graph fixes it.

    Args:
        data: the ONNX graph.
        path: the file that it is from, for messages.

    Raises:
        InputError: an operator has no counterpart here; it is named.
        DataFormatError: the file is no ONNX model.
    """
    try:
        proto = onnx.load_model_from_string(data)
    except Exception as exc:  # protobuf's DecodeError has moved between versions
        raise DataFormatError(f"model {path} is not an ONNX model: {exc}") from exc
    return _Reader(proto, path).read()


class _Reader:
    """Goes through a graph once; `_MANY` has the method of an operator."""

    def __init__(self, proto: onnx.ModelProto, path: Path) -> None:
        self.proto, self.path = proto, path
        self.root, self.graph = nn.Module(), fx.Graph()
        self.constants = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}
        self.values: dict[str, fx.Node] = {}
        self.size: fx.Node | None = None

    def read(self) -> tuple[nn.Module, ImageShape | None]:
        """The network and its image size."""
        given = [i for i in self.proto.graph.input if i.name not in self.constants]
        if len(given) != 1 or not self.proto.graph.output:
            raise InputError(f"model {self.path} has {len(given)} inputs; one, of images, is expected")
        dims = [d.dim_value for d in given[0].type.tensor_type.shape.dim]
        if len(dims) != 4:
            raise InputError(f"model {self.path} takes {dims}; images (batch, C, H, W) are expected")
        self.first = self.graph.placeholder("x")
        self.values[given[0].name] = self.first
        for number, node in enumerate(self.proto.graph.node):
            self._node(node, number)
        out = self.values[self.proto.graph.output[0].name]
        self.graph.output(out)
        made = fx.GraphModule(self.root, self.graph, "FromOnnx")
        made.graph.eliminate_dead_code()
        made.recompile()
        return made.eval(), (dims[1], dims[2], dims[3]) if min(dims[1:]) > 0 else None

    def _node(self, node: onnx.NodeProto, number: int) -> None:
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        self.scope = _path(node.name)
        self.where = self.scope or f"{node.op_type.lower()}_{number}"
        if node.op_type == "Constant":
            value = attributes.get("value")
            self.constants[node.output[0]] = (
                numpy_helper.to_array(value)
                if value is not None
                else np.array(next(iter(attributes.values())))
            )
            return
        if node.op_type in _NOTHING:
            if node.input[0] in self.constants:
                self.constants[node.output[0]] = self.constants[node.input[0]]
            else:
                self.values[node.output[0]] = self.values[node.input[0]]
            return
        make = _MANY.get(node.op_type)
        if node.op_type in _ONE:
            made = self._call(_ONE[node.op_type], self._in(node, 0))
        elif node.op_type in _TWO:
            made = self._call(_TWO[node.op_type], self._in(node, 0), self._in(node, 1))
        elif make is not None and node.domain in ("", "ai.onnx"):
            made = make(self, node, attributes)
        else:
            raise self._refused(node, "is not read here")
        self.values[node.output[0]] = made

    def _refused(self, node: onnx.NodeProto, why: str) -> InputError:
        return InputError(
            f"model {self.path}: {node.op_type} {node.name or node.output[0]} {why}; give the torch network "
            "that it was made from (FILE.py:function)"
        )

    def _in(self, node: onnx.NodeProto, at: int) -> Any:
        """An input: what was computed, or a constant as a parameter."""
        name = node.input[at]
        if name in self.values:
            return self.values[name]
        if name not in self.constants:
            raise self._refused(node, f"reads {name!r}, which nothing gives")
        value = self.constants[name]
        if value.size == 1:
            return value.item()
        title = f"constant_{len(list(self.root.parameters()))}_{len(list(self.root.buffers()))}"
        tensor = torch.from_numpy(np.array(value))
        if tensor.is_floating_point():
            self.root.register_parameter(title, nn.Parameter(tensor))
        else:
            self.root.register_buffer(title, tensor)
        return self._told(self.graph.get_attr(title))

    def _told(self, node: fx.Node) -> fx.Node:
        node.meta["path"] = self.where if node.op == "call_module" else self.scope
        return node

    def _call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> fx.Node:
        return self._told(self.graph.call_function(function, args, kwargs))

    def _layer(self, module: nn.Module, value: Any) -> fx.Node:
        if isinstance(self.root, nn.Module) and self.where in dict(self.root.named_modules()):
            self.where = f"{self.where}_{len(self.graph.nodes)}"
        owner, _, last = self.where.rpartition(".")
        holder = self.root
        for part in owner.split(".") if owner else ():
            if part not in holder._modules:
                holder.add_module(part, nn.Module())
            holder = holder.get_submodule(part)
        holder.add_module(last, module)
        return self._told(self.graph.call_module(self.where, (value,)))

    def _weights(self, node: onnx.NodeProto, at: int) -> Any:
        if len(node.input) <= at or not node.input[at]:
            return None
        if node.input[at] not in self.constants:
            raise self._refused(node, "computes its weights")
        return torch.from_numpy(np.array(self.constants[node.input[at]]))

    def _list(self, node: onnx.NodeProto, at: int, attributes: dict[str, Any], name: str) -> list[int] | None:
        if name in attributes:
            return [int(v) for v in attributes[name]]
        found = self._weights(node, at)
        return None if found is None else [int(v) for v in found.reshape(-1)]

    def _padded(
        self, node: onnx.NodeProto, attributes: dict[str, Any], value: float = 0.0
    ) -> tuple[Any, list[int]]:
        """The input and the padding that its layer can do itself; uneven padding becomes an operation."""
        if attributes.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
            raise self._refused(node, f"pads as {attributes['auto_pad'].decode()}")
        pads = list(attributes.get("pads", [0, 0, 0, 0]))
        if pads[:2] == pads[2:]:
            return self._in(node, 0), pads[:2]
        given = [pads[1], pads[3], pads[0], pads[2]]
        return self._call(F.pad, self._in(node, 0), given, "constant", value), [0, 0]

    def _conv(self, node: onnx.NodeProto, attributes: dict[str, Any]) -> fx.Node:
        weight, bias = self._weights(node, 1), self._weights(node, 2)
        if weight.dim() != 4:
            raise self._refused(node, f"has weights of {weight.dim()} dimensions")
        value, padding = self._padded(node, attributes)
        groups = int(attributes.get("group", 1))
        made = nn.Conv2d(
            weight.shape[1] * groups,
            weight.shape[0],
            tuple(weight.shape[2:]),
            tuple(attributes.get("strides", (1, 1))),
            (padding[0], padding[1]),
            tuple(attributes.get("dilations", (1, 1))),
            groups,
            bias is not None,
        )
        return self._layer(_filled(made, weight, bias), value)

    def _gemm(self, node: onnx.NodeProto, attributes: dict[str, Any]) -> fx.Node:
        weight, bias = self._weights(node, 1), self._weights(node, 2)
        weight = weight if attributes.get("transB") else weight.T
        weight = weight * float(attributes.get("alpha", 1.0))
        bias = None if bias is None else bias.reshape(-1) * float(attributes.get("beta", 1.0))
        if attributes.get("transA") or (bias is not None and len(bias) != len(weight)):
            raise self._refused(node, "is no fully connected layer")
        made = nn.Linear(weight.shape[1], weight.shape[0], bias is not None)
        return self._layer(_filled(made, weight, bias), self._in(node, 0))

    def _matmul(self, node: onnx.NodeProto, attributes: dict[str, Any]) -> fx.Node:
        if node.input[1] in self.constants and self.constants[node.input[1]].ndim == 2:
            weight = self._weights(node, 1).T
            made = nn.Linear(weight.shape[1], weight.shape[0], False)
            return self._layer(_filled(made, weight, None), self._in(node, 0))
        return self._call(torch.matmul, self._in(node, 0), self._in(node, 1))

    def _batchnormalization(self, node: onnx.NodeProto, attributes: dict[str, Any]) -> fx.Node:
        weight, bias, mean, var = (self._weights(node, at) for at in range(1, 5))
        made = nn.BatchNorm2d(len(weight), float(attributes.get("epsilon", 1e-5)))
        made.running_mean, made.running_var = mean.float(), var.float()
        return self._layer(_filled(made, weight, bias), self._in(node, 0))

    def _prelu(self, node: onnx.NodeProto, attributes: dict[str, Any]) -> fx.Node:
        weight = self._weights(node, 1).reshape(-1)
        return self._layer(_filled(nn.PReLU(len(weight)), weight, None), self._in(node, 0))

    def _clip(self, node: onnx.NodeProto, attributes: dict[str, Any]) -> fx.Node:
        low, high = (
            attributes.get(name, None if (w := self._weights(node, at)) is None else float(w))
            for at, name in ((1, "min"), (2, "max"))
        )
        if (low, high) == (0.0, 6.0):
            return self._call(F.relu6, self._in(node, 0))
        return self._call(torch.clamp, self._in(node, 0), low, high)

    def _leakyrelu(self, node: onnx.NodeProto, attributes: dict[str, Any]) -> fx.Node:
        return self._call(F.leaky_relu, self._in(node, 0), float(attributes.get("alpha", 0.01)))

    def _elu(self, node: onnx.NodeProto, attributes: dict[str, Any]) -> fx.Node:
        return self._call(F.elu, self._in(node, 0), float(attributes.get("alpha", 1.0)))

    def _gelu(self, node: onnx.NodeProto, attributes: dict[str, Any]) -> fx.Node:
        kind = attributes.get("approximate", b"none").decode()
        return self._call(F.gelu, self._in(node, 0), approximate=kind)

    def _hardsigmoid(self, node: onnx.NodeProto, attributes: dict[str, Any]) -> fx.Node:
        slope, shift = float(attributes.get("alpha", 0.2)), float(attributes.get("beta", 0.5))
        if abs(slope - 1 / 6) < 1e-6 and shift == 0.5:
            return self._call(F.hardsigmoid, self._in(node, 0))
        scaled = self._call(operator.mul, self._in(node, 0), slope)
        return self._call(torch.clamp, self._call(operator.add, scaled, shift), 0.0, 1.0)

    def _softmax(self, node: onnx.NodeProto, attributes: dict[str, Any]) -> fx.Node:
        return self._call(F.softmax, self._in(node, 0), int(attributes.get("axis", -1)))

    def _globalaveragepool(self, node: onnx.NodeProto, attributes: dict[str, Any]) -> fx.Node:
        return self._call(F.adaptive_avg_pool2d, self._in(node, 0), 1)

    def _maxpool(self, node: onnx.NodeProto, attributes: dict[str, Any]) -> fx.Node:
        value, padding = self._padded(node, attributes, -float("inf"))
        kernel = attributes["kernel_shape"]
        strides = tuple(attributes.get("strides", (1, 1)))
        dilations = tuple(attributes.get("dilations", (1, 1)))
        ceil = bool(attributes.get("ceil_mode", 0))
        made = nn.MaxPool2d(tuple(kernel), strides, tuple(padding), dilations, ceil_mode=ceil)
        return self._layer(made, value)

    def _averagepool(self, node: onnx.NodeProto, attributes: dict[str, Any]) -> fx.Node:
        value, padding = self._padded(node, attributes)
        counted = bool(attributes.get("count_include_pad", 0))
        pads = attributes.get("pads", [0] * 4)
        if pads[:2] != pads[2:] and not counted:
            raise self._refused(node, "pads unevenly and does not count it")
        strides = tuple(attributes.get("strides", (1, 1)))
        ceil = bool(attributes.get("ceil_mode", 0))
        kernel = tuple(attributes["kernel_shape"])
        return self._layer(nn.AvgPool2d(kernel, strides, (padding[0], padding[1]), ceil, counted), value)

    def _reducemean(self, node: onnx.NodeProto, attributes: dict[str, Any]) -> fx.Node:
        axes = self._list(node, 1, attributes, "axes")
        if axes is None:
            raise self._refused(node, "takes the mean over the batch")
        return self._call(torch.mean, self._in(node, 0), axes, bool(attributes.get("keepdims", 1)))

    def _flatten(self, node: onnx.NodeProto, attributes: dict[str, Any]) -> fx.Node:
        if attributes.get("axis", 1) != 1:
            raise self._refused(node, "flattens the batch")
        return self._call(torch.flatten, self._in(node, 0), 1)

    def _concat(self, node: onnx.NodeProto, attributes: dict[str, Any]) -> fx.Node:
        return self._call(
            torch.cat, [self._in(node, at) for at in range(len(node.input))], attributes["axis"]
        )

    def _transpose(self, node: onnx.NodeProto, attributes: dict[str, Any]) -> fx.Node:
        return self._call(torch.permute, self._in(node, 0), list(attributes["perm"]))

    def _squeeze(self, node: onnx.NodeProto, attributes: dict[str, Any]) -> fx.Node:
        axes = self._list(node, 1, attributes, "axes")
        if axes is None:
            raise self._refused(node, "names no axes")
        return self._call(torch.squeeze, self._in(node, 0), tuple(axes))

    def _unsqueeze(self, node: onnx.NodeProto, attributes: dict[str, Any]) -> fx.Node:
        value = self._in(node, 0)
        for axis in sorted(self._list(node, 1, attributes, "axes") or []):
            value = self._call(torch.unsqueeze, value, axis)
        made: fx.Node = value
        return made

    def _reshape(self, node: onnx.NodeProto, attributes: dict[str, Any]) -> fx.Node:
        """With the batch left open, whatever size it was exported with."""
        sizes = self._list(node, 1, attributes, "shape")
        if sizes is None or 0 in sizes[1:]:
            raise self._refused(node, "keeps a size by a zero")
        if sizes[0] == -1 and len(sizes) == 2 and sizes[1] > 0:
            return self._call(torch.flatten, self._in(node, 0), 1)
        if self.size is None:
            with self.graph.inserting_after(self.first):
                self.size = self.graph.call_method("size", (self.first, 0))
            self.size.meta["path"] = ""
        return self._told(self.graph.call_method("reshape", (self._in(node, 0), self.size, *sizes[1:])))

    def _pad(self, node: onnx.NodeProto, attributes: dict[str, Any]) -> fx.Node:
        pads = self._list(node, 1, attributes, "pads")
        kind = attributes.get("mode", b"constant").decode()
        if pads is None or len(pads) != 8 or any(pads[:2] + pads[4:6]) or kind not in ("constant", "reflect"):
            raise self._refused(node, "pads other axes than height and width")
        value = self._weights(node, 2)
        given = [pads[3], pads[7], pads[2], pads[6]]
        return self._call(F.pad, self._in(node, 0), given, kind, float(value) if value is not None else 0.0)


_MANY: dict[str, Callable[[_Reader, onnx.NodeProto, dict[str, Any]], fx.Node]] = {
    "Conv": _Reader._conv,
    "Gemm": _Reader._gemm,
    "MatMul": _Reader._matmul,
    "BatchNormalization": _Reader._batchnormalization,
    "PRelu": _Reader._prelu,
    "Clip": _Reader._clip,
    "LeakyRelu": _Reader._leakyrelu,
    "Elu": _Reader._elu,
    "Gelu": _Reader._gelu,
    "HardSigmoid": _Reader._hardsigmoid,
    "Softmax": _Reader._softmax,
    "GlobalAveragePool": _Reader._globalaveragepool,
    "MaxPool": _Reader._maxpool,
    "AveragePool": _Reader._averagepool,
    "ReduceMean": _Reader._reducemean,
    "Flatten": _Reader._flatten,
    "Concat": _Reader._concat,
    "Transpose": _Reader._transpose,
    "Squeeze": _Reader._squeeze,
    "Unsqueeze": _Reader._unsqueeze,
    "Reshape": _Reader._reshape,
    "Pad": _Reader._pad,
}


def _filled(module: Any, weight: torch.Tensor, bias: torch.Tensor | None) -> nn.Module:
    with torch.no_grad():
        module.weight.copy_(weight)
        if bias is not None:
            module.bias.copy_(bias)
    made: nn.Module = module
    return made


def _path(name: str) -> str:
    """The module that torch's exporter has named a node after: ``/layer1/layer1.0/conv1/Conv``."""
    found: list[str] = []
    for part in name.strip("/").split("/")[:-1]:
        if not part.replace(".", "").replace("_", "").isalnum():
            return ""
        if found and part.startswith(f"{found[-1]}."):
            found.pop()
        found.append(part)
    return ".".join(found)
