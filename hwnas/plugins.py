"""Names to implementations, imported on use.

A plug-in is one class or function and one line here, or an entry point of the same group in another
package (``[project.entry-points."hwnas.backends"] mine = "my_package.backend:Mine"``). Whatever lists,
completes, checks or explains a name reads this registry, and nothing is imported before it is used.
"""

from __future__ import annotations

import difflib
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from traceback import walk_tb
from typing import Any

from hwnas.errors import HwnasError, InputError, PackageWarning

BUILT_IN: dict[str, dict[str, str]] = {
    "backends": {
        "fake": "hwnas.backends.fake:Fake",
        "ort": "hwnas.backends.ort:Ort",
        "openvino": "hwnas.backends.openvino:OpenVino",
        "executorch": "hwnas.backends.executorch:ExecuTorch",
        "trt": "hwnas.backends.trt.backend:Trt",
        "ort-cuda": "hwnas.backends.ort_gpu:OrtCuda",
        "ort-trt": "hwnas.backends.ort_gpu:OrtTrt",
    },
    "spaces": {
        "auto": "hwnas.nets.families:auto",
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
        "families": "hwnas.search.families.strategy:FamilyRace",
        "fit": "hwnas.search.fit.strategy:Fit",
    },
    "blocks": {
        "conv": "hwnas.nets.blocks.plain:CONV",
        "pooled_conv": "hwnas.nets.blocks.plain:POOLED_CONV",
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
    # How much a growth matters: made from (images=, autocast=).
    "importances": {
        "gradient": "hwnas.search.importance.gradient:Gradient",
        "probe": "hwnas.search.importance.probe:Probe",
        "vip": "hwnas.search.importance.vip:judge",
    },
    # How much a piece of a trained model is missed: made from (images=, autocast=).
    "removals": {
        "missed": "hwnas.search.importance.missed:Missed",
        "taylor": "hwnas.search.importance.local:FirstOrder",
        "activation": "hwnas.search.importance.local:ChangedOutput",
    },
    # Readers (place, shape or None) of ``--data NAME:PLACE``.
    "datasets": {
        "digits": "hwnas.train.sources:read_digits",
        "folder": "hwnas.train.files:folder",
        "parquet": "hwnas.train.files:parquet",
        "npz": "hwnas.train.sources:npz",
        "cifar10": "hwnas.train.sources:cifar10",
    },
    # What ``hwnas export`` writes (`hwnas.backends.formats`).
    "formats": {
        "onnx": "hwnas.backends.onnx_format:ONNX",
        "ort": "hwnas.backends.ort:FORMAT",
        "openvino": "hwnas.backends.openvino:FORMAT",
        "executorch": "hwnas.backends.executorch:FORMAT",
        "trt": "hwnas.backends.trt.backend:FORMAT",
        "pt2": "hwnas.backends.pt2_format:PT2",
    },
    # Readers of the text of a published latency table.
    "importers": {
        "densenas": "hwnas.cost.importers:densenas",
        "ofa": "hwnas.cost.importers:ofa",
    },
    # What runs the trainings of a search, here or on other machines.
    "executors": {
        "local": "hwnas.cluster.local:Local",
        "ray": "hwnas.cluster.by_ray:ByRay",
    },
    # Parts of the report of a run, in the order of the page: made from `report.collect.RunData`.
    "sections": {
        "accuracy": "hwnas.report.sections:accuracy",
        "devices": "hwnas.report.sections:devices",
        "own-model": "hwnas.report.model_section:own_model",
        "classes": "hwnas.report.class_sections:by_class",
        "growth": "hwnas.report.sections:growth",
        "stages": "hwnas.report.sections:stages",
        "prediction": "hwnas.report.sections:prediction",
        "promise": "hwnas.report.sections:promise",
        "importance": "hwnas.report.sections:importance",
        "dense": "hwnas.report.sections:dense",
        "dense-costs": "hwnas.report.sections:dense_costs",
        "engines": "hwnas.report.record_sections:engines",
        "benchmark": "hwnas.report.benchmark_section:benchmark",
        "table": "hwnas.report.table_section:table_sections",
        "learning": "hwnas.report.class_sections:learning",
        "training": "hwnas.report.sections:training",
        "networks": "hwnas.report.record_sections:every_network",
        "settings": "hwnas.report.record_sections:settings",
    },
    # Published search logs, by strategy.
    "replays": {
        "macromicro": "hwnas.search.macromicro.log:replay",
    },
}

# Names become parts of file names and are typed in shells.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
# Of a long list of names a message has so many: libraries have over a thousand models.
MOST_NAMED = 40
SPELLING = "up to 64 letters, digits, '-', '_' and '.'"

# What one of a group is called in messages.
SINGULAR = {
    "backends": "backend",
    "spaces": "space",
    "strategies": "strategy",
    "blocks": "block kind",
    "importances": "importance",
    "removals": "importance of pieces",
    "datasets": "data source",
    "formats": "export format",
    "importers": "table format",
    "executors": "executor",
    "replays": "strategy with search logs",
    "sections": "report section",
}


@dataclass(frozen=True)
class _Entry:
    """Where a name leads, and the packages that registered it; none for what is built in."""

    target: str
    packages: tuple[str, ...] = ()


@cache
def _table(group: str) -> dict[str, _Entry]:
    """Every name of a group. A built-in name keeps its meaning, and a package that claims it is named."""
    table = {name: _Entry(target) for name, target in BUILT_IN[group].items()}
    for entry in entry_points(group=f"hwnas.{group}"):
        package = entry.dist.name if entry.dist is not None else entry.value.partition(":")[0]
        there = table.get(entry.name)
        if not NAME.fullmatch(entry.name):
            warnings.warn(
                f"package {package} registers the {SINGULAR[group]} {entry.name!r}, which is left out: names "
                f"are {SPELLING}",
                PackageWarning,
                stacklevel=2,
            )
        elif there is None:
            table[entry.name] = _Entry(entry.value, (package,))
        elif not there.packages:
            what = f"{SINGULAR[group]} {entry.name!r}"
            warnings.warn(
                f"package {package} registers the {what}, which is a built-in name; the package must choose "
                "another one",
                PackageWarning,
                stacklevel=2,
            )
        elif there.target != entry.value:  # one path may list a package twice
            table[entry.name] = _Entry(there.target, tuple(sorted({*there.packages, package})))
    return table


def names(group: str) -> list[str]:
    """Every registered name of a group (a key of `BUILT_IN`), in the order of the alphabet."""
    return sorted(_table(group))


def as_listed(group: str) -> list[str]:
    """Every registered name of a group: what is built in as it stands in `BUILT_IN`, the others behind it."""
    return [*BUILT_IN[group], *(name for name in names(group) if name not in BUILT_IN[group])]


def has(group: str, name: str) -> bool:
    """Whether a name is registered in a group."""
    return name in _table(group)


def forget() -> None:
    """Look everything up again: for those who register something while the program runs."""
    _table.cache_clear()
    _loaded.cache_clear()


def load(group: str, name: str) -> Any:
    """Import the class or function registered under `name`; once, as names keep their meaning.

    Raises:
        InputError: for an unknown name, with the nearest known one; for a name that two packages
            registered; for one whose package cannot be imported. Other names are not touched by that.
    """
    return _loaded(group, name)


@cache  # block kinds are asked for whenever a block is made
def _loaded(group: str, name: str) -> Any:
    table, what = _table(group), SINGULAR[group]
    if name not in table:
        raise InputError(unknown(what, name, table))
    entry = table[name]
    if len(entry.packages) > 1:
        raise InputError(
            f"the {what} {name!r} is registered by {' and by '.join(entry.packages)}; uninstall one of them"
        )
    with blamed(group, name, "cannot be loaded"):
        module, _, attribute = entry.target.partition(":")
        return getattr(import_module(module), attribute)


@contextmanager
def blamed(group: str, name: str, failed: str) -> Iterator[None]:
    """Turn whatever another package raises into an error that names it; built-in code raises as it does.

    Args:
        group, name: whose code runs in the block; a name that is not registered raises as it does, too.
        failed: what has failed then, for the message ("cannot be loaded").

    Raises:
        InputError: the code is another package's, and did not raise an error of hwnas.
    """
    try:
        yield
    except HwnasError:
        raise
    except (Exception, SystemExit) as exc:
        entry = _table(group).get(name)
        if entry is None or not entry.packages:
            raise
        raise InputError(
            f"the {SINGULAR[group]} {name!r} of package {entry.packages[0]} ({entry.target}) {failed}: "
            f"{_words(exc)}; repair or uninstall the package"
        ) from exc


def culprit(exc: BaseException) -> str | None:
    """What to say of an error that arose in the code of another package; None where it did not.

    `blamed` names a plug-in where hwnas knows that its code runs. This finds the package from the traceback:
    objects of plug-ins (spaces, engines, operations of blocks) are used in many places.
    """
    owners = {
        _top(entry.target): entry.packages[0]
        for group in BUILT_IN
        for entry in _table(group).values()
        if entry.packages
    }
    found = None
    for frame, line in walk_tb(exc.__traceback__):
        module = str(frame.f_globals.get("__name__", ""))
        if _top(module) in owners:
            found = owners[_top(module)], f"{module}.{frame.f_code.co_name}, line {line}"
    if found is None:
        return None
    package, place = found
    return f"package {package} failed ({place}): {_words(exc)}; repair or uninstall the package"


def _top(target: str) -> str:
    return re.split(r"[.:]", target, maxsplit=1)[0]


def _words(exc: BaseException) -> str:
    """An error of another package in one line."""
    return " ".join(f"{type(exc).__name__}: {exc}".split()).removesuffix(":")


def unknown(what: str, name: str, known: Any) -> str:
    """The message for an unknown name, with "did you mean" where one is near."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return f"unknown {what} {name!r}{hint} (known: {', '.join(names[:MOST_NAMED])}{more})"
