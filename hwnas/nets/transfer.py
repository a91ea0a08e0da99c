"""Weights that were trained on other data, as the start of any network of a search.

Where the network that they are of is known, a block takes them over by its place in its stage, as a grown
network does from its parent (`hwnas.nets.growth`): the channels that both have are kept, what is new starts
as an identity where it can, else from new weights. Of a bare file of weights a block is taken where all of
its arrays are there by name and shape. A network of which no stage holds such a block starts from new
weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from hwnas.arrays import Float32s
from hwnas.nets import growth
from hwnas.nets.build import build, load_weights, weights
from hwnas.spec import NetworkSpec

_HEAD = "head"


@dataclass(frozen=True, eq=False)
class Initial:
    """Weights of an earlier training.

    Attributes:
        weights: arrays by state-dict name.
        spec: the network that they are of; None where that is not known.
        classifier: whether the classes are the same, so that the classifier is taken over as well.
        digest: of all this and of where it comes from; part of the identity of what starts here.
    """

    weights: Mapping[str, Float32s]
    spec: NetworkSpec | None
    classifier: bool
    digest: str

    def places(self, spec: NetworkSpec) -> tuple[str, ...]:
        """The blocks of a network, by place, that take weights over; none where no block of a stage does."""
        if self.spec is not None:
            found = growth.carried(self.spec, spec)
        else:
            found = _same(self.weights, weights(build(spec, seed=0)), [place for place, _ in spec.walk()])
        if not any(place.startswith("stages.") for place in found):
            return ()
        return tuple(place for place in found if place != _HEAD or self.classifier)

    def begin(self, spec: NetworkSpec, *, seed: int) -> nn.Module:
        """A network with these weights, as far as it takes them; `seed` is of those that are new."""
        net = build(spec, seed=seed)
        places = self.places(spec)
        if not places:
            return net
        fresh = weights(net)
        if self.spec is not None:
            state = growth.inherited(self.weights, self.spec, spec, fresh)
            if _HEAD not in places:
                state |= _of(fresh, _HEAD)
        else:
            state = fresh
            for place in places:
                state |= {name: self.weights[name] for name in _of(fresh, place)}
        load_weights(net, state)
        return net


def _of(state: Mapping[str, Float32s], place: str) -> dict[str, Float32s]:
    return {name: value for name, value in state.items() if name.startswith(f"{place}.")}


def _same(given: Mapping[str, Float32s], own: Mapping[str, Float32s], places: list[str]) -> tuple[str, ...]:
    """Places whose arrays are all given, in these shapes."""

    def fits(place: str) -> bool:
        arrays = _of(own, place)
        return bool(arrays) and all(
            name in given and given[name].shape == value.shape for name, value in arrays.items()
        )

    return tuple(place for place in places if fits(place))
