"""A checkpoint file: tensors and a little JSON in one safetensors file, written atomically."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from hwnas.errors import DataFormatError, InputError
from hwnas.store import atomic_path


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], schema: str, identity: str, body: Mapping[str, Any]
) -> None:
    """Write tensors with `body` in the header; `identity` is what the job is of, hashed."""
    from safetensors.torch import save_file

    header = {"schema": schema, "identity": _hash(identity), "body": dict(body)}
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    with atomic_path(path) as temporary:
        save_file(plain, temporary, metadata={"hwnas": json.dumps(header)})


def read_tensors(path: Path, schema: str, identity: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `write_tensors` wrote.

    Raises:
        DataFormatError: damaged.
        InputError: of another job.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})["hwnas"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        body = dict(header["body"])
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as exc:
        raise DataFormatError(f"checkpoint {path} is damaged: {exc}; remove it to start again") from exc
    if header.get("schema") != schema or header.get("identity") != _hash(identity):
        raise InputError(
            f"checkpoint {path} is of another job (space, data, budget or options differ); remove it"
        )
    return tensors, body


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
