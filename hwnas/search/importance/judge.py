"""How much each stage, or each possible growth, matters to a trained network; with standard errors.

Three answers behind one door (`hwnas.protocols.Importance`):

- `vip.Vip`: the score of StageWise NAS (Jordao et al. 2020). How evenly the features of a stage matter
  for the classes; needs a second, deeper network to compare with. Trains nothing.
- `gradient.Gradient`: first-order drop of the loss if a growth were made and trained for one step.
- `probe.Probe`: drop of the loss on held-out images after a short training of each growth, against the
  same training without growth.

`Gradient` and `Probe` speak for growths (a fraction of the present loss, one value for each stage
and kind); `Vip` for stages as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hwnas.errors import InputError
from hwnas.plugins import unknown
from hwnas.protocols import Importance
from hwnas.search.importance.gradient import Gradient, Moves
from hwnas.search.importance.probe import Probe
from hwnas.search.importance.vip import Vip


def make(name: str, moves: Moves, **options: Any) -> Importance:
    """An importance by name.

    Args:
        name: ``vip``, ``gradient`` or ``probe``.
        moves: growths to judge, usually `SearchSpace.grow` without those over the budget.
        options: fields of the class.
    """
    makers: dict[str, Callable[[], Importance]] = {
        "vip": lambda: Vip(**options),
        "gradient": lambda: Gradient(moves, **options),
        "probe": lambda: Probe(moves, **options),
    }
    if name not in makers:
        raise InputError(unknown("importance", name, makers))
    return makers[name]()
