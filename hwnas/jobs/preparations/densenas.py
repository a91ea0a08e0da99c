"""The preparation of ``densenas``: train the dense super-network, keep what it learned of its choices."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hwnas.cost.dense import Costs
from hwnas.errors import BudgetInfeasible, InputError
from hwnas.jobs.preparations.prepare import Facts, Prepared, without
from hwnas.lazy import lazy_import
from hwnas.nets.count import count
from hwnas.search.densenas.choice import Chooser
from hwnas.search.densenas.costs import costs
from hwnas.search.densenas.derive import Scores, Trust
from hwnas.search.densenas.options import DenseNasOptions
from hwnas.search.densenas.strategy import DenseNas, dense_space

if TYPE_CHECKING:
    import torch

    from hwnas.train.densenas.search import DenseOptions, Relaxed
else:
    torch = lazy_import("torch")

CHECKPOINT = "supernet.safetensors"
# A short search needs steps more than large ones: the batch is the largest that gives so many.
STEPS, BATCHES = 300, (128, 64, 32, 16)
# Learning rate of the architecture over all its steps together; see `_arch_lr`.
REACH, MOST_ARCH_LR, LEAST_ARCH_LR = 15.0, 0.1, 3e-4


def prepare(facts: Facts) -> Prepared | None:
    """Train the super-network within its share of the images; None where the search does without."""
    given = {name: value for name, value in facts.settings.items() if name != "scores"}
    asked = DenseNas.read_options(given)
    if not asked.learns(facts.images):
        if asked.score == "auto":
            facts.note("note", {"text": without(asked.share, facts.images)}, key="text")
        return None
    from hwnas.train.precision import choose, on_threads

    compute = choose(facts.recipe)  # settles which device there is before anything is computed
    with on_threads(compute.threads):
        found = _train(facts, asked)
    edges, operators = found.trust
    text = (
        f"agreement between two halves of the architecture steps: {edges:.2f} for edges, {operators:.2f} for "
        "operators (1 is full agreement)"
    )
    facts.note("note", {"text": text}, key="text")
    scores = {
        "edges": list(found.edges),
        "layers": [list(row) for row in found.layers],
        "trust": [edges, operators],
    }
    return Prepared(scores, found.images, found.train_macs, found.seconds)


def training(asked: DenseNasOptions, images: int, seed: int) -> DenseOptions:
    """How the super-network is trained, for so many images of the whole search.

    An epoch of weights is followed by an architecture pass of a quarter as many images from the end
    of the warm-up on.
    """
    from hwnas.train.densenas.search import DenseOptions

    epochs, share = asked.epochs, DenseOptions.arch_share
    arch_from = min(max(1, round(asked.warmup * epochs)), epochs - 1)
    ratio = share / (1 - share)
    per_epoch = max(1, int(asked.share * images / (epochs + ratio * (epochs - arch_from))))
    batch = next((b for b in BATCHES if epochs * per_epoch / b >= STEPS), BATCHES[-1])
    arch_steps = max(1, round(ratio * per_epoch / batch)) * (epochs - arch_from)
    return DenseOptions(
        epochs=epochs,
        arch_from=arch_from,
        images=per_epoch,
        batch=batch,
        arch_lr=_arch_lr(arch_steps),
        objective="paper" if asked.fidelity == "paper" else "target",
        lam=asked.lam,
        tau=asked.tau,
        seed=seed,
    )


def _arch_lr(steps: int) -> float:
    """Adam moves a logit by about its rate per step: in few steps as far as in the published many."""
    return min(MOST_ARCH_LR, max(LEAST_ARCH_LR, REACH / steps))


def _train(facts: Facts, asked: DenseNasOptions) -> Relaxed:

    from hwnas.train.densenas.search import train_dense
    from hwnas.train.densenas.supernet import Supernet

    space = dense_space(facts.space)
    paper = asked.fidelity == "paper"
    chooser = Chooser(space, None, facts.estimate, 0.0 if paper else asked.prior, asked.least)
    # Step 1: what the loss counts, and how many passes the images allow.
    priced, largest, smallest = objective(facts, asked, chooser)
    how = training(asked, facts.images, facts.seed)
    # Several budgets: the expected cost is held between the smallest and the largest.
    how = replace(how, floor=how.floor * smallest / largest)
    # Step 2: weights and architecture in alternating passes; a network is derived after each epoch.
    started = time.monotonic()
    limit = facts.seconds
    return train_dense(
        Supernet(space, seed=facts.seed),
        facts.dataset,
        priced,
        largest,
        how,
        checkpoint=facts.run.path / CHECKPOINT,
        derive=lambda relaxed: _derived(relaxed, facts, chooser, paper),
        emit=lambda kind, fields: _tell(facts, kind, fields),
        stop=None if limit is None else lambda: time.monotonic() - started > limit,
    )


def objective(facts: Facts, asked: DenseNasOptions, chooser: Chooser) -> tuple[Costs, float, float]:
    """What the super-network's loss counts, and the largest and smallest value that it is held to.

    Raises:
        InputError: MACs are to be held, and no limit on them was given.
    """
    if asked.cost == "macs":
        limit = facts.budgets[-1].macs
        if limit is None:
            raise InputError("cost=macs needs a limit on MACs; write for example --max-macs 60MMAC")
        return costs(chooser.space, lambda spec: count(spec).macs / 1e6), limit / 1e6, limit / 1e6
    largest, smallest = facts.budgets[-1].latency_ms, facts.budgets[0].latency_ms
    assert largest is not None
    assert smallest is not None
    return chooser.costs, largest, smallest


def _derived(relaxed: Relaxed, facts: Facts, chooser: Chooser, paper: bool) -> Mapping[str, Any]:
    """Costs of the networks that the choices of now lead to."""

    space, trust = chooser.space, None if paper else Trust(*relaxed.trust)
    now = replace(chooser, learned=Scores(relaxed.edges, relaxed.layers), trust=trust)
    likely = now.most_probable()
    assert likely is not None
    limit = facts.budgets[-1].latency_ms
    row: dict[str, Any] = {
        "probability_within": None if limit is None else now.chance_within(limit),
        "most_probable_ms": likely.estimate.latency_ms,
        "most_probable_path": list(likely.derived.path),
        "edges": [list(edge) for edge in space.edges],
        "widths": [block.width for block in space.routing],
        "sizes": [block.size for block in space.routing],
    }
    try:
        best = now.optimum(facts.budgets[-1])
    except BudgetInfeasible:
        return row
    return {**row, "derived_ms": best.estimate.latency_ms, "derived_path": list(best.derived.path)}


def _tell(facts: Facts, kind: str, fields: Mapping[str, Any]) -> None:
    """Progress is displayed, what a pass gave into the run as well."""
    if kind != "supernet":
        facts.emit(kind, fields)
        return
    text = str(fields["text"]) + f"; most probable network {fields['most_probable_ms']:.4g} ms"
    if "derived_ms" in fields:
        text += f", best within the budget {fields['derived_ms']:.4g} ms"
    facts.note(kind, {**fields, "text": text}, key="epoch")
