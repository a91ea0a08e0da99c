"""`hwnas strategies show`: every option with what it may be, from the fields of the dataclass."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from hwnas import plugins
from hwnas.jobs import inspect as look
from hwnas_cli.main import cli


def test_an_option_is_told_with_default_type_and_bounds() -> None:
    body = look.strategy("uniform")
    assert body["available"]
    assert body["prepared"] is False
    options = {option["name"]: option for option in body["options"]}
    assert list(options) == ["images", "search_share", "largest"]
    share = options["search_share"]
    assert (share["default"], share["types"], share["low"], share["high"]) == (0.3, ("float",), 0, 1)
    assert share["expected"] == "a number, 0 to 1"
    assert options["largest"]["expected"] == "true or false"
    assert look.strategy("densenas")["prepared"] is True
    begin = next(o for o in look.strategy("stagewise")["options"] if o["name"] == "begin")
    assert begin["choices"] == ("auto", "smallest", "uniform", "unjudged")


@pytest.mark.parametrize("name", plugins.names("strategies"))
def test_every_option_is_shown_and_says_what_it_does(name: str) -> None:
    shown = CliRunner().invoke(cli, ["strategies", "show", name])
    assert shown.exit_code == 0, shown.output
    as_json = CliRunner().invoke(cli, ["strategies", "show", name, "--json"])
    for option in json.loads(as_json.stdout)["options"]:
        assert option["help"].endswith(".")
        assert option["expected"]
        assert option["name"] in shown.stdout


def test_a_wrong_name_is_answered_with_the_nearest() -> None:
    done = CliRunner().invoke(cli, ["strategies", "show", "stagwise"])
    assert done.exit_code == 2
    assert "did you mean 'stagewise'" in done.output
