"""What a network is, as data: blocks in stages, with every shape known and checked.

A `BlockSpec` holds its own input size, so it is a complete key of a latency table (batch,
precision, threads and runtime are the table's `Setting`). A `NetworkSpec` is stem, stages and
head; it can be written to JSON, hashed, compared and grown, and knows nothing of torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from hwnas import plugins, schemas, sizes
from hwnas.errors import InputError
from hwnas.sizes import MapSize, SizeField, SizeOrZero, Whole
from hwnas.units import format_depths


def _known(kind: str) -> str:
    if not plugins.has("blocks", kind):
        raise ValueError(plugins.unknown("block kind", kind, plugins.names("blocks")))
    return kind


# A registered kind of block (`hwnas.plugins`, group "blocks"; docs/spaces.md says what each is).
Kind = Annotated[str, AfterValidator(_known)]
Act = Literal["none", "relu", "relu6", "hswish", "swish", "gelu"]
Convention = Literal["torch", "keras"]


def _integer(value: object) -> object:
    """An integer of any kind as Python's; true and 1.0 equal 1, and are none."""
    found = sizes.whole(value)
    if type(found) is not int:
        raise ValueError(f"{value!r} is not an integer")
    return found


# Sizes come from files, and are not believed before they could be built.
MOST_CHANNELS = 1 << 20


class BlockSpec(BaseModel):
    """One block: the unit that is searched, measured and priced.

    Attributes:
        kind: a registered kind of block (`hwnas.nets.blocks`).
        c_in, c_out: channels in and out.
        kernel: side of the spatial convolution, odd, in pixels.
        stride: 1 or 2; 4 of a stem that cuts the image into patches.
        expand: width multiplier inside the block (MBConv: hidden = expand * c_in; ConvNeXt: expand * c_out;
            bottleneck: hidden = c_out / expand).
        se: squeeze-and-excitation width as a fraction of the hidden width; 0 is without.
        act: activation; a classifier applies it before pooling.
        size_in: size of the input in pixels: the side of a square, or (height, width).
        c_skip, size_skip: channels and size of the second input of a cell, which is the output of
            the block before the previous one (for the first cell after the stem, the stem's);
            0 for every other kind, and then not part of JSON or key.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind
    c_in: Whole = Field(gt=0, le=MOST_CHANNELS)
    c_out: Whole = Field(gt=0, le=MOST_CHANNELS)
    kernel: Whole = Field(default=3, gt=0, le=255)
    stride: Annotated[Literal[1, 2, 4], BeforeValidator(_integer)] = 1
    expand: Whole = Field(default=1, gt=0, le=1024)
    se: float = Field(default=0.0, ge=0.0, le=1.0, strict=True)
    act: Act = "relu"
    size_in: SizeField
    c_skip: Whole = Field(default=0, ge=0, le=MOST_CHANNELS)
    size_skip: SizeOrZero = 0

    @model_serializer(mode="wrap")
    def _without_empty_skip(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        body: dict[str, Any] = handler(self)
        if not self.c_skip:
            body.pop("c_skip", None)
            body.pop("size_skip", None)
        return body

    @model_validator(mode="after")
    def _check(self) -> BlockSpec:
        kind = plugins.load("blocks", self.kind)
        if not kind.two_inputs and (self.c_skip or self.size_skip):
            raise ValueError(f"a {self.kind} block has no second input; leave out c_skip and size_skip")
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel {self.kernel} is even; same-size padding needs an odd kernel")
        if wrong := kind.check(self):
            raise ValueError(wrong)
        return self

    @property
    def size_out(self) -> MapSize:
        """Size of the output in pixels (padding k//2; a classifier gives 1)."""
        return 1 if self.kind == "classifier" else sizes.divided(self.size_in, self.stride)

    @property
    def elements_in(self) -> int:
        """Values of the input, of one image."""
        return self.c_in * sizes.pixels(self.size_in)

    @property
    def elements_out(self) -> int:
        """Values of the output, of one image."""
        return self.c_out * sizes.pixels(self.size_out)

    @property
    def elements_skip(self) -> int:
        """Values of the second input, of one image; 0 where there is none."""
        return self.c_skip * sizes.pixels(self.size_skip)

    @property
    def joins_identity(self) -> bool:
        """Whether input and output shapes are equal, so that the block could be left out."""
        return self.stride == 1 and self.c_in == self.c_out and self.kind != "classifier"

    @property
    def key(self) -> str:
        """Readable table key, for example ``basic-16x32-k3s2e1-relu@32``; ``@32x64`` is no square."""
        se = f"se{self.se:g}" if self.se else ""
        return (
            f"{self.kind}-{self.c_in}x{self.c_out}-k{self.kernel}s{self.stride}e{self.expand}{se}"
            f"-{self.act}@{sizes.brief(self.size_in)}"
            + (f"+{self.c_skip}@{sizes.brief(self.size_skip)}" if self.c_skip else "")
        )

    def repeated(self) -> BlockSpec:
        """The block that may follow this one in its stage: stride 1, equal widths."""
        follows: dict[str, Any] = {"c_in": self.c_out, "stride": 1, "size_in": self.size_out}
        if not plugins.load("blocks", self.kind).repeats:
            raise InputError(f"a {self.kind} block cannot be repeated; put another kind after it")
        if self.c_skip:
            follows |= {"c_skip": self.c_in, "size_skip": self.size_in}
        return self.model_copy(update=follows)

    def __lt__(self, other: BlockSpec) -> bool:
        return self.key < other.key


def with_skips(
    stem: BlockSpec, stages: tuple[tuple[BlockSpec, ...], ...]
) -> tuple[tuple[BlockSpec, ...], ...]:
    """The stages with the second inputs of cells taken from two blocks before."""
    before, now, made = stem, stem, []
    for stage in stages:
        blocks = []
        for block in stage:
            if block.c_skip:
                skip = {"c_skip": before.c_out, "size_skip": before.size_out}
                block = BlockSpec.model_validate(block.model_dump() | skip)
            blocks.append(block)
            before, now = now, block
        made.append(tuple(blocks))
    return tuple(made)


class NetworkSpec(BaseModel):
    """A whole network: stem, stages of blocks, head.

    Attributes:
        stem: first block, from the image.
        stages: blocks by stage; a stage is a run of blocks whose depth is searched.
        head: last block, a classifier.
        convention: how the published source of the skeleton counts and builds. ``keras``:
            convolutions carry a bias, shortcuts have no batch norm, and `params` counts the
            batch-norm moving statistics (StageWise NAS). ``torch``: no bias before batch norm,
            shortcuts have one, and `params` counts what is trained.
        space, name: where it comes from; not part of the identity.

    Raises:
        pydantic.ValidationError: where neighbouring shapes do not join.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    stem: BlockSpec
    stages: tuple[tuple[BlockSpec, ...], ...]
    head: BlockSpec
    convention: Convention = "torch"
    space: str = ""
    name: str = ""

    @model_validator(mode="after")
    def _check(self) -> NetworkSpec:
        if not self.stages or not all(self.stages):
            raise ValueError("a network needs at least one stage, and every stage at least one block")
        if self.head.kind != "classifier":
            raise ValueError(f"the head must be a classifier, not {self.head.kind!r}")
        before = self.stem
        for at, block in enumerate(self.blocks[1:], start=1):
            if (before.c_out, before.size_out) != (block.c_in, block.size_in):
                raise ValueError(
                    f"block {at} ({block.key}) takes {block.c_in}x{sizes.text(block.size_in)}, but the "
                    f"block before it gives {before.c_out}x{sizes.text(before.size_out)}"
                )
            if block.c_skip and (block.c_skip, block.size_skip) != (skip := self._skip(at)):
                raise ValueError(
                    f"block {at} ({block.key}) needs a second input of {block.c_skip}x"
                    f"{sizes.text(block.size_skip)}, but the block two places before gives "
                    f"{skip[0]}x{sizes.text(skip[1])}"
                )
            before = block
        return self

    def _skip(self, at: int) -> tuple[int, MapSize]:
        """Channels and size of the second input of block `at`."""
        source = self.blocks[max(at - 2, 0)]
        return source.c_out, source.size_out

    @cached_property
    def blocks(self) -> tuple[BlockSpec, ...]:
        """Every block in order: stem, stages, head."""
        return (self.stem, *(b for stage in self.stages for b in stage), self.head)

    @property
    def depths(self) -> tuple[int, ...]:
        """Blocks per stage."""
        return tuple(len(stage) for stage in self.stages)

    @property
    def depths_text(self) -> str:
        """Blocks per stage as people read them: ``2-2-4``."""
        return format_depths(self.depths)

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self.head.c_out

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one image."""
        return (self.stem.c_in, *sizes.sides(self.stem.size_in))

    @cached_property
    def key(self) -> str:
        """Identity: twelve hexadecimal digits of the hash over what is computed."""
        body = json.dumps(self.model_dump(exclude={"space", "name"}), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(body.encode()).hexdigest()[:12]

    def walk(self) -> Iterator[tuple[str, BlockSpec]]:
        """Every block with its place: ``stem``, ``stages.0.1``, ..., ``head``.

        The place is also the prefix of the block's weights in a state dict.
        """
        yield "stem", self.stem
        for s, stage in enumerate(self.stages):
            for i, block in enumerate(stage):
                yield f"stages.{s}.{i}", block
        yield "head", self.head

    def replace_stage(self, stage: int, blocks: tuple[BlockSpec, ...]) -> NetworkSpec:
        """A copy with other blocks in one stage; shapes are checked again, second inputs follow."""
        if not 0 <= stage < len(self.stages):
            raise InputError(
                f"stage {stage} does not exist; the network has stages 0 to {len(self.stages) - 1}"
            )
        stages = (*self.stages[:stage], blocks, *self.stages[stage + 1 :])
        if any(block.c_skip for block in self.blocks):
            stages = with_skips(self.stem, stages)
        return NetworkSpec(
            stem=self.stem, stages=stages, head=self.head, convention=self.convention, space=self.space
        )

    def grow(self, stage: int, step: int = 1) -> NetworkSpec:
        """A copy deeper by `step` blocks at the end of `stage`."""
        if step < 1:
            raise InputError(f"growth step {step} must be at least 1")
        blocks = self.stages[stage]
        for _ in range(step):
            blocks = (*blocks, blocks[-1].repeated())
        return self.replace_stage(stage, blocks)

    def to_json(self) -> str:
        """JSON text with its schema name, one block per line so that differences read well."""
        body = self.model_dump(exclude_defaults=False)

        def line(block: object) -> str:
            return json.dumps(block, separators=(", ", ": "))

        stages = ",\n".join(
            "    [\n" + ",\n".join(f"      {line(b)}" for b in stage) + "\n    ]" for stage in body["stages"]
        )
        fields = [f'  "schema": "{schemas.NETWORK}"']
        fields += [f'  "{k}": {json.dumps(body[k])}' for k in ("name", "space", "convention")]
        fields += [
            f'  "stem": {line(body["stem"])}',
            f'  "stages": [\n{stages}\n  ]',
            f'  "head": {line(body["head"])}',
        ]
        return "{\n" + ",\n".join(fields) + "\n}\n"
