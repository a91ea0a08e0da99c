"""Names to implementations, imported on use.

A plug-in is one class and one line here, or an entry point of the same group in another package
(``[project.entry-points."hwnas.backends"] mine = "my_package.backend:Mine"``).
"""

from __future__ import annotations

import difflib
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from hwnas.errors import InputError

BUILT_IN: dict[str, dict[str, str]] = {
    "backends": {
        "fake": "hwnas.backends.fake:Fake",
        "ort": "hwnas.backends.ort:Ort",
        "openvino": "hwnas.backends.openvino:OpenVino",
        "trt": "hwnas.backends.trt.backend:Trt",
        "ort-cuda": "hwnas.backends.ort_gpu:OrtCuda",
        "ort-trt": "hwnas.backends.ort_gpu:OrtTrt",
    },
    "spaces": {
        "resnet-cifar": "hwnas.nets.spaces:resnet_cifar",
        "resnet-cifar-wide": "hwnas.nets.spaces:resnet_cifar_wide",
        "mbv2-cifar": "hwnas.nets.spaces:mbv2_cifar",
        "mbv2-imagenet": "hwnas.nets.densenas.chains:mbv2_imagenet",
        "resnet-imagenet": "hwnas.nets.spaces:resnet_imagenet",
        "macromicro": "hwnas.nets.macromicro.space:macromicro",
        "nasnet-cifar": "hwnas.nets.stagewise.space:nasnet_cifar",
        "convnext-cifar": "hwnas.nets.spaces:convnext_cifar",
        "densenas-mbv2": "hwnas.nets.densenas.chains:densenas_mbv2_space",
        "densenas-resnet": "hwnas.nets.densenas.chains:densenas_resnet_space",
        "densenas-cifar": "hwnas.nets.densenas.chains:densenas_cifar_space",
    },
    "strategies": {
        "stagewise": "hwnas.search.stagewise.strategy:Stagewise",
        "uniform": "hwnas.search.baselines.uniform:Uniform",
        "random": "hwnas.search.baselines.random:Random",
        "tpe": "hwnas.search.baselines.tpe:Tpe",
        "densenas": "hwnas.search.densenas.strategy:DenseNas",
        "macromicro": "hwnas.search.macromicro.strategy:GlobalWalk",
        "hournas": "hwnas.search.hournas.strategy:HourNas",
        "auto": "hwnas.search.auto.strategy:Auto",
    },
    "blocks": {
        "conv": "hwnas.nets.blocks.plain:CONV",
        "basic": "hwnas.nets.blocks.residual:BASIC",
        "bottleneck": "hwnas.nets.blocks.residual:BOTTLENECK",
        "mbconv": "hwnas.nets.blocks.mbconv:MBCONV",
        "mbconv_full": "hwnas.nets.blocks.mbconv:MBCONV_FULL",
        "fused_mbconv": "hwnas.nets.blocks.fused_mbconv:FUSED_MBCONV",
        "convnext": "hwnas.nets.blocks.convnext:CONVNEXT",
        "sep_preact": "hwnas.nets.blocks.preact:SEP_PREACT",
        "conv_preact": "hwnas.nets.blocks.preact:CONV_PREACT",
        "nasnet_stem": "hwnas.nets.blocks.plain:NASNET_STEM",
        "nasnet_normal": "hwnas.nets.blocks.nasnet:NORMAL",
        "nasnet_reduction": "hwnas.nets.blocks.nasnet:REDUCTION",
        "classifier": "hwnas.nets.blocks.plain:CLASSIFIER",
    },
}


@cache
def _table(group: str) -> dict[str, str]:
    table = dict(BUILT_IN[group])
    for entry in entry_points(group=f"hwnas.{group}"):
        table.setdefault(entry.name, entry.value)
    return table


def names(group: str) -> list[str]:
    """Every registered name of a group: ``backends``, ``spaces`` or ``strategies``."""
    return sorted(_table(group))


def load(group: str, name: str) -> Any:
    """Import the class or factory registered under `name`.

    Raises:
        InputError: for an unknown name, with the nearest known one.
    """
    table = _table(group)
    if name not in table:
        raise InputError(
            unknown(group[:-1].replace("strategie", "strategy").replace("block", "block kind"), name, table)
        )
    module, _, attribute = table[name].partition(":")
    return getattr(import_module(module), attribute)


def unknown(what: str, name: str, known: Any) -> str:
    """The message for an unknown name, with "did you mean" where one is near."""
    near = difflib.get_close_matches(name, list(known), n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"unknown {what} {name!r}{hint} (known: {', '.join(sorted(known))})"
