"""Nodes and initialisers of an ONNX graph, while operations add theirs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper


class GraphWriter:
    """Collects nodes and initialisers; methods return the name of the value they add."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: dict[str, onnx.TensorProto] = {}

    def node(self, kind: str, inputs: Iterable[str], name: str, **attributes: object) -> str:
        """A node with one output, named as the node."""
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name

    def tensor(self, name: str, value: NDArray[Any]) -> str:
        """Numbers in fp32; a name that is there already stays as it is."""
        if name not in self.tensors:
            data = np.ascontiguousarray(value, dtype=np.float32).tobytes()
            self.tensors[name] = helper.make_tensor(name, TensorProto.FLOAT, value.shape, data, raw=True)
        return name

    def number(self, name: str, value: float) -> str:
        """One number in fp32."""
        return self.tensor(name, np.array(value))

    def integers(self, name: str, values: Sequence[int]) -> str:
        """Integers in int64."""
        if name not in self.tensors:
            self.tensors[name] = helper.make_tensor(name, TensorProto.INT64, [len(values)], values)
        return name
