"""What a training continues: data, splits, weights and pixel scale of earlier runs; a teacher."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from hwnas import runs
from hwnas.documents import read_json
from hwnas.errors import DataFormatError, InputError
from hwnas.jobs.resolve.networks import find
from hwnas.jobs.resolve.origin import run_of
from hwnas.jobs.resolve.pixels import recorded
from hwnas.nets.count import count
from hwnas.store import read_network
from hwnas.train.uri import runs_code

if TYPE_CHECKING:
    from hwnas.arrays import Float32s
    from hwnas.jobs.train_options import TrainOptions
    from hwnas.train.data import Dataset
    from hwnas.train.losses import Teacher


@dataclass(frozen=True)
class Inherited:
    """What the run of a network was trained on; empty where it is of no run.

    Attributes:
        run: the run's name.
        fingerprint: of its data and its splits.
    """

    run: str = ""
    data: str | None = None
    seed: int = 0
    limit: int | None = None
    fingerprint: str | None = None

    @classmethod
    def of(cls, network: Path) -> Inherited:
        """Of the run that a network file lies in."""
        run = run_of(network.parent)
        if run is None:
            return cls()
        config = runs.read_manifest(run)["config"]
        if not isinstance(config.get("data"), str):
            return cls()
        seed, limit, mark = (config.get(name) for name in ("seed", "limit", "data_fingerprint"))
        return cls(
            run=str(run),
            data=config["data"],
            seed=seed if isinstance(seed, int) else 0,
            limit=limit if isinstance(limit, int) else None,
            fingerprint=mark if isinstance(mark, str) else None,
        )

    def into(self, options: TrainOptions, *, strictly: bool) -> TrainOptions:
        """Fill what the user left open from the run; `strictly` refuses another seed or limit.

        Raises:
            InputError: no data is named anywhere, or another split than the run's.
        """

        same = options.data is None or options.data == self.data
        data = self.data if options.data is None else options.data
        if data is None:
            raise InputError(
                f"{options.network} records no data set; name one: --data digits, "
                "folder:PATH, parquet:PATH, ..."
            )
        if options.data is None and runs_code(data):
            raise InputError(
                f"{self.run} was trained on data of a Python function, {data!r}. Code that a file names is "
                f"not run; if you trust it, name it yourself: --data {data}"
            )
        if strictly and self.data is not None:
            for name in ("seed", "limit"):
                own, asked = getattr(self, name), getattr(options, name)
                if asked is not None and asked != own:
                    told = "none" if own is None else own
                    raise InputError(
                        f"{self.run} was trained with {name} {told}, and --{name} {asked} draws another "
                        f"validation split: images that its weights were trained on; leave --{name} out, or "
                        "start again with --scratch"
                    )
            same = True  # other data is refused by its content (`check`)
        seed = options.seed if options.seed is not None else (self.seed if same else 0)
        limit = options.limit if options.limit is not None or not same else self.limit
        return replace(options, data=data, seed=seed, limit=limit)

    def check(self, dataset: Dataset, options: TrainOptions) -> None:
        """DataFormatError unless the images and the splits are those of the run."""
        if self.fingerprint is not None and self.fingerprint != dataset.fingerprint:
            what = (
                f"{self.data}, which has changed since then"
                if options.data == self.data
                else f"{self.data}, and {options.data} holds other images"
            )
            raise DataFormatError(
                f"{self.run} was trained on {what}: images that its weights were trained on would become "
                "validation or test images; give its data as it was, or start again with --scratch"
            )


def weights_of(network: Path) -> Path | None:
    """Weights beside a network's file: a run has them."""
    beside = network.with_name("weights.safetensors")
    return beside if network.name == "network.json" and beside.is_file() else None


def run_of_init(init: str | None) -> Path | None:
    """The network of the run that ``init`` names; None where it names a file of weights, or nothing."""
    if init is None or Path(init).suffix == ".safetensors":
        return None
    return find(init)


def run_around(init: str | None) -> Path | None:
    """The network of the run that the weights of ``init`` lie in, among its trials or not; None elsewhere."""
    if init is None or Path(init).suffix != ".safetensors":
        return run_of_init(init)
    folder = Path(init).resolve().parent
    for place in (folder, folder.parent) if folder.name == "weights" else (folder,):
        if (place / "network.json").is_file():
            return place / "network.json"
    return None


def rescale(dataset: Dataset, trained: Path | None) -> None:
    """Give images on the scale that the weights of a run's network were trained on."""
    from hwnas.train import normalisation

    if trained is not None and (scale := recorded(trained, len(dataset.mean))) is not None:
        normalisation.use(dataset, scale)


def initial_weights(init: str | None) -> Path | None:
    """The weights that ``init`` names: a file, or those of a run."""
    if init is None:
        return None
    if Path(init).suffix == ".safetensors":
        return Path(init)
    weights = weights_of(find(init))
    if weights is None:
        raise InputError(f"{init} has no weights; give a trained run, or a file *.safetensors")
    return weights


def check_initial(network: Path | None, data: str | None, seed: int | None, limit: int | None) -> None:
    """InputError where the run of `network` has trained on what are validation images of these."""
    if network is None:
        return
    trained = Inherited.of(network)
    if trained.data == data and (trained.seed, trained.limit) != (seed, limit):
        raise InputError(
            f"--init: {trained.run} was trained on the same data with seed {trained.seed} and limit "
            f"{trained.limit}, that is on images which are validation images here; use its --seed and "
            "--limit, or other data"
        )


def transferred(given: Mapping[str, Float32s], own: Mapping[str, Float32s]) -> dict[str, Float32s]:
    """Weights of another training for a network: all but the classifier's, which stay its own.

    Raises:
        InputError: they are of another network.
    """
    taken = {name: value for name, value in given.items() if not name.startswith("head.")}
    kept = {name: value for name, value in own.items() if name.startswith("head.")}
    wrong = sorted(
        name
        for name in taken.keys() | (own.keys() - kept.keys())
        if name not in taken or name not in own or taken[name].shape != own[name].shape
    )
    if wrong:
        raise InputError(
            f"--init: these weights are of another network ({len(wrong)} of its arrays differ, such as "
            f"{wrong[0]}); train the network that they are of: give its network.json, or the run itself"
        )
    return {**taken, **kept}


def teacher_of(options: TrainOptions, dataset: Dataset) -> Teacher | None:
    """The network and weights of the run named by `distill`; it must tell the same classes apart.

    Raises:
        InputError: it has no weights, other classes or another input, or was trained on another split.
    """
    from hwnas.nets.build import build, load_weights, read_weights
    from hwnas.train.losses import Teacher
    from hwnas.train.normalisation import Rescaled

    if options.distill is None:
        return None
    place = find(options.distill)
    weights = weights_of(place)
    if weights is None:
        raise InputError(f"{options.distill} has no weights; give a trained run")
    spec = read_network(place)
    if spec.input_shape != dataset.input_shape:
        shapes = ["x".join(map(str, shape)) for shape in (spec.input_shape, dataset.input_shape)]
        raise InputError(f"teacher {options.distill} takes images of {shapes[0]}, the network {shapes[1]}")
    result = place.parent / "result.json"
    classes = read_json(result, "result").get("classes") if result.is_file() else None
    known = tuple(classes) if isinstance(classes, list) else None
    if spec.classes != len(dataset.classes) or (known is not None and known != dataset.classes):
        told = ", ".join(map(str, known[:5])) if known else str(spec.classes)
        raise InputError(
            f"teacher {options.distill} was trained on other classes ({told}) than the data has "
            f"({', '.join(dataset.classes[:5])}); give a teacher that was trained on the same classes"
        )
    trained = Inherited.of(place)
    if trained.data == options.data and (trained.seed, trained.limit) != (options.seed, options.limit):
        raise InputError(
            f"teacher {options.distill} was trained with seed {trained.seed} and limit {trained.limit}, "
            "that is on images which are validation images here; use its --seed and --limit"
        )
    module = build(spec, seed=0)
    load_weights(module, read_weights(weights))
    scale, given = recorded(place, len(dataset.mean)), (dataset.mean, dataset.std)
    if scale is not None and scale != given:
        module = Rescaled(module, scale, given)
    return Teacher(module, count(spec).macs)
