"""How much each stage, or each possible growth, matters to a trained network; with standard errors.

Three answers behind one door (`hwnas.protocols.Importance`):

- `vip.Vip`: the score of StageWise NAS (Jordao et al. 2020). How evenly the features of a stage matter
  for the classes; needs a second, deeper network to compare with. Trains nothing.
- `gradient.Gradient`: first-order drop of the loss if a growth were made and trained for one step.
- `probe.Probe`: drop of the loss on held-out images after a short training of each growth, against the
  same training without growth.

A further one is a class or function (images=, autocast=) and one line in `hwnas.plugins`.
`Gradient` and `Probe` speak for growths (a fraction of the present loss, one value for each stage
and kind); `Vip` for stages as they are.
"""

from __future__ import annotations

from contextlib import nullcontext

from hwnas import plugins
from hwnas.protocols import Autocast, Importance


def make(
    name: str, *, images: int, autocast: Autocast = nullcontext, group: str = "importances"
) -> Importance:
    """An importance by its registered name.

    Args:
        name: for example ``vip``, ``gradient`` or ``probe``.
        images: training images that it may take.
        autocast: context of the forward pass in training, for half precision.
        group: of the registry that the name is of.
    """
    factory = plugins.load(group, name)
    with plugins.blamed(group, name, "cannot be made"):
        made: Importance = factory(images=images, autocast=autocast)
    return made
