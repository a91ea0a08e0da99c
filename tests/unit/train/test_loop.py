"""The loop: schedule and order by hand, determinism, resuming, the guard, learning."""

import math
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import nn

from hwnas import container
from hwnas.errors import DataFormatError, HwnasError, InputError
from hwnas.nets.build import build, weights
from hwnas.nets.count import count
from hwnas.spec import NetworkSpec
from hwnas.train import loop, plan, precision, state
from hwnas.train.data import Dataset, load
from hwnas.train.loop import Recipe, TrainResult, score, train
from hwnas.train.losses import Loss, Teacher

FAST = Recipe(images=2000, batch=64, lr=0.5, checkpoint_s=0.0)


class Killed(Exception):
    pass


def bits(module: nn.Module) -> dict[str, bytes]:
    return {name: value.numpy().tobytes() for name, value in module.state_dict().items()}


def run(spec: NetworkSpec, data: Dataset, options: Recipe, **more: Any) -> tuple[nn.Module, TrainResult]:
    module = build(spec, seed=0)
    return module, train(module, spec, data, options, **more)


# -- the plan of a training ------------------------------------------------------------------


def test_course_of_the_learning_rate_by_hand() -> None:
    options = Recipe(schedule="onecycle", warmup=0.25, final_lr=0.0)
    # Ten steps, seen at their middles: 0.05 is a fifth of the rise from 0.1 to 1: 0.1 + 0.9 / 5.
    rates = [plan.course(options, step, 10) for step in range(10)]
    assert rates[0] == pytest.approx(0.28)
    # 0.95 is 14/15 of the fall: (1 + cos(14 pi / 15)) / 2.
    assert rates[9] == pytest.approx((1 + math.cos(math.pi * 14 / 15)) / 2)
    assert max(rates) == rates[2] == pytest.approx(1.0)
    cosine = replace(options, schedule="cosine", final_lr=0.5)
    assert plan.course(cosine, 0, 2) == pytest.approx(0.5 + 0.5 * (1 + math.cos(math.pi / 4)) / 2)
    assert plan.course(cosine, 1, 2) == pytest.approx(0.5 + 0.5 * (1 + math.cos(math.pi * 3 / 4)) / 2)
    # Rises as `onecycle` does; 0.95 is a fifteenth before the end.
    linear = replace(options, schedule="linear")
    assert plan.course(linear, 0, 10) == pytest.approx(0.28)
    assert plan.course(linear, 9, 10) == pytest.approx(1 / 15)


def test_steps_see_every_image_equally_often() -> None:
    options = Recipe(images=250, batch=32)
    steps = plan.steps_of(options, 100)
    assert steps == 8  # 250 / 32 = 7.8
    seen = [plan.batch_at(250, 100, step, steps, seed=3) for step in range(steps)]
    assert {len(part) for part in seen} == {31, 32}
    row = torch.cat(seen)
    assert len(row) == 250
    for begin in (0, 100):
        assert sorted(row[begin : begin + 100].tolist()) == list(range(100))
    assert row[:100].tolist() != row[100:200].tolist()
    assert plan.steps_of(replace(options, images=10), 100) == 1
    assert plan.steps_of(replace(options, images=250), 10) == 25


@pytest.mark.parametrize(
    ("images", "batch", "peak"),
    [
        (100_000, 128, 0.4),
        (19_200, 128, 0.4),  # 150 steps of 128
        (19_199, 64, 0.4 / math.sqrt(2)),
        (3000, 16, 0.4 / math.sqrt(8)),
        (10, 8, 0.1),
    ],
)
def test_short_trainings_take_small_steps(images: int, batch: int, peak: float) -> None:
    options = Recipe(images=images, lr=0.4)
    assert plan.batch_of(options, 1000) == batch
    assert plan.peak(options, 1000) == pytest.approx(peak)
    assert plan.batch_of(options, 5) == 5
    assert plan.batch_of(replace(options, batch=77), 1000) == 77


# -- what a training promises ----------------------------------------------------------------


def test_learns_digits(tiny: NetworkSpec, digits: Dataset) -> None:
    _, result = run(tiny, digits, replace(FAST, images=12_000))
    assert result.accuracy > 0.9
    assert result.loss < 0.8
    assert result.restored == 0


def test_result_says_what_was_done(tiny: NetworkSpec, digits: Dataset) -> None:
    module, result = run(tiny, digits, FAST)
    assert not module.training
    assert result.images == 2000
    assert (result.batch, result.lr) == pytest.approx((64, 0.5 / math.sqrt(2)))
    assert result.train_macs == 2000 * 3 * count(tiny).macs
    assert result.threads == 1
    assert result.device == "cpu"
    assert result.images_per_s == pytest.approx(2000 / result.wall_s)
    held = score(module, digits.val)
    assert (result.accuracy, result.loss) == (held.accuracy, held.loss)


def test_same_seed_same_bits(tiny: NetworkSpec, digits: Dataset) -> None:
    first, again, other = (run(tiny, digits, replace(FAST, seed=seed))[0] for seed in (0, 0, 1))
    assert bits(first) == bits(again)
    assert bits(first) != bits(other)


def test_neither_seed_nor_training_touches_torchs_generator(tiny: NetworkSpec, digits: Dataset) -> None:
    before = torch.get_rng_state()
    run(tiny, digits, replace(FAST, images=100))
    assert (torch.get_rng_state() == before).all()


OPTIONS = {
    "plain": FAST,
    "all": replace(FAST, ema=0.99, precision="bf16", shift=1, cutout=2, mixup=0.2, flip=True),
    "half": replace(FAST, precision="fp16", lr=0.05),
    "muon": replace(FAST, optimizer="muon", schedule="linear"),
}


@pytest.mark.parametrize("kind", OPTIONS)
def test_resumed_equals_unbroken(
    kind: str, tiny: NetworkSpec, digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = OPTIONS[kind]
    monkeypatch.setattr(loop, "PROGRESS_S", 0.0)
    unbroken, result = run(tiny, digits, options)
    told = []

    def kill_at(third: int, fields: Mapping[str, Any]) -> None:
        told.append(fields["done"])
        if len(told) == third:
            raise Killed

    path = tmp_path / "state"
    with pytest.raises(Killed):
        run(tiny, digits, options, checkpoint=path, emit=lambda _, fields: kill_at(2, fields))
    assert 0 < told[-1] < options.images
    resumed, after = run(tiny, digits, options, checkpoint=path, emit=lambda _, fields: kill_at(0, fields))
    assert told[2] > told[1]  # it did not begin again
    assert bits(resumed) == bits(unbroken)
    assert (after.accuracy, after.loss, after.train_loss) == (result.accuracy, result.loss, result.train_loss)
    # Once more: nothing is left to train, only to evaluate.
    told.clear()
    again, _ = run(tiny, digits, options, checkpoint=path, emit=lambda _, fields: kill_at(0, fields))
    assert told == []
    assert bits(again) == bits(unbroken)


SCRIPT = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[2])
from conftest import network
from hwnas.nets.build import build
from hwnas.train.data import load
from hwnas.train.loop import Recipe, train
from hwnas.train import loop
loop.PROGRESS_S = 0.0
spec = network(1, 1)
options = Recipe(images=400_000, batch=64, lr=0.5, checkpoint_s=0.0)
train(build(spec, seed=0), spec, load("digits", input_shape=(1, 8, 8)), options,
      checkpoint=Path(sys.argv[1]), emit=lambda kind, fields: print(fields["done"], flush=True))
"""


def test_survives_sigkill(tiny: NetworkSpec, digits: Dataset, tmp_path: Path) -> None:
    """A real kill leaves a whole checkpoint, from which the same weights follow."""
    path = tmp_path / "state"
    command = [sys.executable, "-c", SCRIPT, str(path), str(Path(__file__).parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for _ in range(3):
            done = int(process.stdout.readline())
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert done < 400_000
    options = Recipe(images=400_000, batch=64, lr=0.5, checkpoint_s=0.0)
    steps = plan.steps_of(options, len(digits.train))
    done = _steps_in(path)
    assert done >= 3 * loop.STRIDE
    # Going on for 20 steps from the checkpoint equals as many steps without a break.
    stop = done + 20
    resumed = _until(stop, steps, tiny, digits, options, path)
    unbroken = _until(stop, steps, tiny, digits, options, tmp_path / "other")
    assert resumed == unbroken


def _steps_in(path: Path) -> int:
    import json

    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return int(json.loads(file.metadata()["hwnas"])["progress"]["step"])


def _until(
    stop: int, steps: int, spec: NetworkSpec, data: Dataset, options: Recipe, path: Path
) -> dict[str, bytes]:
    """Weights after `stop` steps of a longer training."""
    module = build(spec, seed=0)

    def emit(kind: str, fields: Mapping[str, Any]) -> None:
        if fields["done"] >= options.images * stop // steps:
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "PROGRESS_S", 0.0)
        with pytest.raises(Killed):
            train(module, spec, data, options, checkpoint=path, emit=emit)
    return bits(module)


def test_checkpoint_of_another_training_is_refused(
    tiny: NetworkSpec, digits: Dataset, tmp_path: Path
) -> None:
    path = tmp_path / "state"
    short = replace(FAST, images=200)
    run(tiny, digits, short, checkpoint=path)
    for options in (replace(short, seed=1), replace(short, lr=0.2), replace(short, images=300)):
        with pytest.raises(InputError, match="is of another training"):
            run(tiny, digits, options, checkpoint=path)
    with pytest.raises(InputError, match="is of another training"):  # other first weights
        train(build(tiny, seed=1), tiny, digits, short, checkpoint=path)
    run(tiny, digits, replace(short, checkpoint_s=9.0, threads=1), checkpoint=path)  # decide nothing
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataFormatError, match=r"is damaged.*remove it to start again"):
        run(tiny, digits, short, checkpoint=path)


# -- the guard -------------------------------------------------------------------------------


class Fragile(nn.Module):
    """A network whose output is not a number in chosen calls of its training."""

    def __init__(self, inner: nn.Module, *bad: int) -> None:
        super().__init__()
        self.inner, self.bad, self.calls = inner, bad, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.inner(x)
        if self.training:
            self.calls += 1
            if self.calls in self.bad:
                return logits * float("nan")
        return logits


def test_guard_goes_back_and_lowers_the_rate(tiny: NetworkSpec, digits: Dataset) -> None:
    told: list[Mapping[str, Any]] = []

    def emit(kind: str, fields: Mapping[str, Any]) -> None:
        if kind == "restored":
            told.append(fields)

    module = Fragile(build(tiny, seed=0), 15)
    result = train(module, tiny, digits, replace(FAST, images=6000), emit=emit)
    assert result.restored == 1
    assert all(torch.isfinite(value).all() for value in module.state_dict().values())
    assert result.accuracy > 0.5
    (event,) = told
    assert (event["step"], event["rate"]) == (20, 0.5)
    assert "loss was nan at step 20 of 94; the last good weights were restored" in event["text"]


def test_guard_restores_the_very_weights(tiny: NetworkSpec, digits: Dataset) -> None:
    """Steps 1 to 10 are good, 11 to 20 are lost: what is left are the weights after step 10."""
    options = replace(FAST, images=20 * 64)
    whole = Fragile(build(tiny, seed=0), 13)
    train(whole, tiny, digits, options)
    at_ten: dict[str, bytes] = {}

    def emit(kind: str, fields: Mapping[str, Any]) -> None:
        at_ten.update(at_ten or bits(module))

    module = Fragile(build(tiny, seed=0))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "PROGRESS_S", 0.0)
        train(module, tiny, digits, options, emit=emit)
    assert bits(whole) == at_ten


def test_guard_sees_weights_spoilt_after_a_good_loss(tiny: NetworkSpec, digits: Dataset) -> None:
    """The gradient of step 10, just before a look at the loss, is not a number; its loss is fine."""

    class Spoilt(Fragile):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            logits = super().forward(x)
            if self.training and self.calls == 10:
                cast(Any, logits).register_hook(lambda gradient: gradient * float("nan"))
            return logits

    told: list[str] = []
    module = Spoilt(build(tiny, seed=0))
    result = train(
        module, tiny, digits, FAST, emit=lambda kind, fields: told.append(str(fields.get("text", "")))
    )
    assert result.restored == 1
    assert any("weights were not finite at step 10" in text for text in told)
    assert math.isfinite(result.loss)


def test_guard_gives_up(tiny: NetworkSpec, digits: Dataset) -> None:
    module = Fragile(build(tiny, seed=0), *range(1, 1000))
    with pytest.raises(HwnasError, match=r"diverged 6 times.*start with a lower one"):
        train(module, tiny, digits, replace(FAST, images=6000))


def test_absurd_learning_rate_is_survived(tiny: NetworkSpec, digits: Dataset) -> None:
    module = build(tiny, seed=0)
    try:
        result = train(module, tiny, digits, replace(FAST, lr=1e6, clip=1e9))
    except HwnasError as exc:
        assert "learning rate" in str(exc)  # noqa: PT017 (either end is right)
    else:
        assert math.isfinite(result.loss)


# -- parts -----------------------------------------------------------------------------------


def test_distillation_pulls_towards_the_teacher(tiny: NetworkSpec, digits: Dataset) -> None:
    teacher, _ = run(tiny, digits, replace(FAST, images=6000))
    start = build(tiny, seed=5)
    student = build(tiny, seed=5)
    options = replace(FAST, distill=1.0, images=4000)
    result = train(student, tiny, digits, options, teacher=Teacher(teacher, count(tiny).macs))
    x = digits.val.normalised()

    def distance(module: nn.Module) -> float:
        with torch.no_grad():
            goal = torch.log_softmax(teacher(x), 1)
            return float((goal.exp() * (goal - torch.log_softmax(module.eval()(x), 1))).sum(1).mean())

    assert distance(student) < 0.3 * distance(start)
    assert result.train_macs == 4000 * 4 * count(tiny).macs
    assert result.accuracy > 0.7  # learnt without a label


def test_ema_averages_by_hand(tiny: NetworkSpec) -> None:
    module = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(module.weight)
    now = state.begin(module, replace(FAST, ema=0.5), batch=16, scales=False)
    nn.init.ones_(module.weight)
    # Step 1: the share of the new weights is 1 - min(0.5, 2/11) = 9/11; later it is 1/2.
    now.counters.step = 1
    now.average_in(0.5)
    assert now.average["weight"].item() == pytest.approx(9 / 11)
    now.counters.step = 100
    now.average_in(0.5)
    assert now.average["weight"].item() == pytest.approx(10 / 11)


def test_ema_weights_are_kept(tiny: NetworkSpec, digits: Dataset) -> None:
    plain, _ = run(tiny, digits, FAST)
    averaged, result = run(tiny, digits, replace(FAST, ema=0.9))
    assert bits(plain) != bits(averaged)
    assert result.accuracy > 0.3


def test_norms_and_biases_do_not_decay(tiny: NetworkSpec) -> None:
    module = build(tiny, seed=0)
    plain = replace(FAST, optimizer="sgd")
    decayed, free = state.begin(module, plain, batch=16, scales=False).optimizer.param_groups
    assert (decayed["weight_decay"], free["weight_decay"]) == (FAST.weight_decay, 0.0)
    names = {id(p): name for name, p in module.named_parameters()}
    assert all("norm" in names[id(p)] or "bias" in names[id(p)] for p in free["params"])
    assert not any("norm" in names[id(p)] or "bias" in names[id(p)] for p in decayed["params"])


def test_score_by_hand(digits: Dataset) -> None:
    class Always3(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bias = nn.Parameter(torch.zeros(10))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.one_hot(torch.full((len(x),), 3), 10).float() + self.bias

    module = Always3().train()
    threes = int((digits.val.labels == 3).sum())
    found = score(module, digits.val)
    n = len(digits.val)
    assert module.training
    assert (found.accuracy, found.images) == (threes / n, n)
    p = (threes + 0.5) / (n + 1)
    assert found.se == pytest.approx(math.sqrt(p * (1 - p) / n))
    # log(e + 9) - 1 where it is right, log(e + 9) elsewhere.
    assert found.loss == pytest.approx(math.log(math.e + 9) - threes / n, rel=1e-5)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("lr", 0.0, "lr is 0.0; expected a number, more than 0"),
        ("images", 0, "images is 0; expected an integer, at least 1"),
        ("ema", 1.5, "ema is 1.5; expected a number, 0 to 1"),
        ("lr", float("nan"), "lr is nan"),
        ("schedule", "onecylce", "unknown training option schedule 'onecylce'; did you mean 'onecycle'"),
        ("threads", 0, "threads is 0"),
    ],
)
def test_wrong_options(field: str, value: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        cast(Any, replace)(FAST, **{field: value})


def test_network_and_data_must_fit(tiny: NetworkSpec) -> None:
    with pytest.raises(InputError, match="takes 1x8x8 and gives 10 classes, but digits has images of 3x8x8"):
        run(tiny, load("digits", input_shape=(3, 8, 8)), FAST)


def test_precision_follows_the_processor() -> None:
    assert precision.cpu_precision(("avx512f", "avx512_bf16")) == "bf16"
    assert precision.cpu_precision(("avx2",)) == "fp32"
    fixed = precision.choose(replace(FAST, device="cpu", precision="fp32"))
    assert (fixed.precision, fixed.scales) == ("fp32", False)
    assert precision.choose(replace(FAST, device="cpu", precision="fp16")).scales


def test_two_threads_end_alike_each_time(tiny: NetworkSpec, digits: Dataset) -> None:
    two = [weights(run(tiny, digits, replace(FAST, images=500, threads=2))[0]) for _ in range(2)]
    assert all(np.array_equal(two[0][name], two[1][name]) for name in two[0])


def test_threads_are_set_and_given_back(tiny: NetworkSpec, digits: Dataset) -> None:
    _, result = run(tiny, digits, replace(FAST, images=100, threads=2))
    assert result.threads == 2
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 8),
        ({"cpu.max": "max 100000\n"}, 8),
        ({"cpu.max": "250000 100000\n"}, 3),  # two and a half cores
        ({"cpu.max": "1000 100000\n"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 8),
        ({"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2),
    ],
)
def test_threads_keep_to_the_containers_limit(
    files: dict[str, str], expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    given = container.most_cores(tmp_path)
    monkeypatch.setattr(container, "most_cores", lambda: given)
    assert precision.default_threads() == expected
    assert precision.choose(FAST).threads == expected
    assert precision.choose(FAST, jobs=3).threads == max(1, expected // 3)  # who train together share them
    assert precision.choose(replace(FAST, threads=5), jobs=3).threads == 5


def test_weights_are_finite_float32(tiny: NetworkSpec, digits: Dataset) -> None:
    module, _ = run(tiny, digits, replace(FAST, images=500))
    for name, value in weights(module).items():
        assert value.dtype == np.float32, name
        assert np.isfinite(value).all(), name


def test_balanced_classes_count_the_same() -> None:
    # Three images of one class, one of the other: 4 / (2 * 3) and 4 / (2 * 1).
    weights = plan.balanced(torch.tensor([0, 0, 0, 1]), 2)
    assert weights.tolist() == pytest.approx([2 / 3, 2.0])
    of = Loss(Recipe(label_smoothing=0.0), weights, None, precision.choose(Recipe(device="cpu")))
    logits = torch.tensor([[2.0, 0.0], [0.0, 0.0]])
    first, second = math.log(1 + math.exp(-2)), math.log(2)
    by_hand = (first * 2 / 3 + second * 2) / 2
    loss = of.entropy(logits, torch.tensor([0, 1]))
    assert float(loss) == pytest.approx(by_hand)
    mixed = torch.tensor([[1.0, 0.0], [0.5, 0.5]])  # the second image is half of each class
    loss = of.entropy(logits, mixed)
    assert float(loss) == pytest.approx((first * 2 / 3 + second * 4 / 3) / 2)


def test_repeated_images_stand_in_one_batch() -> None:
    at = torch.tensor([5, 6, 7, 8, 9])
    assert plan.repeated(at, 1).tolist() == [5, 6, 7, 8, 9]
    assert plan.repeated(at, 2).tolist() == [5, 5, 6, 6, 7]
    assert plan.repeated(at, 9).tolist() == [5, 5, 5, 5, 5]
