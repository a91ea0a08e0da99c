"""What the records ask of pydantic, without validation: `pydantic` on a target, which needs numpy only.

The archive of the agent holds this file under that name (`archive`). A target checks nothing: what it gets
was validated by the host that sends it, and what it sends is validated by the host that reads it.
"""

from __future__ import annotations

import json
from typing import Any, ClassVar


class _Accepts:
    """Stands for what describes fields (``Annotated``, validators): takes everything, changes nothing."""

    def __init__(self, *given: Any, **named: Any) -> None:
        self.named = named

    def __call__(self, function: Any) -> Any:
        return function


ConfigDict = dict
AfterValidator = BeforeValidator = Discriminator = Strict = Tag = SerializerFunctionWrapHandler = _Accepts
field_validator = model_validator = model_serializer = _Accepts


class ValidationError(ValueError):
    """Never raised here."""


class Field(_Accepts):
    """The default of a field."""

    def __init__(self, default: Any = ..., **named: Any) -> None:
        super().__init__(**named)
        self.default = default

    def value(self) -> Any:
        """The default, made again where it is made by a function; Ellipsis where there is none."""
        return self.named["default_factory"]() if "default_factory" in self.named else self.default


class BaseModel:
    """Named fields with defaults; equal where their fields are."""

    model_fields: ClassVar[dict[str, Any]] = {}
    model_config: ClassVar[dict[str, Any]] = {}

    def __init_subclass__(cls, **named: Any) -> None:
        super().__init_subclass__(**named)
        fields = dict(cls.model_fields)
        own = cls.__dict__.get("__annotations__", {})  # noqa: RUF063  # its function is of Python 3.10
        for name in own:
            if not name.startswith(("_", "model_")):
                fields[name] = cls.__dict__.get(name, ...)
        cls.model_fields = fields

    def __init__(self, **given: Any) -> None:
        unknown = sorted(set(given) - set(self.model_fields))
        if unknown:
            raise TypeError(f"{type(self).__name__} has no field {unknown[0]!r}")
        for name, default in self.model_fields.items():
            value = given[name] if name in given else _default(default)
            if value is ...:
                raise TypeError(f"{type(self).__name__} lacks the field {name!r}")
            self.__dict__[name] = value

    @classmethod
    def model_validate(cls, body: Any) -> Any:
        """The model of a dict."""
        return cls(**body)

    def model_copy(self, *, update: Any = None) -> Any:
        """A copy with other values."""
        return type(self)(**{**{name: getattr(self, name) for name in self.model_fields}, **(update or {})})

    def model_dump(self, *, mode: str = "python", include: Any = None, exclude: Any = ()) -> dict[str, Any]:
        """The fields as a dict, models within them as well."""
        names = [n for n in self.model_fields if (include is None or n in include) and n not in exclude]
        return {name: _plain(getattr(self, name), mode) for name in names}

    def model_dump_json(self, *, include: Any = None, exclude: Any = ()) -> str:
        """The fields as JSON, written as pydantic writes it."""
        body = self.model_dump(mode="json", include=include, exclude=exclude)
        return json.dumps(body, separators=(",", ":"), ensure_ascii=False)

    def _key(self) -> str:
        return json.dumps(self.model_dump(mode="json"), sort_keys=True)

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other._key() == self._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._key()})"


def _default(default: Any) -> Any:
    return default.value() if isinstance(default, Field) else default


def _plain(value: Any, mode: str) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode=mode)
    if isinstance(value, (tuple, list)):
        return (
            [_plain(v, mode) for v in value]
            if mode == "json"
            else type(value)(_plain(v, mode) for v in value)
        )
    if isinstance(value, dict):
        return {k: _plain(v, mode) for k, v in value.items()}
    return value
