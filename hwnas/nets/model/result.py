"""A changed network in files: what it was, what was changed, and its weights; and back, without pickle.

``network.json`` names the network that was changed and the edits; ``weights.safetensors`` has the state
dict. Nothing in them runs code: a function of a user's is only called where the caller names it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import fx, nn

from hwnas import documents, schemas
from hwnas.errors import DataFormatError, InputError
from hwnas.nets.build import build, load_weights
from hwnas.nets.model.bases import OwnModel, base, kind_of, network_file, read_state, with_head
from hwnas.nets.model.edits import Edits
from hwnas.nets.model.parent import Parent, parent
from hwnas.nets.model.structure import structure
from hwnas.nets.weights import read_weights
from hwnas.store import atomic_path, network_of, read_network, write_json
from hwnas.traced import USERS, own_function

LIBRARIES = ("torchvision", "timm")


def save_result(folder: Path, original: Parent, edits: Edits, module: nn.Module) -> None:
    """Write ``network.json`` and ``weights.safetensors`` of a changed network.

    Args:
        folder: where to.
        original: the network before the edits.
        edits: what was changed.
        module: the changed network, trained on or not, as `Variant.module` gave it.
    """
    state = {n: v.detach().cpu().contiguous().clone() for n, v in module.state_dict().items()}
    with atomic_path(folder / "weights.safetensors") as temporary:
        save_file(state, temporary)
    write_json(folder / "network.json", {"schema": schemas.ARCHITECTURE, **described(original, edits)})


def described(original: Parent, edits: Edits) -> dict[str, Any]:
    """The JSON form of a changed network: the base, the edits, and the structure that they give."""
    return {
        "base": recipe(original),
        "edits": edits.to_json(),
        "structure": structure(original.graph),
        "input": list(original.own.input_shape),
        "blocks": [piece.name for piece in original.pieces],
    }


def recipe(original: Parent) -> dict[str, Any]:
    """What a network that is changed can be built from again."""
    own = original.own
    if own.recipe is not None:
        return dict(own.recipe)
    found: dict[str, Any] = {
        "kind": own.kind,
        "source": own.source,
        "sha256": own.sha256,
        "input": list(own.input_shape),
        "head": own.head,
        "classes": own.classes,
    }
    if own.kind == "network":
        file = network_file(own.source)
        assert file is not None
        found["spec"] = json.loads(read_network(file).model_dump_json())
    return found


def load_model(run_or_folder: str | Path, source: str | None = None) -> nn.Module:
    """The network of a run with its weights, in eval mode, as an ordinary module.

    Args:
        run_or_folder: a run (folder or name) or a network.json with weights.safetensors beside it.
        source: ``FILE.py:function`` or ``package.module:function`` of the original, where the run began with
            one: its code runs, so it is never taken from the file. It must be the same file as then.

    Raises:
        InputError: there is no such run; the original must be named.
        DataFormatError: a file is damaged, or the original is another than it was.
    """
    file = network_file(str(run_or_folder))
    if file is None:
        raise InputError(f"{run_or_folder} holds no network.json; name a finished run, or its folder")
    beside = file.with_name("weights.safetensors")
    if not beside.is_file():
        raise InputError(f"{file} has no weights beside it ({beside.name}); is the run finished?")
    if documents.read_json(file, "network").get("schema") == schemas.ARCHITECTURE:
        return reloaded(file, source or "").module
    named = own_function.set(source or own_function.get())
    try:
        made = build(read_network(file), seed=0)
    finally:
        own_function.reset(named)
    load_weights(made, read_weights(beside))
    return made.eval()


def reloaded(file: Path, source: str) -> OwnModel:
    """A changed network as one that can be changed further.

    Args:
        file: its network.json.
        source: the user's function, where it began with one.
    """
    body = documents.read_json(file, "network", schemas.ARCHITECTURE)
    own = _rebuilt(body, source, f"network {file}")
    state = read_state(file.with_name("weights.safetensors"))
    missing = sorted(own.module.state_dict().keys() ^ state.keys())
    if missing:
        raise DataFormatError(f"weights beside {file} belong to another network: {', '.join(missing[:3])}")
    try:
        own.module.load_state_dict(state)
    except RuntimeError as exc:
        raise DataFormatError(
            f"weights beside {file} do not fit it: {' '.join(str(exc).split())[:200]}"
        ) from exc
    own.module.eval()
    return replace(own, source=str(file.parent))


def _rebuilt(body: Mapping[str, Any], source: str, where: str) -> OwnModel:
    """Build the base and apply the edits; the weights are the base's."""
    given, edits = body.get("base"), Edits.from_json(body.get("edits"), where)
    if not isinstance(given, dict):
        raise DataFormatError(f"{where}: base must be an object")
    own = from_recipe(given, source, where)
    original = parent(own)
    if structure(original.graph) != body.get("structure"):
        raise DataFormatError(
            f"{where}: {own.source} is built differently now than when it was changed; use the versions of "
            "its libraries that the run's manifest names"
        )
    try:
        module: fx.GraphModule = original.variant(edits).module()
    except InputError as exc:
        raise DataFormatError(f"{where}: {exc}") from exc
    again = {"kind": "edited", **{k: body[k] for k in ("base", "edits", "structure")}}
    return replace(own, module=module, kind="edited", recipe=again)


def from_recipe(given: Mapping[str, Any], source: str, where: str) -> OwnModel:
    """What `recipe` gave, built again; `source` is the user's own function where it is one."""
    if given.get("kind") == "edited":
        return _rebuilt(given, source, where)
    return _base(given, source, where)


def _base(given: Mapping[str, Any], source: str, where: str) -> OwnModel:
    kind, named = given.get("kind"), given.get("source")
    shape = given.get("input")
    if not isinstance(named, str) or not isinstance(shape, list) or [type(n) for n in shape] != [int] * 3:
        raise DataFormatError(f"{where}: base must have a source and an input of three integers")
    size = (shape[0], shape[1], shape[2])
    if kind == "network":
        told = given.get("spec")
        spec = network_of(told if isinstance(told, dict) else {}, where)
        module = build(spec, seed=0).eval()
        own = OwnModel(module, named, "network", spec.input_shape, recipe=dict(given))
    elif kind in LIBRARIES and kind_of(named) == kind:
        own = base(named, size)
    elif kind in USERS:
        own = _users(given, source, size, where)
    else:
        raise DataFormatError(f"{where}: base of kind {kind!r} cannot be built again")
    name, classes = given.get("head"), given.get("classes")
    if name:
        layers = dict(own.module.named_modules())
        if name not in layers or not isinstance(classes, int) or not 0 < classes < 10**7:
            raise DataFormatError(f"{where}: the head {name!r} of {classes!r} classes does not fit {named}")
        own = with_head(own, name, classes)
    return own


def _users(given: Mapping[str, Any], source: str, size: tuple[int, int, int], where: str) -> OwnModel:
    """The user's own function, which the caller has named; its file must be what it was."""
    named = given["source"]
    if not source or kind_of(source) != given["kind"]:
        raise InputError(
            f"{where} began with {named}, which is not read or run from a stored name; name it "
            f"again: --model {named}, or hwnas.load_model(..., source={named!r})"
        )
    own = base(source, size)
    if own.sha256 != given.get("sha256"):
        raise DataFormatError(
            f"{where}: {source} is not the file that {named} was (SHA-256 {own.sha256[:12]}..., then "
            f"{str(given.get('sha256'))[:12]}...); use the original one"
        )
    return own
