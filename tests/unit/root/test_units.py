"""Quantities: the unit decides, a bare number is refused."""

import pytest

from hwnas import units
from hwnas.errors import InputError


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("18ms", 18.0),
        ("0.6ms", 0.6),
        (".6ms", 0.6),
        ("850us", 0.85),
        ("850 µs", 0.85),
        ("2.5s", 2500.0),
        ("1min", 60_000.0),
        ("500000ns", 0.5),
    ],
)
def test_milliseconds(text: str, ms: float) -> None:
    assert units.parse_ms(text) == pytest.approx(ms, rel=1e-12)


def test_bare_number_is_refused_and_the_cure_is_shown() -> None:
    with pytest.raises(InputError, match="18ms"):
        units.parse_ms("18")


@pytest.mark.parametrize(
    "text", ["", "ms", "-3ms", "0ms", "nanms", "infms", "1e3ms", "3 parsecs", "3ms4", "1.2.3ms"]
)
def test_nonsense_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        units.parse_ms(text)


def test_flops_are_two_to_a_mac() -> None:
    assert units.parse_macs("60MMAC") == units.parse_macs("120MFLOP") == 60e6
    assert units.parse_macs("0.5GMACs") == 5e8


def test_counts_and_bytes() -> None:
    assert units.parse_params("500kparam") == 500e3
    assert units.parse_bytes("64MiB") == 64 * 1024 * 1024
    assert units.parse_bytes("64MB") == 64e6
    assert units.parse_bytes("10B") == 10
    assert units.parse_seconds("10min") == 600


@pytest.mark.parametrize(
    ("text", "parse"), [("60e6", units.parse_macs), ("64", units.parse_bytes), ("10", units.parse_seconds)]
)
def test_every_quantity_needs_a_unit(text: str, parse: object) -> None:
    with pytest.raises(InputError):
        parse(text)  # type: ignore[operator]  # functions of several types


def test_formats() -> None:
    assert units.format_ms(0.5831) == "0.583 ms"
    assert units.format_ms(0.0852) == "85.2 us"
    assert units.format_ms(2500) == "2.5 s"
    assert units.format_count(40_813_184, "MAC") == "40.81 MMAC"
    assert units.format_count(999, "param") == "999 param"
    assert units.format_seconds(5.04) == "5.0 s"
    assert units.format_seconds(185) == "3 min 05 s"
    assert units.format_seconds(3725) == "1 h 02 min"
