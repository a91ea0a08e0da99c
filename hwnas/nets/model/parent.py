"""All that is known of a user's network: its graph and pieces; and its variants."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, fx, nn

from hwnas.errors import InputError
from hwnas.nets.model import to_onnx
from hwnas.nets.model.bases import OwnModel
from hwnas.nets.model.cut import Form, Piece, cut, needed
from hwnas.nets.model.edits import Edits
from hwnas.nets.model.narrow import ChannelScores, kept, narrow
from hwnas.nets.model.trace import traced
from hwnas.nets.model.tracer import Leaf, attribute
from hwnas.plugins import unknown


@dataclass(frozen=True, eq=False)
class Parent:
    """A user's network, traced and cut.

    Attributes:
        own: where it comes from.
        graph: the network as a graph, in eval mode; its state dict has the user's own names.
        pieces: its blocks in order.
        leaves: modules that could not be followed.
        notes: what the reader should know.
    """

    own: OwnModel
    graph: fx.GraphModule
    pieces: tuple[Piece, ...]
    leaves: tuple[Leaf, ...]
    notes: tuple[str, ...]

    @cached_property
    def by_name(self) -> Mapping[str, Piece]:
        """Pieces by their names."""
        return {piece.name: piece for piece in self.pieces}

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one image."""
        return sum(piece.macs for piece in self.pieces)

    @property
    def params(self) -> int:
        """Trainable numbers."""
        return sum(p.numel() for p in self.graph.parameters())

    @cached_property
    def unchangeable(self) -> str:
        """Why no block can be dropped, narrowed or repeated; empty where one can."""
        if any(p.droppable or p.repeatable or p.widths for p in self.pieces):
            return ""
        why = sorted({reason for p in self.pieces for reason in p.reasons.values()})
        return f"no block of {self.own.source} can be dropped, narrowed or repeated: {'; '.join(why)}"

    def variant(self, edits: Edits) -> Variant:
        """A changed form; InputError where a piece is unknown or cannot be changed so."""
        for name in (*edits.dropped, *edits.widths, *edits.repeats):
            if name not in self.by_name:
                raise InputError(unknown("block", name, list(self.by_name)))
        for name in edits.dropped:
            if not self.by_name[name].droppable:
                raise InputError(f"block {name} cannot be dropped: {self.by_name[name].reasons['drop']}")
        for name, width in edits.widths.items():
            piece = self.by_name[name]
            if width not in (*piece.widths, piece.width) or not width:
                offered = ", ".join(map(str, piece.widths)) or piece.reasons.get("widths", "none")
                raise InputError(f"block {name} cannot have {width} inner channels; offered: {offered}")
        for name, times in edits.repeats.items():
            if times > 1 and not self.by_name[name].repeatable:
                raise InputError(f"block {name} cannot be repeated: {self.by_name[name].reasons['repeat']}")
            if times > 1 and name in edits.dropped:
                raise InputError(f"block {name} is both dropped and repeated; choose one")
        return Variant(self, edits)


@dataclass(frozen=True, eq=False)
class Variant:
    """A changed form of a network."""

    parent: Parent
    edits: Edits

    @cached_property
    def _forms(self) -> tuple[Form, ...]:
        found = []
        for piece in self.parent.pieces:
            if piece.name not in self.edits.dropped:
                form = piece.form(self.edits.widths.get(piece.name))
                found += [form] * self.edits.repeats.get(piece.name, 1)
        return tuple(found)

    def forms(self) -> tuple[Form, ...]:
        """Its pieces in order, each as often as it runs."""
        return self._forms

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one image."""
        return sum(form.macs for form in self._forms)

    @property
    def params(self) -> int:
        """Trainable numbers."""
        return sum(form.params for form in self._forms)

    def module(self, importance: ChannelScores | None = None) -> fx.GraphModule:
        """The network with its weights: kept channels are those of most importance, copies change nothing.

        Args:
            importance: for the name of a layer the score of each of its output channels; without it the
                L1 norm of the weights, batch norm folded in.
        """
        return edited(self.parent, self.edits, importance)

    def onnx_bytes(self, batch: int | None = 1) -> bytes:
        """The network with its weights as ONNX; None leaves the batch open."""
        return to_onnx.module_onnx(self.module(), self.parent.own.input_shape, batch)


def parent(own: OwnModel) -> Parent:
    """Trace and cut a network; InputError says what cannot be followed."""
    found = traced(own.module, torch.zeros(own.input_shape))
    return Parent(own, found.graph, cut(found.graph), found.leaves, (*own.notes, *found.notes))


def edited(parent: Parent, edits: Edits, importance: ChannelScores | None = None) -> fx.GraphModule:
    """A copy of a network with changes; weights that stay keep their values.

    Importance is asked for the names of layers; see `narrow.kept`.
    """
    made = copy.deepcopy(parent.graph)
    nodes = {node.name: node for node in made.graph.nodes}
    for piece in reversed(parent.pieces):  # what enters a piece is then still what entered it in the network
        width = edits.widths.get(piece.name)
        if width is not None and width != piece.width:
            found = piece.channels
            narrow(made, found, kept(found, width, importance))
        if piece.name in edits.dropped:
            nodes[piece.end.name].replace_all_uses_with(nodes[piece.start.name])
        for copy_ in range(2, edits.repeats.get(piece.name, 1) + 1):
            _repeat(made, piece, nodes, copy_)
    made.graph.eliminate_dead_code()
    made.delete_all_unused_submodules()
    made.graph.lint()
    made.recompile()
    return made


def _repeat(made: fx.GraphModule, piece: Piece, nodes: Mapping[str, fx.Node], number: int) -> None:
    """Put a copy of a piece behind it, whose branch gives zero."""
    last = nodes[piece.end.name]
    before = list(last.users)
    at: dict[str, fx.Node] = {piece.start.name: last}
    zero = piece.branch_end
    assert isinstance(zero, fx.Node)
    anchor = last
    for node in needed(piece.graph.graph, piece.nodes, piece.start):
        with made.graph.inserting_after(anchor):
            new = made.graph.node_copy(node, lambda n: at[n.name] if n.name in at else nodes[n.name])
        anchor = at[node.name] = new
        new.meta["path"] = _renamed(piece.name, str(node.meta.get("path", "")), number)
        if node.op in ("call_module", "get_attr"):
            new.target = _renamed(piece.name, str(node.target), number)
            _place(made, str(node.target), new.target)
        if node.name == zero.name:
            _zero(made, new)
    for user in before:
        user.replace_input_with(last, at[piece.end.name])


def _renamed(piece: str, target: str, number: int) -> str:
    """The name of a copy: beside the piece, with its number."""
    if target == piece or target.startswith(f"{piece}."):
        return f"{piece}_{number}{target[len(piece) :]}"
    return f"{target}_{number}"


def _place(made: fx.GraphModule, source: str, target: str) -> None:
    """Copy a module or parameter to another name."""
    value = copy.deepcopy(attribute(made, source))
    if isinstance(value, nn.Module):
        made.add_submodule(target, value)
        return
    owner, _, last = target.rpartition(".")
    if owner and not _has(made, owner):
        made.add_submodule(owner, nn.Module())
    holder = made.get_submodule(owner)
    if isinstance(value, nn.Parameter):
        holder.register_parameter(last, value)
    else:
        holder.register_buffer(last, value)


def _has(module: nn.Module, name: str) -> bool:
    try:
        module.get_submodule(name)
    except AttributeError:
        return False
    return True


def _zero(made: fx.GraphModule, node: fx.Node) -> None:
    found = attribute(made, str(node.target))
    with torch.no_grad():
        for value in (found,) if isinstance(found, Tensor) else (found.weight, found.bias):
            if value is not None:
                value.zero_()
