"""A score without training: the entropy of a network seen as a chain of random linear maps.

DeepMAD (Shen et al., CVPR 2023, section 3) scores a convolutional network by the entropy of its
output under Gaussian weights, H = log(r^2 c) * sum over layers of log(c_in k^2 / groups): additive
over layers, hence over blocks, which is what an exact search needs. It rewards depth and width and
knows nothing of the data; it is for planning and for tests, never for choosing what to deploy.
"""

from __future__ import annotations

import math

from hwnas.nets.blocks import recipe
from hwnas.nets.ops import Conv
from hwnas.spec import BlockSpec, NetworkSpec


def block_entropy(block: BlockSpec) -> float:
    """Sum over the block's convolutions on feature maps of log(c_in * k^2 / groups), in nats.

    Gates and 1x1 shortcuts are not on the main path and do not count.
    """
    return sum(
        math.log(op.c_in * op.kernel**2 / op.groups)
        for op in recipe(block).ops
        if isinstance(op, Conv) and not op.name.startswith("se_") and op.name != "shortcut"
    )


def entropy(spec: NetworkSpec) -> float:
    """Sum over all blocks; comparable between networks of one input and one final width."""
    return sum(block_entropy(block) for block in spec.blocks)
