"""Membership of a space by what reads a member."""

from __future__ import annotations

from collections.abc import Callable

from hwnas.errors import InputError
from hwnas.spec import NetworkSpec


def is_member(spec: object, read: Callable[[NetworkSpec], object]) -> bool:
    """Whether `read`, which refuses with an `InputError` what is no member, takes the network."""
    if not isinstance(spec, NetworkSpec):
        return False
    try:
        read(spec)
    except InputError:
        return False
    return True
