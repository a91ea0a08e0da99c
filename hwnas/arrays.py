"""Arrays by what they hold: every alias names its precision, so that none can be taken for another."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Float32s = NDArray[np.float32]  # weights, images, scores
Float64s = NDArray[np.float64]  # times, costs, probabilities
Int64s = NDArray[np.int64]  # labels, places
Uint8s = NDArray[np.uint8]  # pictures
Bools = NDArray[np.bool_]

ImageShape = tuple[int, int, int]  # channels, height, width
