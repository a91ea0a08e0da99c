"""A graph in pieces: it is cut where one tensor alone is alive, and joined again to the user's own blocks.

A tensor that alone is alive dominates the output (`hwnas.nets.hournas.vital` has the rule); on a graph in
order that is one pass. Between two such places lies a segment. Segments of one module are one piece, so that
a piece has a name that its user knows, unless the module holds several residual blocks or many layers.
"""

from __future__ import annotations

import copy
import hashlib
import inspect
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import Tensor, fx, nn

from hwnas.nets.model import widths
from hwnas.nets.model.trace import BATCH, KNOWN, NO_OPERATION, TRAINING_ONLY, annotate

MOST_LAYERS = 5  # with weights, in a piece without a residual sum
LOOSE_LAYERS = 3  # of layers that are in no module of their own
_ADD = frozenset(["add", "iadd", "add_"])
# Twice is once, so that a copy with an empty branch behind it changes nothing.
_TWICE_IS_ONCE = frozenset(["relu", "relu_", "relu6", "ReLU", "ReLU6"])
_ACTS = _TWICE_IS_ONCE | {"silu", "SiLU", "gelu", "GELU", "hardswish", "Hardswish", "Hardtanh"}
_ZERO_AT_ZERO = _ACTS | {"Mish", "Tanh", "LeakyReLU", "ELU", "leaky_relu", "PReLU", "Swish"}


@dataclass(frozen=True)
class Segment:
    """What lies between two places where one tensor alone is alive: operations in order, and their module."""

    start: fx.Node
    nodes: tuple[fx.Node, ...]
    end: fx.Node
    path: str


def segments(graph: fx.GraphModule) -> list[Segment]:
    """Cut a graph where one tensor alone is alive."""
    aside = free(graph.graph)
    nodes = [n for n in graph.graph.nodes if n not in aside and n.op != "output"]
    order = {node: at for at, node in enumerate(nodes)}
    last = {n: max([order[u] for u in n.users if u in order] + [_at_output(n, len(nodes))]) for n in nodes}
    found: list[Segment] = []
    alive: set[fx.Node] = set()
    start, run_ = nodes[0], []
    for at, node in enumerate(nodes):
        alive = {n for n in alive if last[n] > at}
        if last[node] > at:
            alive.add(node)
        if at == 0:
            continue
        run_.append(node)
        if alive == {node} and node.meta.get("shape", ())[:1] == (BATCH,):
            found.append(Segment(start, tuple(run_), node, _common(run_)))
            start, run_ = node, []
    return found


def _at_output(node: fx.Node, end: int) -> int:
    return end if any(u.op == "output" for u in node.users) else -1


def free(graph: fx.Graph) -> frozenset[fx.Node]:
    """Operations that any piece can repeat: parameters, what is computed of them alone, the batch size."""
    found: set[fx.Node] = set()
    for node in graph.nodes:
        size = node.op == "call_method" and node.target == "size" and node.args[1:] == (0,)
        if node.op == "get_attr" or (size and node.args[0].op == "placeholder"):
            found.add(node)
        elif node.op not in ("placeholder", "output") and node.all_input_nodes:
            if all(n in found for n in node.all_input_nodes):
                found.add(node)
        elif node.op in ("call_function", "call_method") and not node.all_input_nodes:
            found.add(node)
    return frozenset(found)


def _common(nodes: Iterable[fx.Node]) -> str:
    """The innermost module that all operations belong to; of one that calls a module, the one around it."""
    paths = [_around(node) for node in nodes]
    return ".".join(_shared(paths))


def _around(node: fx.Node) -> list[str]:
    path = str(node.meta.get("path", ""))
    parts = path.split(".") if path else []
    return parts[:-1] if node.op == "call_module" else parts


def _shared(paths: Sequence[Sequence[str]]) -> list[str]:
    first, found = paths[0], []
    for at, part in enumerate(first):
        if any(len(p) <= at or p[at] != part for p in paths):
            break
        found.append(part)
    return found


def weighted(graph: fx.GraphModule, nodes: Iterable[fx.Node]) -> int:
    """Layers on feature maps that have weights; the two of a gate on pooled values are not among them."""
    count = 0
    for node in nodes:
        shape = node.meta.get("shape", ())
        pooled = len(shape) == 4 and shape[2:] == (1, 1)
        count += bool(node.meta.get("macs", 0)) and not (pooled and _squeezed(node))
    return count


def _squeezed(node: fx.Node) -> bool:
    first = node.args[0]
    return isinstance(first, fx.Node) and tuple(first.meta.get("shape", ()))[2:] == (1, 1)


def joins_identity(graph: fx.GraphModule, start: fx.Node, end: fx.Node) -> fx.Node | None:
    """The addition of a branch to what entered, at the end but for activations; None where there is none."""
    node = end
    while _name(graph, node) in _ACTS or _nothing(graph, node):
        first = node.args[0]
        if not isinstance(first, fx.Node) or node is start:
            return None
        node = first
    if _name(graph, node) not in _ADD or len(node.args) < 2 or node.kwargs.get("alpha", 1) != 1:
        return None
    sides = [_through(graph, side) for side in node.args[:2]]
    shapes = [side.meta.get("shape") for side in node.args[:2] if isinstance(side, fx.Node)]
    if sides.count(start) != 1 or len(shapes) != 2 or shapes[0] != shapes[1]:
        return None
    return node if start.meta["shape"] == end.meta["shape"] else None


def _through(graph: fx.GraphModule, node: Any) -> Any:
    """Past what does nothing in eval mode."""
    while isinstance(node, fx.Node) and _nothing(graph, node):
        node = node.args[0]
    return node


def _nothing(graph: fx.GraphModule, node: fx.Node) -> bool:
    if node.op == "call_module":
        module = graph.get_submodule(str(node.target))
        return isinstance(module, NO_OPERATION) or type(module).__name__ in TRAINING_ONLY
    return _name(graph, node) in ("contiguous", "stochastic_depth", "drop_path")


def _name(graph: fx.GraphModule, node: fx.Node) -> str:
    if node.op == "call_module":
        return type(graph.get_submodule(str(node.target))).__name__
    return str(getattr(node.target, "__name__", node.target)) if node.op.startswith("call") else node.op


def blocks(graph: fx.GraphModule) -> list[list[Segment]]:
    """Segments joined to blocks, by the user's own modules."""
    found = _split(graph, segments(graph), 0)
    # What pools for the head is a part of it.
    while len(found) > 1 and not any(weighted(graph, s.nodes) for s in found[-2]):
        found[-2:] = [found[-2] + found[-1]]
    return found


def _split(graph: fx.GraphModule, found: list[Segment], depth: int) -> list[list[Segment]]:
    """Divide the segments of one module among its children, until each part is one block."""
    runs: list[tuple[str | None, list[Segment]]] = []
    for segment in found:
        parts = segment.path.split(".") if segment.path else []
        child = parts[depth] if len(parts) > depth else None
        if runs and runs[-1][0] == child:
            runs[-1][1].append(segment)
        else:
            runs.append((child, [segment]))
    out: list[list[Segment]] = []
    for child, run_ in runs:
        if child is None:
            out += _loose(graph, run_)
        elif _one_block(graph, run_):
            out.append(run_)
        else:
            out += _split(graph, run_, depth + 1)
    return out


def _one_block(graph: fx.GraphModule, run_: list[Segment]) -> bool:
    residual = sum(joins_identity(graph, s.start, s.end) is not None for s in run_)
    layers = [weighted(graph, s.nodes) for s in run_]
    if residual:
        others = sum(n for s, n in zip(run_, layers) if joins_identity(graph, s.start, s.end) is None)
        return residual == 1 and not others and joins_identity(graph, run_[0].start, run_[-1].end) is not None
    branched = sum(len(s.nodes) > 1 for s in run_)
    return branched <= 1 and (len(run_) == 1 or sum(layers) <= MOST_LAYERS)


def _loose(graph: fx.GraphModule, run_: list[Segment]) -> list[list[Segment]]:
    """Segments in no module of their own: a branched one is a block, others go together by threes."""
    out: list[list[Segment]] = []
    now: list[Segment] = []

    def close() -> None:
        if now:
            out.append(list(now))
            now.clear()

    for segment in run_:
        layers = weighted(graph, segment.nodes)
        before = sum(weighted(graph, s.nodes) for s in now)
        if len(segment.nodes) > 1:
            close()
            out.append([segment])
        elif layers:
            if before >= LOOSE_LAYERS or (before and _shrinks(now[-1])):
                close()
            now.append(segment)
        elif not now and out and _ends(graph, out[-1], segment):
            out[-1].append(segment)
        else:
            now.append(segment)
    close()
    return out


def _shrinks(segment: Segment) -> bool:
    return bool(segment.start.meta["shape"][2:] != segment.end.meta["shape"][2:])


def _ends(graph: fx.GraphModule, block: list[Segment], segment: Segment) -> bool:
    """Whether an operation behind a block belongs to it: an activation, or nothing at all."""
    acts = _name(graph, segment.end) in _ACTS or _nothing(graph, segment.end)
    return acts and segment.path == block[-1].path


@dataclass(frozen=True, eq=False)
class Form:
    """A piece at one width, as it stands in a network.

    Attributes:
        piece: the piece.
        width: inner channels of its widest group; None as it was.
    """

    piece: Piece
    width: int | None

    @cached_property
    def _built(self) -> tuple[fx.GraphModule, str, int, int]:
        made = self.piece.alone
        if self.width is not None:
            made = copy.deepcopy(made)
            found = self.piece.channels
            widths.narrow(made, found, widths.kept(found, self.width))
            annotate(made, self.piece.shape_in, self.piece.start.meta["dtype"])
        macs = sum(int(n.meta.get("macs", 0)) for n in made.graph.nodes)
        return made, structure(made), macs, sum(p.numel() for p in made.parameters())

    @property
    def key(self) -> str:
        """Sixteen hexadecimal digits of the structure, shapes and types; no weights and no names."""
        return self._built[1]

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one image."""
        return self._built[2]

    @property
    def params(self) -> int:
        """Trainable numbers."""
        return self._built[3]

    @property
    def shape_in(self) -> tuple[int, ...]:
        """Shape of what enters, without the batch."""
        return self.piece.shape_in

    @property
    def shape_out(self) -> tuple[int, ...]:
        """Shape of what leaves, without the batch."""
        return self.piece.shape_out

    @property
    def dtype(self) -> str:
        """Type of the numbers that enter."""
        return self.piece.dtype

    def module(self) -> nn.Module:
        """The form alone, in eval mode. Its weights are the network's own: copy it before changing them."""
        return self._built[0]


@dataclass(frozen=True, eq=False)
class Piece:
    """A block of a user's network.

    Attributes:
        name: of the user's module that it is, or of its first layer.
        graph: the whole network.
        start, end: the tensor that enters and the one that leaves.
        nodes: operations of it, in order.
        shared: modules and parameters that other pieces use as well.
    """

    name: str
    graph: fx.GraphModule
    start: fx.Node
    nodes: tuple[fx.Node, ...]
    end: fx.Node
    shared: frozenset[str]
    is_last: bool = False
    _forms: dict[int | None, Form] = field(default_factory=dict)

    @property
    def shape_in(self) -> tuple[int, ...]:
        """Shape of what enters, without the batch."""
        return tuple(self.start.meta["shape"][1:])

    @property
    def shape_out(self) -> tuple[int, ...]:
        """Shape of what leaves, without the batch."""
        return tuple(self.end.meta["shape"][1:])

    @property
    def dtype(self) -> str:
        """Type of the numbers that enter."""
        return str(self.start.meta["dtype"]).removeprefix("torch.")

    @property
    def key(self) -> str:
        """Of the piece as it is; see `Form.key`."""
        return self.form().key

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one image."""
        return self.form().macs

    @property
    def params(self) -> int:
        """Trainable numbers."""
        return self.form().params

    def form(self, width: int | None = None) -> Form:
        """The piece at a width, which must be one of `widths`; None as it is."""
        if width == self.width:
            width = None
        if width not in self._forms:
            self._forms[width] = Form(self, width)
        return self._forms[width]

    @cached_property
    def join(self) -> fx.Node | None:
        """The addition of a branch to what entered, where the piece is a residual block."""
        return joins_identity(self.graph, self.start, self.end)

    @cached_property
    def channels(self) -> widths.Channels:
        """What the inner channels depend on."""
        return widths.channels(self.alone, self.shared)

    @property
    def droppable(self) -> bool:
        """Whether what enters can go on to the next piece in place of what leaves."""
        return "drop" not in self.reasons

    @property
    def repeatable(self) -> bool:
        """Whether a copy can be put behind it that changes nothing at first."""
        return "repeat" not in self.reasons

    @property
    def width(self) -> int:
        """Channels of the widest group that can be narrowed; 0 where there is none."""
        return self.channels.groups[0].width if self.channels.groups else 0

    @property
    def widths(self) -> tuple[int, ...]:
        """Smaller widths that it is offered at, ascending."""
        if not self.channels.groups:
            return ()
        first = self.channels.groups[0]
        return widths.steps(first.width, first.unit)

    @cached_property
    def reasons(self) -> dict[str, str]:
        """Why it cannot be dropped ("drop"), repeated ("repeat") or narrowed ("widths")."""
        found = {}
        if self.join is None:
            same = self.shape_in == self.shape_out
            found["drop"] = (
                "no addition joins a branch to its input" if same else "its output has another shape"
            )
            found["repeat"] = found["drop"]
        elif (end := self.branch_end) is None:
            found["repeat"] = "its branch has no last layer that can start at zero"
        elif isinstance(end, str):
            found["repeat"] = end
        if not self.channels.groups:
            fixed = list(dict.fromkeys(self.channels.fixed.values()))
            found["widths"] = (
                "its channels stay: " + "; ".join(fixed) if fixed else "it has no inner channels"
            )
        if self.shared:
            found["repeat"] = found["drop"] = "other blocks use its modules too"
        return found

    @cached_property
    def branch_end(self) -> fx.Node | str | None:
        """The layer that makes the branch nothing where its weights are zero; text says why there is none."""
        if self.join is None:
            return None
        node: Any = self.end
        while node is not self.join:
            if not _nothing(self.graph, node) and _name(self.graph, node) not in _TWICE_IS_ONCE:
                return f"its last {_name(self.graph, node)} would be applied twice"
            node = node.args[0]
        branch = next(s for s in self.join.args[:2] if _through(self.graph, s) is not self.start)
        return _zero_end(self.graph, branch, set(self.nodes))

    @cached_property
    def alone(self) -> fx.GraphModule:
        """The piece alone: one tensor in, one out. Its modules are the network's."""
        graph, at = fx.Graph(), {}
        at[self.start] = graph.placeholder("x")
        at[self.start].meta = {name: self.start.meta[name] for name in ("shape", "dtype")}
        for node in needed(self.graph.graph, self.nodes, self.start):
            # The batch size, asked of the network's input, is asked of the piece's.
            at[node] = graph.node_copy(node, lambda n: at.get(n, at[self.start]))
            at[node].meta = dict(node.meta)
        graph.output(at[self.end])
        return fx.GraphModule(self.graph, graph, "Piece")


def _zero_end(graph: fx.GraphModule, node: Any, inside: set[fx.Node]) -> fx.Node | None:
    """The last layer of a branch that can be zero, behind which zero stays zero."""
    while isinstance(node, fx.Node) and node in inside:
        if node.op == "call_module":
            module = graph.get_submodule(str(node.target))
            if isinstance(module, KNOWN) and isinstance(getattr(module, "weight", None), Tensor):
                return node
        name = _name(graph, node)
        if name in ("mul", "mul_", "imul"):
            parameter = next((a for a in node.args if isinstance(a, fx.Node) and a.op == "get_attr"), None)
            if parameter is not None:
                return parameter
            node = node.args[0]
        elif _nothing(graph, node) or name in _ZERO_AT_ZERO or name in ("permute", "view", "reshape"):
            node = node.args[0]
        else:
            return None
    return None


def needed(graph: fx.Graph, nodes: Sequence[fx.Node], start: fx.Node) -> list[fx.Node]:
    """Operations of a piece with the parameters and batch sizes that it uses, in order.

    The batch size is asked of what enters the piece: `start` stands in for the network's input.
    """
    aside, wanted = free(graph), set(nodes)
    todo = [n for node in nodes for n in node.all_input_nodes if n in aside]
    while todo:
        node = todo.pop()
        if node not in wanted:
            wanted.add(node)
            todo += [n for n in node.all_input_nodes if n.op != "placeholder"]
    return [n for n in graph.nodes if n in wanted]


def cut(graph: fx.GraphModule) -> tuple[Piece, ...]:
    """The pieces of a traced network, in order; together they are the network."""
    found = blocks(graph)
    uses: dict[str, set[int]] = {}
    inner = [[n for s in block for n in s.nodes] for block in found]
    for at, nodes in enumerate(inner):
        for node in needed(graph.graph, nodes, nodes[0]):
            if _has_state(graph, node):
                uses.setdefault(str(node.target), set()).add(at)
    names: dict[str, int] = {}
    pieces: list[Piece] = []
    for at, (block, nodes) in enumerate(zip(found, inner)):
        shared = frozenset(target for target, where in uses.items() if at in where and len(where) > 1)
        pieces.append(
            Piece(
                _unique(_title(graph, block, nodes), names),
                graph,
                block[0].start,
                tuple(nodes),
                block[-1].end,
                shared,
                at == len(found) - 1,
            )
        )
    return tuple(pieces)


def _has_state(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Whether an operation has weights of the network's."""
    if node.op == "call_module":
        return bool(graph.get_submodule(str(node.target)).state_dict())
    return node.op == "get_attr"


def _title(graph: fx.GraphModule, block: list[Segment], nodes: list[fx.Node]) -> str:
    """The module that a block is; where it is a part of one, its first layer with weights, else its first."""
    layers = [n for n in nodes if n.op == "call_module"]
    path = _common(nodes)
    if path and len(nodes) > 1 and _whole(graph, path, nodes):
        # `features.2`, not `features.2.conv`, where there is nothing else in it.
        while not path.rpartition(".")[2].isdigit() and _whole(graph, path.rpartition(".")[0], nodes):
            path = path.rpartition(".")[0]
        return path
    named = next((n for n in layers if n.meta.get("macs")), layers[0] if layers else None)
    return str(named.target) if named is not None else f"{path + '.' if path else ''}{nodes[0].name}"


def _whole(graph: fx.GraphModule, path: str, nodes: list[fx.Node]) -> bool:
    """Whether a block is all of a module, which the network itself is not."""
    if not path:
        return False
    mine = set(nodes)
    inside = f"{path}."
    return not any(
        n not in mine and n.op == "call_module" and str(n.target).startswith(inside) and n.meta.get("macs")
        for n in graph.graph.nodes
    )


def _unique(name: str, names: dict[str, int]) -> str:
    names[name] = names.get(name, 0) + 1
    return name if names[name] == 1 else f"{name}#{names[name]}"


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
        if node.op == "call_module" and _nothing(graph, node):
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
            name = _name(graph, node)
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
