"""The cost model against real GPU and CPU latencies that others measured and published.

    python -m benchmarks.public_latencies --data FOLDER [--networks 10 20 50 100] [--seeds 5] [--out FILE]

FOLDER holds ``ofa.npz`` and ``fbnet.npz``: measured latencies of 5,000 random networks each of the
Once-for-All MobileNetV3 space and of the FBNet space, published with HELP (Lee et al. 2021, arXiv
2106.08630; MIT). Everything learns from the same few whole networks, drawn at random, and is judged by
2,000 others:

    hwnas       `hwnas.cost.posterior` with block times from the roofline as the prior (no block was timed);
                devices without a description take that of the TITAN Xp
    with others the same with another prior: block costs of the same space on *other* devices, as published
                tables would give them (300 networks each of every other device), combined robustly
    physical    non-negative regression on blocks, MACs by kind, traffic, squeeze-and-excitation
    MACs        a line through MACs
    one-hot     ridge regression on (place, operator), its strength by leave-one-out

The files give no order of calls, no repeats and no sentinel: what is noise in them stays in every error.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse
from scipy.optimize import nnls

from benchmarks.common import RESULTS, machine
from hwnas import sizes
from hwnas.arrays import Float64s, Int64s
from hwnas.cost import features, roofline
from hwnas.cost.posterior import Evidence, Group, Prior, fit
from hwnas.nets.blocks import recipe
from hwnas.nets.ops import Conv
from hwnas.records import now_utc
from hwnas.spec import BlockSpec
from hwnas.store import write_json

TEST = 2000
# Standard deviations, as shares: of a block's own time and of each kind of work that it does.
OWN, WORK = 0.05, 0.2
# Standard errors of a latency that are tried, as shares of it; degrees of freedom of its noise.
ERRORS, FOLDS, FREEDOM, STEPS = (0.0, 0.03, 0.1), 5, 4.0, 5
TAUGHT = 300  # networks of each other device, whose block costs are a prior
# Once-for-All MobileNetV3, width 1.0 (Cai et al. 2020; ofa_mbv3_d234_e346_k357_w1.0).
OFA_WIDTHS, OFA_STRIDES = (24, 40, 80, 112, 160), (2, 2, 2, 1, 2)
OFA_SE, OFA_ACT = (0.0, 0.25, 0.0, 0.25, 0.25), ("relu", "relu", "hswish", "hswish", "hswish")
# FBNet (Wu et al. 2019, table 1) for 32x32 images as HELP has it: widths and strides of 22 places.
FBNET_WIDTHS = (16, *(24,) * 4, *(32,) * 4, *(64,) * 4, *(112,) * 4, *(184,) * 4, 352)
FBNET_STRIDES = (1, 1, 1, 1, 1, 2, 1, 1, 1, 2, 1, 1, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1)
# Kernel, expansion and groups of each operator; None leaves the place out where shapes allow it.
FBNET_OPS = ((3, 1, 1), (3, 1, 2), (3, 3, 1), (3, 6, 1), (5, 1, 1), (5, 1, 2), (5, 3, 1), (5, 6, 1), None)
DESCRIBED = {"titan_xp": "titanxp", "titanxp": "titanxp", "1080ti": "gtx1080ti"}


@dataclass(frozen=True)
class Networks:
    """Networks of a space as data.

    Attributes:
        blocks: every block that occurs.
        counts: (networks, blocks), sparse: how often each occurs.
        onehot: (networks, columns): operator by place.
        grouped: blocks whose pointwise convolutions have two groups, which our block kinds do not.
    """

    blocks: tuple[BlockSpec, ...]
    counts: Any
    onehot: Float64s
    grouped: frozenset[int] = frozenset()


def _counted(rows: Sequence[Sequence[Any]]) -> tuple[tuple[Any, ...], Any]:
    """Different keys of all rows, and the sparse matrix of how often each row has them."""
    column: dict[Any, int] = {}
    pairs = [(i, column.setdefault(key, len(column))) for i, row in enumerate(rows) for key in row]
    at = np.array(pairs).T
    counts = sparse.csr_array((np.ones(len(pairs)), (at[0], at[1])), shape=(len(rows), len(column)))
    return tuple(column), counts


def _spec(**fields: Any) -> BlockSpec:
    """A block of plain values, checked."""
    return BlockSpec.model_validate(fields)


def ofa(file: Mapping[str, np.ndarray]) -> Networks:
    """Block i of stage s exists where i < d[s]; the first of a stage has its stride."""
    kernels, expands, depths, sides = (file[name] for name in ("ks", "e", "d", "r"))
    rows, onehot = [], []
    for n in range(len(sides)):
        side, width = -(-int(sides[n]) // 2), 16
        row = [
            BlockSpec(kind="conv", c_in=3, c_out=16, kernel=3, stride=2, act="hswish", size_in=int(sides[n]))
        ]
        row.append(BlockSpec(kind="mbconv", c_in=16, c_out=16, kernel=3, expand=1, act="relu", size_in=side))
        hot = np.zeros(20 * 9 + 1)
        hot[-1] = (int(sides[n]) / 224.0) ** 2
        for stage, depth in enumerate(depths[n]):
            for i in range(int(depth)):
                place = 4 * stage + i
                kernel, expand = int(kernels[n, place]), int(expands[n, place])
                block = _spec(
                    kind="mbconv",
                    c_in=width,
                    c_out=OFA_WIDTHS[stage],
                    kernel=kernel,
                    stride=1 if i else OFA_STRIDES[stage],
                    expand=expand,
                    se=OFA_SE[stage],
                    act=OFA_ACT[stage],
                    size_in=side,
                )
                row.append(block)
                side, width = -(-side // block.stride), block.c_out
                hot[9 * place + 3 * (kernel // 2 - 1) + (3, 4, 6).index(expand)] = 1.0
        row.append(BlockSpec(kind="conv", c_in=160, c_out=960, kernel=1, act="hswish", size_in=side))
        row.append(BlockSpec(kind="classifier", c_in=960, c_out=1280, act="none", size_in=side))
        rows.append(row)
        onehot.append(hot)
    blocks, counts = _counted(rows)
    return Networks(blocks, counts, np.array(onehot))


def fbnet(file: Mapping[str, np.ndarray]) -> Networks:
    """Places in a row; where shapes change, leaving out still costs a block of its own."""
    rows: list[list[tuple[BlockSpec, bool]]] = []
    onehot = []
    for ops in file["op"]:
        side, width = 32, 16
        row = [(BlockSpec(kind="conv", c_in=3, c_out=16, kernel=3, size_in=32), False)]
        hot = np.zeros(22 * 9)
        for place, op in enumerate(ops):
            hot[9 * place + int(op)] = 1.0
            shape: dict[str, Any] = {"c_in": width, "c_out": FBNET_WIDTHS[place], "size_in": side}
            stride, form = FBNET_STRIDES[place], FBNET_OPS[int(op)]
            shape["stride"] = stride
            if form is not None:
                kernel, expand, groups = form
                block = BlockSpec(kind="mbconv", kernel=kernel, expand=expand, **shape)
                row.append((block, groups > 1))
            elif stride > 1 or width != FBNET_WIDTHS[place]:
                row.append((BlockSpec(kind="conv", kernel=1, **shape), False))
            side, width = -(-side // stride), FBNET_WIDTHS[place]
        row.append((BlockSpec(kind="conv", c_in=352, c_out=1984, kernel=1, size_in=side), False))
        row.append((BlockSpec(kind="classifier", c_in=1984, c_out=100, act="none", size_in=side), False))
        rows.append(row)
        onehot.append(hot)
    keys, counts = _counted(rows)
    grouped = frozenset(i for i, key in enumerate(keys) if key[1])
    return Networks(tuple(key[0] for key in keys), counts, np.array(onehot), grouped)


def physical(networks: Networks) -> Float64s:
    """(blocks, terms): a block, MACs of each kind of convolution, traffic, squeeze-and-excitation."""
    rows = []
    for at, block in enumerate(networks.blocks):
        macs = {"point": 0.0, "dense": 0.0, 3: 0.0, 5: 0.0, 7: 0.0}
        traffic = 0.0
        for op in recipe(block).ops:
            traffic += op.channels * sizes.pixels(op.size)
            if not isinstance(op, Conv):
                continue
            work = float(roofline.work(op)[0])
            if op.groups > 1:
                macs[op.kernel] += work
            elif op.kernel == 1:
                macs["point"] += work / (2.0 if at in networks.grouped else 1.0)
            else:
                macs["dense"] += work
        residual = block.elements_out if block.joins_identity else 0
        rows.append(
            [
                1.0,
                *macs.values(),
                traffic,
                float(block.se > 0),
                float(residual),
                float(at in networks.grouped),
            ]
        )
    return np.array(rows)


Predict = Callable[[Int64s, Float64s, Int64s], Float64s]


def hwnas(networks: Networks, device: str, batch: int, terms: Float64s) -> Predict:
    """Our model: roofline prior, shared corrections, posterior given whole networks."""
    if device.startswith(("gold", "silver")):
        described = roofline.describe("cpu-avx512")
    else:
        described = roofline.describe(DESCRIBED.get(device, "titanxp"))
    guess = np.array([roofline.block_ms(b, described, batch=batch, fused=False) for b in networks.blocks])

    def predict(train: Int64s, y: Float64s, test: Int64s) -> Float64s:
        # The level of a device that nobody described, and how its time goes to kinds of work:
        # the mean of a non-negative regression and of the roofline brought to scale.
        counts = networks.counts[train]
        scaled = guess * float(np.median(y / (counts @ guess)))
        design = np.hstack([counts @ terms, (counts @ guess)[:, None]])
        weights, _ = nnls(design / y[:, None], np.ones(len(y)))
        mean = np.maximum(terms @ weights[:-1] + guess * weights[-1], 0.02 * scaled)
        return learned(networks, terms, mean, train, y, test)

    return predict


def learned(
    networks: Networks, terms: Float64s, mean: Float64s, train: Int64s, y: Float64s, test: Int64s
) -> Float64s:
    """The posterior given whole networks; `mean` are the block costs expected before."""
    # Step 1: corrections that blocks share, by kind and shape and by the work that they do, which has the
    # unit of a typical block.
    shares = terms / np.maximum(terms.sum(axis=0) / np.maximum((terms > 0).sum(axis=0), 1), 1e-12)
    unit = features.Unit.of(networks.blocks, mean.tolist())
    groups = [
        *features.groups(networks.blocks, mean, unit),
        *(Group(f"work {i}", shares[:, [i]] * unit.time_ms, WORK) for i in range(shares.shape[1])),
    ]
    # Step 2: the posterior.
    prior = Prior(mean, OWN * mean, tuple(groups), constant_ms=0.1 * float(np.median(y)))
    evidence = Evidence(networks.counts[train], y, np.zeros(len(y)), np.arange(len(y)))
    few, seen = _occurring(prior, evidence)
    scales, se_ms = _robust(few, replace(seen, se_ms=_noisy(few, seen) * y))
    return fit(prior, replace(evidence, se_ms=se_ms), scales).predict(networks.counts[test])[0]


def published(networks: Networks, times: Mapping[str, Float64s], terms: Float64s) -> dict[str, Float64s]:
    """(blocks,) costs of every device and batch, up to a factor, from `TAUGHT` networks of each."""
    design = np.hstack([networks.counts @ terms, np.ones((len(networks.onehot), 1))])
    found = {}
    for key, y in times.items():
        chosen = np.random.default_rng(TAUGHT).permutation(len(y))[:TAUGHT]
        costs = terms @ _robust_weights(design[chosen], y[chosen])[:-1]
        found[key] = costs / float((networks.counts @ costs).mean())
    return found


def with_others(networks: Networks, terms: Float64s, others: Sequence[Float64s]) -> Predict:
    """Our model with the block costs of other devices as its prior, and the combination of them itself.

    The latter has no corrections of its own, which twenty networks of a noisy file teach wrongly; the mean
    of both is better than either.
    """
    costs = np.array(others).T

    def predict(train: Int64s, y: Float64s, test: Int64s) -> Float64s:
        design = np.hstack([networks.counts @ costs, np.ones((len(networks.onehot), 1))])
        weights = _robust_weights(design[train], y)
        mean = np.maximum(costs @ weights[:-1], 1e-6 * float(np.median(y)))
        plain: Float64s = design[test] @ weights
        return (plain + learned(networks, terms, mean, train, y, test)) / 2.0

    return predict


def _robust_weights(design: Float64s, y: Float64s) -> Float64s:
    """Non-negative regression on relative latencies under Student's t (see `_robust`)."""
    relative, weight = design / y[:, None], np.ones(len(y))
    for _ in range(2 * STEPS):
        root = np.sqrt(weight)
        found, _ = nnls(relative * root[:, None], root)
        error = relative @ found - 1.0
        spread = 1.4826 * float(np.median(np.abs(error))) + 1e-6
        weight = (FREEDOM + 1.0) / (FREEDOM + (error / spread) ** 2)
    return np.asarray(found, dtype=np.float64)


def _occurring(prior: Prior, evidence: Evidence) -> tuple[Prior, Evidence]:
    """Both without the blocks that no measured network has: most of thousands, which tell nothing here."""
    keys = np.flatnonzero(np.asarray(evidence.counts.sum(axis=0)).ravel())
    groups = tuple(replace(g, columns=sparse.csr_array(g.columns)[keys]) for g in prior.groups)
    small = replace(prior, mean_ms=prior.mean_ms[keys], sd_ms=prior.sd_ms[keys], groups=groups)
    return small, replace(evidence, counts=sparse.csr_array(evidence.counts)[:, keys])


def _noisy(prior: Prior, evidence: Evidence) -> float:
    """The standard error, as a share, that predicts networks left out best; the files tell none."""
    y = evidence.latency_ms
    folds = np.arange(len(y)) % FOLDS
    best = (np.inf, 0.0)
    for share in ERRORS:
        noisy = replace(evidence, se_ms=share * y)
        guess, scales = np.empty(len(y)), fit(prior, noisy).scales
        for fold in range(FOLDS):
            model = fit(prior, noisy.only(folds != fold), scales)
            guess[folds == fold] = model.predict(evidence.counts[folds == fold])[0]
        error = float(np.abs(guess / y - 1.0).mean())
        if error < best[0]:
            best = (error, share)
    return best[1]


def _robust(prior: Prior, evidence: Evidence) -> tuple[dict[str, float], Float64s]:
    """Student's t in place of the Gaussian, by reweighting (Lange, Little & Taylor 1989): a tenth of some
    files was measured in a slower state. The standard deviations, and each network's standard error."""
    y, model, se_ms = evidence.latency_ms, fit(prior, evidence), evidence.se_ms
    for _ in range(STEPS):
        sd = np.hypot(model.noise * y, evidence.se_ms)
        z = (y - model.predict(evidence.counts)[0]) / sd
        weight = (FREEDOM + 1.0) / (FREEDOM + z**2)
        se_ms = np.sqrt(np.maximum(sd**2 / weight - (model.noise * y) ** 2, 0.0))
        model = fit(prior, replace(evidence, se_ms=se_ms), model.scales)
    return model.scales, se_ms


def regression(design: Float64s) -> Predict:
    """Non-negative least squares on relative latencies, with a constant."""
    columns = np.hstack([design, np.ones((len(design), 1))])
    columns = columns / columns.max(axis=0).clip(1e-12)

    def predict(train: Int64s, y: Float64s, test: Int64s) -> Float64s:
        weights, _ = nnls(columns[train] / y[:, None], np.ones(len(y)))
        guess: Float64s = columns[test] @ weights
        return guess

    return predict


def one_hot(design: Float64s) -> Predict:
    """Ridge regression on relative latencies; the strength with the least leave-one-out error."""

    def predict(train: Int64s, y: Float64s, test: Int64s) -> Float64s:
        mean = design[train].mean(axis=0)
        x, level = (design[train] - mean), float(np.median(y))
        gram = x @ x.T
        best = (np.inf, np.zeros(len(y)))
        for strength in 10.0 ** np.arange(-3, 4):
            hat = gram @ np.linalg.inv(gram + strength * np.eye(len(y)))
            left = ((y - level) - hat @ (y - level)) / (1.0 - np.diag(hat)).clip(1e-6)
            error = float(np.abs(left / y).mean())
            if error < best[0]:
                best = (error, np.linalg.solve(gram + strength * np.eye(len(y)), y - level))
        guess: Float64s = level + (design[test] - mean) @ (x.T @ best[1])
        return guess

    return predict


def case(
    name: str,
    file: Mapping[str, np.ndarray],
    key: str,
    networks: Networks,
    tables: Mapping[str, Float64s],
    args: argparse.Namespace,
) -> list[dict[str, Any]]:
    """Errors of all models on one device at one batch."""
    device, _, batch_text = key[3:].rpartition("_b")
    batch = int(batch_text)
    y = np.asarray(file[key], dtype=np.float64)
    terms = physical(networks)
    design = networks.counts @ terms
    # Nothing of the judged device itself, at whatever batch; the two spaces write names differently.
    others = [costs for other, costs in tables.items() if other[3:].rpartition("_b")[0] != device]
    macs = design[:, 1:6].sum(axis=1, keepdims=True)
    models: dict[str, Predict] = {
        "hwnas": hwnas(networks, device, batch, terms),
        "with others": with_others(networks, terms, others),
        "physical": regression(design),
        "MACs": regression(macs),
        "one-hot": one_hot(networks.onehot),
    }
    rows = []
    for count in args.networks:
        errors: dict[str, list[float]] = {model: [] for model in models}
        for seed in range(args.seeds):
            order = np.random.default_rng(seed).permutation(len(y))
            train, test = order[TEST : TEST + count], order[:TEST]
            for model, predict in models.items():
                guess = predict(train, y[train], test)
                errors[model].append(100.0 * float(np.abs(guess / y[test] - 1.0).mean()))
        for model, found in errors.items():
            rows.append(
                {
                    "space": name,
                    "device": device,
                    "batch": batch,
                    "networks": count,
                    "model": model,
                    "mape_percent": float(np.mean(found)),
                    "by_seed": found,
                }
            )
    return rows


def main() -> None:
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--networks", type=int, nargs="+", default=[10, 20, 50, 100])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", default="", help="only devices whose name holds this")
    parser.add_argument("--out", type=Path, default=RESULTS / "public_latencies.json")
    args = parser.parse_args()
    rows = []
    for name, read in (("ofa", ofa), ("fbnet", fbnet)):
        with np.load(args.data / f"{name}.npz", allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
        networks = read(arrays)
        times = {key: np.asarray(arrays[key], dtype=np.float64) for key in arrays if key.startswith("ms_")}
        tables = published(networks, times, physical(networks))
        for key in sorted(k for k in arrays if k.startswith("ms_") and args.only in f"{name}/{k[3:]}"):
            found = case(name, arrays, key, networks, tables, args)
            rows += found
            _save(rows, args)
            for count in args.networks:
                cells = {r["model"]: r["mape_percent"] for r in found if r["networks"] == count}
                text = "  ".join(f"{model} {value:6.2f}" for model, value in cells.items())
                print(f"{name:6s} {key[3:]:16s} {count:4d}: {text}", flush=True)
    print(f"written: {args.out}")


def _save(rows: list[dict[str, Any]], args: argparse.Namespace) -> None:
    """What there is so far."""
    body = {
        "benchmark": "public_latencies",
        "command": f"python -m benchmarks.public_latencies --data FOLDER --seeds {args.seeds}",
        "taken_at": now_utc(),
        "machine": machine(),
        "test_networks": TEST,
        "rows": rows,
    }
    write_json(args.out, json.loads(json.dumps(body)))


if __name__ == "__main__":
    main()
