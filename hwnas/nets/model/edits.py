"""What is changed of a network: pieces dropped, narrowed, repeated. A value with a JSON form."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from hwnas.errors import DataFormatError


@dataclass(frozen=True)
class Edits:
    """Changes of a network, by the names of its pieces.

    Attributes:
        dropped: pieces that are left out; what enters one goes to the next.
        widths: inner channels of narrowed pieces.
        repeats: how often a piece is there in all; 2 adds one copy behind it.
    """

    dropped: frozenset[str] = frozenset()
    widths: Mapping[str, int] = field(default_factory=dict)
    repeats: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "dropped", frozenset(self.dropped))
        for name in ("widths", "repeats"):
            object.__setattr__(self, name, MappingProxyType(dict(sorted(getattr(self, name).items()))))

    def __hash__(self) -> int:
        return hash((self.dropped, tuple(self.widths.items()), tuple(self.repeats.items())))

    @property
    def key(self) -> str:
        """Sixteen hexadecimal digits that stand for these edits."""
        text = json.dumps(self.to_json(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def to_json(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "dropped": sorted(self.dropped),
            "widths": dict(self.widths),
            "repeats": dict(self.repeats),
        }

    @classmethod
    def from_json(cls, body: Any, where: object = "edits") -> Edits:
        """Read the JSON form; DataFormatError names `where` and what is wrong."""
        if not isinstance(body, dict) or set(body) - {"dropped", "widths", "repeats"}:
            raise DataFormatError(f"{where}: expected an object with dropped, widths and repeats")
        dropped, widths, repeats = (
            body.get(k, d) for k, d in (("dropped", []), ("widths", {}), ("repeats", {}))
        )
        if not isinstance(dropped, list) or not all(isinstance(name, str) for name in dropped):
            raise DataFormatError(f"{where}: dropped must be a list of names of pieces")
        for name, found in (("widths", widths), ("repeats", repeats)):
            if not isinstance(found, dict) or not all(
                isinstance(v, int) and not isinstance(v, bool) and v > 0 for v in found.values()
            ):
                raise DataFormatError(f"{where}: {name} must map names of pieces to positive integers")
        return cls(frozenset(dropped), widths, repeats)
