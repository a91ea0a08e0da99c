"""A training loop of the user's own, in place of `loop.train`: for detection, segmentation, other losses."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pkgutil import resolve_name

from torch import nn

from hwnas.errors import InputError, TrainingFailed
from hwnas.train.data import Dataset


@dataclass(frozen=True)
class OwnTraining:
    """What a user's loop is given beside the module.

    Attributes:
        dataset: images and labels of the search (`hwnas.train.data.Dataset`); the loop may use others.
        images: how many training images it may see.
        teacher: the model as it was, in eval mode; None where it does not teach.
        progress: to be called with the images seen so far and the loss.
        seed: of all that is random.
    """

    dataset: Dataset
    images: int
    teacher: nn.Module | None
    progress: Callable[[int, float], None]
    seed: int


Trainer = Callable[[nn.Module, OwnTraining], nn.Module]


def trainer(name: str) -> Trainer:
    """The user's function by ``package.module:function``; its code runs.

    Raises:
        InputError: there is no such function.
    """
    module, colon, function = name.partition(":")
    if not (module and colon and function):
        raise InputError(f"--trainer {name!r} is not package.module:function")
    try:
        found = resolve_name(name)
    except (ImportError, AttributeError, ValueError) as exc:
        raise InputError(f"--trainer {name} cannot be loaded: {type(exc).__name__}: {exc}") from exc
    if not callable(found):
        raise InputError(f"--trainer {name} is a {type(found).__name__}, not a function")
    made: Trainer = found
    return made


def run(train: Trainer, module: nn.Module, order: OwnTraining) -> tuple[nn.Module, float]:
    """Call the user's loop; the trained module in eval mode, and the seconds that it took.

    Raises:
        TrainingFailed: it returned another network, or weights that are no numbers.
    """
    begun, names = time.perf_counter(), set(module.state_dict())
    made = train(module, order)
    if not isinstance(made, nn.Module) or set(made.state_dict()) != names:
        raise TrainingFailed("the function of --trainer did not return the module that it was given")
    if not all(math.isfinite(float(value.double().sum())) for value in made.state_dict().values()):
        raise TrainingFailed("the function of --trainer left weights that are NaN or infinite")
    return made.eval(), time.perf_counter() - begun
