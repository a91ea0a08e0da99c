"""How good predictions are: the figures that every profile and benchmark prints."""

from __future__ import annotations

from typing import Any

import numpy as np

from hwnas.arrays import Float64s


def kendall_tau(a: Float64s, b: Float64s) -> float:
    """Rank correlation tau-b (Kendall 1945): 1 for equal order, -1 for reversed; ties count for neither."""
    upper = np.triu_indices(len(a), 1)
    x = np.sign(a[:, None] - a[None, :])[upper]
    y = np.sign(b[:, None] - b[None, :])[upper]
    scale = float(np.sqrt((x**2).sum() * (y**2).sum()))
    return float((x * y).sum() / scale) if scale else 0.0


def figures(predicted_ms: Float64s, measured_ms: Float64s) -> dict[str, Any]:
    """Errors of predictions against measurements; percentages of the measured latency."""
    error = predicted_ms / measured_ms - 1.0
    return {
        "networks": len(error),
        "mape_percent": 100.0 * float(np.abs(error).mean()),
        "bias_percent": 100.0 * float(error.mean()),
        "max_error_percent": 100.0 * float(np.abs(error).max()),
        "within_5_percent": 100.0 * float((np.abs(error) <= 0.05).mean()),
        "within_10_percent": 100.0 * float((np.abs(error) <= 0.10).mean()),
        "kendall_tau": kendall_tau(predicted_ms, measured_ms),
    }
