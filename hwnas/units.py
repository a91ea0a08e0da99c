"""Quantities with units: ``18ms``, ``60MMAC``, ``500kparam``, ``64MiB``, ``10min``.

A bare number is refused: users of an earlier tool asked for 25 ms and got 62, because its table
was in seconds. A multiply-accumulate (MAC) is two floating-point operations (FLOP).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from hwnas.errors import InputError

# No latency, network or memory is larger in any of these units.
_MOST = 1e18
_NUMBER = r"(\d+(?:\.\d+)?|\.\d+)"
_TIME_MS = {"ns": 1e-6, "us": 1e-3, "µs": 1e-3, "μs": 1e-3, "ms": 1.0, "s": 1e3, "min": 6e4, "h": 3.6e6}
_SI = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
_MACS = {
    f"{p}{u}": f * s
    for p, f in _SI.items()
    for u, s in (("MAC", 1.0), ("MACs", 1.0), ("FLOP", 0.5), ("FLOPs", 0.5))
}
_PARAMS = {f"{p}{u}": f for p, f in _SI.items() for u in ("param", "params")}
_BYTES = {
    "B": 1.0,
    **{f"{p}B": f for p, f in _SI.items() if p},
    **{f"{p}iB": 1024.0 ** (i + 1) for i, p in enumerate("KMGT")},
}


def _parse(text: str, units: Mapping[str, float], what: str, example: str) -> float:
    match = re.fullmatch(_NUMBER + r"\s*([^\d\s.]*)", text.strip())
    if match is None:
        raise InputError(f"{what} {text!r} is not a number with a unit; write for example {example}")
    number, unit = match.groups()
    if not unit:
        default = re.sub(r"^[\d.]+", "", example)
        raise InputError(f"{what} {text!r} has no unit; write {number}{default} if that is what you mean")
    if unit not in units:
        known = ", ".join(units)
        raise InputError(
            f"{what} {text!r} has the unknown unit {unit!r}; use one of {known}, for example {example}"
        )
    value = float(number) * units[unit]
    if not value > 0:
        raise InputError(f"{what} {text!r} must be greater than zero; write for example {example}")
    if value > _MOST:
        raise InputError(f"{what} {text.strip()[:40]!r} is too large; write for example {example}")
    return value


def parse_ms(text: str, what: str = "latency") -> float:
    """Milliseconds from ``18ms``, ``850us`` or ``2.5s``; InputError without a unit."""
    return _parse(text, _TIME_MS, what, "18ms")


def parse_seconds(text: str, what: str = "time") -> float:
    """Seconds from ``10min``, ``90s`` or ``2h``; InputError without a unit."""
    return _parse(text, _TIME_MS, what, "10min") / 1e3


def parse_macs(text: str) -> float:
    """Multiply-accumulates from ``60MMAC`` or ``120MFLOP`` (one MAC is two FLOP)."""
    return _parse(text, _MACS, "--max-macs", "60MMAC")


def parse_params(text: str) -> float:
    """Parameter count from ``500kparam``."""
    return _parse(text, _PARAMS, "--max-params", "500kparam")


def parse_bytes(text: str) -> float:
    """Bytes from ``64MiB`` or ``64MB``."""
    return _parse(text, _BYTES, "--max-memory", "64MiB")


def format_ms(value_ms: float) -> str:
    """A latency for display: three significant digits and a unit, ``0.583 ms`` or ``85.2 us``."""
    if value_ms < 0.1:
        return f"{value_ms * 1e3:.3g} us"
    return f"{value_ms:.3g} ms" if value_ms < 1e3 else f"{value_ms / 1e3:.3g} s"


def format_depths(depths: Iterable[int]) -> str:
    """The numbers of blocks of a network's stages: ``2-2-4``."""
    return "-".join(map(str, depths))


def format_count(value: float, unit: str) -> str:
    """A large count for display: ``40.8 MMAC``, ``605.6 kparam``."""
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:.4g} {prefix}{unit}"
    return f"{value:.4g} {unit}"


def format_seconds(value_s: float) -> str:
    """A duration for display: ``42 s``, ``3 min 05 s``, ``1 h 02 min``."""
    if value_s < 60:
        return f"{value_s:.1f} s" if value_s < 10 else f"{value_s:.0f} s"
    minutes, seconds = divmod(round(value_s), 60)
    if minutes < 60:
        return f"{minutes} min {seconds:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"
