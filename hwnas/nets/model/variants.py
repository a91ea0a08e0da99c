"""Variants of traced models by their specs: to modules, to ONNX, with weights handed on.

A spec names its model by source and hash. Models that were loaded are remembered here by that hash, so
that whatever holds a spec alone (a sweep, an evaluator, an export) can build from it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING

from torch import Tensor, fx, nn

from hwnas import sizes
from hwnas.arrays import Float32s
from hwnas.documents import json_object
from hwnas.errors import DataFormatError, InputError
from hwnas.nets.build import load_weights, weights
from hwnas.nets.model.cut import Form
from hwnas.nets.model.edits import Edits
from hwnas.nets.model.parent import Parent, parent
from hwnas.nets.model.refit import Refit, staying
from hwnas.nets.model.result import from_recipe, recipe
from hwnas.nets.model.to_onnx import forms_onnx, module_onnx
from hwnas.nets.onnx import as_part
from hwnas.sizes import MapSize
from hwnas.traced import ModelBase, PieceSpec, VariantSpec, digest, own_function

if TYPE_CHECKING:
    from hwnas.nets.model.bases import OwnModel

BYTES = 4  # fp32

_PARENTS: dict[str, Parent] = {}
_FORMS: dict[str, Form] = {}


def remember(own: OwnModel) -> tuple[ModelBase, Parent]:
    """Trace a loaded model and make its variants buildable from their specs."""
    traced = parent(own)
    graph = digest(" ".join(f"{piece.name}={piece.key}" for piece in traced.pieces))
    base = ModelBase(
        source=own.source,
        input_shape=own.input_shape,
        classes=own.classes or traced.pieces[-1].shape_out[0],
        graph=graph,
        recipe=json.dumps(recipe(traced), sort_keys=True),
    )
    _PARENTS[graph] = traced
    return base, traced


def parent_of(base: ModelBase, source: str | None = None) -> Parent:
    """The traced model of a base: remembered, or built again, its weights by chance.

    Args:
        base: of a variant.
        source: the user's own function, where the model is one; None takes the one that the user named.

    Raises:
        InputError: the user's function must be named.
        DataFormatError: it is another model today.
    """
    if base.graph in _PARENTS:
        return _PARENTS[base.graph]
    where = f"a variant of {base.source}"
    found, traced = remember(
        from_recipe(json_object(base.recipe, where), source or own_function.get(), where)
    )
    if found.graph != base.graph:
        raise DataFormatError(
            f"{source or base.source} gives another model today than the one that this network was made from "
            f"(structure {found.graph}, {base.graph} is recorded); give it as it was"
        )
    return traced


def form_key(form: Form) -> PieceSpec:
    """A form of a piece as a table key; it can be built from then on."""
    spec = _described(form)
    _FORMS[spec.graph] = form
    return spec


@lru_cache(maxsize=4096)
def _described(form: Form) -> PieceSpec:
    (c_in, *in_), (c_out, *out) = form.shape_in, form.shape_out
    module = form.module()
    return PieceSpec(
        graph=form.key,
        c_in=c_in,
        c_out=c_out,
        size_in=_size(in_),
        side_out=_size(out),
        macs=form.macs,
        params=form.params,
        activation_bytes=BYTES * (math.prod(form.shape_in) + math.prod(form.shape_out)),
        weight_bytes=BYTES * form.params,
        depth=sum(isinstance(layer, nn.Conv2d) for layer in module.modules()),
    )


def _size(of: Sequence[int]) -> MapSize:
    """Of a feature map its height and width; of a sequence the side of a square of as many places."""
    if len(of) == 2:
        return sizes.of(*of)
    return max(round(math.sqrt(math.prod(of))), 1)


def edits_of(spec: VariantSpec) -> Edits:
    """What is done to the model."""
    dropped, widths, repeats = [], {}, {}
    for name, what in spec.edits:
        kind, _, value = what.partition(":")
        if kind == "drop":
            dropped.append(name)
        elif kind == "width":
            widths[name] = int(value)
        else:
            repeats[name] = int(value)
    return Edits(dropped=frozenset(dropped), widths=widths, repeats=repeats)


class _VariantBuilder:
    """Implements `hwnas.traced.TracedBuilder`."""

    def build(self, spec: VariantSpec) -> nn.Module:
        """A module of a variant, with the weights that its model was loaded with."""
        module: nn.Module = parent_of(spec.base).variant(edits_of(spec)).module()
        return module

    def inherit(self, module: nn.Module, spec_from: VariantSpec, spec_to: VariantSpec) -> nn.Module:
        """A variant that starts from the weights of another one of the same model.

        From the whole model: what is kept keeps its weights, and narrower pieces keep their most important
        channels. From a variant: every array that both have in the same shape.
        """
        device, traced = next(module.parameters()).device, parent_of(spec_to.base)
        if not spec_from.edits:
            with _weights_of(module, traced):
                made = self.build(spec_to)
        else:
            made = self.build(spec_to)
            own, given = weights(made), weights(module)
            same = {n: given[n] for n, value in own.items() if n in given and given[n].shape == value.shape}
            load_weights(made, own | same)
        return made.to(device).train(module.training)

    def refitter(self, module: nn.Module, images: Tensor) -> Callable[[nn.Module, VariantSpec], None]:
        """What fits a variant, in place, to what the whole model gives; see `refit.Refit`."""
        assert isinstance(module, fx.GraphModule)
        fitted = Refit(module, images)

        def fit(net: nn.Module, spec: VariantSpec) -> None:
            traced = parent_of(spec.base)
            assert isinstance(net, fx.GraphModule)
            with _weights_of(module, traced):
                stays = staying(traced.pieces, edits_of(spec))
            fitted(net, stays)

        return fit

    def network_onnx(
        self, spec: VariantSpec, values: Mapping[str, Float32s] | None, batch: int | None
    ) -> bytes:
        """A variant as ONNX; without weights those of the loaded model, whose times are the same."""
        module = self.build(spec)
        if values is not None:
            load_weights(module, values)
        return module_onnx(module.eval(), spec.input_shape, batch)

    def chain_onnx(self, pieces: Sequence[PieceSpec], batch: int | None) -> bytes:
        """Pieces that follow each other as one ONNX graph, for measuring time.

        Raises:
            InputError: the model that one was cut from was not loaded.
        """
        unknown = [piece.key for piece in pieces if piece.graph not in _FORMS]
        if unknown:
            raise InputError(
                f"the piece {unknown[0]} can only be built from the model that it was cut from; name it: "
                "hwnas profile --model MODEL"
            )
        return as_part(forms_onnx([_FORMS[p.graph] for p in pieces], batch=1 if batch is None else batch))


@contextmanager
def _weights_of(module: nn.Module, traced: Parent) -> Iterator[None]:
    """The traced graph with the weights of a module of the whole model."""
    before = {name: value.copy() for name, value in weights(traced.graph).items()}
    load_weights(traced.graph, weights(module))
    try:
        yield
    finally:
        load_weights(traced.graph, before)


BUILDER = _VariantBuilder()
