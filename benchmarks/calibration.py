"""Rules for the ranges of int8 activations, on trained networks: top-1 of the int8 engine on test images.

    python -m benchmarks.calibration RUN... --data parquet:PATH [--images 512] [--test 10000] [--backend ort]

RUN is a training of hwnas or a network file with its weights beside it. Each rule, with and without the
correction of biases, and each form of int8 graph is calibrated on the same training images and judged on the
same test images; the fp32 network is the reference. Also the same images in another order and batch, which
must change nothing.
"""

from __future__ import annotations

import argparse
import time
from itertools import product
from typing import Any

import numpy as np

from benchmarks.common import save
from hwnas import backends
from hwnas.arrays import Float32s, Int64s
from hwnas.backends import calibrate, quantize
from hwnas.backends.forms import form_of
from hwnas.deploy.engine import run_all
from hwnas.jobs.resolve.origin import origin
from hwnas.nets import onnx
from hwnas.nets.count import count
from hwnas.train.data import load, normalise

BATCH = 100


def top1(model: bytes, precision: str, name: str, images: Float32s, labels: Int64s) -> tuple[float, Float32s]:
    """Share right, and the scores, of a graph in a runtime."""
    runtime = backends.get(name)
    engine = runtime.build(model, runtime.setting("cpu", "int8" if precision == "int8" else "fp32", BATCH, 1))
    scores = run_all(engine, images)
    engine.close()
    return float((scores.argmax(axis=1) == labels).mean()), scores


def one(run: str, options: argparse.Namespace) -> dict[str, Any]:
    """Every rule on one network."""
    source = origin(run)
    dataset = load(options.data, input_shape=source.spec.input_shape, seed=source.seed)
    mean = source.about.get("mean", dataset.mean)
    std = source.about.get("std", dataset.std)
    some = dataset.train.images[:: max(1, len(dataset.train) // options.images)][: options.images]
    images = normalise(some, mean, std).contiguous().numpy()
    held = dataset.test()
    test = normalise(held.images[: options.test], mean, std).contiguous().numpy()
    labels = held.labels[: options.test].numpy()
    model = onnx.network(source.spec, source.read_weights(), batch=BATCH)
    forms = backends.get(options.backend).forms()
    exact, reference = top1(model, "fp32", options.backend, test, labels)
    rows = []
    # Every rule in the usual form, the default one in the others.
    for form, method in product(forms, calibrate.METHODS):
        if form.name and method != calibrate.DEFAULT:
            continue
        begun = time.perf_counter()
        found = calibrate.calibrate(model, images, form, method)
        seconds = time.perf_counter() - begun
        for means in (None, found.means) if not form.name else (found.means,):
            small = quantize.to_int8(model, found.ranges, form, means)
            share, scores = top1(small, "int8", options.backend, test, labels)
            rows.append(
                {
                    "form": form.name,
                    "method": method,
                    "bias_correction": means is not None,
                    "top1": share,
                    "lost_points": 100.0 * (exact - share),
                    "agreement": float((scores.argmax(axis=1) == reference.argmax(axis=1)).mean()),
                    "noise": float(np.square(scores - reference).sum() / np.square(reference).sum()),
                    "seconds": seconds,
                }
            )
            print(source.spec.key, rows[-1], flush=True)
    return {
        "network": source.spec.key,
        "depths": list(source.spec.depths),
        "kinds": sorted({block.kind for block in source.spec.blocks}),
        "macs": count(source.spec).macs,
        "top1_fp32": exact,
        "rows": rows,
        "order_changes_by": _order(model, images, forms[0]),
    }


def _order(model: bytes, images: Float32s, form: Any) -> float:
    """Largest change of a range, as a share of it, when the same images come in another order."""
    mixed = images[np.random.default_rng(0).permutation(len(images))]
    a, b = (calibrate.calibrate(model, each, form).ranges for each in (images, mixed))
    return max(abs(a[n][1] - b[n][1]) / max(a[n][1] - a[n][0], 1e-9) for n in a)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--data", required=True)
    parser.add_argument("--images", type=int, default=512, help="training images to calibrate on")
    parser.add_argument("--test", type=int, default=10_000, help="test images")
    parser.add_argument("--backend", default="ort")
    options = parser.parse_args()
    networks = [one(run, options) for run in options.runs]
    levels = form_of(backends.get(options.backend))
    body = {
        "backend": options.backend,
        "weight_levels": levels.weight_levels if levels is not None else None,
        "calibration_images": options.images,
        "test_images": options.test,
        "networks": networks,
    }
    print(save("calibration", body))


if __name__ == "__main__":
    main()
