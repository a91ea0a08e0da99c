"""Chains of Efficient Global NAS against the published parameter counts."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from hwnas.errors import InputError
from hwnas.nets import spaces
from hwnas.nets.count import count
from hwnas.nets.macromicro.space import FULL, SEPARABLE, MacroMicro

DATA = os.environ.get("HWNAS_TEST_DATA")
# Channels and classes of the data sets in the logs (EMNIST: its "balanced" split).
DATASETS = {
    "CIFAR10": (3, 10),
    "CIFAR100": (3, 100),
    "EMNIST": (1, 47),
    "FashionMNIST": (1, 10),
    "KMNIST": (1, 10),
}


def space(channels: int = 3, classes: int = 10) -> MacroMicro:
    made = spaces.make("macromicro", input_shape=(channels, 32, 32), classes=classes)
    assert isinstance(made, MacroMicro)
    return made


def test_layout_by_hand() -> None:
    spec = space().network(11, 20, full_conv=[3], kernel5=[0, 3])
    # 11//3 = 3 and 22//3 = 7: layers 0-2, 3-6, 7-10.
    assert spec.depths == (3, 4, 4)
    assert spec.stem.c_out == 40
    assert [stage[-1].c_out for stage in spec.stages] == [20, 40, 80]
    assert [stage[0].stride for stage in spec.stages] == [1, 2, 2]
    kinds = [(b.kind, b.kernel) for stage in spec.stages for b in stage]
    assert kinds[:5] == [(SEPARABLE, 5), (SEPARABLE, 3), (SEPARABLE, 3), (FULL, 5), (SEPARABLE, 3)]


def test_first_published_candidate() -> None:
    # D = 10, C = 64: the logs' first row, 0.30945 M.
    assert count(space().network(10, 64)).params == 309_450


def test_deeper_lengthens_one_stage() -> None:
    s, rng = space(), np.random.default_rng(0)
    for depth in range(10, 40):
        spec = s.network(depth, 16, full_conv=rng.choice(depth, 3, replace=False).tolist())
        deeper = next(move for move in s.grow(spec) if move.kind == "deeper")
        assert [b - a for a, b in zip(spec.depths, deeper.spec.depths)].count(1) == 1
        assert sum(deeper.spec.depths) == depth + 1
        assert deeper.spec.stages[deeper.stage] == spec.grow(deeper.stage).stages[deeper.stage]


def test_wrong_layers() -> None:
    with pytest.raises(InputError, match="no layer 12"):
        space().network(12, 16, full_conv=[3, 12])
    with pytest.raises(InputError, match="empty stage"):
        MacroMicro((3, 32, 32), 10, depth=(2, 5))


@pytest.mark.skipif(DATA is None, reason="HWNAS_TEST_DATA is not set")
@pytest.mark.parametrize("name", ["cifar10", "cifar100", "emnist", "fashionmnist", "kmnist"])
def test_every_logged_candidate(name: str) -> None:
    log = json.loads((Path(DATA or "") / "globalnas" / f"{name}-64.json").read_text())
    s = space(*DATASETS[log["settings"]["dataset"]])
    assert len(log["rows"]) > 50
    for row in log["rows"]:
        fields = dict(zip(log["columns"], row))
        spec = s.network(
            fields["depth"], fields["width"], fields["full_conv_layers"], fields["kernel5_layers"]
        )
        assert spec in s
        assert count(spec).params == round(fields["params_million"] * 1e6)
