"""What layers do to channels: make new ones (a convolution), carry them on (a norm), or fix them."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor, fx, nn

from hwnas.nets.model.channel_atoms import Followed, Slice, Track
from hwnas.nets.model.channel_operations import by_place
from hwnas.nets.model.channel_shapes import flat
from hwnas.nets.model.tracer import attribute

_BY_NUMBER = (
    nn.Identity, nn.Dropout, nn.Dropout2d, nn.ReLU, nn.ReLU6, nn.SiLU, nn.GELU, nn.Sigmoid, nn.Tanh,
    nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.LeakyReLU, nn.ELU, nn.SELU, nn.Mish, nn.Softplus, nn.CELU,
)  # fmt: skip
_BY_PLACE = (
    nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.Upsample, nn.ZeroPad2d,
    nn.ReflectionPad2d, nn.ReplicationPad2d, nn.ConstantPad2d, nn.LPPool2d,
)  # fmt: skip
_BY_IMAGE = ("StochasticDepth", "DropPath", "DropBlock2d")  # not torch's own
_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_ACTIVATIONS = ("swish", "silu", "mish", "gelu", "relu", "sigmoid", "tanh", "identity", "dropout")


def parameter(seen: Followed, node: fx.Node) -> Track | None:
    """Numbers that the network's code reads, such as a gain: one for each channel, or not followed."""
    value = attribute(seen.graph, str(node.target))
    if not isinstance(value, Tensor) or node.target in seen.twice:
        return None
    long = [i for i, n in enumerate(value.shape) if n > 1]
    if len(long) != 1:
        return None
    atoms = seen.atoms.fresh(value.shape[long[0]])
    seen.slices.append(Slice(node, "attribute", atoms, long[0]))
    return Track(long[0], atoms)


def layer(seen: Followed, node: fx.Node) -> Track | None:
    """The channels that leave a module."""
    module = seen.graph.get_submodule(str(node.target))
    if len(node.args) != 1 or node.kwargs:
        return seen.fix_inputs(node, f"they meet {node.target}, which takes several inputs")
    if node.target in seen.twice:
        if list(module.parameters()):
            seen.fixed[node.name] = f"{node.target} is used several times"
        return seen.fix_inputs(node, f"they meet {node.target}, which is used several times")
    if "parametrizations" in dict(module.named_children()):
        return seen.fix_inputs(node, f"they meet {node.target}, whose weights are computed")
    track = seen.of(node.args[0])
    if isinstance(module, _CONVS) and not isinstance(module, nn.modules.lazy.LazyModuleMixin):
        return _conv(seen, node, module, track)
    if isinstance(module, nn.Linear):
        return _linear(seen, node, module, track)
    return None if track is None else _carried(seen, node, module, track)


def _carried(seen: Followed, node: fx.Node, module: nn.Module, track: Track) -> Track | None:
    """Of layers that make no channels."""
    if isinstance(module, _BY_NUMBER) or type(module).__name__ in _BY_IMAGE or _is_activation(module):
        return track
    if isinstance(module, _BY_PLACE):
        return by_place(seen, node, track)
    if isinstance(module, nn.LayerNorm):
        last = len(node.meta["shape"]) - 1
        fits = len(module.normalized_shape) == 1 and len(track.atoms) == module.normalized_shape[0]
        place = 1 if type(module).__name__.startswith("LayerNorm2d") else last
        return _norm(seen, node, track, fits and track.axis == place)
    if track.axis == 1:
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            return _norm(seen, node, track, len(track.atoms) == module.num_features)
        if isinstance(module, nn.GroupNorm) and len(track.atoms) == module.num_channels:
            if module.num_groups > 1:
                seen.atoms.join_in_groups(track.atoms, module.num_channels // module.num_groups)
            return _norm(seen, node, track, True)
        if isinstance(module, nn.PReLU):
            return track if module.num_parameters == 1 else _norm(seen, node, track, True)
    if isinstance(module, nn.Flatten) and module.start_dim == 1 and module.end_dim == -1:
        return flat(seen, node, track)
    what = f"{node.target} ({type(module).__name__})"
    return seen.fix_inputs(node, f"they meet {what}, which is not known here")


def _is_activation(module: nn.Module) -> bool:
    """Whether it is an activation of a library's own (timm's Swish, ...), known by its name."""
    if [*module.children(), *module.parameters(), *module.buffers()]:
        return False
    name = type(module).__name__.lower()
    return any(name.endswith(k) or name.startswith(k) for k in _ACTIVATIONS)


def _norm(seen: Followed, node: fx.Node, track: Track, fits: bool) -> Track | None:
    if not fits:
        return seen.fix_inputs(node, f"they meet {node.target}, which normalises along another axis")
    seen.slices.append(Slice(node, "norm", track.atoms))
    return track


def _conv(seen: Followed, node: fx.Node, module: Any, track: Track | None) -> Track | None:
    """New channels; of a grouped one those of its groups, which go as a whole."""
    if track is not None and (track.axis != 1 or len(track.atoms) != module.in_channels):
        track = seen.fix_inputs(node, f"they meet {node.target} along another axis")
    if any(len(value) != module.out_channels for value in extra(module).values()):
        return seen.fix_inputs(node, f"they meet {node.target}, which has numbers of its own")
    if module.groups == 1:
        return _made(seen, node, Track(1, seen.atoms.fresh(module.out_channels)), track)
    if track is None:
        return None
    size, made = module.in_channels // module.groups, module.out_channels // module.groups
    seen.atoms.join_in_groups(track.atoms, size)
    seen.slices.append(Slice(node, "grouped", track.atoms))
    return Track(1, np.repeat(track.atoms[::size], made))


def _linear(seen: Followed, node: fx.Node, module: nn.Linear, track: Track | None) -> Track | None:
    last = len(node.meta["shape"]) - 1
    if track is not None and (track.axis != last or len(track.atoms) != module.in_features):
        track = seen.fix_inputs(node, f"they meet {node.target} along another axis")
    return _made(seen, node, Track(last, seen.atoms.fresh(module.out_features)), track)


def _made(seen: Followed, node: fx.Node, made: Track, read: Track | None) -> Track:
    """Note a layer that makes channels, and whose it reads."""
    seen.producers[node.name] = made.atoms
    seen.slices.append(Slice(node, "out", made.atoms))
    if read is not None:
        seen.slices.append(Slice(node, "in", read.atoms))
    return made


def extra(module: nn.Module) -> dict[str, Tensor]:
    """Numbers of a layer besides weight and bias, such as a gain for each output channel."""
    own = {**dict(module.named_parameters(recurse=False)), **dict(module.named_buffers(recurse=False))}
    return {n: v for n, v in own.items() if n not in ("weight", "bias") and v.dim()}
