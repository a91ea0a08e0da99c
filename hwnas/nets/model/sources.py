"""A user's own network by its name, with weights and with as many classes as the data have."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, fx, nn

from hwnas.arrays import ImageShape
from hwnas.errors import DataFormatError, InputError
from hwnas.nets.model.bases import (
    OwnModel,
    base,
    is_architecture,
    kind_of,
    network_file,
    read_state,
    with_head,
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
            ``timm:NAME``, ``FILE.onnx``, ``FILE.pt2``, a run or a network.json.
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
        own = _with_weights(own, state, weights, digest)
    _finite(own)
    if classes is not None:
        own = _with_classes(own, classes)
    return own


def _with_weights(own: OwnModel, state: Mapping[str, Tensor], where: object, digest: str) -> OwnModel:
    """The network with the weights of a state dict; its head is replaced where theirs has other classes.

    Raises:
        DataFormatError: keys or shapes differ from the network's; they are named.
    """
    mine = own.module.state_dict()
    counters = {n for n in mine if n.endswith("num_batches_tracked")}
    missing = sorted(mine.keys() - state.keys() - counters)
    extra = sorted(state.keys() - mine.keys())
    if missing or extra:
        parts = [
            f"{what} {_some(names)}" for what, names in (("lacks", missing), ("has besides", extra)) if names
        ]
        raise DataFormatError(f"weights {where} do not fit {own.source}: the file {'; it '.join(parts)}")
    differ = [n for n in mine if n in state and mine[n].shape != state[n].shape]
    if differ:
        own = _fitting_head(own, state, differ, where)
    own.module.load_state_dict(dict(state), strict=False)
    return replace(own, weights_sha256=digest)


def _fitting_head(own: OwnModel, state: Mapping[str, Tensor], differ: list[str], where: object) -> OwnModel:
    """The network with a last layer of as many outputs as the weights have."""
    name, _ = head(traced(own.module, torch.zeros(own.input_shape)).graph)
    if name and {n.rpartition(".")[0] for n in differ} == {name}:
        theirs, ours = state[f"{name}.weight"], own.module.state_dict()[f"{name}.weight"]
        if theirs.shape[1:] == ours.shape[1:]:
            return with_head(own, name, len(theirs), f"as in {where}")
    first = differ[0]
    found, expected = tuple(state[first].shape), tuple(own.module.state_dict()[first].shape)
    more = f", and {len(differ) - 1} more differ" if len(differ) > 1 else ""
    raise DataFormatError(
        f"weights {where} do not fit {own.source}: {first} is {found} there, {expected} in the network{more}"
    )


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


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
