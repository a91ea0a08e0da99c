"""Efficient Global NAS: first depth and width of a chain (macro), then its operators (micro).

The controller of arXiv 2502.03553 as its published code runs it, kept apart from training: a
generator that yields the next candidate and is sent its accuracy. Fed with the accuracies of a
published log it must visit the same candidates (`replay`); fed with the finished trials of a
search it gives the next proposal, so that a resumed search is the same search.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hwnas.errors import DataFormatError, InputError
from hwnas.store import read_json

# Input channels and classes of the data sets in the published logs (EMNIST is its "balanced" split).
DATASETS = {
    "CIFAR10": (3, 10),
    "CIFAR100": (3, 100),
    "SVHN": (3, 10),
    "MNIST": (1, 10),
    "FashionMNIST": (1, 10),
    "KMNIST": (1, 10),
    "EMNIST": (1, 47),
}
PARAMS_SLACK = 0.01  # million: how far a width repair may end above the parameters it must keep


@dataclass(frozen=True)
class Candidate:
    """A chain and the epochs it is trained for. Layers are numbered from 0.

    `full_conv` layers hold a full convolution instead of a depthwise-separable one; `kernel5`
    layers a 5x5 kernel instead of 3x3.
    """

    depth: int
    width: int
    full_conv: tuple[int, ...] = ()
    kernel5: tuple[int, ...] = ()
    epochs: int = 0

    def params_million(self, channels: int, classes: int) -> float:
        """Trainable parameters in millions.

        Stem: 3x3 to twice the width, batch norm. Width doubles at layers D//3 and 2D//3. Classifier
        with bias. Convolutions have none; each layer ends in one batch norm.
        """
        total = channels * 9 * 2 * self.width + 4 * self.width
        c_in = 2 * self.width
        for layer in range(self.depth):
            c_out = self.width * (1 + (layer >= self.depth // 3)) * (1 + (layer >= 2 * self.depth // 3))
            taps = 25 if layer in self.kernel5 else 9
            weights = c_in * c_out * taps if layer in self.full_conv else c_in * taps + c_in * c_out
            total += weights + 2 * c_out
            c_in = c_out
        return (total + c_in * classes + classes) / 1e6


@dataclass(frozen=True)
class WalkOptions:
    """Limits and tolerances of the walk, by the names of the published settings (accuracies in percent)."""

    max_width: int
    min_width: int = 16
    width_resolution: int = 2
    min_depth: int = 10
    max_depth: int = 100
    epochs: int = 10
    add_epochs: int = 1
    add_epochs_w: int = 2
    target_acc: float = 100.0
    target_acc_tolerance: float = 0.1
    dp_add_tolerance: float = 0.1
    dp_break_tolerance: int = 2
    ch_break_tolerance: int = 2
    micro_epochs: int = 2


Walk = Generator[Candidate, float, Candidate]


def _f32(value: float) -> np.float32:
    # The published code compares single-precision numbers; one of its logs holds a tie that double
    # precision decides the other way.
    single: np.float32 = np.float32(value)
    return single


def _walk_depth(o: WalkOptions) -> Generator[Candidate, float, tuple[Candidate, np.float32, int]]:
    """Deepen by one layer and one epoch until the third clear loss since the last clear gain."""
    epochs = o.epochs
    best = Candidate(o.min_depth, o.max_width, epochs=epochs)
    best_acc = _f32((yield best))
    depth, fails = o.min_depth, 0
    while best_acc < _f32(o.target_acc - o.target_acc_tolerance) and depth < o.max_depth:
        depth, epochs = depth + 1, epochs + o.add_epochs
        tried = Candidate(depth, o.max_width, epochs=epochs)
        acc = _f32((yield tried))
        if acc >= best_acc + _f32(o.dp_add_tolerance):
            best, best_acc, fails = tried, acc, 0
        elif acc < best_acc - _f32(o.dp_add_tolerance / 2):
            if fails == o.dp_break_tolerance:
                break
            fails += 1
    return best, best_acc, epochs


def _walk_width(o: WalkOptions, start: Candidate, best_acc: np.float32, epochs: int) -> Walk:
    """Narrow the chain, each step with more epochs, while accuracy holds."""
    best, width, fails = start, o.max_width, 0
    while width > o.min_width:
        width, epochs = width - o.width_resolution, epochs + o.add_epochs_w
        tried = Candidate(start.depth, width, epochs=epochs)
        acc = _f32((yield tried))
        if acc >= best_acc:
            best, best_acc, fails = tried, acc, 0
        elif fails == o.ch_break_tolerance:
            break
        else:
            fails += 1
    return best


def _repair(tried: Candidate, limit_million: float, shape: tuple[int, int]) -> Candidate:
    """Narrow by one channel at a time until the parameters are back at the limit (plus slack)."""
    while tried.width > 1 and tried.params_million(*shape) > limit_million + PARAMS_SLACK:
        tried = Candidate(tried.depth, tried.width - 1, tried.full_conv, tried.kernel5, tried.epochs)
    return tried


def _walk_micro(o: WalkOptions, macro: Candidate, shape: tuple[int, int]) -> Walk:
    """Layer by layer a full convolution, then layer by layer a 5x5 kernel; width pays for both."""
    best = Candidate(macro.depth, macro.width, epochs=o.micro_epochs)
    best_acc = _f32((yield best))
    for phase in ("full_conv", "kernel5"):
        start_width, limit = best.width, best.params_million(*shape)
        for layer in range(macro.depth):
            full = (*best.full_conv, layer) if phase == "full_conv" else best.full_conv
            five = (*best.kernel5, layer) if phase == "kernel5" else best.kernel5
            tried = _repair(Candidate(macro.depth, start_width, full, five, o.micro_epochs), limit, shape)
            acc = _f32((yield tried))
            if acc > best_acc:
                best, best_acc = tried, acc
    return best


def walk(
    options: WalkOptions, shape: tuple[int, int]
) -> Generator[Candidate, float, tuple[Candidate, Candidate]]:
    """The whole published controller: yields candidates, is sent top-1 in percent.

    Args:
        options: limits and tolerances.
        shape: input channels and classes (they count in the parameters that repairs keep).

    Returns:
        The network of the macro phase and the final one.
    """
    deep, best_acc, epochs = yield from _walk_depth(options)
    macro = yield from _walk_width(options, deep, best_acc, epochs)
    micro = yield from _walk_micro(options, macro, shape)
    return macro, micro


def advance(options: WalkOptions, shape: tuple[int, int], accuracies: Iterable[float]) -> Candidate | None:
    """The candidate that follows after the given accuracies; None when the walk has ended."""
    controller = walk(options, shape)
    candidate = next(controller)
    try:
        for accuracy in accuracies:
            candidate = controller.send(accuracy)
    except StopIteration:
        return None
    return candidate


def replay(path: Path) -> dict[str, Any]:
    """Feed a published search log's accuracies to the controller and compare every candidate.

    Args:
        path: JSON with ``settings``, ``columns`` and ``rows`` (one trained candidate each).

    Returns:
        The found network under the log's own keys, `candidates` (rows compared) and `mismatches`
        (candidates, or the end, that differ; each described in `mismatch_details`).

    Raises:
        DataFormatError: the file is not such a log.
    """
    log = read_json(path, "search log")
    try:
        settings, rows = log["settings"], [dict(zip(log["columns"], row, strict=True)) for row in log["rows"]]
        shape = DATASETS[settings["dataset"]]
        known = WalkOptions.__dataclass_fields__
        options = WalkOptions(**{k: v for k, v in settings.items() if k in known})
    except (KeyError, TypeError, ValueError) as exc:
        raise DataFormatError(
            f"search log {path} is not one: {type(exc).__name__} {exc}. Expected settings (dataset one of "
            f"{', '.join(DATASETS)}; max_width; ...), columns and rows as long as columns"
        ) from exc
    return _compare(options, shape, rows)


def _compare(options: WalkOptions, shape: tuple[int, int], rows: list[dict[str, Any]]) -> dict[str, Any]:
    controller = walk(options, shape)
    candidate, details = next(controller), []
    found: tuple[Candidate, Candidate] | None = None
    for number, row in enumerate(rows):
        if found is not None:
            details.append(f"row {number}: the controller had ended")
            break
        details += _differences(number, candidate, row, shape)
        try:
            candidate = controller.send(float(row["best_val_top1_percent"]))
        except StopIteration as end:
            found = end.value
    if found is None:
        raise InputError(
            f"the log ends after {len(rows)} candidates, before the controller does; next is {candidate}"
        )
    macro, micro = found
    return {
        "depth": micro.depth,
        "macro_width": macro.width,
        "macro_params_million": round(macro.params_million(*shape), 6),
        "full_conv_layers": list(micro.full_conv),
        "kernel5_layers": list(micro.kernel5),
        "width": micro.width,
        "params_million": round(micro.params_million(*shape), 6),
        "candidates": len(rows),
        "mismatches": len(details),
        "mismatch_details": details,
    }


def _differences(
    number: int, candidate: Candidate, row: Mapping[str, Any], shape: tuple[int, int]
) -> list[str]:
    """What a logged row and the controller's candidate disagree on."""
    ours = {
        "depth": candidate.depth,
        "width": candidate.width,
        "full_conv_layers": list(candidate.full_conv),
        "kernel5_layers": list(candidate.kernel5),
        "epochs": candidate.epochs,
    }
    wrong = [f"row {number}: {k} is {row[k]}, expected {v}" for k, v in ours.items() if row[k] != v]
    params = candidate.params_million(*shape)
    if abs(params - row["params_million"]) > 1e-6:
        wrong.append(f"row {number}: params_million is {row['params_million']}, expected {params:.6f}")
    return wrong
