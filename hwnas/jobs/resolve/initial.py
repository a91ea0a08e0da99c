"""What the networks of a search begin with: the weights that ``--init`` names, and what is known of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwnas import seals
from hwnas.documents import read_json
from hwnas.errors import DataFormatError, InputError
from hwnas.jobs.resolve.origin import run_of
from hwnas.jobs.resolve.pixels import recorded
from hwnas.jobs.resolve.trained import Inherited, check_initial, initial_weights, run_around, run_of_init
from hwnas.nets.weights import read_weights
from hwnas.protocols import SearchSpace
from hwnas.spec import NetworkSpec
from hwnas.store import read_network
from hwnas.traced import VariantSpec

if TYPE_CHECKING:
    from hwnas.arrays import Float32s
    from hwnas.nets.transfer import Initial


@dataclass(frozen=True, eq=False)
class InitialWeights:
    """Weights of an earlier training.

    Attributes:
        name: as the user wrote it.
        sha256: of the file.
        weights: by state-dict name.
        network: file of the network that they are of; None where there is none beside them.
        spec: that network.
        classes: names of the classes that it tells apart; empty where none are recorded, or where they are
            mere numbers of other data, which say nothing.
    """

    name: str
    sha256: str
    weights: Mapping[str, Float32s]
    network: Path | None = None
    spec: NetworkSpec | None = None
    classes: tuple[str, ...] = field(default=())

    @property
    def kinds(self) -> str:
        """Kinds of the blocks in the stages of its network."""
        blocks = () if self.spec is None else (block for stage in self.spec.stages for block in stage)
        return ", ".join(dict.fromkeys(block.kind for block in blocks))


@dataclass(frozen=True, eq=False)
class Beginning:
    """What the networks of a search begin with.

    Attributes:
        initial: weights of another training; None is new ones.
        notes: that in words.
        identity: all of it that decides a result, as JSON types.
    """

    initial: Initial | None = None
    notes: tuple[str, ...] = ()
    identity: Mapping[str, Any] = field(default_factory=dict)


def start(given: InitialWeights | None, space: SearchSpace, classes: Sequence[str]) -> Beginning:
    """What networks of a space begin with.

    Raises:
        InputError: the weights are of images of another number of channels, or no network of the space takes
            any block over.
    """
    if given is None:
        return Beginning()
    from hwnas.nets.transfer import Initial

    channels = space.smallest().input_shape[0]
    if given.spec is not None and given.spec.input_shape[0] != channels:
        raise InputError(
            f"--init: {given.name} takes images of {given.spec.input_shape[0]} channels, and those of this "
            f"search have {channels}; choose its number of channels with --input, or leave --init out"
        )
    scale = None if given.network is None else recorded(given.network, channels)
    identity: dict[str, Any] = {
        "init_sha256": given.sha256,
        "init_network": None if given.spec is None else given.spec.key,
        "init_classifier": bool(given.classes) and given.classes == tuple(classes),
        "init_scale": None if scale is None else [list(part) for part in scale],
    }
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    found = Initial(given.weights, given.spec, identity["init_classifier"], digest)
    return Beginning(found, (_told(given, found, space),), identity)


def _told(given: InitialWeights, initial: Initial, space: SearchSpace) -> str:
    """What is begun from, in words; InputError where no network of the space takes any block over."""
    fitting = [(len(initial.places(spec)), len(spec.blocks)) for spec in (space.smallest(), *space.uniform())]
    most, of = max(fitting, key=lambda pair: pair[0] / pair[1])
    if not most:
        whose = "another network" if given.spec is None else f"{given.spec.depths_text} ({given.kinds})"
        raise InputError(
            f"--init: the weights of {given.name} are of {whose}, and no network of {space.name} has a block "
            "that could take them over; name the space of that network with --space, or leave --init out"
        )
    by = "name and shape" if given.spec is None else "place and kind"
    classifier = "taken over, as the classes are the same" if initial.classifier else "new"
    return (
        f"began from {given.name} (SHA-256 {given.sha256[:12]}): networks without a parent take over blocks "
        f"of the same {by}, up to {most} of {of}; all others are new; the classifier is {classifier}"
    )


def named(name: str | None, *, data: str, seed: int, limit: int | None) -> InitialWeights | None:
    """The weights that a user names for a search of these data.

    Args:
        name: a run, or a file of weights, whose network is known where ``network.json`` lies beside it; None
            where nothing is named.
        data, seed, limit: of the search.

    Raises:
        InputError: no such file or run; they are of a model of the user's own; or they were trained on what
            are validation images here.
        DataFormatError: a file is damaged, or the weights are not of the network beside them.
    """
    path = initial_weights(name)
    if name is None or path is None:
        return None
    weights = read_weights(path)
    beside = path.with_name("network.json")
    network = run_of_init(name) or (beside if beside.is_file() else None)
    check_initial(network or run_around(name), data, seed, limit)
    if network is None:
        return InitialWeights(name, seals.file_sha256(path), weights)
    spec = read_network(network)
    if isinstance(spec, VariantSpec):
        raise InputError(
            f"--init: {name} is of a model of your own, whose pieces no space has; search its variants with "
            f"--model {network.parent}"
        )
    _check(spec, weights, path)
    classes = _classes(network)
    if all(one.isdigit() for one in classes) and Inherited.of(network).data != data:
        classes = ()
    return InitialWeights(name, seals.file_sha256(path), weights, network, spec, classes)


def _check(spec: NetworkSpec, weights: Mapping[str, Float32s], path: Path) -> None:
    from hwnas.nets.build import build, load_weights

    try:
        load_weights(build(spec, seed=0), weights)
    except DataFormatError as exc:
        raise DataFormatError(f"--init: {path} does not fit the network.json beside it: {exc}") from exc


def _classes(network: Path) -> tuple[str, ...]:
    """Names of the classes that a run's network tells apart; empty where none are recorded."""
    run = run_of(network.parent)
    result = None if run is None else run / "result.json"
    found = read_json(result, "result").get("classes") if result is not None and result.is_file() else None
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        return ()
    return tuple(found)
