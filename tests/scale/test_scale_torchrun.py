"""A training of one process goes on with those that torchrun starts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwnas.jobs.train import train
from hwnas.jobs.train_options import TrainOptions
from hwnas.nets.spaces import make
from hwnas.nets.weights import read_weights
from hwnas.store import write_network
from hwnas.train import loop


def options(network: Path, out: Path) -> TrainOptions:
    """40 steps of 20 images."""
    recipe = {"batch": 20, "threads": 1, "checkpoint_s": 0.0, "lr": 0.05}
    return TrainOptions(str(network), data="digits", epochs=5.0, limit=180, out=out, seed=0, recipe=recipe)


def flat(run: Path) -> np.ndarray[Any, np.dtype[np.float64]]:
    """All weights of a run in one row."""
    found = read_weights(run / "weights.safetensors")
    return np.concatenate([found[name].ravel() for name in sorted(found)]).astype(np.float64)


def test_what_one_process_began_two_of_torchrun_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    network = tmp_path / "network.json"
    write_network(network, make("resnet-cifar", input_shape=(1, 8, 8), classes=10).smallest())
    train(options(network, tmp_path / "one"))
    plain = loop._TrainingJob._step

    def cut(self: Any, step: int) -> Any:
        if step == 25:
            raise KeyboardInterrupt
        return plain(self, step)

    monkeypatch.setattr(loop._TrainingJob, "_step", cut)
    with pytest.raises(KeyboardInterrupt):
        train(options(network, tmp_path / "two"))
    assert (tmp_path / "two" / "checkpoint.safetensors").is_file()
    given = ["--data", "digits", "--epochs", "5", "--limit", "180", "--seed", "0", "--out", "two"]
    wanted = ("batch=20", "threads=1", "checkpoint_s=0", "lr=0.05")
    recipe = [part for one in wanted for part in ("--recipe", one)]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*torchrun, "-m", "hwnas_cli.main", "train", str(network), *given, *recipe, "--json"],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count('"schema"') == 1  # the first process alone tells
    one, two = flat(tmp_path / "one"), flat(tmp_path / "two")
    # Rounding grows over the steps; another batch or augmentation differs in the first digit.
    assert np.linalg.norm(one - two) < 0.02 * np.linalg.norm(one)
