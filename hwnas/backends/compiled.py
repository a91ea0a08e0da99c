"""Compiled models by source and conditions, kept for the process.

A fresh session of a model that was compiled before begins in a fraction of the time, and is no faster or
slower to run (docs/measuring.md).
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict

from hwnas.records import Setting

KEPT_BYTES = 256 << 20


class Compiled:
    """A runtime's own files in memory; the oldest go when there are more than `KEPT_BYTES` of them."""

    def __init__(self) -> None:
        self._files: OrderedDict[tuple[bytes, Setting], bytes] = OrderedDict()

    def get(self, model: bytes, setting: Setting) -> bytes | None:
        """The file that was compiled from `model` under these conditions, if it is still kept."""
        return self._files.get(_key(model, setting))

    def keep(self, model: bytes, setting: Setting, file: bytes) -> None:
        """Keep a file."""
        self._files[_key(model, setting)] = file
        while sum(map(len, self._files.values())) > KEPT_BYTES:
            self._files.popitem(last=False)


def _key(model: bytes, setting: Setting) -> tuple[bytes, Setting]:
    return hashlib.sha256(model).digest(), setting
