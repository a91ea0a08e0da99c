"""What the run that a search resumes was begun with."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from hwnas import runs


@dataclass(frozen=True)
class Resumed:
    """The run folder of a search; it says nothing where the search is a new one.

    Attributes:
        out: the folder that the user named, if any.
    """

    out: Path | None

    @property
    def there(self) -> bool:
        """Whether the folder holds a run."""
        return self.out is not None and (self.out / "manifest.json").is_file()

    @cached_property
    def _config(self) -> dict[str, Any]:
        """Its configuration; read where it is asked for, as a damaged one is of no matter before."""
        if self.out is None or not self.there:
            return {}
        config: dict[str, Any] = runs.read_manifest(self.out)["config"]
        return config

    @property
    def strategy(self) -> str | None:
        """A default may have changed since it began."""
        known = self._config.get("strategy")
        return known if isinstance(known, str) else None

    @property
    def table(self) -> Path | None:
        """Its latency table, where the file is still there."""
        known = self._config.get("table")
        return Path(known) if isinstance(known, str) and Path(known).is_file() else None

    @property
    def devices(self) -> list[dict[str, Any]]:
        """Its devices, where there are several."""
        found: list[dict[str, Any]] = self._config.get("devices") or []
        return found
