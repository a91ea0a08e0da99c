"""``--device`` and ``--latency-budget`` several times."""

from __future__ import annotations

from typing import Any

import click
import pytest

from hwnas_cli import config, options
from hwnas_cli.main import command_of


@pytest.mark.parametrize(
    ("devices", "budgets", "first", "further"),
    [
        ((), ("1ms",), (None, "1ms"), None),
        (("a",), ("1ms,2ms",), ("a", "1ms,2ms"), None),
        (("a", "b"), ("1ms", "2ms"), ("a", "1ms"), (("b", "2ms"),)),
        (
            ("a", "b", "c"),
            ("2x:smallest",),
            ("a", "2x:smallest"),
            (("b", "2x:smallest"), ("c", "2x:smallest")),
        ),
        (("a", "b"), (), ("a", None), None),  # the missing budget is told later
    ],
)
def test_each_device_has_its_budget(
    devices: tuple[str, ...], budgets: tuple[str, ...], first: tuple[str | None, str | None], further: Any
) -> None:
    chosen: dict[str, Any] = {"devices": devices, "latency_budget": budgets}
    options.paired(chosen)
    assert (chosen["device"], chosen["latency_budget"]) == first
    assert chosen.get("further") == further


@pytest.mark.parametrize(
    ("devices", "budgets"), [(("a",), ("1ms", "2ms")), (("a", "b", "c"), ("1ms", "2ms"))]
)
def test_a_budget_without_a_device_is_refused(devices: tuple[str, ...], budgets: tuple[str, ...]) -> None:
    with pytest.raises(click.UsageError):
        options.paired({"devices": devices, "latency_budget": budgets})


def test_a_file_names_one_device_or_several() -> None:
    search = command_of("search")
    one = config.defaults_for(search, {"device": "cpu", "latency-budget": "1ms"}, "f")
    assert one == {"devices": ["cpu"], "latency_budget": ["1ms"]}
    two = config.defaults_for(search, {"device": ["a", "b"]}, "f")
    assert two == {"devices": ["a", "b"]}
