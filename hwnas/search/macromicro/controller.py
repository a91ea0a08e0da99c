"""Efficient Global NAS: first depth and width of a chain (macro), then its operators (micro).

The controller of arXiv 2502.03553 as its published code runs it, kept apart from training: a
generator that yields the next candidate and is sent its accuracy. Fed with the accuracies of a
published log it must visit the same candidates (`macromicro_log`); fed with the finished trials of a
search it gives the next proposal, so that a resumed search is the same search.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from dataclasses import dataclass

import numpy as np

from hwnas.errors import InputError

# What the walk is told of a candidate that was not trained (over the budget): worse than any accuracy.
REFUSED = -1.0
PARAMS_SLACK = 0.01  # million: how far a width repair may end above the parameters it must keep


@dataclass(frozen=True)
class ChainCandidate:
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

    def __post_init__(self) -> None:
        least = {"min_width": 1, "width_resolution": 1, "min_depth": 3, "epochs": 1, "micro_epochs": 1}
        least |= {"max_width": self.min_width, "max_depth": self.min_depth}
        for name in WalkOptions.__dataclass_fields__:
            value = getattr(self, name)
            if value < least.get(name, 0):
                raise InputError(f"{name} is {value}; a walk needs at least {least.get(name, 0)}")


Walk = Generator[ChainCandidate, float, ChainCandidate]


def _f32(value: float) -> np.float32:
    # The published code compares single-precision numbers; one of its logs holds a tie that double
    # precision decides the other way.
    single: np.float32 = np.float32(value)
    return single


def _walk_depth(o: WalkOptions) -> Generator[ChainCandidate, float, tuple[ChainCandidate, np.float32, int]]:
    """Deepen by one layer and one epoch until the third clear loss since the last clear gain."""
    epochs = o.epochs
    best = ChainCandidate(o.min_depth, o.max_width, epochs=epochs)
    best_acc = _f32((yield best))
    depth, fails = o.min_depth, 0
    while best_acc < _f32(o.target_acc - o.target_acc_tolerance) and depth < o.max_depth:
        depth, epochs = depth + 1, epochs + o.add_epochs
        tried = ChainCandidate(depth, o.max_width, epochs=epochs)
        acc = _f32((yield tried))
        # Keep a clear gain; count clear losses, and ignore what lies between.
        if acc >= best_acc + _f32(o.dp_add_tolerance):
            best, best_acc, fails = tried, acc, 0
        elif acc < best_acc - _f32(o.dp_add_tolerance / 2):
            if fails == o.dp_break_tolerance:
                break
            fails += 1
    return best, best_acc, epochs


def _walk_width(o: WalkOptions, start: ChainCandidate, best_acc: np.float32, epochs: int) -> Walk:
    """Narrow the chain, each step with more epochs, while accuracy holds."""
    best, width, fails = start, o.max_width, 0
    while width > o.min_width:
        width, epochs = width - o.width_resolution, epochs + o.add_epochs_w
        tried = ChainCandidate(start.depth, width, epochs=epochs)
        acc = _f32((yield tried))
        # Keep a narrower chain that is no worse; end after too many losses in a row.
        if acc >= best_acc:
            best, best_acc, fails = tried, acc, 0
        elif fails == o.ch_break_tolerance:
            break
        else:
            fails += 1
    return best


def _repair(tried: ChainCandidate, limit_million: float, shape: tuple[int, int]) -> ChainCandidate:
    """Narrow by one channel at a time until the parameters are back at the limit (plus slack)."""
    while tried.width > 1 and tried.params_million(*shape) > limit_million + PARAMS_SLACK:
        tried = ChainCandidate(tried.depth, tried.width - 1, tried.full_conv, tried.kernel5, tried.epochs)
    return tried


def _walk_micro(o: WalkOptions, macro: ChainCandidate, shape: tuple[int, int]) -> Walk:
    """Layer by layer a full convolution, then layer by layer a 5x5 kernel; width pays for both."""
    best = ChainCandidate(macro.depth, macro.width, epochs=o.micro_epochs)
    best_acc = _f32((yield best))
    for phase in ("full_conv", "kernel5"):
        start_width, limit = best.width, best.params_million(*shape)
        for layer in range(macro.depth):
            full = (*best.full_conv, layer) if phase == "full_conv" else best.full_conv
            five = (*best.kernel5, layer) if phase == "kernel5" else best.kernel5
            tried = _repair(
                ChainCandidate(macro.depth, start_width, full, five, o.micro_epochs), limit, shape
            )
            acc = _f32((yield tried))
            if acc > best_acc:
                best, best_acc = tried, acc
    return best


def walk(
    options: WalkOptions, shape: tuple[int, int]
) -> Generator[ChainCandidate, float, tuple[ChainCandidate, ChainCandidate]]:
    """The whole published controller: yields candidates, is sent top-1 in percent.

    Args:
        options: limits and tolerances.
        shape: input channels and classes (they count in the parameters that repairs keep).

    Returns:
        The network of the macro phase and the final one.
    """
    # Macro phase: depth, then width. Micro phase: operators, then kernels.
    deep, best_acc, epochs = yield from _walk_depth(options)
    macro = yield from _walk_width(options, deep, best_acc, epochs)
    micro = yield from _walk_micro(options, macro, shape)
    return macro, micro


def advance(
    options: WalkOptions, shape: tuple[int, int], accuracies: Iterable[float]
) -> ChainCandidate | None:
    """The candidate that follows after the given accuracies; None when the walk has ended."""
    controller = walk(options, shape)
    candidate = next(controller)
    try:
        for accuracy in accuracies:
            candidate = controller.send(accuracy)
    except StopIteration:
        return None
    return candidate


def found(
    options: WalkOptions, shape: tuple[int, int], accuracies: Iterable[float]
) -> tuple[ChainCandidate, ChainCandidate]:
    """Networks of the macro phase and of the whole walk, as things stand after the given accuracies.

    A walk that has not ended is ended as if every further candidate were refused.
    """
    controller = walk(options, shape)
    next(controller)
    try:
        for accuracy in accuracies:
            controller.send(accuracy)
        while True:
            controller.send(REFUSED)
    except StopIteration as end:
        networks: tuple[ChainCandidate, ChainCandidate] = end.value
        return networks
