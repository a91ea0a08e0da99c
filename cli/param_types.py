"""Types of the values of options: quantities with units, registered names, lists, shapes, shares.

Units are parsed here: a quantity without a unit is a usage error (exit 2).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from hwnas import budgets, units
from hwnas.errors import InputError
from hwnas.plugins import SINGULAR, names, unknown

if TYPE_CHECKING:
    ParamType = click.ParamType[Any]
else:  # click before 8.3 has no type argument here
    ParamType = click.ParamType


class Quantity(ParamType):
    """A number with a unit, turned into the library's unit by `parse`; or only checked (`as_text`)."""

    def __init__(self, name: str, parse: Callable[[str], Any], *, as_text: bool = False) -> None:
        self.name = name
        self.parse = parse
        self.as_text = as_text

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse text or a number from a configuration file; a parsed value passes through."""
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            return value
        try:
            parsed = self.parse(str(value))
            return str(value) if self.as_text else parsed
        except InputError as exc:
            self.fail(str(exc), param, ctx)


class Registered(ParamType):
    """A name of a group of `hwnas.plugins`, completed by the shell; `also` are names outside the registry."""

    name = "choice"  # as click calls a word out of a list

    def __init__(self, group: str, also: tuple[str, ...] = ()) -> None:
        self.group, self.also = group, also
        self.what = SINGULAR[group]

    @property
    def known(self) -> list[str]:
        """Every name, those of installed packages too."""
        return [*self.also, *names(self.group)]

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        """The names, as click shows a choice; read when the help is shown."""
        return f"[{'|'.join(self.known)}]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse a name that is not registered, with the nearest one."""
        if str(value) not in self.known:
            self.fail(unknown(self.what, str(value), self.known), param, ctx)
        return str(value)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
        """Names that begin as typed."""
        from click.shell_completion import CompletionItem

        return [CompletionItem(n) for n in self.known if n.startswith(incomplete)]


class BatchSizes(ParamType):
    """Whole numbers separated by commas, each at least 1."""

    name = "integer range"  # as where one number is taken

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """A tuple of different numbers."""
        if isinstance(value, tuple):
            return value
        parts = value if isinstance(value, list) else str(value).split(",")
        texts = [str(part).strip() for part in parts]
        if not all(text.isdigit() and 1 <= int(text) <= MOST_BATCH for text in texts):
            self.fail(f"{value!r}: expected numbers from 1 to {MOST_BATCH}, such as 1,8,32", param, ctx)
        return tuple(dict.fromkeys(map(int, texts)))


class Names(ParamType):
    """Names separated by commas, each a registered one or of a choice; ``auto`` stands for all."""

    name = "choice"  # as where one name is taken

    def __init__(self, known: str | click.Choice[str]) -> None:
        self.known = known

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """A tuple of names; the empty one for ``auto``."""
        if isinstance(value, tuple):
            return value
        parts = [part.strip() for part in (value if isinstance(value, list) else str(value).split(","))]
        if parts == ["auto"]:
            return ()
        known = names(self.known) if isinstance(self.known, str) else list(self.known.choices)
        for part in parts:
            if part not in known:
                what = "backend" if isinstance(self.known, str) else "precision"
                self.fail(unknown(what, part, [*known, "auto"]), param, ctx)
        return tuple(dict.fromkeys(parts))


COMPATIBLE = ("version", "ampere", "capability")  # as `hwnas.records.Compatible`, without loading that


class Machines(ParamType):
    """What an engine is to serve besides its own machine, separated by commas."""

    name = "choice"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """A tuple of names."""
        if isinstance(value, tuple):
            return value
        parts = [part.strip() for part in (value if isinstance(value, list) else str(value).split(","))]
        for part in parts:
            if part not in COMPATIBLE:
                self.fail(unknown("kind of compatibility", part, COMPATIBLE), param, ctx)
        return tuple(dict.fromkeys(parts))


class OneOrMore(Names):
    """As `Names`, handed on as text: the library times what is left open."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The names joined by commas, or ``auto``."""
        return ",".join(super().convert(value, param, ctx)) or "auto"


class Assignment(ParamType):
    """``NAME=VALUE``; the value is a JSON scalar (``0.5``, ``true``) or else a word."""

    name = "assignment"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Split into name and value."""
        name, equals, text = str(value).partition("=")
        if not (name and equals):
            self.fail(f"{value!r} is not NAME=VALUE; write for example rounds=8", param, ctx)
        try:
            return name, json.loads(text)
        except (ValueError, RecursionError):
            return name, text


# Far beyond what is trained; a slip of the keyboard would ask for terabytes.
MOST_CHANNELS, MOST_PIXELS = 1_024, 8_192
MOST_BATCH, MOST_THREADS = 65_536, 1_024
MOST_SEED = 2**63 - 1


def parse_share(text: str) -> float:
    """``0.5%`` or ``0.5points`` as a share; a number alone is refused."""
    for unit in ("points", "point", "%"):
        if text.strip().endswith(unit):
            try:
                value = float(text.strip().removesuffix(unit)) / 100.0
            except ValueError:
                break
            if 0 <= value <= 1:
                return value
    raise InputError(f"{text!r} is not a share of the images; write for example 0.5%")


def parse_shape(text: str) -> tuple[int, int, int]:
    """``3x32x48`` to channels, height and width."""
    match = re.fullmatch(r"(\d{1,9})x(\d{1,9})x(\d{1,9})", text.strip())
    if match is None:
        raise InputError(f"input {text!r} is not CHANNELSxHEIGHTxWIDTH in pixels; write for example 3x32x32")
    channels, height, width = (int(g) for g in match.groups())
    if min(channels, height, width) < 1:
        raise InputError(f"input {text!r} must be positive; write for example 3x32x32")
    if channels > MOST_CHANNELS or max(height, width) > MOST_PIXELS:
        raise InputError(f"input {text!r} is too large; at most {MOST_CHANNELS}x{MOST_PIXELS}x{MOST_PIXELS}")
    return channels, height, width


class LatencyBudget(ParamType):
    """``18ms``, ``18ms@p95``; where several are allowed also a list and ratios like ``1.15x:resnet20``.

    The text is checked here and handed on as it is; the library reads it.
    """

    name = "budget"

    def __init__(self, many: bool) -> None:
        self.many = many

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse a part without a unit, naming the one that was probably meant."""
        try:
            if self.many:
                budgets.parse(str(value))
            else:
                budgets.parse_latency(str(value))
        except InputError as exc:
            self.fail(str(exc), param, ctx)
        return str(value)


class Number(click.FloatRange):
    """A bounded number; NaN, which is in no range but fails no comparison, is refused too."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse what is not a finite number in the range."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a number", param, ctx)
        return number


COUNT = click.IntRange(1, 10**12)
DURATION = Quantity("duration", units.parse_seconds)
# As before, and nothing at all.
DURATION_OR_NONE = Quantity(
    "duration",
    lambda text: 0.0 if re.fullmatch(r"0+(\.0+)?\s*(s|min|h|ms)?", text) else units.parse_seconds(text),
)
SHAPE = Quantity("shape", parse_shape)
PRECISIONS = click.Choice(["fp32", "fp16", "bf16", "int8"])
PRESETS = click.Choice(["quick", "default", "thorough"])
