"""A graph in pieces, each joined again to the user's own blocks, and the forms that a piece can take.

Where it may be cut `segments` says; a piece is a block of segments, alone, and what can be done with it.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import Tensor, fx, nn

from hwnas.nets.model import widths
from hwnas.nets.model.narrow import kept, narrow
from hwnas.nets.model.segments import (
    ACTS,
    TWICE_IS_ONCE,
    Segment,
    blocks,
    common_path,
    does_nothing,
    free,
    joins_identity,
    operation_name,
    through,
)
from hwnas.nets.model.structure import structure
from hwnas.nets.model.trace import annotate
from hwnas.nets.model.tracer import KNOWN

_ZERO_AT_ZERO = ACTS | {"Mish", "Tanh", "LeakyReLU", "ELU", "leaky_relu", "PReLU", "Swish"}


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
            narrow(made, found, kept(found, self.width))
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
            if not does_nothing(self.graph, node) and operation_name(self.graph, node) not in TWICE_IS_ONCE:
                return f"its last {operation_name(self.graph, node)} would be applied twice"
            node = node.args[0]
        branch = next(s for s in self.join.args[:2] if through(self.graph, s) is not self.start)
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
        name = operation_name(graph, node)
        if name in ("mul", "mul_", "imul"):
            parameter = next((a for a in node.args if isinstance(a, fx.Node) and a.op == "get_attr"), None)
            if parameter is not None:
                return parameter
            node = node.args[0]
        elif does_nothing(graph, node) or name in _ZERO_AT_ZERO or name in ("permute", "view", "reshape"):
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
    path = common_path(nodes)
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
