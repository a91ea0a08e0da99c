"""The variants of a traced model as a search space: every piece in one of its forms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any

import numpy as np

from hwnas.errors import InputError
from hwnas.nets.model import variants
from hwnas.nets.model.bases import OwnModel
from hwnas.nets.model.cut import Piece
from hwnas.protocols import Move
from hwnas.spec import BlockSpec, NetworkSpec
from hwnas.traced import DROP, KEEP, REPEAT, WIDTH, PieceSpec, VariantSpec

# Parts of its inner width that a piece is offered at, as near as its widths come.
PARTS = (0.75, 0.5, 0.25)


@dataclass(frozen=True)
class PieceForm:
    """A piece in one form.

    Attributes:
        edit: ``keep``, ``drop``, ``width:24`` or ``repeat:2``.
        blocks: the table keys that it is made of; none where it is dropped.
    """

    edit: str
    blocks: tuple[PieceSpec, ...]


class ModelSpace:
    """Implements `hwnas.protocols.SearchSpace` over one model.

    Attributes:
        name: the model's source.
        base, parent: the model as data, and traced.
        notes: what loading and tracing found worth saying.
        new_head: whether its head was put in for another number of classes, and knows nothing.
        repeats: the largest number of times that a piece may stand in a row.
        places: pieces by name in their order, each with its forms; the first is the piece as it is.
    """

    def __init__(self, own: OwnModel, *, repeats: int = 1) -> None:
        self.base, self.parent = variants.remember(own)
        self.notes = tuple(dict.fromkeys((*own.notes, *self.parent.notes)))
        self.new_head = any("untrained" in note for note in own.notes)
        self.name, self.repeats = self.base.source, repeats
        self.places: dict[str, tuple[PieceForm, ...]] = {
            piece.name: tuple(self._forms(piece)) for piece in self.parent.pieces
        }
        if all(len(forms) == 1 for forms in self.places.values()):
            why = "; ".join(f"{p.name}: {', '.join(p.reasons.values())}" for p in self.parent.pieces[:3])
            raise InputError(
                f"{self.name} has no piece that can be dropped, narrowed or repeated ({why}); "
                f"`hwnas model inspect {self.name}` shows all of them"
            )

    def _forms(self, piece: Piece) -> list[PieceForm]:
        whole = variants.form_key(piece.form())
        forms = [PieceForm(KEEP, (whole,))]
        forms += [PieceForm(f"{WIDTH}:{w}", (variants.form_key(piece.form(w)),)) for w in _few(piece)]
        if piece.droppable:
            forms.append(PieceForm(DROP, ()))
        if piece.repeatable:
            forms += [PieceForm(f"{REPEAT}:{n}", (whole,) * n) for n in range(2, self.repeats + 1)]
        return forms

    @cached_property
    def runs(self) -> list[list[str]]:
        """Names of the pieces between the first and the last, in runs of one shape."""
        inner = self.parent.pieces[1:-1]
        return [[piece.name for piece in run] for _, run in groupby(inner, lambda piece: piece.shape_out)]

    def variant(self, edits: Mapping[str, str] = {}) -> VariantSpec:
        """The model with some of its pieces edited.

        Raises:
            InputError: there is no such piece, or it has no such form.
        """
        unknown = [name for name in edits if name not in self.places]
        if unknown:
            raise InputError(f"{self.name} has no piece {unknown[0]!r}; `hwnas model inspect` lists them")
        chosen = {name: self._form(name, edits.get(name, KEEP)) for name in self.places}
        first, last = self.parent.pieces[0].name, self.parent.pieces[-1].name
        return VariantSpec(
            stem=chosen[first].blocks[0],
            stages=tuple(
                tuple(block for name in stage for block in chosen[name].blocks) for stage in self.runs
            ),
            head=chosen[last].blocks[0],
            base=self.base,
            places=tuple(name for name, form in chosen.items() for _ in form.blocks),
            edits=tuple((name, form.edit) for name, form in chosen.items() if form.edit != KEEP),
            space=self.name,
        )

    def _form(self, name: str, edit: str) -> PieceForm:
        found = [form for form in self.places[name] if form.edit == edit]
        if not found:
            known = ", ".join(form.edit for form in self.places[name])
            raise InputError(f"{name} of {self.name} cannot be changed to {edit!r} (known: {known})")
        return found[0]

    def smallest(self) -> VariantSpec:
        """Every piece in its cheapest form: dropped, else narrowest."""
        return self.variant({name: self._least(forms).edit for name, forms in self.places.items()})

    @staticmethod
    def _least(forms: Sequence[PieceForm]) -> PieceForm:
        return min(forms, key=lambda form: (sum(b.macs for b in form.blocks), len(form.blocks)))

    def sample(self, rng: np.random.Generator) -> VariantSpec:
        """A random member, of all sizes alike: how likely a piece is left as it is is itself drawn."""
        kept = rng.random()
        return self.variant(
            {
                name: forms[int(rng.integers(len(forms)))].edit
                for name, forms in self.places.items()
                if rng.random() > kept
            }
        )

    def mutate(self, spec: NetworkSpec, rng: np.random.Generator) -> VariantSpec:
        """One piece in another form."""
        edits = self._edits(spec)
        names = [name for name, forms in self.places.items() if len(forms) > 1]
        name = names[int(rng.integers(len(names)))]
        others = [form.edit for form in self.places[name] if form.edit != edits.get(name, KEEP)]
        return self.variant({**edits, name: others[int(rng.integers(len(others)))]})

    def grow(self, spec: NetworkSpec) -> list[Move]:
        """Every piece that was changed, as it was."""
        edits, moves = self._edits(spec), []
        for at, stage in enumerate(self.runs):
            for name in stage:
                if name in edits:
                    back = {other: edit for other, edit in edits.items() if other != name}
                    kind = "deeper" if edits[name] == DROP else "wider"
                    moves.append(Move(at, kind, self.variant(back)))
        return moves

    def uniform(self) -> list[NetworkSpec]:
        """Pieces dropped evenly over the model, most of them first: the usual baseline; last the model."""
        names = [p.name for p in self.parent.pieces if p.droppable]
        if not names:
            return [self.smallest(), self.variant()]
        members: list[NetworkSpec] = []
        for count in range(len(names), -1, -1):
            dropped = {names[(2 * i + 1) * len(names) // (2 * count)] for i in range(count)}
            members.append(self.variant(dict.fromkeys(dropped, DROP)))
        return members

    def blocks(self) -> tuple[BlockSpec, ...]:
        """Every form of every piece."""
        found = (block for forms in self.places.values() for form in forms for block in form.blocks)
        return tuple(sorted(dict.fromkeys(found)))

    def __contains__(self, spec: object) -> bool:
        if not isinstance(spec, VariantSpec) or spec.base.graph != self.base.graph:
            return False
        try:
            return self.variant(dict(spec.edits)).blocks == spec.blocks
        except InputError:
            return False

    def _edits(self, spec: NetworkSpec) -> dict[str, str]:
        assert isinstance(spec, VariantSpec)
        return dict(spec.edits)

    def describe(self) -> dict[str, Any]:
        """What the space is, for display."""
        return {"input": list(self.base.input_shape), "classes": self.base.classes}


def _few(piece: Piece) -> list[int]:
    """Widths that a piece is offered at, widest first: each is a row of the table and a network to judge."""
    if not piece.widths:
        return []
    nearest = {min(piece.widths, key=lambda width: abs(width - part * piece.width)) for part in PARTS}
    return sorted(nearest, reverse=True)
