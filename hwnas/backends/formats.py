"""What `hwnas export` writes: one `Format` a kind of file, found by name through `hwnas.plugins`.

A backend declares the format of its own files in its own module. What a format does not override is
what most of them do: the backend builds from ONNX and saves its engine; where the backend is not
installed, plain ONNX is left for a machine that has it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hwnas import plugins
from hwnas.arrays import Float32s
from hwnas.errors import InputError
from hwnas.protocols import Backend, Engine, Int8Form
from hwnas.records import Precision, Setting
from hwnas.spec import NetworkSpec
from hwnas.store import atomic_path

PORTABLE = "onnx"  # the format that every runtime reads
CALIBRATION_IMAGES = 512


@dataclass(frozen=True)
class TrainedNetwork:
    """A trained network as a format gets it.

    Attributes:
        spec, weights: the network; weights by name as `nets.build.weights` gives them.
        precision, batch: as they are asked for.
        dynamic_batch: the file is to take any number of images at once.
        calibration: normalised training images (n, C, H, W); there for int8.
        metadata: what a program without hwnas must know to feed an ONNX file.
        form: the int8 graph that the runtime wants; None where it takes none.
        tuned: the weights were fine-tuned for int8, with what rounding moves; biases are then not corrected.
        floats: outputs of the ONNX nodes that stay in float, at int8.
    """

    spec: NetworkSpec
    weights: Mapping[str, Float32s]
    precision: Precision = "fp32"
    batch: int = 1
    dynamic_batch: bool = False
    calibration: Float32s | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    form: Int8Form | None = None
    tuned: bool = False
    floats: frozenset[str] = frozenset()

    def onnx(self, precision: Precision = "fp32", rewrite: Callable[[bytes], bytes] = bytes) -> bytes:
        """The network as an ONNX model.

        Args:
            precision: of the graph's own types: fp32, fp16, or int8 by Q/DQ pairs.
            rewrite: changes the fp32 graph first, where a runtime lacks an operator.

        Raises:
            InputError: int8 without images, or a precision that is not written as ONNX.
            BuildError: an operator or weight that cannot be written so.
        """
        from hwnas.backends.typed import in_precision
        from hwnas.nets import onnx

        model = onnx.network(self.spec, self.weights, batch=None if self.dynamic_batch else self.batch)
        model = in_precision(
            rewrite(model),
            precision,
            self.form,
            self.calibration,
            correct=not self.tuned,
            floats=self.floats,
        )
        return onnx.with_metadata(model, self.metadata)


@dataclass(frozen=True)
class Written:
    """What a format has written.

    Attributes:
        engine: as it was built, still open; None where nothing was built.
        onnx: the ONNX model that it was built from; None where it was not.
        dynamic_batch: whether the file takes any number of images at once.
    """

    engine: Engine | None = None
    onnx: bytes | None = None
    dynamic_batch: bool = False


@dataclass(frozen=True)
class Format:
    """One kind of file that `hwnas export` writes; the base of those that differ from the usual.

    Attributes:
        name: as given to ``--format`` and registered.
        text: what it is, in a few words.
        suffix: ending of its files, with the dot.
        backend: the registered backend whose own file it is; None where any may run it.
        bound_to: fields of `Setting` that must be the same where the file is used. A compiled engine
            holds for one version of its runtime on one processor.
        any_batch: whether such a file can take any number of images at once.
        many_batches: whether it can be built for several batch sizes (`BuildChoices.batches`).
        usual: whether networks that were searched through `backend` are exported so, because it takes
            no other file; else plain ONNX is recommended.
        runtimes: precisions in which a registered backend may run the file as its own, and be timed.
    """

    name: str
    text: str
    suffix: str
    backend: str | None = None
    bound_to: tuple[str, ...] = ("backend_version", "device_arch")
    any_batch: bool = False
    many_batches: bool = False
    usual: bool = False
    runtimes: tuple[Precision, ...] = ()

    def stand_in(self, spec: NetworkSpec, precision: Precision) -> Backend | None:
        """What runs the file here to compare its scores, where it is made for another runtime: its time
        is then nobody's. None: a registered backend runs and times it.
        """
        return None

    def write(self, network: TrainedNetwork, backend: Backend, setting: Setting, path: Path) -> Written:
        """Write the file, atomically.

        Raises:
            BuildError: the runtime refused the network; with its own words.
        """
        model = network.onnx("int8" if network.precision == "int8" else "fp32")
        engine = backend.build(model, setting)
        try:
            with atomic_path(path) as temporary:
                engine.save(temporary)
        except BaseException:
            engine.close()
            raise
        return Written(engine, model, network.dynamic_batch)

    def binds(self, built: Setting, present: Setting) -> tuple[str, ...]:
        """The fields of `bound_to` that hold for a file that was built so."""
        return self.bound_to

    def load(self, path: Path, backend: Backend, setting: Setting) -> Engine:
        """Open a file that was checked against its manifest."""
        return backend.load(path, setting)

    def portable(self, trained: TrainedNetwork) -> tuple[bytes, Precision]:
        """The ONNX model from which another machine can build the file, and the precision of its types."""
        # bf16 is asked for by a flag of the runtime.
        written: Precision = "fp32" if trained.precision == "bf16" else trained.precision
        return trained.onnx(written), written

    def elsewhere(self, model: Path, setting: Setting, image: tuple[int, ...]) -> str:
        """How to build from `portable` where hwnas is not installed, in one line; empty if not known.

        Args:
            model: the file that `portable` gave.
            setting: precision, sizes and other choices that were asked for.
            image: channels, height and width.
        """
        return ""


def get(name: str) -> Format:
    """The format registered under `name`.

    Raises:
        InputError: no such name, with the nearest one; or its package is broken.
    """
    found = plugins.load("formats", name)
    if not isinstance(found, Format):
        raise InputError(
            f"the export format {name!r} is registered as {type(found).__name__}; expected a "
            "hwnas.backends.formats.Format"
        )
    if found.name != name:
        raise InputError(f"the export format {name!r} calls itself {found.name!r}; both must be the same")
    return found


def every() -> list[Format]:
    """Every format that can be loaded, by name; a broken one of another package is left out."""
    found = []
    for name in plugins.names("formats"):
        try:
            found.append(get(name))
        except InputError:
            continue
    return found


def usual(backend: str) -> str:
    """Name of the format in which a network that was searched through `backend` is exported."""
    return next((f.name for f in every() if f.usual and f.backend == backend), PORTABLE)
