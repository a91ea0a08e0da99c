"""A network and a data set that train in a second on one core."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
import torch

from hwnas.spec import BlockSpec, NetworkSpec
from hwnas.train.data import Dataset, load


def network(*depths: int, width: int = 8, size: int = 8, classes: int = 10) -> NetworkSpec:
    """Basic blocks of one width in one resolution a stage, on grey images."""
    stem = BlockSpec(kind="conv", c_in=1, c_out=width, size_in=size)
    stages, before = [], stem
    for s, depth in enumerate(depths):
        stage = []
        for i in range(depth):
            stride: Literal[1, 2] = 2 if s > 0 and i == 0 else 1
            c_out = width * 2**s
            before = BlockSpec(
                kind="basic", c_in=before.c_out, c_out=c_out, stride=stride, size_in=before.size_out
            )
            stage.append(before)
        stages.append(tuple(stage))
    head = BlockSpec(kind="classifier", c_in=before.c_out, c_out=classes, size_in=before.size_out)
    return NetworkSpec(stem=stem, stages=tuple(stages), head=head)


@pytest.fixture(scope="session")
def tiny() -> NetworkSpec:
    return network(1, 1)


@pytest.fixture(scope="session")
def digits() -> Dataset:
    return load("digits", input_shape=(1, 8, 8))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Two threads only wait for each other on networks as small as these."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "home"
    monkeypatch.setenv("HWNAS_HOME", str(place))
    return place
