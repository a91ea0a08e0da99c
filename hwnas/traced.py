"""A user's own network as data: pieces that were cut from a traced model, and variants of the whole.

A piece takes the place that a block has in the spaces, a variant that of a network: tables, costs, budgets,
promises and engines hold both alike. Unlike a block, a piece cannot be built from its fields: it is named by
the hash of its structure, and the model that it was cut from (`ModelBase`) builds it (`hwnas.nets.model`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol, Union

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from hwnas import schemas, sizes
from hwnas.arrays import Float32s
from hwnas.errors import InputError
from hwnas.sizes import MOST_PIXELS, RECTANGLE, SQUARE, MapSize, SizeField
from hwnas.spec import MOST_CHANNELS, BlockSpec, NetworkSpec

if TYPE_CHECKING:
    from typing import TypeAlias

    import torch

TRACED = "traced"
# A function of the user's that he named himself, now: code that a file names is not run.
own_function: ContextVar[str] = ContextVar("own_function", default="")
# What is done to a piece: it stays as it is, or is left out; ``width:24`` and ``repeat:2`` have numbers.
KEEP, DROP, WIDTH, REPEAT = "keep", "drop", "width", "repeat"
# Sources whose code, or file, must be named again by the user for the model to be built.
USERS = ("file", "module", "onnx", "pt2")
# Beyond these a count in a file is no network's.
MOST_COUNT = 10**15


class PieceSpec(BlockSpec):
    """One piece of a traced model, in one form (whole, narrower): a key of a latency table.

    Attributes:
        graph: hash over its structure, shapes and types, whatever model it comes from; its identity.
        c_in, c_out, size_in, side_out: channels, and sizes as `BlockSpec` has them; 1 of a vector, and of a
            sequence the side of a square of as many places.
        macs, params, activation_bytes, weight_bytes, depth: its counts for one image, as in
            `hwnas.nets.count.Counts`.
    """

    kind: Literal["traced"] = "traced"
    graph: str = Field(pattern=r"^[0-9a-f]{8,64}$")
    side_out: SizeField
    macs: int = Field(ge=0, le=MOST_COUNT)
    params: int = Field(ge=0, le=MOST_COUNT)
    activation_bytes: int = Field(ge=0, le=MOST_COUNT)
    weight_bytes: int = Field(ge=0, le=MOST_COUNT)
    depth: int = Field(ge=0, le=MOST_COUNT)

    @model_validator(mode="after")
    def _check(self) -> PieceSpec:
        return self  # its structure was checked when it was traced

    @property
    def size_out(self) -> MapSize:
        """Size of the output in pixels; 1 where it has none."""
        return self.side_out

    @property
    def joins_identity(self) -> bool:
        """Whether input and output shapes are equal."""
        return (self.c_in, self.size_in) == (self.c_out, self.side_out)

    @property
    def key(self) -> str:
        """Readable table key, for example ``traced-64x64@16-1f0c...``."""
        return f"{TRACED}-{self.c_in}x{self.c_out}@{sizes.brief(self.size_in)}-{self.graph[:12]}"

    def repeated(self) -> PieceSpec:
        """The piece itself, where its shapes allow it to follow itself."""
        if not self.joins_identity:
            raise InputError(f"{self.key} changes its shape, so it cannot be repeated")
        return self


class ModelBase(BaseModel):
    """The model that variants are made from.

    Attributes:
        source: as the user wrote it (``torchvision:resnet18``, ``my_model.py:build``, a run).
        input_shape: channels, height and width of one image.
        classes: what its head gives.
        graph: hash over the whole traced structure; another one is another model.
        recipe: what it is built from again, as JSON (`hwnas.nets.model.result`).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str = Field(min_length=1, max_length=4096)
    input_shape: tuple[
        Annotated[int, Field(gt=0, le=MOST_CHANNELS)],
        Annotated[int, Field(gt=0, le=MOST_PIXELS)],
        Annotated[int, Field(gt=0, le=MOST_PIXELS)],
    ]
    classes: int = Field(gt=0, le=MOST_CHANNELS)
    graph: str = Field(pattern=r"^[0-9a-f]{8,64}$")
    recipe: str = Field(max_length=10**7)

    @property
    def function(self) -> str:
        """The file or function of the user's that it can only be built from; empty where there is none."""
        body = json.loads(self.recipe)
        while body.get("kind") == "edited":
            body = body["base"]
        return str(body["source"]) if body.get("kind") in USERS else ""


class VariantSpec(NetworkSpec):
    """A traced model, whole or edited.

    Attributes:
        base: what it is a variant of.
        edits: (name of a piece, what is done to it) in the order of the pieces; what is not named is kept.
            ``drop``, ``width:24`` (so many inner channels) or ``repeat:2`` (times in a row).
        stem, stages, head: the pieces that are there; a stage may be empty.
        places: the names of these pieces, in the order of `blocks`.
    """

    stem: PieceSpec
    stages: tuple[tuple[PieceSpec, ...], ...]
    head: PieceSpec
    base: ModelBase
    edits: tuple[tuple[str, str], ...] = ()
    places: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> VariantSpec:
        if len(self.places) != len(self.blocks):
            raise ValueError(f"places names {len(self.places)} pieces, and there are {len(self.blocks)}")
        before = self.stem
        for block in self.pieces[1:]:
            if (before.c_out, before.size_out) != (block.c_in, block.size_in):
                raise ValueError(f"{block.key} cannot follow {before.key}: their shapes differ")
            before = block
        return self

    @property
    def pieces(self) -> tuple[PieceSpec, ...]:
        """`blocks`, as what they are here."""
        return (self.stem, *(piece for stage in self.stages for piece in stage), self.head)

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self.base.classes

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one image."""
        return self.base.input_shape

    def to_json(self) -> str:
        """JSON text with its schema name."""
        body = {"schema": schemas.NETWORK, **self.model_dump(mode="json")}
        return json.dumps(body, indent=1) + "\n"


class TracedBuilder(Protocol):
    """What makes modules and graphs of variants and pieces: `hwnas.nets.model.variants`."""

    def build(self, spec: VariantSpec) -> torch.nn.Module:
        """A module of a variant, with the weights that its model was loaded with."""
        ...

    def inherit(
        self, module: torch.nn.Module, spec_from: VariantSpec, spec_to: VariantSpec
    ) -> torch.nn.Module:
        """A variant that starts from the weights of another one of the same model."""
        ...

    def refitter(
        self, module: torch.nn.Module, images: torch.Tensor
    ) -> Callable[[torch.nn.Module, VariantSpec], None]:
        """What fits a variant, in place, to what the whole model gives."""
        ...

    def network_onnx(
        self, spec: VariantSpec, values: Mapping[str, Float32s] | None, batch: int | None
    ) -> bytes:
        """A variant as ONNX."""
        ...

    def chain_onnx(self, pieces: Sequence[PieceSpec], batch: int | None) -> bytes:
        """Pieces that follow each other as one ONNX graph."""
        ...


def builder() -> TracedBuilder:
    """What builds traced networks; it needs torch, and is imported when one is first built."""
    found: TracedBuilder = resolve_name("hwnas.nets.model.variants:BUILDER")
    return found


def digest(text: str) -> str:
    """Sixteen hexadecimal digits over a structure."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


BUILT = "built"


def _which(value: Any) -> str:
    """Whether a document or an object is traced."""
    if isinstance(value, dict):
        return TRACED if "graph" in value or "base" in value else BUILT
    return TRACED if isinstance(value, (PieceSpec, VariantSpec)) else BUILT


def place_of(location: Sequence[int | str]) -> str:
    """Where in a document pydantic found a fault, without the name of the kind that it took it for."""
    return ".".join(str(part) for part in location if part not in (BUILT, TRACED, SQUARE, RECTANGLE))


# In records that travel through files: either kind, told apart by what only traced ones have. Written with
# Union: this file is read on targets of ssh, too (`measure.remote`), where Python 3.9 has no `|` of types.
AnyBlock: TypeAlias = Annotated[
    Union[Annotated[BlockSpec, Tag(BUILT)], Annotated[PieceSpec, Tag(TRACED)]],  # noqa: UP007
    Discriminator(_which),
]
AnyNetwork: TypeAlias = Annotated[
    Union[Annotated[NetworkSpec, Tag(BUILT)], Annotated[VariantSpec, Tag(TRACED)]],  # noqa: UP007
    Discriminator(_which),
]
