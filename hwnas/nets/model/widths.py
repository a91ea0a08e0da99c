"""Which inner channels of a piece can be taken, and taking them.

Each channel of each tensor in a piece is an atom. Operations carry atoms on (a batch norm, a depthwise
convolution), join them (an addition: both sides keep or lose a channel together) or make new ones (a
convolution). What enters and leaves a piece is fixed, and so is whatever meets an operation that is not
known here. A group is the layers whose channels are joined; its width is a number of channels to keep.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor, fx, nn

from hwnas.arrays import Int64s
from hwnas.nets.model.tracer import attribute

STEP = 8  # channels; fewer make no kernel faster
SMALLEST = 16  # a group of fewer channels is left alone, such as the squeeze of a gate
MOST_FORMS = 8  # widths that a group is offered at, its own included


@dataclass
class _Track:
    """Channels of a tensor: the axis that they lie on, and an atom for each place on it."""

    axis: int
    atoms: Int64s


@dataclass(frozen=True)
class _Slice:
    """Something whose numbers belong to channels: `what` is "out", "in", "grouped", "norm" or "attribute"."""

    node: fx.Node
    what: str
    atoms: Int64s
    axis: int = 0


@dataclass(frozen=True)
class WidthGroup:
    """Layers whose output channels are taken together.

    Attributes:
        layers: nodes of the layers, in order; the first is the one that names the group.
        width: output channels of each.
        unit: channels that can only be taken together.
        atoms: for each set of channels that are taken together their atom.
    """

    layers: tuple[str, ...]
    width: int
    unit: int
    atoms: tuple[int, ...]


@dataclass
class Channels:
    """What the channels of a piece depend on.

    Attributes:
        groups: those whose width can be chosen, the widest first.
        fixed: for each layer that makes channels that cannot be taken, why.
    """

    graph: fx.GraphModule
    groups: tuple[WidthGroup, ...] = ()
    fixed: dict[str, str] = field(default_factory=dict)
    slices: list[_Slice] = field(default_factory=list)
    producers: dict[str, Int64s] = field(default_factory=dict)


class _Union:
    """Joined atoms, and why some are fixed."""

    def __init__(self) -> None:
        self.parent: list[int] = []
        self.why: dict[int, str] = {}

    def fresh(self, n: int) -> Int64s:
        start = len(self.parent)
        self.parent.extend(range(start, start + n))
        return np.arange(start, start + n)

    def root(self, a: int) -> int:
        while self.parent[a] != a:
            self.parent[a] = self.parent[self.parent[a]]
            a = self.parent[a]
        return a

    def join(self, a: int, b: int) -> None:
        a, b = self.root(a), self.root(b)
        if a != b:
            self.parent[b] = a
            why = self.why.pop(b, None)
            if why is not None:
                self.why.setdefault(a, why)

    def roots(self, atoms: Int64s) -> Int64s:
        return np.array([self.root(int(a)) for a in atoms], dtype=np.int64)

    def fix(self, atoms: Int64s, why: str) -> None:
        for a in {self.root(int(a)) for a in atoms}:
            self.why.setdefault(a, why)


_PASS = frozenset((
    "relu", "relu_", "relu6", "silu", "gelu", "sigmoid", "tanh", "hardtanh", "hardswish", "hardsigmoid",
    "leaky_relu", "elu", "selu", "mish", "softplus", "hard_swish", "hard_sigmoid", "swish", "hard_mish",
    "dropout", "contiguous", "clone", "float", "type_as", "to", "clamp", "clamp_", "sigmoid_", "tanh_",
    "silu_", "max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d",
    "boolean_dispatch", "fn", "interpolate", "stochastic_depth", "neg", "abs", "sqrt", "exp", "pow",
    "square", "detach", "_max_pool2d", "drop_path",
))  # fmt: skip
_TWO = frozenset((
    "add", "iadd", "sub", "isub", "mul", "imul", "truediv", "div", "add_", "sub_", "mul_", "div_",
    "maximum", "minimum",
))  # fmt: skip
_MEAN = frozenset((
    "mean", "sum", "amax", "amin",
))  # fmt: skip
_PASS_MODULES = (
    nn.Identity, nn.Dropout, nn.Dropout2d, nn.ReLU, nn.ReLU6, nn.SiLU, nn.GELU, nn.Sigmoid, nn.Tanh,
    nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.LeakyReLU, nn.ELU, nn.SELU, nn.Mish, nn.Softplus,
    nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.Upsample, nn.ZeroPad2d,
    nn.ReflectionPad2d, nn.ReplicationPad2d, nn.ConstantPad2d, nn.CELU, nn.LPPool2d,
)  # fmt: skip
_PASS_NAMES = ("StochasticDepth", "DropPath", "DropBlock2d")
_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class _ChannelWalk:
    """Goes through a piece once, in order."""

    def __init__(self, graph: fx.GraphModule, shared: frozenset[str]) -> None:
        self.graph, self.shared = graph, shared
        self.union = _Union()
        self.track: dict[fx.Node, _Track | None] = {}
        self.result = Channels(graph)
        uses: dict[Any, int] = {}
        for node in graph.graph.nodes:
            stateless = node.op == "call_module" and not graph.get_submodule(str(node.target)).state_dict()
            if node.op in ("call_module", "get_attr") and not stateless:
                uses[node.target] = uses.get(node.target, 0) + 1
        self.twice = {target for target, n in uses.items() if n > 1} | shared

    def run(self) -> Channels:
        for node in self.graph.graph.nodes:
            self.track[node] = self._node(node)
        self._group()
        return self.result

    def _node(self, node: fx.Node) -> _Track | None:
        if node.op == "placeholder":
            return None
        if node.op == "get_attr":
            return self._parameter(node)
        if node.op == "output":
            self._fix_all(node, "they leave the block")
            return None
        if node.op == "call_module":
            return self._module(node)
        name = node.target if node.op == "call_method" else getattr(node.target, "__name__", "")
        if name == "size":
            return None
        if name in _PASS and self._lonely(node):
            return self._of(node.args[0])
        if name in _TWO:
            return self._two(node)
        if name in _MEAN:
            return self._mean(node, str(name))
        special: Callable[[fx.Node], _Track | None] | None = {
            "cat": self._cat, "concat": self._cat, "flatten": self._flatten, "view": self._view,
            "reshape": self._view, "permute": self._permute, "transpose": self._transpose, "pad": self._pad,
            "softmax": self._softmax, "expand_as": self._expand, "squeeze": self._view,
            "unsqueeze": self._view,
        }.get(str(name))  # fmt: skip
        if special is not None:
            return special(node)
        return self._unknown(node, f"they meet {name}, which is not known to keep channels apart")

    def _of(self, value: Any) -> _Track | None:
        return self.track.get(value) if isinstance(value, fx.Node) else None

    def _lonely(self, node: fx.Node) -> bool:
        """Whether one tensor alone enters."""
        return (
            sum(self._of(n) is not None for n in node.all_input_nodes) <= 1
            and self._of(node.args[0]) is not None
        )

    def _fix_all(self, node: fx.Node, why: str) -> None:
        for each in node.all_input_nodes:
            if (track := self._of(each)) is not None:
                self.union.fix(track.atoms, why)

    def _unknown(self, node: fx.Node, why: str) -> _Track | None:
        """Fix what enters; what leaves is not followed."""
        self._fix_all(node, why)
        return None

    def _parameter(self, node: fx.Node) -> _Track | None:
        value = attribute(self.graph, str(node.target))
        if not isinstance(value, Tensor) or node.target in self.twice:
            return None
        long = [i for i, n in enumerate(value.shape) if n > 1]
        if len(long) != 1:
            return None
        atoms = self.union.fresh(value.shape[long[0]])
        self.result.slices.append(_Slice(node, "attribute", atoms, long[0]))
        return _Track(long[0], atoms)

    def _module(self, node: fx.Node) -> _Track | None:
        module = self.graph.get_submodule(str(node.target))
        if len(node.args) != 1 or node.kwargs:
            return self._unknown(node, f"they meet {node.target}, which takes several inputs")
        track = self._of(node.args[0])
        if node.target in self.twice:
            if list(module.parameters()):
                self.result.fixed[node.name] = f"{node.target} is used several times"
            return self._unknown(node, f"they meet {node.target}, which is used several times")
        if "parametrizations" in dict(module.named_children()):
            return self._unknown(node, f"they meet {node.target}, whose weights are computed")
        if isinstance(module, _CONVS) and not isinstance(module, nn.modules.lazy.LazyModuleMixin):
            return self._conv(node, module, track)
        if isinstance(module, nn.Linear):
            return self._linear(node, module, track)
        if track is None:
            return None
        if isinstance(module, _PASS_MODULES) or type(module).__name__ in _PASS_NAMES:
            return track
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and track.axis == 1:
            return self._norm(node, track, len(track.atoms) == module.num_features)
        if isinstance(module, nn.LayerNorm):
            last = len(node.meta["shape"]) - 1
            fits = len(module.normalized_shape) == 1 and len(track.atoms) == module.normalized_shape[0]
            place = 1 if type(module).__name__.startswith("LayerNorm2d") else last
            return self._norm(node, track, fits and track.axis == place)
        if isinstance(module, nn.GroupNorm) and track.axis == 1 and len(track.atoms) == module.num_channels:
            if module.num_groups > 1:
                self._bind(track.atoms, module.num_channels // module.num_groups)
            return self._norm(node, track, True)
        if isinstance(module, nn.PReLU) and track.axis == 1:
            return track if module.num_parameters == 1 else self._norm(node, track, True)
        if isinstance(module, nn.Flatten) and module.start_dim == 1 and module.end_dim == -1:
            return self._flat(node, track)
        if not list(module.parameters()) and not list(module.buffers()) and self._pointwise(module):
            return track
        return self._unknown(
            node, f"they meet {node.target} ({type(module).__name__}), which is not known here"
        )

    @staticmethod
    def _pointwise(module: nn.Module) -> bool:
        """Whether it is an activation of a library's own (timm's Swish, ...), known by its name."""
        name = type(module).__name__.lower()
        known = (
            "swish",
            "silu",
            "mish",
            "gelu",
            "relu",
            "sigmoid",
            "tanh",
            "identity",
            "dropout",
            "quickgelu",
        )
        return any(name.endswith(k) or name.startswith(k) for k in known) and not list(module.children())

    def _norm(self, node: fx.Node, track: _Track, fits: bool) -> _Track | None:
        if not fits:
            return self._unknown(node, f"they meet {node.target}, which normalises along another axis")
        self.result.slices.append(_Slice(node, "norm", track.atoms))
        return track

    def _bind(self, atoms: Int64s, size: int) -> None:
        """Channels of one group go together."""
        for start in range(0, len(atoms), size):
            for a in atoms[start + 1 : start + size]:
                self.union.join(int(atoms[start]), int(a))

    def _conv(self, node: fx.Node, module: Any, track: _Track | None) -> _Track | None:
        if track is not None and (track.axis != 1 or len(track.atoms) != module.in_channels):
            self._unknown(node, f"they meet {node.target} along another axis")
            track = None
        if any(len(value) != module.out_channels for value in extra(module).values()):
            return self._unknown(node, f"they meet {node.target}, which has numbers of its own")
        if module.groups == 1:
            atoms = self.union.fresh(module.out_channels)
            self.result.producers[node.name] = atoms
            self.result.slices.append(_Slice(node, "out", atoms))
            if track is not None:
                self.result.slices.append(_Slice(node, "in", track.atoms))
            return _Track(1, atoms)
        if track is None:
            return None
        size, made = module.in_channels // module.groups, module.out_channels // module.groups
        self._bind(track.atoms, size)
        atoms = np.repeat(track.atoms[::size], made)
        self.result.slices.append(_Slice(node, "grouped", track.atoms))
        return _Track(1, atoms)

    def _linear(self, node: fx.Node, module: nn.Linear, track: _Track | None) -> _Track | None:
        last = len(node.meta["shape"]) - 1
        if track is not None and (track.axis != last or len(track.atoms) != module.in_features):
            self._unknown(node, f"they meet {node.target} along another axis")
            track = None
        atoms = self.union.fresh(module.out_features)
        self.result.producers[node.name] = atoms
        self.result.slices.append(_Slice(node, "out", atoms))
        if track is not None:
            self.result.slices.append(_Slice(node, "in", track.atoms))
        return _Track(last, atoms)

    def _two(self, node: fx.Node) -> _Track | None:
        """Two operands, broadcast: places on the same axis are joined."""
        rank = len(node.meta["shape"])
        sides = [a for a in node.args[:2] if isinstance(a, fx.Node)]
        if "out" in node.kwargs or any(isinstance(v, fx.Node) for v in node.kwargs.values()):
            return self._unknown(node, "they meet an operation with further inputs")
        found: list[tuple[int, Int64s]] = []
        for side in sides:
            track = self._of(side)
            shape = side.meta.get("shape")
            if track is not None and shape is not None:
                found.append((track.axis + rank - len(shape), track.atoms))
        if not found:
            return None
        axis, atoms = found[0]
        for side in sides:
            shape, track = side.meta.get("shape"), self._of(side)
            if shape is None:
                continue
            at = axis - (rank - len(shape))
            if track is None:
                if at >= 0 and shape[at] > 1:
                    self._fix_all(node, "they are joined with what enters the block")
                    return None
            elif track.axis != at or len(track.atoms) != len(atoms):
                self._fix_all(node, "they meet channels of another axis")
                return None
            else:
                for a, b in zip(atoms, track.atoms):
                    self.union.join(int(a), int(b))
        return _Track(axis, atoms)

    def _dims(self, node: fx.Node, at: int = 1) -> list[int]:
        rank = len(_shape_read(node))
        given: Any = node.args[at] if len(node.args) > at else node.kwargs.get("dim", node.kwargs.get("axis"))
        dims = list(range(rank)) if given is None else [given] if isinstance(given, int) else list(given)
        return [int(d) % rank for d in dims]

    def _mean(self, node: fx.Node, name: str) -> _Track | None:
        track = self._of(node.args[0])
        if track is None:
            return None
        dims = self._dims(node)
        keep = bool(node.args[2] if len(node.args) > 2 else node.kwargs.get("keepdim", False))
        if track.axis in dims:
            if name != "sum":  # of fewer channels another mean
                self.union.fix(track.atoms, "their mean is taken")
            return None
        return _Track(track.axis - (0 if keep else sum(d < track.axis for d in dims)), track.atoms)

    def _softmax(self, node: fx.Node) -> _Track | None:
        track = self._of(node.args[0])
        if track is not None and track.axis in self._dims(node):
            return self._unknown(node, "a softmax is taken over them")
        return track

    def _expand(self, node: fx.Node) -> _Track | None:
        a, b = self._of(node.args[0]), self._of(node.args[1])
        if a is None or b is None or a.axis != b.axis or len(a.atoms) != len(b.atoms):
            return self._unknown(node, "they are joined with what enters the block")
        for x, y in zip(a.atoms, b.atoms):
            self.union.join(int(x), int(y))
        return a

    def _cat(self, node: fx.Node) -> _Track | None:
        joined: Any = node.args[0]
        parts = list(joined)
        tracks = [self._of(p) for p in parts]
        known = [t for t in tracks if t is not None]
        if not known:
            return None
        rank = len(node.meta["shape"])
        given: Any = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
        dim = int(given) % rank
        if any(t.axis != dim for t in known):
            return self._unknown(node, "they are concatenated along another axis")
        vectors = []
        for part, track in zip(parts, tracks):
            if track is None:
                atoms = self.union.fresh(part.meta["shape"][dim])
                self.union.fix(atoms, "they enter the block")
                vectors.append(atoms)
            else:
                vectors.append(track.atoms)
        return _Track(dim, np.concatenate(vectors))

    def _flat(self, node: fx.Node, track: _Track) -> _Track | None:
        shape = _shape_read(node)
        if track.axis == 1:
            return _Track(1, np.repeat(track.atoms, math.prod(shape[2:])))
        if track.axis == len(shape) - 1:
            return _Track(1, np.tile(track.atoms, math.prod(shape[1:-1])))
        return self._unknown(node, "they are flattened with other axes")

    def _flatten(self, node: fx.Node) -> _Track | None:
        track = self._of(node.args[0])
        if track is None:
            return None
        given: dict[str, Any] = dict(zip(("start_dim", "end_dim"), node.args[1:])) | node.kwargs
        rank = len(_shape_read(node))
        start, end = int(given.get("start_dim", 0)) % rank, int(given.get("end_dim", -1)) % rank
        if start > track.axis:
            return track
        if (start, end) == (1, rank - 1):
            return self._flat(node, track)
        return self._unknown(node, "they are flattened with other axes")

    def _view(self, node: fx.Node) -> _Track | None:
        track = self._of(node.args[0])
        if track is None:
            return None
        before, after = _shape_read(node), node.meta["shape"]
        sizes: Sequence[Any] = node.args[1:]
        if node.target in ("view", "reshape") or getattr(node.target, "__name__", "") == "reshape":
            if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)):
                sizes = list(sizes[0])
            open_at = next((i for i, s in enumerate(sizes) if s == -1), None)
        else:
            open_at = None
        n = len(track.atoms)
        alone = math.prod(before) in (n, n * before[0])  # nothing but channels, or those of each image
        squeeze = node.target in ("squeeze", "unsqueeze") or getattr(node.target, "__name__", "") in (
            "squeeze",
            "unsqueeze",
        )
        places = [i for i, s in enumerate(after) if s == n and (squeeze or i == open_at)]
        if alone and len(places) == 1:
            return _Track(places[0], track.atoms)
        if track.axis == 1 and open_at == 1 and len(after) > 2 and after[:2] == before[:2]:
            return track
        if track.axis == 1 and open_at == 1 and len(after) == 2 and after[0] == before[0]:
            return self._flat(node, track)
        return self._unknown(node, "they are reshaped")

    def _permute(self, node: fx.Node) -> _Track | None:
        track = self._of(node.args[0])
        if track is None:
            return None
        given: Any = node.args[1:] if len(node.args) > 1 else (node.kwargs["dims"],)
        order = list(given[0]) if len(given) == 1 else list(given)
        rank = len(node.meta["shape"])
        return _Track([int(d) % rank for d in order].index(track.axis), track.atoms)

    def _transpose(self, node: fx.Node) -> _Track | None:
        track = self._of(node.args[0])
        if track is None or len(node.args) != 3:
            return self._unknown(node, "they are reshaped")
        rank = len(node.meta["shape"])
        given: Any = node.args[1:]
        a, b = (int(d) % rank for d in given)
        return _Track({a: b, b: a}.get(track.axis, track.axis), track.atoms)

    def _pad(self, node: fx.Node) -> _Track | None:
        track = self._of(node.args[0])
        given: Any = node.args[1] if len(node.args) > 1 else node.kwargs.get("pad", ())
        if track is not None and len(node.meta["shape"]) - len(given) // 2 > track.axis:
            return track
        return self._unknown(node, "they are padded")

    def _group(self) -> None:
        """Layers that share atoms are one group; those with a fixed atom are not offered."""
        made = {name: self.union.roots(atoms) for name, atoms in self.result.producers.items()}
        sets = {name: frozenset(map(int, roots)) for name, roots in made.items()}
        groups: list[list[str]] = []
        for name, atoms in sets.items():
            joined = [g for g in groups if any(sets[other] & atoms for other in g)]
            groups = [g for g in groups if g not in joined] + [[*(n for g in joined for n in g), name]]
        found = []
        for layers in groups:
            atoms = frozenset().union(*(sets[name] for name in layers))
            why = next((self.union.why[a] for a in sorted(atoms) if a in self.union.why), "")
            width = len(made[layers[0]])
            if not why and any(sets[name] != atoms or len(made[name]) != width for name in layers):
                why = "they are joined with channels of other layers one by one"
            unit = width // len(atoms)
            if not why and any(int((made[layers[0]] == a).sum()) != unit for a in atoms):
                why = "their groups are of different sizes"
            if not why and not steps(width, unit):
                why = f"they are only {width}"
            if why:
                self.result.fixed |= dict.fromkeys(layers, why)
            else:
                order = tuple(dict.fromkeys(map(int, made[layers[0]])))
                found.append(WidthGroup(tuple(layers), width, unit, order))
        self.result.groups = tuple(sorted(found, key=lambda g: -g.width))
        self.result.slices = [
            _Slice(s.node, s.what, self.union.roots(s.atoms), s.axis) for s in self.result.slices
        ]
        self.result.producers = made


def steps(width: int, unit: int = 1) -> tuple[int, ...]:
    """Smaller widths that are offered: multiples of 8 channels and of `unit`, evenly spread, at most 7."""
    least = math.lcm(STEP, unit)
    if width < SMALLEST or width <= least:
        return ()
    step = least * max(1, math.ceil(width / least / MOST_FORMS))
    return tuple(range(step, width, step))


def channels(graph: fx.GraphModule, shared: frozenset[str] = frozenset()) -> Channels:
    """What the channels inside a piece depend on.

    Args:
        graph: of the piece alone, with shapes in the nodes' `meta`.
        shared: modules and parameters that other pieces use as well.
    """
    return _ChannelWalk(graph, shared).run()


def extra(module: nn.Module) -> dict[str, Tensor]:
    """Numbers of a layer besides weight and bias, such as a gain for each output channel."""
    own = {**dict(module.named_parameters(recurse=False)), **dict(module.named_buffers(recurse=False))}
    return {n: v for n, v in own.items() if n not in ("weight", "bias") and v.dim()}


def _shape_read(node: fx.Node) -> tuple[int, ...]:
    """Shape of what a node reads first, as the trace recorded it."""
    first: Any = node.args[0]
    shape: tuple[int, ...] = first.meta["shape"]
    return shape
