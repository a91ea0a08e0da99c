"""A user's own network by its name, with weights and with as many classes as the data have."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import fx, nn

from hwnas.arrays import ImageShape
from hwnas.errors import InputError
from hwnas.nets.model.bases import (
    OwnModel,
    base,
    is_architecture,
    kind_of,
    network_file,
    read_state,
    with_head,
    with_weights,
)
from hwnas.nets.model.result import reloaded
from hwnas.nets.model.trace import traced

_BEHIND_A_HEAD = (
    nn.Dropout, nn.Identity, nn.Flatten, nn.Softmax, nn.LogSoftmax, nn.AdaptiveAvgPool2d, nn.AvgPool2d,
    nn.ReLU,
)  # fmt: skip
_CALLED_BEHIND = frozenset(
    ("flatten", "squeeze", "view", "reshape", "softmax", "log_softmax", "mean", "dropout", "relu",
     "adaptive_avg_pool2d", "getitem")
)  # fmt: skip


def load(
    source: str,
    *,
    weights: Path | None = None,
    input_shape: ImageShape | None = None,
    classes: int | None = None,
) -> OwnModel:
    """Load a network in eval mode.

    Args:
        source: ``FILE.py:function``, ``package.module:function`` (their code runs), ``torchvision:NAME``,
            ``timm:NAME``, a run or a network.json.
        weights: a state dict: safetensors, or of torch.save, read without running code.
        input_shape: of an image; None takes what the source says.
        classes: of the data; another last layer is put in where the network has as many outputs.

    Raises:
        InputError: there is no such source, or it does not say the size of its images.
        DataFormatError: the weights are damaged or do not fit.
        BackendUnavailable: the source's library is not installed.
    """
    file = network_file(source) if kind_of(source) == "network" else None
    if file is not None and is_architecture(file):
        own = reloaded(file, source)
        if input_shape not in (None, own.input_shape):
            raise InputError(f"{source} is for images of {own.input_shape}; leave --input out")
    else:
        own = base(source, input_shape)
    if weights is not None:
        state = read_state(weights)
        digest = hashlib.sha256(weights.read_bytes()).hexdigest()
        own = with_weights(own, state, weights, digest)
    _finite(own)
    if classes is not None and not own.untrainable:
        own = _with_classes(own, classes)
    return own


def _finite(own: OwnModel) -> None:
    for name, value in own.module.state_dict().items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise InputError(f"{own.source}: {name} holds NaN or infinite numbers; train the network again")


def _with_classes(own: OwnModel, classes: int) -> OwnModel:
    graph = traced(own.module, torch.zeros(own.input_shape)).graph
    name, outputs = head(graph)
    if outputs == classes:
        return own
    if not name:
        raise InputError(
            f"{own.source} has {outputs} outputs and the data {classes} classes; its last layer is not "
            "known, so make the function return a network of as many outputs"
        )
    return with_head(own, name, classes)


def head(graph: fx.GraphModule) -> tuple[str, int]:
    """The layer that makes the scores and their number; no name where the end is something else."""
    end = next(n for n in graph.graph.nodes if n.op == "output")
    node = end.args[0]
    outputs = int(node.meta["shape"][1]) if len(node.meta["shape"]) > 1 else 0
    while isinstance(node, fx.Node):
        if node.op == "call_module":
            module = graph.get_submodule(str(node.target))
            if type(module) in (nn.Linear, nn.Conv2d):
                made = module.out_features if isinstance(module, nn.Linear) else module.out_channels
                return (str(node.target) if made == outputs else ""), outputs
            behind = isinstance(module, _BEHIND_A_HEAD)
        else:
            behind = getattr(node.target, "__name__", node.target) in _CALLED_BEHIND
        node = node.args[0] if behind and node.args else None
    return "", outputs
