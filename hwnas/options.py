"""Options that say what they may be: a field of a frozen dataclass with help, bounds and choices.

Everything that reads, checks or explains options reads these fields: the values that a user gives are
typed and bounded by `read` before anything starts, and help texts print `described`.
"""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from hwnas.errors import InputError
from hwnas.plugins import unknown

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Options = TypeVar("Options", bound="DataclassInstance")

# More of anything countable is a slip of the keyboard; 64-bit arithmetic stays safe below it.
MOST = 10**12


def option(
    default: Any,
    text: str = "",
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    below: float | None = None,
    choices: Sequence[str] = (),
) -> Any:
    """A field of an options dataclass.

    Args:
        default: the value without one given.
        text: one line that says what it does.
        low, high: the smallest and the largest value.
        above, below: bounds that are not themselves allowed.
        choices: the words that are known, where the type does not list them (``Literal``).
    """
    about = {
        "help": text,
        "low": low,
        "high": high,
        "above": above,
        "below": below,
        "choices": tuple(choices),
    }
    return field(default=default, metadata=about)


@dataclass(frozen=True)
class Described:
    """An option for people and programs.

    Attributes:
        name, default: of the field.
        expected: what it may be, in words: "an integer, at least 1".
        help: what it does.
        types: of its values: int, float, bool, str, NoneType, or a class's name.
        low, high: the smallest and the largest value.
        above, below: bounds that are not themselves allowed.
        choices: the words that are allowed; empty where any is.
    """

    name: str
    default: object
    expected: str
    help: str
    types: tuple[str, ...]
    low: float | None
    high: float | None
    above: float | None
    below: float | None
    choices: tuple[str, ...]


def described(kind: type[DataclassInstance]) -> list[Described]:
    """Every option of a dataclass, in its order."""
    found = []
    for each in fields(kind):
        about = each.metadata
        allowed, words = _types(kind, each.name)
        found.append(
            Described(
                each.name,
                _default(each),
                _expected(kind, each),
                str(about.get("help", "")),
                tuple(t.__name__ for t in allowed),
                about.get("low"),
                about.get("high"),
                about.get("above"),
                about.get("below"),
                tuple(map(str, words or about.get("choices", ()))),
            )
        )
    return found


def read(kind: type[Options], given: Mapping[str, Any], what: str) -> Options:
    """`kind` filled from the values given; an int serves as a float, a bool never as a number.

    Args:
        kind: the dataclass.
        given: names and values.
        what: whose options they are, for the message ("option of strategy auto").

    Raises:
        InputError: a name that is not known, or a value of another type or out of bounds.
    """
    known = {each.name for each in fields(kind)}
    for name in given:
        if name not in known:
            raise InputError(unknown(what, name, known))
    values = {name: _switched(kind, name, value) for name, value in given.items()}
    check(kind, values, what)
    return kind(**values)


def _switched(kind: type[DataclassInstance], name: str, value: object) -> object:
    """``on`` and ``off``, as people write them on a command line, for an option that is a truth value."""
    if bool in _types(kind, name)[0] and isinstance(value, str):
        return {"on": True, "off": False}.get(value.lower(), value)
    return value


def check(kind: type[DataclassInstance], values: Mapping[str, Any], what: str) -> None:
    """Refuse a value that is not what its option expects; names the option, the value and what it may be."""
    for each in fields(kind):
        if each.name in values and not _fits(kind, each, values[each.name]):
            value = values[each.name]
            known = _types(kind, each.name)[1] or each.metadata.get("choices", ())
            if isinstance(value, str) and known:
                raise InputError(unknown(f"{what} {each.name}", value, known))
            shown = value if isinstance(value, (int, float)) else repr(value)
            raise InputError(f"{what} {each.name} is {str(shown)[:60]}; expected {_expected(kind, each)}")


class Checked:
    """A base of options dataclasses: its values are checked when one is made.

    `WHAT` names the options in the message.
    """

    WHAT = "option"

    def __post_init__(self) -> None:
        # The class itself has no fields; those that are checked are dataclasses.
        check(type(self), vars(self), self.WHAT)  # type: ignore[arg-type]


@cache
def _types(kind: type[DataclassInstance], name: str) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """The plain types that a field may have, and the words of its ``Literal``."""
    try:
        hint = typing.get_type_hints(kind)[name]
    except NameError:  # a type that is imported for checkers only
        return (object,), ()
    members = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    words = tuple(w for m in members if typing.get_origin(m) is Literal for w in typing.get_args(m))
    plain = [str if typing.get_origin(m) is Literal else typing.get_origin(m) or m for m in members]
    return tuple(p for p in plain if isinstance(p, type)), words


def _fits(kind: type[DataclassInstance], each: Any, value: object) -> bool:
    allowed, words = _types(kind, each.name)
    about = each.metadata
    if isinstance(value, bool) and bool not in allowed:
        return object in allowed
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not isinstance(value, allowed) and not (isinstance(value, int) and float in allowed):
        return False
    if number:
        assert isinstance(value, (int, float))
        low, high = about.get("low"), about.get("high")
        above, below = about.get("above"), about.get("below")
        return (
            math.isfinite(value)
            and (abs(value) <= MOST or high is not None)
            and (low is None or value >= low)
            and (high is None or value <= high)
            and (above is None or value > above)
            and (below is None or value < below)
        )
    known = words or about.get("choices", ())
    return not known or not isinstance(value, str) or value in known


_NAMES = {int: "an integer", float: "a number", bool: "true or false", str: "a word", type(None): "null"}


def _expected(kind: type[DataclassInstance], each: Any) -> str:
    allowed, words = _types(kind, each.name)
    about = each.metadata
    known = words or about.get("choices", ())
    kinds = [
        " or ".join(map(str, known)) if t is str and known else _NAMES.get(t, f"a {t.__name__}")
        for t in allowed
    ]
    bounds = []
    low, high, above, below = (about.get(k) for k in ("low", "high", "above", "below"))
    if low is not None and high is not None:
        bounds = [f"{_number(low)} to {_number(high)}"]
    else:
        bounds += [f"at least {_number(low)}"] if low is not None else []
        bounds += [f"more than {_number(above)}"] if above is not None else []
        bounds += [f"at most {_number(high)}"] if high is not None else []
        bounds += [f"less than {_number(below)}"] if below is not None else []
    return " or ".join(kinds) + ("".join(f", {' and '.join(bounds)}" for _ in bounds[:1]))


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def _default(each: Any) -> object:
    if each.default is not MISSING:
        return each.default
    return each.default_factory() if each.default_factory is not MISSING else None
