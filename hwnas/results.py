"""What the jobs give back: frozen objects with typed attributes, which are the keys that ``--json`` prints.

Each job has its own classes beside it. A result is made of the JSON object (`Result.of`), so that attributes,
``as_json()`` and the command line cannot differ.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, PrivateAttr

from hwnas.store import parse

R = TypeVar("R", bound="Result")


class Result(BaseModel):
    """Base of the results. Attributes are the keys of ``--json``; ``result["key"]`` gives the plain value.

    Keys that a class does not name, such as figures of a table's own, are attributes too.
    """

    model_config = ConfigDict(frozen=True, extra="allow", protected_namespaces=())

    _body: dict[str, Any] = PrivateAttr(default_factory=dict)

    @classmethod
    def of(cls: type[R], body: Mapping[str, Any]) -> R:
        """A result of its JSON object; DataFormatError where a file's content in it is of another type."""
        found = parse(cls, body, "the result")
        found._body = dict(body)
        return found

    def as_json(self) -> dict[str, Any]:
        """The object as the command line prints it, without its ``schema``."""
        return dict(self._body)

    def keys(self) -> Iterable[str]:
        """The keys of the JSON object."""
        return self._body.keys()

    def __getitem__(self, key: str) -> Any:
        return self._body[key]

    def __contains__(self, key: object) -> bool:
        return key in self._body

    def get(self, key: str, default: Any = None) -> Any:
        """The plain value of a key; `default` where the object has none."""
        return self._body.get(key, default)


class DryRun(Result):
    """What a job would do: nothing was measured, trained or written. Other keys depend on the job.

    Attributes:
        dry_run: always True.
        seconds: estimated time, where the job tells it.
        measurements: how many there would be.
        run, table: where it would write.
        notes: what a user should know before.
    """

    dry_run: bool = True
    seconds: float | None = None
    measurements: int | None = None
    run: str | None = None
    table: str | None = None
    notes: tuple[str, ...] = ()
