"""How wrong a floor is by the step of a GPU's clock (M1), and what a card that warms does to gates and
promises (M3): with and without the cure, on simulated clocks.

::

    python tests/sim/prepare.py && python tests/sim/clock_figures.py

Card and host have simulated clocks, so nothing here depends on this machine. Without the cure each call lies
between events of its own, and the empty pair of events is part of it. docs/gpu.md holds what this prints.
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

TICKS_NS = (1024, 500, 32)
CALLS_US = np.round(np.geomspace(6, 60, 10), 2)  # no multiples of the steps


def figures(tick_ns: int, cured: bool) -> tuple[float, float]:
    """90th percentile and largest relative error of the floors of calls of 6 to 60 us."""
    from hwnas.backends.cuda import clock
    from hwnas.backends.trt.backend import Trt
    from hwnas.measure.session import Gates, SessionOptions, run_session
    from hwnas.nets import onnx
    from hwnas.spec import BlockSpec

    model = onnx.chain([BlockSpec(kind="basic", c_in=8, c_out=8, size_in=8)])
    os.environ["FAKECUDA_CLOCK"] = str(tick_ns)
    clock._known.clear()
    backend, errors = Trt(), []
    for call_us in CALLS_US:
        os.environ["TRTSIM_CALL_US"] = str(call_us)
        engine = backend.build(model, backend.setting("gpu", "fp32", 1, 1))
        if not cured:
            engine.time(1)
            known = engine._timer.known
            assert known is not None
            known.clock = dataclasses.replace(known.clock, empty_ms=0.0)
            engine._timer.each = lambda known: 1  # type: ignore[method-assign]  # the fault
        found = run_session(engine, SessionOptions(10.0), Gates())
        engine.close()
        errors.append(abs(1e3 * found.floor_ms / call_us - 1))
    return float(np.percentile(errors, 90)), max(errors)


BOOST = "1923,1695,300"  # MHz cold and warm, and the ms of work in which two thirds of the fall happen
CALL_US = 300


def heat(cured: bool) -> tuple[tuple[str, ...], str, str]:
    """Gates of a measurement on a card that boosts and warms; verdicts on budgets 5 % above and below."""
    from hwnas.backends.cuda import state
    from hwnas.backends.trt.backend import Trt
    from hwnas.measure import promise, timing
    from hwnas.nets import onnx
    from hwnas.spec import BlockSpec

    card = {"CLOCK": 1024, "BOOST": BOOST, "JITTER": 0.002}
    os.environ |= {f"FAKECUDA_{name}": str(value) for name, value in card.items()}
    os.environ["TRTSIM_CALL_US"] = str(CALL_US)
    if not cured:  # the faults: against the fastest clock and the best look that were ever seen
        state.SLOW_CLOCK, state.median = 0.97, max  # type: ignore[assignment, attr-defined]
        for module in (timing, promise):
            module.warms = lambda engine: False  # type: ignore[attr-defined]
    model, backend = onnx.chain([BlockSpec(kind="basic", c_in=8, c_out=8, size_in=8)]), Trt()
    setting = backend.setting("gpu", "fp32", 1, 1)
    builders = {"net": lambda: backend.build(model, setting)}
    rng = np.random.default_rng(0)
    options = timing.TimingOptions.preset("quick")
    gates = timing.measure(builders, options, rng=rng)["net"].gates
    warm_ms = CALL_US / 1e3 * 1923 / 1695
    above, below = (promise.keep(builders["net"], share * warm_ms)[0].verdict for share in (1.05, 0.95))
    return gates, above, below


def main() -> None:
    """Print the tables; within the simulated machine itself, one row of them."""
    if len(sys.argv) == 2 and not sys.argv[1].isdigit():
        gates, above, below = heat(sys.argv[1] == "after")
        print(f"| {sys.argv[1]} | {', '.join(gates) or 'none'} | {above} | {below} |", flush=True)
        return
    if len(sys.argv) == 2:
        before, after = (figures(int(sys.argv[1]), cured) for cured in (False, True))
        shares = " | ".join(f"{100 * share:.2f} %" for share in (*before, *after))
        print(f"| {int(sys.argv[1]) / 1e3:g} us | {shares} |", flush=True)
        return
    from machines import MACHINES, environment

    print(
        "| step | before: 90 % of floors within | worst | after: 90 % within | worst |\n|---|---|---|---|---|"
    )
    heated = ["| a warming card | gates | budget 5 % above its time | 5 % below |", "|---|---|---|---|"]
    for row in (*map(str, TICKS_NS), "before", "after"):
        if row == "before":
            print("\n" + "\n".join(heated), flush=True)
        with tempfile.TemporaryDirectory() as home:
            env = environment(MACHINES["rtx3090"], Path(home))
            env |= {"FAKECUDA_EVENT_NS": "700", "FAKECUDA_HOST_NS": "1000", "HWNAS_SIM": "1"}
            subprocess.run([sys.executable, __file__, row], env=env, check=True)


if __name__ == "__main__":
    main()
