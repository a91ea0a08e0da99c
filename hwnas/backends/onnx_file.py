"""ONNX files as models that stand alone: weights that lie beside a file are taken in, from its folder only.

A runtime that is given bytes looks for such weights in the working directory, and one that is given a path
follows what the file says, which may come from anyone.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hwnas.errors import DataFormatError, InputError
from hwnas.lazy import lazy_import

if TYPE_CHECKING:
    import onnx
    from onnx import external_data_helper as external
else:
    onnx = lazy_import("onnx")
    external = lazy_import("onnx.external_data_helper")

LARGEST = (1 << 31) - 1  # bytes of one protobuf message


def read_model(path: Path) -> bytes:
    """A model with all its weights.

    Raises:
        InputError: there is no such file, or it is too large to be one message.
        DataFormatError: it is no ONNX model, or names weights that are not there or lie outside its folder.
    """
    if not path.is_file():
        raise InputError(f"ONNX model {path} does not exist")
    data = path.read_bytes()
    try:
        model = onnx.load_from_string(data)
    except Exception as exc:  # classes of the protobuf package, which has no types
        raise DataFormatError(f"{path} is not a readable ONNX model: {exc}") from exc
    if not model.graph.input or not model.graph.output:
        raise DataFormatError(
            f"{path} is not a whole ONNX model: it has no input or no output; export it again"
        )
    tensors = [t for t in external._get_all_tensors(model) if external.uses_external_data(t)]
    if not tensors:
        return data
    files = {_beside(path, tensor) for tensor in tensors}
    total = len(data) + sum(file.stat().st_size for file in files)
    if total > LARGEST:
        raise InputError(f"{path} and its weights have {total / 2**30:.1f} GiB; at most 2 GiB can be read")
    try:
        external.load_external_data_for_model(model, str(path.parent))
    except (OSError, ValueError, onnx.checker.ValidationError) as exc:
        raise DataFormatError(f"{path}: the weights beside it cannot be read: {exc}") from exc
    whole: bytes = model.SerializeToString()
    return whole


def _beside(path: Path, tensor: onnx.TensorProto) -> Path:
    """The file of a tensor, in or under the model's own folder, long enough for what is said of it."""
    try:
        info = external.ExternalDataInfo(tensor)
        first, length = int(info.offset or 0), int(info.length or 0)
    except (TypeError, ValueError) as exc:
        raise DataFormatError(
            f"{path}: the location of the weights {tensor.name} cannot be read: {exc}"
        ) from exc
    location = str(info.location)
    home, file = path.parent.resolve(), path.parent / location
    if not location or not file.resolve().is_relative_to(home):
        raise DataFormatError(
            f"{path} refers to weights outside its own folder ({location!r}), which are not read; put them "
            "in that folder"
        )
    if not file.is_file():
        raise DataFormatError(
            f"{path} needs its weights {location!r} in the same folder, and that file does not exist"
        )
    if first < 0 or length < 0 or first + length > file.stat().st_size:
        raise DataFormatError(
            f"{path}: {file} has {file.stat().st_size} bytes, {first + length} are needed; is it cut short?"
        )
    return file
