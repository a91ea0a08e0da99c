"""Which form of int8 an engine has: the fastest by the clock, or the one that its run was searched in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from int8_fakes import FakeOfInt8

from hwnas import schemas
from hwnas.backends.fake import FakeEngine
from hwnas.jobs.export.conditions import in_form
from hwnas.jobs.export.forms import fastest
from hwnas.jobs.resolve.origin import origin
from hwnas.nets import build
from hwnas.records import Setting
from hwnas.spec import BlockSpec, NetworkSpec
from hwnas.store import write_json

SPEC = NetworkSpec(
    stem=BlockSpec(kind="conv", c_in=3, c_out=8, size_in=8),
    stages=((BlockSpec(kind="basic", c_in=8, c_out=8, size_in=8),),),
    head=BlockSpec(kind="classifier", c_in=8, c_out=4, size_in=8),
)
WEIGHTS = build.weights(build.build(SPEC, seed=1))
PRICES_MS = {"": 1.0, "by sign": 1.1, "sums": 0.9, "all": 1.2}


class Formed(FakeOfInt8):
    """The fake device with three forms of int8, each at a price of its own."""

    def build(self, model: bytes, setting: Setting) -> FakeEngine:
        price = PRICES_MS[setting.form] if setting.precision == "int8" else 2.0
        return FakeEngine(self, model, setting, price, price, np.random.default_rng(0))


def test_the_fastest_form_is_taken_and_said() -> None:
    backend, told = Formed(), []
    setting = backend.setting("fake", "int8", 1, 1)
    chosen, relative = fastest(
        SPEC, WEIGHTS, backend, setting, emit=lambda kind, fields: told.append(fields["text"])
    )
    assert chosen == setting.model_copy(update={"form": "sums"})
    assert relative == pytest.approx(
        {"": 1.0 / 0.9, "by sign": 1.1 / 0.9, "sums": 1.0, "all": 1.2 / 0.9}, rel=0.05
    )
    assert told[0].startswith("fastest form of int8: fake int8 (sums); times as long: fake int8 1.1")


def test_nothing_is_timed_where_there_is_one_form() -> None:
    backend = Formed()
    setting = backend.setting("fake", "fp32", 1, 1)
    assert fastest(SPEC, WEIGHTS, backend, setting) == (setting, {})


def test_the_form_of_the_runs_latencies_is_kept(tmp_path: Path) -> None:
    """A budget was promised by predictions in one form: another would be another engine."""
    backend = Formed()
    file = tmp_path / "network.json"
    write_json(file, {"schema": schemas.NETWORK, **SPEC.model_dump(mode="json")})
    write_weights(tmp_path)
    source = origin(str(file))
    setting = backend.setting("fake", "int8", 1, 1)
    searched = replace(source, setting=setting.model_copy(update={"form": "by sign"}))
    assert in_form(searched, backend, setting, None) == (searched.setting, {})
    other = replace(source, setting=backend.setting("fake", "fp32", 1, 1))
    assert in_form(other, backend, setting, None)[0].form == "sums"


def write_weights(folder: Path) -> None:
    from safetensors.numpy import save_file

    save_file(dict(WEIGHTS), folder / "weights.safetensors")
