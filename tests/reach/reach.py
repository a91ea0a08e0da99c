"""What becomes of libraries' networks: traced, cut, and shrunk by one step.

``python tests/reach/reach.py OUT.json NAME...`` writes the outcomes of networks that OUT.json lacks.
An outcome is "shrunk", or "kept" where there is nothing to take, or "refused" with the reason. A name is
followed by its smallest image: ``torchvision:resnet18@32``.
"""

from __future__ import annotations

import copy
import json
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hwnas.errors import HwnasError
from hwnas.nets.model.cut import Piece
from hwnas.nets.model.edits import Edits
from hwnas.nets.model.narrow import kept
from hwnas.nets.model.parent import Parent, parent
from hwnas.nets.model.sources import load


def off(found: Tensor, wanted: Tensor) -> float:
    """Largest difference, relative to the largest number where that is above 1."""
    return float((found - wanted).abs().max()) / max(1.0, float(wanted.abs().max()))


def without_inputs(piece: Piece, width: int) -> nn.Module:
    """A piece with the same channels ignored as narrowing takes away: weights that read them are zero."""
    made = copy.deepcopy(piece.alone)
    stays = kept(piece.channels, width)
    for each in piece.channels.slices:
        if each.what == "in":
            gone = [i for i, a in enumerate(each.atoms) if not stays.get(int(a), True)]
            weight = made.get_submodule(str(each.node.target)).weight
            assert isinstance(weight, Tensor)
            with torch.no_grad():
                weight[:, gone] = 0.0
    return made


def normalises(piece: Piece) -> bool:
    """Whether a norm over channels is inside, whose result depends on how many there are."""
    modules = [
        piece.graph.get_submodule(str(each.node.target))
        for each in piece.channels.slices
        if each.what in ("norm", "in", "grouped")
    ]
    # Convolutions of standardised weights normalise those.
    return any(isinstance(m, nn.GroupNorm | nn.LayerNorm) or "Std" in type(m).__name__ for m in modules)


def outcome(name: str) -> dict[str, Any]:
    """Trace, cut and shrink one network; AssertionError where an output is not what it must be."""
    source, _, size = name.partition("@")
    try:
        whole = parent(load(source, input_shape=(3, int(size), int(size))))
    except HwnasError as exc:
        return {"outcome": "refused", "reason": str(exc)}
    images = torch.randn(2, 3, int(size), int(size), generator=torch.Generator().manual_seed(1))
    drop = [p.name for p in whole.pieces if p.droppable]
    narrow = [p for p in whole.pieces if p.widths]
    repeat = [p.name for p in whole.pieces if p.repeatable]
    found: dict[str, Any] = {
        "pieces": len(whole.pieces),
        "different": len({p.key for p in whole.pieces}),
        "droppable": len(drop),
        "repeatable": len(repeat),
        "narrowable": len(narrow),
        "leaves": [leaf.name for leaf in whole.leaves],
    }
    with torch.no_grad():
        original = whole.graph(images.clone())
        assert off(chain(whole, Edits(), images), original) <= 1e-5, "the pieces are not the network"
        if repeat:
            grown = whole.variant(Edits(repeats={repeat[0]: 2})).module()(images.clone())
            assert off(grown, original) <= 1e-5, f"{repeat[0]} repeated changes the network"
        for piece in narrow[:3]:
            if not normalises(piece):
                given = torch.relu(torch.randn(2, *piece.shape_in))
                narrower = piece.form(piece.widths[-1]).module()(given.clone())
                ignoring = without_inputs(piece, piece.widths[-1])(given.clone())
                assert off(narrower, ignoring) <= 1e-5, f"{piece.name} narrowed is not what it was"
        if not drop and not narrow:
            reasons = sorted({why for p in whole.pieces for why in p.reasons.values()})
            return {"outcome": "kept", "reason": "; ".join(reasons), **found}
        one = Edits(frozenset(drop[:1]), {p.name: p.widths[-1] for p in narrow if p.name not in drop[:1]})
        shrunk = whole.variant(one)
        module = shrunk.module()
        output = module(images.clone())
    assert output.shape == original.shape
    assert torch.isfinite(output).all()
    assert off(chain(whole, one, images), output) <= 1e-5, "the forms are not the variant"
    assert sum(p.numel() for p in module.parameters()) < whole.params
    return {"outcome": "shrunk", **found, "macs": whole.macs, "macs_after": shrunk.macs}


def chain(whole: Parent, edits: Edits, images: Tensor) -> Tensor:
    """The output of the forms one behind the other."""
    out = images.clone()
    with torch.no_grad():
        for form in whole.variant(edits).forms():
            out = form.module()(out)
    return out


def main() -> None:
    """Write the outcomes of the names on the command line, those that are there already left out."""
    warnings.simplefilter("ignore")
    path = Path(sys.argv[1])
    known = json.loads(path.read_text()) if path.is_file() else {}
    for name in sys.argv[2:]:
        if name in known:
            continue
        start = time.perf_counter()
        try:
            known[name] = outcome(name)
        except Exception as exc:
            print(name, "FAILED", type(exc).__name__, exc, flush=True)
            continue
        print(name, f"{time.perf_counter() - start:.1f} s", known[name], flush=True)
        path.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
