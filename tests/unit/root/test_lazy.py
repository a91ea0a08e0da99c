"""A module that is imported when it is first used."""

from __future__ import annotations

import json

import pytest

from hwnas.lazy import lazy_import


def test_it_stands_for_the_module() -> None:
    found = lazy_import("json")
    assert found.loads("[1]") == [1]
    assert dir(found) == dir(json)  # the names of throttle reasons are looked up this way


def test_a_missing_one_is_told_where_it_is_used() -> None:
    absent = lazy_import("no_such_module_of_ours")
    with pytest.raises(ImportError, match="no_such_module_of_ours"):
        absent.anything  # noqa: B018  # the look-up is what imports
