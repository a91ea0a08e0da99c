"""Are budgets kept? Searches that pick the best-looking network under a budget.

    python -m benchmarks.promise                      # about 10 minutes on 2 idle cores
    python -m benchmarks.promise --busy               # profile and sessions beside planted spells
    python -m benchmarks.promise --networks 30 --budgets 5 --searches 50 --preset quick --out FILE

A pool of random networks is timed in a pass of 16 sessions, and by a clock of the benchmark's own. Each
simulated search gets a random budget and a noisy score that grows with a network's true latency, and takes
the highest score that it believes to be within the budget. That is harder than accuracy would be: the
best-looking networks crowd at the budget, half of them above it. Selection is the trap: what looks best is
more often than not what the model prices too low. Three ways to believe:

* ``point estimate``: the predicted latency is within the budget;
* ``upper bound``: the upper end of the interval is;
* ``promise``: candidates by upper bound, best first, until one keeps the budget by the order
  statistics of its sessions of the first pass (at most three are tried, the error shared).

Judge is the clock (`benchmarks.clock`: 2 % quantile of calls over a minute, persistent sessions, in turn),
run without the neighbour. With budgets for real the last way is also done for real: engines built,
`hwnas.measure.promise.keep` deciding, the accepted networks timed by the clock.
"""

from __future__ import annotations

import argparse
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.busy import neighbour
from benchmarks.clock import loaded, low_ms
from benchmarks.common import bars, save
from benchmarks.pool import Pool, draw
from hwnas.cost.model import TableModel, cost_model
from hwnas.jobs.profile import ProfileOptions, profile
from hwnas.measure import promise
from hwnas.measure import table as tables
from hwnas.measure.order_statistics import decide, stages
from hwnas.measure.patience import PATIENCE_S, Patience
from hwnas.measure.rows import SUFFIX
from hwnas.measure.sentinel import watched
from hwnas.measure.session import Gates, SessionOptions, TimingSession, run_session
from hwnas.nets import onnx

TRIES, ALPHA = 3, 0.05
NOISE = 0.03  # of the score, in the logarithm of the latency
ROUNDS = 16  # sessions of each network to look at, and as many to judge by
Array = NDArray[np.float64]
WAYS = ("point estimate", "upper bound", "promise")


def sessions(pool: Pool, rounds: int, seed: int) -> Array:
    """(networks, rounds) session values as the promise takes them: medians of undisturbed calls."""
    rng = np.random.default_rng([seed, 9])
    models = [onnx.network(spec, seed=0) for spec in pool.specs]
    values = np.empty((len(models), rounds))
    for r in range(rounds):
        for i in rng.permutation(len(models)):
            engine = pool.backend.build(models[i], pool.setting)
            values[i, r] = value(run_session(engine, SessionOptions(40.0, calls=20), Gates()))
            engine.close()
    return values


def value(session: TimingSession) -> float:
    """What a session says about the median, in ms."""
    return float(np.median(session.undisturbed_ms))


def simulate(
    pool: Pool, first: Array, again: Array, model: TableModel, searches: int, seed: int
) -> dict[str, Any]:
    """Over-budget rates of the three ways; `first` is what searches may look at, `again` judges."""
    rng = np.random.default_rng(seed)
    estimates = [model.estimate(spec) for spec in pool.specs]
    point = np.array([e.latency_ms for e in estimates])
    high = np.array([e.high_ms for e in estimates])
    plan = stages(ALPHA / TRIES, 2)
    outcome: dict[str, list[float]] = {way: [] for way in WAYS}
    nothing = 0
    for _ in range(searches):
        budget = float(np.quantile(again, rng.uniform(0.2, 0.9)))
        order = np.argsort(-(np.log(again) + NOISE * rng.standard_normal(len(again))))
        for way, belief in (("point estimate", point), ("upper bound", high)):
            pick = next((i for i in order if belief[i] <= budget), None)
            if pick is not None:
                outcome[way].append(again[pick] / budget)
        for i in [i for i in order if high[i] <= budget][:TRIES]:
            hits = [bool(v <= budget) for v in rng.permutation(first[i])]
            verdicts = (decide(hits[:n], plan) for n in range(1, len(hits) + 1))
            if next((v for v in verdicts if v is not None), None) == "kept":
                outcome["promise"].append(again[i] / budget)
                break
        else:
            nothing += 1
    return {
        "searches": searches,
        "nothing_accepted": nothing,
        **{
            way: {
                "answers": len(ratio),
                "over_budget_percent": 100 * float(np.mean(np.array(ratio) > 1.0)),
                "over_by_2_percent": 100 * float(np.mean(np.array(ratio) > 1.02)),
                "mean_use_percent": 100 * float(np.mean(ratio)),
                "worst_percent": 100 * float(np.max(ratio) - 1.0),
            }
            for way, ratio in outcome.items()
            if ratio
        },
    }


def really(pool: Pool, again: Array, model: TableModel, searches: int, seed: int) -> dict[str, Any]:
    """The promise for real: build, test, accept; `again` judges."""
    rng = np.random.default_rng([seed, 5])
    estimates = [model.estimate(spec) for spec in pool.specs]
    high = np.array([e.high_ms for e in estimates])
    guard, past = watched(pool.backend, pool.setting)
    rows: list[dict[str, Any]] = []
    for _ in range(searches):
        budget = float(np.quantile(high, rng.uniform(0.2, 0.9)))
        order = np.argsort(-(np.log(again) + NOISE * rng.standard_normal(len(again))))
        tried = []
        for i in [i for i in order if high[i] <= budget][:TRIES]:
            model_bytes = onnx.network(pool.specs[i], seed=0)

            def build(body: bytes = model_bytes) -> Any:
                return pool.backend.build(body, pool.setting)

            verdict, _ = promise.keep(
                build, budget, sentinel=guard, tries=TRIES, patience=Patience(PATIENCE_S), levels=past
            )
            tried.append(verdict.verdict)
            if verdict.verdict == "kept":
                rows.append({"budget_ms": budget, "tried": tried, "again_ms": float(again[i])})
                break
        else:
            rows.append({"budget_ms": budget, "tried": tried, "again_ms": None})
    ratio = np.array([r["again_ms"] / r["budget_ms"] for r in rows if r["again_ms"] is not None])
    return {
        "searches": searches,
        "accepted": len(ratio),
        "over_budget": int((ratio > 1.0).sum()),
        "mean_use_percent": 100 * float(ratio.mean()) if len(ratio) else None,
        "rows": rows,
    }


def chart(body: dict[str, Any]) -> str:
    """How often each way is over the budget, and how much of it the way uses."""
    ways = {way: body["simulated"][way] for way in WAYS if way in body["simulated"]}
    series = {
        "over the budget": [f["over_budget_percent"] for f in ways.values()],
        "used on average": [f["mean_use_percent"] for f in ways.values()],
    }
    return bars(
        f"{body['simulated']['searches']} searches that take the best-looking network",
        list(ways),
        series,
        "%",
    )


def main() -> None:
    """Profile, measure the pool, simulate, and do it for real."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--space", default="mbv2-cifar")
    parser.add_argument("--backend", default="ort")
    parser.add_argument("--networks", type=int, default=120)
    parser.add_argument("--searches", type=int, default=200)
    parser.add_argument("--budgets", type=int, default=20, help="budgets that are kept for real")
    parser.add_argument("--seeds", type=int, default=1, help="pools, each with as many budgets")
    parser.add_argument("--preset", default="default", help="of the profile")
    parser.add_argument("--clock", type=float, default=60.0, help="seconds over which all networks are timed")
    parser.add_argument("--busy", action="store_true", help="profile and test beside planted spells")
    parser.add_argument("--out", default=None, help="name of the result file; promise, promise-busy")
    args = parser.parse_args()
    name = args.out or ("promise-busy" if args.busy else "promise")
    found = [_one(seed, args) for seed in range(args.seeds)]
    for body in found[1:]:
        found[0]["more"] = [*found[0].get("more", []), body]
    print("written to", save(name, {"busy": args.busy, "clock_s": args.clock, **found[0]}, chart(found[0])))


def _one(seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """A profile, a pool, searches of both kinds."""
    pool = draw(args.backend, args.space, args.networks, seed=seed + 1)
    models = {spec.key: onnx.network(spec, seed=0) for spec in pool.specs}

    def clocked() -> Array:
        with loaded(pool.backend, pool.setting, models) as engines:
            times = low_ms(engines, args.clock)
        return np.array([times[spec.key] for spec in pool.specs])

    before = clocked()
    with neighbour(seed) if args.busy else nullcontext():
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / f"t{SUFFIX}"
            options = ProfileOptions(
                device="cpu", backend=args.backend, space=args.space, preset=args.preset, out=out, seed=seed
            )
            profile(options)
            model = cost_model(tables.load(out))
        first = sessions(pool, ROUNDS, seed=seed)
        real = really(pool, before, model, args.budgets, seed=seed)
    after = clocked()
    simulated = simulate(pool, first, (before + after) / 2, model, args.searches, seed=seed)
    for way in WAYS:
        f = simulated.get(way)
        if f is None:
            print(f"{way}: no answer in {args.searches} searches")
            continue
        print(
            f"{way:16s} over budget {f['over_budget_percent']:5.1f} % of {f['answers']} answers "
            f"(worst {f['worst_percent']:+.1f} %), uses {f['mean_use_percent']:.1f} % of the budget"
        )
    tally = f"{real['over_budget']} of {real['accepted']} accepted networks"
    print(f"for real: {tally} over budget when measured again")
    return {
        "space": args.space,
        "conditions": pool.setting.describe(),
        "repeat_mape_percent": 100 * float(np.abs(before / after - 1).mean()),
        "simulated": simulated,
        "real": real,
    }


if __name__ == "__main__":
    main()
