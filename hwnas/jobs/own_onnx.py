"""Users' own ONNX files and programs of torch.export: images in their shape, and int8 graphs of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hwnas.arrays import Float32s, ImageShape, Int64s
from hwnas.backends.formats import CALIBRATION_IMAGES
from hwnas.backends.forms import form_of
from hwnas.backends.onnx_file import read_model
from hwnas.backends.onnx_format import TypedOnnx
from hwnas.deploy.engine import run_all
from hwnas.errors import BuildError, DataFormatError, InputError
from hwnas.lazy import lazy_import
from hwnas.protocols import Backend

if TYPE_CHECKING:
    import torch

    from hwnas.train.data import Dataset
    from hwnas.train.normalisation import Suited
else:
    torch = lazy_import("torch")

RANDOM_IMAGES = 64
# Training images by which the scale of the pixels is found.
SCALED = 96
BY_DATA = "normalised by the statistics of the data; the file does not say how it was trained"


@dataclass(frozen=True)
class Subject:
    """What is benchmarked, and on which images.

    Attributes:
        model: fp32 ONNX with the batch of the options.
        images: as the network takes them, (n, C, H, W); `real` where they are of a data set.
        calibration: training images for int8; random ones where there are none.
        labels: (n,) classes of the images, where known.
        notes: what the reader should know of the images and weights.
        folder: of a run, where the result is kept.
    """

    model: bytes
    images: Float32s
    calibration: Float32s
    real: bool
    labels: Int64s | None = None
    notes: tuple[str, ...] = ()
    folder: Path | None = None


def is_graph(path: Path) -> bool:
    """Whether a file is a network of the user's as a graph, by its name."""
    return path.suffix in (".onnx", ".pt2")


def graph_of(path: Path) -> bytes:
    """The graph of a user's file as ONNX; code in a program of torch.export runs (`nets.model.from_pt2`)."""
    if path.suffix == ".onnx":
        return read_model(path)
    from hwnas.nets.model.from_pt2 import program_onnx

    return program_onnx(path)


def own_model(model: bytes, data: str | None, limit: int, batch: int, seed: int) -> Subject:
    """An ONNX file with images in its shape: of a data set, or random ones, and said to be so.

    Labels are taken as the model's outputs in order where it has as many outputs as the data classes.

    Raises:
        InputError: a model that takes no images, or of another batch.
    """
    from hwnas.backends.graphs import input_dims, read

    proto = read(model)
    dims = input_dims(proto)
    if dims and dims[0] not in (0, batch):
        raise InputError(f"the model has batch {dims[0]}, --batch is {batch}; give --batch {dims[0]}")
    if data is None:
        if 0 in dims[1:]:
            raise InputError(
                f"the model's input {dims} has unknown sizes besides the batch; export it with fixed ones"
            )
        rng = np.random.default_rng(seed)
        images = rng.standard_normal((RANDOM_IMAGES, *dims[1:]), dtype=np.float32)
        note = (
            "random images: int8 is calibrated on them, so its times are valid, its accuracy is not (--data)"
        )
        return Subject(model, images, images, False, None, (note,))
    from hwnas.train.data import load, normalise
    from hwnas.train.normalisation import Suited

    dataset = load(data, input_shape=image_shape(dims), seed=seed)
    told = {p.key: json.loads(p.value) for p in proto.metadata_props if p.key in ("mean", "std")}
    mean, std = (tuple(told.get(k) or getattr(dataset, k)) for k in ("mean", "std"))
    outputs = [d.dim_value for d in proto.graph.output[0].type.tensor_type.shape.dim]
    some = dataset.train.pixels[:: max(1, len(dataset.train) // CALIBRATION_IMAGES)][:CALIBRATION_IMAGES]
    same = outputs[-1:] == [len(dataset.classes)]
    notes = [f"validation images of {dataset.name}"]
    if "mean" not in told:
        suits = _suited(model, dataset, batch) if same else Suited("data", (mean, std))
        (mean, std), why = suits.scale, suits.why
        notes.append(why or BY_DATA)
    if not same:
        notes.append(
            f"the model's outputs are not the {len(dataset.classes)} classes of the data: no accuracy"
        )
    return Subject(
        model,
        normalise(dataset.val.pixels[:limit], mean, std).contiguous().numpy(),
        normalise(some, mean, std).contiguous().numpy(),
        True,
        dataset.val.labels[:limit].numpy() if same else None,
        tuple(notes),
    )


def _suited(model: bytes, dataset: Dataset, batch: int) -> Suited:
    """The scale on which a graph that does not say it was trained."""
    from hwnas.train import normalisation

    with as_it_stands(model, batch) as scores:
        return normalisation.find(
            lambda images: torch.from_numpy(scores(images.contiguous().numpy())), dataset, "the file", SCALED
        )


@contextmanager
def as_it_stands(model: bytes, batch: int, threads: int = 1) -> Iterator[Callable[[Float32s], Float32s]]:
    """Scores of a graph for images (n, C, H, W), by ONNX Runtime on this CPU without optimisation."""
    plain = TypedOnnx()
    engine = plain.build(model, plain.setting("cpu", "fp32", batch, threads))
    try:
        yield partial(run_all, engine)
    finally:
        engine.close()


@contextmanager
def blamed_on(path: Path) -> Iterator[None]:
    """A model that a runtime refuses inside the block is of the user's file: DataFormatError names it."""
    try:
        yield
    except BuildError as exc:
        raise DataFormatError(
            f"{path} cannot be used: {exc}; export it again, or try another --backend"
        ) from exc


def image_shape(dims: list[int]) -> ImageShape:
    """Channels, height and width of a model's input (batch, C, H, W); InputError where it takes no images."""
    if len(dims) != 4 or 0 in dims[1:] or dims[3] < min(dims[1:3]):  # channels that come last are few
        raise InputError(
            f"the model takes {dims}; images for it must be (batch, channels, height, width), so no "
            "--data can be used"
        )
    return dims[1], dims[2], dims[3]


def in_int8(model: bytes, backend: Backend, data: str | None, batch: int) -> tuple[bytes, str]:
    """A model in a runtime's int8 form, and on what it was calibrated; one that is quantized as it is.

    Raises:
        InputError: the runtime takes no int8, or the data do not fit the model's input.
        BuildError: the model cannot be quantized.
    """
    from hwnas.backends.quantize_plan import is_quantized

    if is_quantized(model):
        return model, ""
    subject = own_model(model, data, 1, batch, 0)
    kind = (
        "training images of the data" if data is not None else "random images; --data calibrates on real ones"
    )
    return in_int8_form(model, backend, subject), f"int8 calibrated on {kind}"


def in_int8_form(model: bytes, backend: Backend, subject: Subject, form: str = "") -> bytes:
    """A model in one of a runtime's int8 forms, by its calibration images; BuildError where it cannot be."""
    from hwnas.backends.foreign import ready
    from hwnas.backends.quantize_plan import is_quantized
    from hwnas.backends.typed import in_precision

    if is_quantized(model):
        return model
    return in_precision(ready(model), "int8", form_of(backend, form), subject.calibration)
