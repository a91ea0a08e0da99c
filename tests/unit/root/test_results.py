"""What jobs give: typed attributes that cannot differ from the JSON object."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from hwnas.errors import DataFormatError
from hwnas.results import DryRun, Result


class Best(Result):
    accuracy: float
    depths: tuple[int, ...] = ()


class Found(Result):
    best: Best
    others: tuple[Best, ...]
    note: str | None = None


BODY = {"best": {"accuracy": 1, "depths": [3, 3]}, "others": [{"accuracy": 0.5}], "figure": 7}


def test_attributes_are_the_keys_of_the_json_object() -> None:
    found = Found.of(BODY)
    assert found.best.accuracy == 1.0
    assert found.best.depths == (3, 3)
    assert [one.accuracy for one in found.others] == [0.5]
    assert found.note is None
    assert found.as_json() == BODY  # as it was: no key more, 1 is not 1.0
    assert found["best"] is BODY["best"]
    assert {**found} == BODY
    assert "note" not in found
    assert found.get("note", "-") == "-"
    assert found.figure == 7  # type: ignore[attr-defined]  # no class names what a table adds


def test_a_result_is_frozen_and_of_its_types() -> None:
    found = Found.of(BODY)
    with pytest.raises(ValidationError):
        found.note = "x"
    with pytest.raises(DataFormatError, match=r"the result: best\.accuracy"):
        Found.of({**BODY, "best": {"accuracy": "much"}})


def test_a_dry_run_keeps_what_its_job_tells() -> None:
    planned = DryRun.of({"dry_run": True, "seconds": 3.0, "blocks": 5})
    assert (planned.seconds, planned.measurements, planned["blocks"]) == (3.0, None, 5)
