"""A checkpoint file: tensors and a little JSON in one safetensors file, written atomically."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, uint8

from hwnas import seals
from hwnas.documents import json_object
from hwnas.errors import DataFormatError, InputError
from hwnas.store import atomic_path

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Progress = TypeVar("Progress", bound="DataclassInstance")


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], schema: str, identity: str, progress: DataclassInstance
) -> None:
    """Write a checkpoint.

    Args:
        path: the file.
        tensors: by name.
        schema: of the training's kind, see `hwnas.schemas`.
        identity: everything that decides the training's result, as text; `read_tensors` compares it.
        progress: the numbers that go with the tensors.
    """
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    header = {
        "schema": schema,
        "identity": _hash(identity),
        "progress": asdict(progress),
        "tensors": _digest(plain),
    }
    with atomic_path(path) as temporary:
        save_file(plain, temporary, metadata={"hwnas": json.dumps(seals.sealed(header))})


def read_tensors(
    path: Path, schema: str, identity: str, kind: type[Progress]
) -> tuple[dict[str, Tensor], Progress]:
    """Read what `write_tensors` wrote; `kind` is the class of its numbers.

    Raises:
        DataFormatError: damaged.
        InputError: of another training.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = json_object(str((file.metadata() or {}).get("hwnas")), f"checkpoint {path}, header")
            seals.unseal(header, f"checkpoint {path}, header", required=True)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        if header["tensors"] != _digest(tensors):
            raise ValueError("its tensors are not those that were written")
        same = header.get("schema") == schema and header["identity"] == _hash(identity)
        progress = kind(**header["progress"]) if same else None
    except (SafetensorError, DataFormatError, OSError, KeyError, TypeError, ValueError, RuntimeError) as exc:
        raise DataFormatError(f"checkpoint {path} is damaged: {exc}; remove it to start again") from exc
    if progress is None:
        raise InputError(
            f"checkpoint {path} is of another training (network or space, data, budget, options or first "
            "weights differ) or of another version of hwnas; remove it, or write elsewhere"
        )
    return tensors, progress


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and values."""
    found = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].contiguous()
        found.update(f"{name}:{value.dtype}:{tuple(value.shape)}:".encode())
        found.update(value.reshape(-1).view(dtype=uint8).numpy().data if value.numel() else b"")
    return found.hexdigest()
