"""A search log of Efficient Global NAS, small enough to be made by hand rules."""

from __future__ import annotations

from typing import Any

COLUMNS = [
    "depth",
    "width",
    "full_conv_layers",
    "kernel5_layers",
    "epochs",
    "params_million",
    "best_val_top1_percent",
]


def params_million(depth: int, width: int, full: list[int], five: list[int]) -> float:
    """Counted layer by layer, by the rules of the paper; 3 channels in, 10 classes."""
    widths = [width] * (depth // 3) + [2 * width] * (2 * depth // 3 - depth // 3)
    widths += [4 * width] * (depth - len(widths))
    total, before = 3 * 2 * width * 9 + 2 * 2 * width, 2 * width
    for i, now in enumerate(widths):
        side = 5 if i in five else 3
        total += now * before * side**2 if i in full else before * side**2 + now * before
        total += 2 * now
        before = now
    return round((total + 10 * before + 10) / 1e6, 6)


def small_log() -> dict[str, Any]:
    """Depth 3 is kept (4 is no better), width 8 too; layer 0 becomes full, layer 1 gets kernel 5."""
    # (depth, width, full, five, epochs), accuracy. Depth: 3 adopted, 4 no clear loss, ends at max_depth.
    # Width: 7 and 6 lose (two are survived), the third loss ends the walk; epochs go on from depth 4's.
    macro: list[tuple[tuple[int, int, list[int], list[int], int], float]] = [
        ((3, 8, [], [], 10), 60.0),
        ((4, 8, [], [], 11), 60.0),
        ((3, 7, [], [], 13), 59.0),
        ((3, 6, [], [], 15), 58.0),
        ((3, 5, [], [], 17), 57.0),
    ]
    # The slack of 0.01 M is more than all of this network, so that no repair narrows it.
    micro: list[tuple[tuple[int, int, list[int], list[int], int], float]] = [
        ((3, 8, [], [], 2), 30.0),
        ((3, 8, [0], [], 2), 31.0),
        ((3, 8, [0, 1], [], 2), 31.0),  # no gain
        ((3, 8, [0, 2], [], 2), 30.5),
        ((3, 8, [0], [0], 2), 30.0),
        ((3, 8, [0], [1], 2), 32.0),
        ((3, 8, [0], [1, 2], 2), 31.0),
    ]
    rows = [[*where, params_million(*where[:4]), top1] for where, top1 in macro + micro]
    return {
        "settings": {
            "dataset": "CIFAR10",
            "max_width": 8,
            "min_width": 2,
            "width_resolution": 1,
            "min_depth": 3,
            "max_depth": 4,
            "epochs": 10,
            "something_else": "does not matter",
        },
        "columns": COLUMNS,
        "rows": rows,
        "result": {
            "depth": 3,
            "macro_width": 8,
            "macro_params_million": params_million(3, 8, [], []),
            "full_conv_layers": [0],
            "kernel5_layers": [1],
            "width": 8,
            "params_million": params_million(3, 8, [0], [1]),
        },
    }
