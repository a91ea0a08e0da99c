"""What a profile prints of itself: errors on networks that were measured and never fitted."""

from __future__ import annotations

from typing import Any

import numpy as np

from hwnas.arrays import Float64s
from hwnas.cost.model import TableModel
from hwnas.cost.score import figures
from hwnas.measure.memory import MemoryStates
from hwnas.measure.table import LatencyTable


def summary(
    table: LatencyTable, states: float | None = None, memory: MemoryStates | None = None
) -> dict[str, Any]:
    """Figures of a table's cost model on its held-out networks.

    The truth is the mean of a network's measured floors, and `repeat_mape_percent` how far two of them
    differ: no predictor can be expected to do better than that. `isolated_sum_mape_percent` is the
    error of adding up blocks timed alone.

    Args:
        table: measured.
        states: how far from its best state the device was met over time, relative; None where not known.
        memory: the same of weights beyond a core's own cache; None where not known.
    """
    model = TableModel(table, states=0.0 if states is None else states, memory=memory)
    validated, slower = model.validated, model.slower()
    random = [net.spec for net in table.networks if net.role in ("calibration", "holdout")]
    noise = {
        "noise_percent": 100.0 * model.noise,
        "calibration": {
            "networks": int(validated.calibration.sum()),
            "mape_percent": None if validated.mape is None else 100.0 * validated.mape,
            "half_width_sd": model.width,
        },
        "width_percent": {**model.widths(random), "slower_networks": len(slower)} if random else None,
        "coverage": model.coverage,
        "median_over_floor": model.median_over_floor,
        "states_percent": None if states is None else 100.0 * states,
        "memory": None if memory is None else memory.to_json(),
    }
    nets = [net for net in table.networks if net.role == "holdout"]
    if not nets:
        return {"holdout": None, **noise}
    first = np.array([net.measurement.floor_ms for net in nets])
    second = np.array([table.repeats.get(net.spec.key, np.nan) for net in nets])
    twice = ~np.isnan(second)
    truth = np.where(twice, (first + second) / 2.0, first)
    specs = [net.spec for net in nets]
    predicted, _ = model.predict(specs)
    low, high = model.bounds(specs)
    whole = np.array([all(b in table for b in net.spec.blocks) for net in nets])
    alone = [sum(table.rows[b].value_ms for b in net.spec.blocks) for net, has in zip(nets, whole) if has]
    return {
        "holdout": {
            **figures(predicted, truth),
            "coverage_percent": 100.0 * float(((low <= truth) & (truth <= high)).mean()),
            "repeat_mape_percent": _mean_percent(first[twice] / second[twice] - 1.0),
        },
        "isolated_sum_mape_percent": _mean_percent(np.array(alone) / truth[whole] - 1.0),
        "interval_percent": 100.0 * float((high / predicted - 1.0).mean()),
        **noise,
    }


def _mean_percent(errors: Float64s) -> float | None:
    """Mean absolute value in percent; None of nothing."""
    return 100.0 * float(np.abs(errors).mean()) if errors.size else None
