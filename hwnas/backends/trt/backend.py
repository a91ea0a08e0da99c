"""TensorRT on an NVIDIA GPU: 8.6 (Pascal, Volta), 10 and 11 (Turing and later) in one code path.

Engine files are TensorRT's own plans, bound to the version, the GPU and the driver that they were
built with; the manifest that `hwnas.deploy` writes beside them says which.

None of this has run on a GPU yet. What holds it: the real bindings of all three majors on a simulated
machine (``make test-sim``), and the tests marked ``gpu`` for users who have a card (docs/gpu.md).
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

from hwnas.backends.cuda import opening as cuda
from hwnas.backends.cuda.driver import GpuOutOfMemory
from hwnas.backends.cuda.gpus import (
    check_device,
    check_precision,
    driver_version,
    gpus,
    python_fits,
    serves,
)
from hwnas.backends.cuda.state import watcher
from hwnas.backends.formats import Format, TrainedNetwork
from hwnas.backends.forms import TENSORRT
from hwnas.backends.trt import compat
from hwnas.backends.trt.build import BuiltPlan, TrtOptions, build_plan, trtexec
from hwnas.backends.trt.engine import TrtEngine
from hwnas.errors import (
    BackendUnavailable,
    BuildError,
    DataFormatError,
    InputError,
)
from hwnas.protocols import Int8Form
from hwnas.records import BuildChoices, Precision, Setting

INSTALL = (
    "on a machine with an NVIDIA GPU: pip install 'hwnas[trt]' (compute capability 7.5 and later), or on "
    "Python <= 3.11 'hwnas[trt8]' (Pascal and Volta, such as the TITAN Xp)"
)
KEPT_PLANS_BYTES = 512 << 20


class Trt:
    """TensorRT on the first GPU that CUDA shows (``CUDA_VISIBLE_DEVICES`` chooses)."""

    name = "trt"
    suffix = ".engine"
    devices: tuple[str, ...] = ("gpu",)

    def __init__(self, options: TrtOptions | None = None) -> None:
        self.options = options or TrtOptions()
        self._plans: OrderedDict[str, BuiltPlan] = OrderedDict()

    @property
    def version(self) -> str:
        """Installed version of TensorRT; empty without one."""
        return compat.installed_version()

    def unavailable(self) -> str | None:
        """What is missing here: GPU, TensorRT, driver package; and whether they fit each other."""
        found = gpus()
        missing = [] if found else ["no NVIDIA GPU found (neither NVML nor nvidia-smi lists one)"]
        if find_spec("tensorrt") is None:
            missing.append("TensorRT is not installed")
        if cuda.installed() is None:
            missing.append("neither cuda-python nor pycuda is installed")
        if not found:
            return f"{'; '.join(missing)}; {INSTALL}"
        support = serves(found[0].capability, found[0].driver)
        here = f"this GPU ({found[0].name}, compute capability {found[0].compute_capability})"
        if missing:
            cure = support.install if python_fits(support) else "another Python, then " + support.install
            return f"{'; '.join(missing)}; {here} is supported by {support.describe()}: {cure}"
        # Of several GPUs one is enough: `setting` looks at the one that CUDA shows first.
        refusals = [serves(gpu.capability).refuses(self.version) for gpu in found]
        if not all(refusals):
            return None
        return f"{refusals[0]}: {here} is supported by {support.describe()}: {support.install}"

    def load_runtime(self) -> None:
        """Import TensorRT; BackendUnavailable with the loader's words and the cure."""
        compat.module()

    def setting(self, device: str, precision: Precision, batch: int, threads: int) -> Setting:
        """Conditions of a run on this GPU.

        Raises:
            InputError: this chip or this version does not compute in `precision` any faster; threads.
            BackendUnavailable: CUDA cannot open the GPU, `device` is not the one it opens, or the
                installed version does not serve it.
        """
        driver = cuda.open_driver()
        properties = driver.properties
        check_device(device, properties.name, gpus())
        if refusal := serves(properties.capability).refuses(self.version):
            raise BackendUnavailable(
                f"{refusal}; to use another GPU give --gpu (or set CUDA_VISIBLE_DEVICES)"
            )
        if threads != 1:
            raise InputError(f"--threads {threads} does not apply to a GPU; leave it at 1")
        check_precision(properties.name, properties.capability, precision)
        version = str(compat.module().__version__)
        refusal = compat.refuses_precision(version, precision)
        if refusal:
            raise InputError(f"--precision {precision}: {refusal}")
        eyes = watcher(properties.bus_id)
        return Setting(
            device=device,
            device_arch=f"{properties.name}, compute capability {'.'.join(map(str, properties.capability))}",
            backend=self.name,
            backend_version=version,
            driver=driver_version(properties.cuda_version),
            precision=precision,
            batch=batch,
            power_limit_w=eyes.state().power_limit_w if eyes else None,
        )

    def chosen(self, setting: Setting, choices: BuildChoices) -> Setting:
        """See `hwnas.protocols.Choosy`."""
        trt = compat.module()
        capability = cuda.open_driver().properties.capability
        if refusal := compat.refuses_compatible(trt, capability, choices.compatible):
            raise InputError(f"--compatible {','.join(choices.compatible)}: {refusal}")
        if choices.dla is not None:
            _check_dla(choices, setting)
        if choices.batches and choices.batches[-1] != setting.batch:
            raise InputError(f"the sizes {choices.batches} must end with the largest batch, {setting.batch}")
        return setting.model_copy(update=asdict(choices))

    def forms(self) -> tuple[Int8Form, ...]:
        """Symmetric int8 around weighted operators."""
        return (TENSORRT,)

    def build(self, model: bytes, setting: Setting) -> TrtEngine:
        """Build an engine, or open the plan that was built before from the same model.

        A fresh session of an engine is a fresh execution context of the same plan: builds differ
        from each other, and what is measured should be what is kept.
        """
        driver = cuda.open_driver()
        key = hashlib.sha256(model + setting.model_dump_json().encode()).hexdigest()
        if key not in self._plans:
            with driver:
                half = "fp16" in serves(driver.properties.capability).precisions
                memory_bytes = driver.properties.memory_bytes
                plan = build_plan(model, setting, self.options, memory_bytes, half=half)
            self._keep(key, plan)
        self._plans.move_to_end(key)
        plan = self._plans[key]
        return TrtEngine(plan.data, setting, driver, plan.float_layers)

    def _keep(self, key: str, plan: BuiltPlan) -> None:
        self._plans[key] = plan
        while (
            len(self._plans) > 1 and sum(len(plan.data) for plan in self._plans.values()) > KEPT_PLANS_BYTES
        ):
            self._plans.popitem(last=False)

    def load(self, path: Path, setting: Setting) -> TrtEngine:
        """Load a plan that was built under `setting`.

        Raises:
            InputError: no such file.
            BackendUnavailable: it was built by another version or for another GPU, which is seen
                before TensorRT reads it.
            DataFormatError: TensorRT refused it.
        """
        if not path.is_file():
            raise InputError(f"engine {path} does not exist")
        here = self.setting(setting.device, setting.precision, setting.batch, setting.threads)
        may = compat.reads(setting, here)
        differ = [
            f"{what} {getattr(setting, field)!r}, here is {getattr(here, field)!r}"
            for field, what in (("backend_version", "TensorRT"), ("device_arch", "the GPU"))
            if getattr(setting, field) != getattr(here, field) and field not in may
        ]
        if differ:
            raise BackendUnavailable(f"{path} was built for {'; for '.join(differ)}; export it again here")
        try:
            return TrtEngine(path.read_bytes(), setting, cuda.open_driver())
        except GpuOutOfMemory:
            raise  # the file is sound
        except BuildError as exc:
            raise DataFormatError(f"engine {path} cannot be loaded: {exc}") from exc


def _check_dla(choices: BuildChoices, setting: Setting) -> None:
    """InputError or BackendUnavailable where a DLA does not run a network so."""
    if setting.precision not in ("fp16", "int8"):
        raise InputError("--dla: a DLA computes in fp16 and int8 only; give --precision fp16 or int8")
    if choices.batches or choices.compatible:
        raise InputError("--dla: a DLA takes one batch size and its own machine's plan; leave the others out")
    cores = compat.dla_cores()
    if not cores:
        raise BackendUnavailable(
            "--dla: TensorRT finds no deep-learning accelerator here; Jetson Xavier and Orin (not Orin Nano) "
            "have one. Leave --dla out to use the GPU"
        )
    if choices.dla is not None and choices.dla >= cores:
        raise InputError(f"--dla {choices.dla}: this machine has the cores 0 to {cores - 1}")


class TrtFormat(Format):
    """A plan of TensorRT; `Trt` takes no other file."""

    def binds(self, built: Setting, present: Setting) -> tuple[str, ...]:
        """All of them, but for what the plan was built to be independent of."""
        may = compat.reads(built, present)
        return tuple(field for field in self.bound_to if field not in may)

    def portable(self, trained: TrainedNetwork) -> tuple[bytes, Precision]:
        """In operators that every TensorRT imports. bf16 is asked for by a flag when TensorRT 10 builds;
        its graph is the fp32 one.
        """
        from hwnas.backends.typed import plain

        asked: Precision = trained.precision  # api: of ours
        written: Precision = "fp32" if asked == "bf16" else asked
        return trained.onnx(written, plain), written

    def elsewhere(self, model: Path, setting: Setting, image: tuple[int, ...]) -> str:
        """The command of NVIDIA's own tool."""
        return trtexec(model.name, model.with_suffix(self.suffix).name, setting, image)


FORMAT = TrtFormat(Trt.name, "a TensorRT plan", Trt.suffix, backend=Trt.name, usual=True, many_batches=True)
