"""What a search calls to learn how good a network is: train it, look at validation, keep the weights."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from hwnas import schemas, seals
from hwnas.documents import read_json
from hwnas.errors import DataFormatError
from hwnas.nets.build import build, inherit, load_weights, read_weights, refitter, save
from hwnas.nets.count import count
from hwnas.nets.norms import recalibrate
from hwnas.nets.transfer import Initial
from hwnas.protocols import Emit, Importance, Move, Question
from hwnas.records import Evaluation, Proposal, StageImportance, to_json
from hwnas.spec import NetworkSpec
from hwnas.store import network_of, parse, write_json
from hwnas.train import own, plan
from hwnas.train.augment import chosen
from hwnas.train.data import Dataset
from hwnas.train.loop import train
from hwnas.train.losses import Teacher
from hwnas.train.options import Recipe, TrainResult
from hwnas.train.precision import choose, on_threads
from hwnas.train.score import score

# Training images that an untrained variant is fitted to, and that its batch norm sees.
RECALIBRATED = 2_000


@dataclass(frozen=True)
class _Fixed:
    """Growths that are known beforehand."""

    moves: tuple[Move, ...]

    def __call__(self, proposal: Proposal) -> Sequence[Move]:
        return self.moves


class Evaluator:
    """Trains proposals one after the other; implements `protocols.Evaluate`.

    A proposal with a parent starts from the parent's weights (`nets.build.inherit`) and with the
    learning rate times `Recipe.inherited_lr`, or its own one; any other from what it can take over of the
    initial weights, where there are any, else from scratch. One that names a teacher learns from that
    trial's network as well.

    What it gives depends on (data, options, seed, index, proposal and its parents) alone. It keeps
    ``weights/trial-0007.safetensors`` and beside it, as JSON, the network and its evaluation: a
    repeated call answers from there, and continues from a checkpoint where training was cut off.
    """

    def __init__(
        self,
        dataset: Dataset,
        options: Recipe,
        folder: Path,
        importance: Importance | None = None,
        seed: int = 0,
        emit: Emit | None = None,
        *,
        growths: Callable[[Proposal], Sequence[Move]] = lambda proposal: (),
        importance_images: int = 2000,
        ask_guessers: bool = False,
        held_out: bool = False,
        trainer: own.Trainer | None = None,
        initial: Initial | None = None,
    ) -> None:
        """Prepare; nothing is read or written yet.

        Args:
            dataset: training and validation images; the test split is not touched.
            options: the recipe; `images` is for proposals that name no number, `seed` is replaced.
            folder: the run folder.
            importance: asked after each training, except the last one of a winner.
            seed: of the whole search.
            emit: passed on to `loop.train`.
            growths: those of a proposed network that the importance judges.
            ask_guessers: ask networks, too, that are no better than guessing. Gains of growths are judged
                by what a network has learned, so that those of a guesser are noise.
            importance_images: how many images the importance is given.
            held_out: give it validation images instead of training images.
            trainer: a loop of the user's in the place of `loop.train`.
            initial: weights of another training, which networks without a parent begin with.
        """
        self._dataset, self._options, self._folder = dataset, options, folder
        self._importance, self._seed, self._emit = importance, seed, emit
        self._growths = growths
        self._ask_guessers, self._held_out, self._trainer = ask_guessers, held_out, trainer
        self._importance_images, self._initial = importance_images, initial

    def __call__(self, proposal: Proposal, index: int) -> Evaluation:
        """Evaluate the proposal that will be trial `index`.

        Raises:
            DataFormatError: the parent's weights are missing or damaged.
            HwnasError: training diverged.
        """
        key = self._key(proposal, index)
        done = self._finished(index, key)
        if done is not None:
            return done
        module, result = self._train(proposal, index, key)
        weights = self._weights(index)
        save(weights, module)
        evaluation = Evaluation(
            accuracy=result.accuracy,
            accuracy_se=result.se,
            loss=result.loss,
            images=result.images,
            train_macs=result.train_macs,
            wall_s=result.wall_s,
            importance=self._ask(module, proposal, index) if self._asks(result) else (),
            weights=str(weights.relative_to(self._folder)),
            weights_sha256=seals.file_sha256(weights),
        )
        network = proposal.spec.model_dump(mode="json")
        body = {
            "schema": schemas.EVALUATION,
            "key": key,
            "network": network,
            "evaluation": to_json(evaluation),
            "curve": list(result.curve),
        }
        if self._initial is not None:
            body["taken_over"] = list(self._taken_over(proposal))
        write_json(weights.with_suffix(".json"), body, sealed=True)
        for checkpoint in weights.parent.glob(f"{weights.stem}-*.checkpoint"):
            checkpoint.unlink()
        return evaluation

    def portable(self) -> Evaluator:
        """A copy that can be sent to another process: of the data set only what training looks at."""
        twin = copy.copy(self)
        twin._dataset = self._dataset.portable()
        twin._growths, twin._emit = _Fixed(()), None
        return twin

    def elsewhere(self, folder: Path, moves: Sequence[Move], emit: Emit) -> Evaluator:
        """A copy that writes into another folder, with the growths of one proposal."""
        twin = copy.copy(self)
        twin._folder, twin._growths, twin._emit = folder, _Fixed(tuple(moves)), emit
        return twin

    def finished(self, proposal: Proposal, index: int) -> Evaluation | None:
        """The evaluation of this proposal as trial `index` where it was kept; DataFormatError if damaged."""
        return self._finished(index, self._key(proposal, index))

    def files(self, index: int) -> tuple[Path, Path]:
        """The files of a trial: its weights, and its evaluation, which is written last."""
        weights = self._weights(index)
        return weights, weights.with_suffix(".json")

    def _train(self, proposal: Proposal, index: int, key: str) -> tuple[nn.Module, TrainResult]:
        seed = int(np.random.SeedSequence([self._seed, index]).generate_state(1)[0])
        images = self._options.images if proposal.images is None else proposal.images
        if proposal.parent is None:
            start = self._initial
            module = (
                build(proposal.spec, seed=seed) if start is None else start.begin(proposal.spec, seed=seed)
            )
        else:
            parent, spec = self._trained(proposal.parent)
            module = inherit(parent, spec, proposal.spec, seed=seed)
            if not images:
                seen = self._looked_at().to(next(module.parameters()).device)
                refitter(parent, spec, seen)(module, proposal.spec)
        if not images:
            return module, self._untrained(module, proposal)
        if self._trainer is not None:
            return self._by_user(module, proposal, index, images, seed)
        options = replace(self._options, seed=seed, images=images)
        weights = self._weights(index)
        result = train(
            module,
            proposal.spec,
            self._dataset,
            options,
            # The key is in the name: a checkpoint of another proposal is left aside, not refused.
            checkpoint=weights.with_name(f"{weights.stem}-{key}.checkpoint"),
            teacher=self._teacher(proposal),
            rate=self._rate(proposal),
            frozen_norms=proposal.frozen_norms,
            emit=self._emit,
            task=f"trial {index}",
            final=proposal.role == "final",
        )
        return module, result

    def _by_user(
        self, module: nn.Module, proposal: Proposal, index: int, images: int, seed: int
    ) -> tuple[nn.Module, TrainResult]:
        """Trained by the user's own loop; it keeps no checkpoint, so that a killed one begins again."""
        assert self._trainer is not None
        teacher = self._teacher(proposal)

        def progress(seen: int, loss: float) -> None:
            if self._emit is not None:
                told = {"task": f"trial {index}", "done": seen, "total": images, "note": f"loss {loss:.3f}"}
                self._emit("progress", told)

        order = own.OwnTraining(
            self._dataset, images, teacher.module.eval() if teacher else None, progress, seed
        )
        made, seconds = own.run(self._trainer, module.train(), order)
        macs = 3 * count(proposal.spec).macs + (teacher.macs if teacher else 0)
        found = self._untrained(made, proposal.model_copy(update={"parent": None}))
        return made, replace(
            found,
            images=images,
            wall_s=seconds,
            train_macs=float(images * macs),
            images_per_s=images / max(seconds, 1e-9),
        )

    def _untrained(self, module: nn.Module, proposal: Proposal) -> TrainResult:
        """A network as it comes; of one that was changed, batch norm finds new statistics."""
        compute = choose(self._options)
        module.to(compute.device).eval()
        with on_threads(compute.threads):
            if proposal.parent is not None:
                recalibrate(module, self._looked_at().to(compute.device))
            held = score(module, self._dataset.val)
        return TrainResult(
            accuracy=held.accuracy,
            se=held.se,
            loss=held.loss,
            images=0,
            wall_s=0.0,
            train_macs=0.0,
            images_per_s=0.0,
            train_loss=held.loss,
            batch=0,
            lr=0.0,
            precision=compute.precision,
            device=str(compute.device),
            threads=compute.threads,
            restored=0,
        )

    def _looked_at(self) -> torch.Tensor:
        """Training images, normalised, that an untrained variant is fitted to."""
        split = self._dataset.train
        seen = min(RECALIBRATED, len(split))
        return split.normalised(torch.arange(seen) * len(split) // seen)

    def _asks(self, result: TrainResult) -> bool:
        """Whether a network is better than naming the most frequent class, or is asked all the same."""
        labels = self._dataset.val.labels
        most = int(torch.bincount(labels).max()) / len(labels)
        return self._ask_guessers or result.accuracy > most + result.se

    def _rate(self, proposal: Proposal) -> float:
        """Factor on the learning rate."""
        if proposal.parent is None:
            return self._options.inherited_lr if self._taken_over(proposal) else 1.0
        return self._options.inherited_lr if proposal.inherited_lr is None else proposal.inherited_lr

    def _taken_over(self, proposal: Proposal) -> tuple[str, ...]:
        """The blocks, by place, that begin with the initial weights."""
        if self._initial is None or proposal.parent is not None:
            return ()
        return self._initial.places(proposal.spec)

    def _ask(self, module: nn.Module, proposal: Proposal, index: int) -> tuple[StageImportance, ...]:
        if self._importance is None or proposal.role == "final":
            return ()
        rng = np.random.default_rng([self._seed, index, 1])
        split = self._dataset.val if self._held_out else self._dataset.train
        at = torch.from_numpy(np.sort(rng.permutation(len(split))[: self._importance_images]))
        device = next(module.parameters()).device
        images, labels = split.normalised(at).to(device), split.labels[at].to(device)
        moves = self._growths(proposal)
        return self._importance(Question(module.eval(), proposal.spec, moves, images, labels, rng))

    def _teacher(self, proposal: Proposal) -> Teacher | None:
        if proposal.teacher is None:
            return None
        module, spec = self._trained(proposal.teacher)
        return Teacher(module, count(spec).macs)

    def _trained(self, index: int) -> tuple[nn.Module, NetworkSpec]:
        """Network of an earlier trial with its weights."""
        path = self._weights(index)
        record = path.with_suffix(".json")
        if not path.is_file() or not record.is_file():
            raise DataFormatError(
                f"{path} or {record.name} is missing, and the next network needs the weights of trial {index}"
            )
        body = read_json(record, "evaluation", schemas.EVALUATION, sealed=True)
        self._evaluation(record, body)
        spec = network_of(body.get("network", {}), f"evaluation {record}")
        module = build(spec, seed=0)
        load_weights(module, read_weights(path))
        return module, spec

    def _finished(self, index: int, key: str) -> Evaluation | None:
        path = self._weights(index)
        record = path.with_suffix(".json")
        if not record.is_file() or not path.is_file():
            return None
        body = read_json(record, "evaluation", schemas.EVALUATION, sealed=True)
        if body.get("key") != key:
            return None
        return self._evaluation(record, body)

    def _evaluation(self, record: Path, body: Mapping[str, Any]) -> Evaluation:
        """An evaluation that was kept; DataFormatError where its weights are not those that were written."""
        found = parse(Evaluation, body.get("evaluation", {}), f"evaluation {record}")
        path = record.with_suffix(".safetensors")
        cure = f"remove it, {record.name} and the events from this trial on, or search into a new folder"
        seals.check_file(path, found.weights_sha256 or "", cure)
        return found

    def _weights(self, index: int) -> Path:
        return self._folder / "weights" / f"trial-{index:04d}.safetensors"

    def _key(self, proposal: Proposal, index: int) -> str:
        """Hash over all that decides an evaluation; through the parent's key, its history as well."""
        ancestors = {}
        for name, other in (("parent", proposal.parent), ("teacher", proposal.teacher)):
            record = self._weights(other).with_suffix(".json") if other is not None else None
            if record is not None and record.is_file():
                ancestors[name] = read_json(record, "evaluation", schemas.EVALUATION, sealed=True).get("key")
        options = self._options
        body: dict[str, Any] = {
            "spec": proposal.spec.key,
            "data": self._dataset.fingerprint,
            "options": plan.deciding(options),
            "augment": asdict(chosen(options, self._dataset)),
            "precision": choose(options).precision,
            "images": proposal.images,
            "role": proposal.role,
            "importance": type(self._importance).__name__,
            "inherited_lr": proposal.inherited_lr,
            "frozen_norms": proposal.frozen_norms,
            "seed": self._seed,
            "index": index,
            **ancestors,
        }
        if self._initial is not None and proposal.parent is None:
            body["initial"] = self._initial.digest
        return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:12]
