"""Shared weights: the same function as a network of its own, and nothing else is touched."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from hwnas.nets.build import build
from hwnas.nets.hournas.slots import chain_of, filled, network, slots
from hwnas.nets.spaces import make
from hwnas.spec import BlockSpec
from hwnas.train.hournas.shared import Sampled, Shared


def copied(shared: Shared, net: torch.nn.Module) -> None:
    """The network's weights in the corner (kernels: the middle) of the shared ones."""
    with torch.no_grad():
        for name, value in net.named_parameters():
            place, _, rest = name.partition(".") if name[0] == "h" or name[:4] == "stem" else ("", "", "")
            if not place:
                parts = name.split(".")
                place, rest = ".".join(parts[:3]), ".".join(parts[3:])
            whole = shared.values[f"{place}/{rest}".replace(".", "_")]
            at = [slice(size) for size in value.shape]
            for axis in range(2, value.ndim):
                rim = (whole.shape[axis] - value.shape[axis]) // 2
                at[axis] = slice(rim, rim + value.shape[axis])
            whole[tuple(at)] = value


@pytest.mark.parametrize("name", ["mbv2-cifar", "resnet-cifar-wide"])
def test_a_network_is_what_it_would_be_alone(name: str) -> None:
    space = chain_of(make(name, input_shape=(3, 8, 8)))
    rng = np.random.default_rng(0)
    for seed in range(4):
        spec = space.sample(rng)
        gene = space.gene(spec)
        fills: list[int | None] = []
        for slot in slots(space, gene.path):
            mine = gene.operators[slot.stage]
            level = space.levels[gene.path[slot.stage]]
            fills.append(level.operators.index(mine[slot.index]) if slot.index < len(mine) else None)
        assert network(space, gene.path, fills).key == spec.key
        # Other blocks, larger in every way, share the places.
        held = {place: [block] for place, block in filled(space, gene.path, fills)}
        larger = space.levels[gene.path[0]].operators
        for k in range(len(larger)):
            held["stages.0.0"].append(space.first(None, gene.path[0], larger[k]))
        shared = Shared(held, space.convention, seed=seed)
        net = build(spec, seed=seed).train()
        for value in net.parameters():  # residual branches start at zero; here they must count
            if value.ndim == 1:
                torch.nn.init.uniform_(value, 0.5, 1.5)
        copied(shared, net)
        x = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
        assert torch.allclose(shared(x, filled(space, gene.path, fills)), net(x), atol=1e-4, rtol=1e-4)


def test_only_the_blocks_of_a_network_get_gradients() -> None:
    space = chain_of(make("mbv2-cifar", input_shape=(3, 8, 8)))
    path = space.reference
    places = slots(space, path)
    fills = [0 if slot.vital else None for slot in places]
    every = [0 for _ in places]
    shared = Shared({p: [b] for p, b in filled(space, path, every)}, space.convention, seed=0)
    shared(torch.randn(4, 3, 8, 8), filled(space, path, fills)).sum().backward()
    used = {place.replace(".", "_") for place, _ in filled(space, path, fills)}
    for key, value in shared.values.items():
        assert (value.grad is not None) == (key.split("/")[0] in used), key


def test_steps_draw_networks_by_their_number() -> None:
    space = chain_of(make("resnet-cifar", input_shape=(3, 8, 8)))
    path = space.reference
    every = [0 for _ in slots(space, path)]
    shared = Shared({p: [b] for p, b in filled(space, path, every)}, space.convention, seed=0)
    seen: list[int] = []

    def draw(rng: np.random.Generator) -> Sequence[tuple[str, BlockSpec]]:
        seen.append(int(rng.integers(1000)))
        return filled(space, path, [0 if slot.vital else None for slot in slots(space, path)])

    module = Sampled(shared, draw, draw(np.random.default_rng(0)), seed=3).train()
    x = torch.randn(2, 3, 8, 8)
    for _ in range(3):
        module(x)
    state = {k: v.clone() for k, v in module.state_dict().items()}
    module(x)
    again = Sampled(shared, draw, draw(np.random.default_rng(0)), seed=3).train()
    again.load_state_dict(state)
    again(x)
    assert seen[-1] == seen[-3]  # the fourth step of the first, and of the one resumed after three
    assert len(set(seen[1:5])) == 4
    calls = int(again.calls)
    again.eval()(x)
    assert int(again.calls) == calls
