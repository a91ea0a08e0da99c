"""Scores of networks without training, as published, for `benchmarks.scores`.

All are taken of one start (`opened`): He fan-in weights, batch norms and layer scales of one, as AZ-NAS
begins. The start that trainings begin with holds residual branches at zero; there no gradient and no feature
says anything of what is inside a branch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import rankdata
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from hwnas.arrays import Float64s
from hwnas.nets.build import Network, fresh
from hwnas.nets.conv import ChannelScale
from hwnas.spec import NetworkSpec

# Images of a batch, and batches: those of the papers' experiments with CIFAR-10, as far as they name them.
ZICO_BATCHES, ZICO_BATCH, SWAP_BATCH, AZ_BATCH = 2, 64, 32, 64
# Bits of a pattern that fit one integer.
MOST_SAMPLES = 62
ACTIVATIONS = (F.relu, F.relu6, F.hardswish, F.silu, F.gelu)
# Keeps 1 / sigma finite, as in the published code.
TINY = 1e-6


def opened(spec: NetworkSpec, seed: int) -> Network:
    """A network with new weights of which every branch is open, in training mode.

    Args:
        spec: what to build.
        seed: of the weights.
    """
    net = fresh(spec, seed=seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for layer in net.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(layer.weight, mode="fan_in", nonlinearity="relu")
            elif isinstance(layer, nn.BatchNorm2d | ChannelScale):
                nn.init.ones_(layer.weight)
    return net.train()


# -- ZiCo ------------------------------------------------------------------------------------------------


def zico(module: nn.Module, batches: Sequence[tuple[Tensor, Tensor]]) -> float:
    """ZiCo (Li et al., ICLR 2023): how steady gradients are from batch to batch.

    The sum over convolutions and fully connected layers of log(sum over weights of mean |g| / std g), over
    batches; weights whose gradient does not vary are left out, and layers of none but such. As in the
    authors' code the deviation is that of the signed gradient, dividing by the number of batches. Their code
    adds the gradients of earlier batches to those of later ones; here every batch stands by itself, as in the
    paper.

    Args:
        module: in the mode in which it is to run; its gradients are lost.
        batches: images (n, C, H, W) and labels (n,), two batches or more.

    Raises:
        ValueError: fewer than two batches.
    """
    if len(batches) < 2:
        raise ValueError(f"ZiCo needs two batches or more to see gradients vary, got {len(batches)}")
    layers = [one for one in module.modules() if isinstance(one, nn.Conv2d | nn.Linear)]
    weights = [layer.weight for layer in layers]
    found: list[list[Tensor]] = [[] for _ in weights]
    for images, labels in batches:
        loss = F.cross_entropy(module(images), labels)
        for own, gradient in zip(found, torch.autograd.grad(loss, weights)):
            own.append(gradient.detach().flatten())
    return steadiness([torch.stack(own).double().numpy() for own in found])


def steadiness(gradients: Sequence[Float64s]) -> float:
    """The sum over layers of log(sum of mean |g| / std g); gradients of a layer are (batches, weights)."""
    total = 0.0
    for own in gradients:
        spread = own.std(axis=0)
        varies = spread > 0
        ratio = float((np.abs(own).mean(axis=0)[varies] / spread[varies]).sum())
        total += float(np.log(ratio)) if ratio > 0 else 0.0
    return total


# -- SWAP ------------------------------------------------------------------------------------------------


class _Signs(TorchFunctionMode):
    """Notes which values every activation function lets through, called as a function or by a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Tensor] = []

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func in ACTIVATIONS:
            self.found.append((args[0].detach() > 0).flatten(1))
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def swap(module: nn.Module, images: Tensor) -> float:
    """SWAP (Peng et al., ICLR 2024, section 3): how many values differ in when they are positive.

    Each value before an activation function has one bit for every image; the score is the number of
    different rows of bits. Gates (sigmoids) do not count. Without the paper's regularisation, of which the
    centre and the width are chosen by hand for each space.

    Args:
        module: in the mode in which it is to run.
        images: (n, C, H, W), at most `MOST_SAMPLES`.

    Raises:
        ValueError: more images, or no activation function was called.
    """
    if len(images) > MOST_SAMPLES:
        raise ValueError(f"SWAP takes at most {MOST_SAMPLES} images, got {len(images)}")
    with _Signs() as signs:
        module(images)
    if not signs.found:
        raise ValueError("SWAP counts patterns of activation functions, and this network calls none")
    bits = 2 ** torch.arange(len(images))
    rows = [(own.long() * bits[:, None]).sum(0) for own in signs.found]
    return float(len(torch.unique(torch.cat(rows))))


# -- AZ-NAS ----------------------------------------------------------------------------------------------


def az_nas(net: Network, images: Tensor, seed: int) -> dict[str, float]:
    """The parts of AZ-NAS (Lee & Ham, CVPR 2024, section 3) that are not the number of operations.

    Args:
        net: in the mode in which it is to run.
        images: (n, C, H, W); Gaussian noise in the paper.
        seed: of the random signs that Jacobians are approximated with.

    Returns:
        ``expressivity``: sum over blocks of the entropy of the variances of their features' principal
        components, in nats; ``progressivity``: its least increase from a block to the next;
        ``trainability``: mean over blocks of 2 - s - 1/s, s the spectral norm of the block's Jacobian,
        averaged over pixels.
    """
    generator = torch.Generator().manual_seed(seed)
    entropies, norms = [], []
    with torch.no_grad():
        features = net.stem(images)
        entropies.append(principal_entropy(features))
    for block in _blocks(net):
        before = features.detach().requires_grad_()
        features = block(before)
        entropies.append(principal_entropy(features.detach()))
        norms.append(spectral_norm(before, features, generator))
    return {
        "expressivity": float(sum(entropies)),
        "progressivity": float(np.diff(entropies).min()),
        "trainability": float(np.mean([2 - s - 1 / (s + TINY) for s in norms])),
    }


def _blocks(net: Network) -> Iterator[nn.Module]:
    for stage in net.stages:
        yield from stage.children()


def principal_entropy(features: Tensor) -> float:
    """Entropy, in nats, of the parts of principal components in the variance of features (n, C, H, W)."""
    rows = features.permute(0, 2, 3, 1).flatten(0, 2).double()
    rows = rows - rows.mean(0, keepdim=True)
    variances = torch.linalg.eigvalsh(rows.T @ rows / len(rows)).clamp_min(0.0)
    return float(torch.special.entr(variances / variances.sum()).sum())


def spectral_norm(before: Tensor, after: Tensor, generator: torch.Generator) -> float:
    """Largest singular value of a block's Jacobian, averaged over images and pixels.

    Random signs g are sent backwards: the mean of the outer products of what arrives and g is the Jacobian's
    transpose, as g g' is the identity on average. Where the block halves the image, the pixels
    that one of the output came from are taken as channels.

    Args:
        before: input of the block (n, C, H, W), with a gradient.
        after: its output (n, C', H', W'), computed from `before`; H' divides H.
        generator: of the signs.
    """
    signs = torch.randint(0, 2, after.shape, generator=generator).to(after.dtype) * 2 - 1
    arrived = torch.autograd.grad(after, before, signs)[0]
    if arrived.shape[-1] != signs.shape[-1]:
        arrived = F.pixel_unshuffle(arrived, arrived.shape[-1] // signs.shape[-1])
    out, into = (one.permute(0, 2, 3, 1).flatten(0, 2) for one in (signs, arrived))
    return float(torch.linalg.matrix_norm(into.T @ out / len(out), 2))


def log_ranks(parts: Mapping[str, Sequence[float]]) -> Float64s:
    """The score of AZ-NAS (equation 12): the sum over parts of log(rank / networks), the best of each at 0.

    It belongs to a set of networks: one more network changes the score of all.

    Args:
        parts: of each score its values, network by network.
    """
    ranks: list[Float64s] = [rankdata(own) / len(own) for own in parts.values()]
    total: Float64s = np.log(ranks).sum(axis=0)
    return total
