"""What is said of a table whose predictions are off, and what to do about it."""

import pytest

from hwnas.measure.reliability import doubt


@pytest.mark.parametrize(
    ("error", "repeat", "cure"),
    [
        (5.0, 0.1, ""),
        (None, None, ""),
        (8.0, None, "stop other programs and profile again"),
        (8.0, 2.1, "stop other programs and profile again"),
        (8.0, 1.9, "the machine was quiet enough, so profile more of its blocks with a larger --preset"),
    ],
)
def test_the_cure_follows_from_how_well_measurements_repeat(
    error: float | None, repeat: float | None, cure: str
) -> None:
    said = doubt(error, repeat, "table x")
    assert said.endswith(cure)
    assert bool(said) == bool(cure)
