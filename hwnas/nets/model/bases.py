"""Networks that a user names: a function in a file or a package, torchvision's, timm's, hwnas's own.

A file's or a package's code runs when it is named; nothing that hwnas wrote names one by itself.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision import models

from hwnas import documents, schemas
from hwnas.arrays import ImageShape
from hwnas.errors import BackendUnavailable, DataFormatError, HwnasError, InputError
from hwnas.lazy import lazy_import
from hwnas.nets.build import build, load_weights
from hwnas.nets.model import from_onnx
from hwnas.nets.model.from_pt2 import program_onnx
from hwnas.nets.weights import read_weights
from hwnas.plugins import unknown
from hwnas.runs import RUNS
from hwnas.store import read_network

timm = lazy_import("timm")  # an extra

KINDS = (
    "FILE.py:function, package.module:function, torchvision:NAME, timm:NAME, FILE.onnx, FILE.pt2, "
    "a run or a network.json"
)


@dataclass(frozen=True, eq=False)
class OwnModel:
    """A network in eval mode, and where it comes from.

    Attributes:
        module: the network.
        source: as the user named it.
        kind: "file", "module", "torchvision", "timm", "network", "onnx", "pt2", or "edited" (changed).
        input_shape: channels, height, width of an image.
        sha256: of the file that defines it; empty where it is a library's or hwnas's own.
        weights_sha256: of the weights that were given; empty where they are the network's own.
        classes: outputs.
        head: layer that was replaced for another number of classes; empty where none was.
        notes: what was replaced, such as the head.
        recipe: what it can be built from again, where that is more than its source (`result`).
    """

    module: nn.Module
    source: str
    kind: str
    input_shape: ImageShape
    sha256: str = ""
    weights_sha256: str = ""
    classes: int = 0
    head: str = ""
    notes: tuple[str, ...] = ()
    recipe: Mapping[str, Any] | None = None


def kind_of(source: str) -> str:
    """What sort of thing a source is by its form; InputError where it is none."""
    before, colon, after = source.rpartition(":")
    if before in ("torchvision", "timm") and after:
        return before
    path = Path(source)
    if path.suffix in (".onnx", ".pt2"):
        return path.suffix[1:]
    if colon and before.endswith(".py"):
        return "file"
    if network_file(source) is not None:
        return "network"
    if colon and before and after.isidentifier() and all(p.isidentifier() for p in before.split(".")):
        return "module"
    if path.suffix == ".py":
        raise InputError(f"{source} names no function; write {source}:FUNCTION, which returns the module")
    if path.suffix == ".json" or len(path.parts) > 1:
        raise InputError(f"model {source} does not exist")
    raise InputError(f"model {source!r} is not known; expected {KINDS}")


def network_file(source: str) -> Path | None:
    """The network file that a path, a run folder or a run's name means; None where there is none."""
    path = Path(source)
    if path.is_file() and path.suffix == ".json":
        return path
    for folder in (path, RUNS / source):
        if (folder / "network.json").is_file():
            return folder / "network.json"
    return None


def base(source: str, input_shape: ImageShape | None = None) -> OwnModel:
    """Build what a source names, without further weights.

    Args:
        source: of one of `KINDS`.
        input_shape: of an image; None takes what the source says of itself.

    Raises:
        InputError: there is no such file, function or name, or it gives no module; it does not say its size.
        BackendUnavailable: its library is not installed.
    """
    kind = kind_of(source)
    torch_state = torch.random.get_rng_state()
    torch.manual_seed(0)  # weights by chance are the same at every call
    try:
        module, shape, sha256 = _MAKERS[kind](source)
    finally:
        torch.random.set_rng_state(torch_state)
    shape = input_shape or shape
    if shape is None:
        raise InputError(f"{source} does not say the size of its images; give --input CxHxW")
    return OwnModel(module.eval(), source, kind, shape, sha256)


def _called(make: Callable[..., Any], source: str) -> nn.Module:
    """The module that a function returns, or that is there instead of one."""
    if isinstance(make, nn.Module):
        return make
    if not callable(make):
        raise InputError(f"{source} is a {type(make).__name__}, not a function that returns a module")
    try:
        inspect.signature(make).bind()
    except TypeError as exc:
        raise InputError(
            f"{source} needs arguments ({exc}); name a function without any that returns the module"
        ) from None
    except ValueError:  # a built-in without a signature
        pass
    try:
        made = make()
    except HwnasError:
        raise
    except Exception as exc:
        raise InputError(f"{source} failed: {_words(exc)}") from exc
    if not isinstance(made, nn.Module):
        raise InputError(f"{source} returned a {type(made).__name__}; a torch.nn.Module is expected")
    return made


def _words(exc: Exception) -> str:
    """An error of the user's code in one line."""
    return f"{type(exc).__name__}: {' '.join(str(exc).split())[:300]}"


def _file(source: str) -> tuple[nn.Module, ImageShape | None, str]:
    name, _, function = source.rpartition(":")
    path = Path(name)
    code = documents.read_bytes(path, "model file")
    title = f"hwnas_model_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(title, path)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[title] = loaded  # classes of it look there for their own module
    folder = str(path.resolve().parent)
    sys.path.insert(0, folder)  # as for a script: it imports what lies beside it
    try:
        spec.loader.exec_module(loaded)
    except Exception as exc:
        raise InputError(f"model file {path} failed: {_words(exc)}") from exc
    finally:
        sys.path.remove(folder)
    made = _called(_member(loaded, function, str(path)), source)
    return made, _stated(made, loaded), hashlib.sha256(code).hexdigest()


def _member(loaded: Any, function: str, where: str) -> Any:
    if not hasattr(loaded, function):
        own = [n for n, v in vars(loaded).items() if callable(v) and not n.startswith("_")]
        raise InputError(f"{where}: " + unknown("function", function, own))
    return getattr(loaded, function)


def _stated(module: nn.Module, holder: Any = None) -> ImageShape | None:
    """The image size that a module or its file states as `input_shape`, or as timm's do."""
    told = getattr(module, "pretrained_cfg", None) or getattr(module, "default_cfg", None) or {}
    given = getattr(module, "input_shape", None) or getattr(holder, "input_shape", None)
    if given is None:
        given = told.get("input_size") if isinstance(told, Mapping) else getattr(told, "input_size", None)
    if isinstance(given, (tuple, list)) and len(given) == 3 and all(isinstance(n, int) for n in given):
        return given[0], given[1], given[2]
    return None


def _module(source: str) -> tuple[nn.Module, ImageShape | None, str]:
    name, _, function = source.rpartition(":")
    try:
        loaded = importlib.import_module(name)
    except ModuleNotFoundError as exc:
        if exc.name is not None and (name == exc.name or name.startswith(f"{exc.name}.")):
            raise InputError(f"no Python module {name!r}; install its package, or name a file") from None
        raise InputError(f"{name} failed: {exc}") from exc
    except Exception as exc:
        raise InputError(f"{name} failed: {_words(exc)}") from exc
    made = _called(_member(loaded, function, name), source)
    file = getattr(loaded, "__file__", None)
    code = Path(file).read_bytes() if file and file.endswith(".py") else b""
    return made, _stated(made, loaded), hashlib.sha256(code).hexdigest()


def _torchvision(source: str) -> tuple[nn.Module, ImageShape | None, str]:
    name = source.partition(":")[2]
    known = models.list_models()
    if name not in known:
        raise InputError(unknown("torchvision model", name, known))
    extra = {"init_weights": True} if name in ("googlenet", "inception_v3") else {}
    made = models.get_model(name, weights=None, **_backbone(name), **extra)
    size = 299 if name == "inception_v3" else 224
    return made, (3, size, size), ""


def _backbone(name: str) -> dict[str, Any]:
    """Detection and segmentation networks would fetch the weights of their backbone."""
    builder = models.get_model_builder(name)
    return {"weights_backbone": None} if "weights_backbone" in inspect.signature(builder).parameters else {}


def _timm(source: str) -> tuple[nn.Module, ImageShape | None, str]:
    try:
        known = timm.list_models()
    except ImportError:
        raise BackendUnavailable(
            f"{source} needs the package timm, which is not installed; pip install 'hwnas[timm]'"
        ) from None
    name = source.partition(":")[2]
    if name not in known:
        raise InputError(unknown("timm model", name, known))
    made = timm.create_model(name, pretrained=False)
    return made, _stated(made), ""


def _network(source: str) -> tuple[nn.Module, ImageShape | None, str]:
    file = network_file(source)
    assert file is not None
    spec = read_network(file)
    made = build(spec, seed=0)
    beside = file.with_name("weights.safetensors")
    if beside.is_file():
        load_weights(made, read_weights(beside))
    return made, spec.input_shape, ""


def _onnx(source: str) -> tuple[nn.Module, ImageShape | None, str]:
    path = Path(source)
    data = documents.read_bytes(path, "model")
    made, shape = from_onnx.network(data, path)
    return made, shape, hashlib.sha256(data).hexdigest()


def _pt2(source: str) -> tuple[nn.Module, ImageShape | None, str]:
    path = Path(source)
    made, shape = from_onnx.network(program_onnx(path), path)
    return made, shape, hashlib.sha256(path.read_bytes()).hexdigest()


_MAKERS: dict[str, Callable[[str], tuple[nn.Module, ImageShape | None, str]]] = {
    "file": _file,
    "module": _module,
    "torchvision": _torchvision,
    "timm": _timm,
    "network": _network,
    "onnx": _onnx,
    "pt2": _pt2,
}


def is_architecture(path: Path) -> bool:
    """Whether a network file is a changed network of a user's (`result`), not one of hwnas's own spaces."""
    try:
        return documents.read_json(path, "network").get("schema") == schemas.ARCHITECTURE
    except HwnasError:
        return False


def read_state(path: Path) -> dict[str, Tensor]:
    """A state dict from safetensors, or from a file of torch.save read without running code.

    Raises:
        InputError: there is no such file.
        DataFormatError: it is damaged, or no state dict, or holds NaN.
    """
    if not path.is_file():
        raise InputError(f"weights {path} do not exist")
    try:
        if path.suffix == ".safetensors":
            found: Any = load_file(path)
        else:
            found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as exc:  # pickle and zip readers let out whatever a damaged file leads them to
        if not (isinstance(exc, UnpicklingError) and "unsupported global" in str(exc).lower()):
            # torch's own words for what is no file of its advise to read it by running code.
            why = "they are no file of torch.save" if isinstance(exc, UnpicklingError) else _words(exc)
            raise DataFormatError(f"weights {path} are damaged: {why}") from exc
        raise DataFormatError(
            f"weights {path} hold more than tensors and are not read, as that would run code; save them with "
            "torch.save(module.state_dict(), FILE) or as safetensors"
        ) from exc
    for inner in ("state_dict", "model_state_dict", "model", "model_ema"):
        if isinstance(found, Mapping) and isinstance(found.get(inner), Mapping):
            found = found[inner]
            break
    if not isinstance(found, Mapping) or not all(isinstance(v, Tensor) for v in found.values()):
        raise DataFormatError(f"weights {path} hold no state dict; a mapping of names to tensors is expected")
    state = {str(name): value for name, value in found.items()}
    if state and all(name.startswith("module.") for name in state):  # of a network on several GPUs
        state = {name.removeprefix("module."): value for name, value in state.items()}
    for name, value in state.items():
        if value.is_floating_point() and (wrong := int((~torch.isfinite(value)).sum())):
            raise DataFormatError(
                f"weights {path}: {wrong} of {value.numel()} values of {name} are NaN or infinite; train the "
                "network again"
            )
    return state


def with_head(own: OwnModel, name: str, classes: int, why: str = "new, untrained") -> OwnModel:
    """The network with a fresh last layer of so many outputs."""
    old = own.module.get_submodule(name)
    made: nn.Module
    state = torch.random.get_rng_state()
    torch.manual_seed(0)
    if isinstance(old, nn.Linear):
        made = nn.Linear(old.in_features, classes, bias=old.bias is not None)
        before = old.out_features
    else:
        assert isinstance(old, nn.Conv2d)
        height, width = old.kernel_size  # of any length in torch's types
        made = nn.Conv2d(old.in_channels, classes, (height, width), bias=old.bias is not None)
        before = old.out_channels
    torch.random.set_rng_state(state)
    owner, _, last = name.rpartition(".")
    setattr(own.module.get_submodule(owner), last, made)
    note = f"the head {name} of {before} outputs was replaced by one of {classes} ({why})"
    return replace(own, head=name, classes=classes, notes=(*own.notes, note))
