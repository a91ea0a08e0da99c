"""Images per second of a training: hwnas against the usual torchvision DataLoader loop.

    python -m benchmarks.train_speed [--data parquet:PATH] [--rounds 5] [--batches 16] [--threads N]

ResNet-20 at 32x32, batch 256, crop and flip on both sides, all cores unless `--threads` says less (on a
busy machine one thread is steadier). The usual loop decodes
nothing: images lie in memory as in torchvision's CIFAR10, two worker processes augment them one by
one. Contestants take turns in random order within one run, so that load falls on all of them alike;
the figure is the median of the ratios within a round.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.common import bars, save
from hwnas.jobs.resolve.networks import network
from hwnas.nets.build import build
from hwnas.train.data import Dataset, load
from hwnas.train.loop import train
from hwnas.train.options import Mode, Recipe

BATCH = 256
WARM_UP = 4  # batches of the usual loop that are not timed: its workers start, their queue fills


@dataclass
class Pictures(torch.utils.data.Dataset[Any]):
    """Images one by one through torchvision's transforms, as `torchvision.datasets.CIFAR10` gives them."""

    data: Dataset

    def __post_init__(self) -> None:
        from torchvision import transforms

        self.arrays = self.data.train.images.permute(0, 2, 3, 1).contiguous().numpy()
        self.labels = self.data.train.labels.tolist()
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(32, padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(self.data.mean, self.data.std),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, at: int) -> tuple[torch.Tensor, int]:
        from PIL import Image

        return self.transform(Image.fromarray(self.arrays[at])), self.labels[at]


def usual(pictures: Pictures, batches: int, *, tuned: bool) -> float:
    """Images per second of the usual loop; `tuned` adds bfloat16 and channels last to it."""
    module: nn.Module = build(network("resnet20"), seed=0)
    if tuned:
        module = module.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(module.parameters(), 0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)
    total = (batches + WARM_UP) * BATCH
    sampler = torch.utils.data.RandomSampler(pictures, replacement=True, num_samples=total)
    loader = torch.utils.data.DataLoader(pictures, BATCH, sampler=sampler, num_workers=2)
    for done, (images, labels) in enumerate(loader):
        if done == WARM_UP:
            begun = time.perf_counter()
        if tuned:
            images = images.contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=tuned):
            logits = module(images)
        loss = F.cross_entropy(logits.float(), labels)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    return batches * BATCH / (time.perf_counter() - begun)


def ours(data: Dataset, batches: int, precision: Mode) -> float:
    """Images per second of `hwnas.train.loop.train`, its guard and snapshots included."""
    spec = network("resnet20")
    options = Recipe(
        images=batches * BATCH,
        batch=BATCH,
        device="cpu",
        precision=precision,
    )
    return train(build(spec, seed=0), spec, data, options).images_per_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, default=16)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    # Validation is not timed; a small one keeps the run short.
    data = load(args.data, input_shape=(3, 32, 32), limit=5000)
    pictures = Pictures(data)
    contestants: dict[str, Callable[[], float]] = {
        "DataLoader, fp32": lambda: usual(pictures, args.batches, tuned=False),
        "DataLoader, bf16, channels last": lambda: usual(pictures, args.batches, tuned=True),
        "hwnas, fp32": lambda: ours(data, args.batches, "fp32"),
        "hwnas": lambda: ours(data, args.batches, "auto"),
    }
    speeds: dict[str, list[float]] = {name: [] for name in contestants}
    order = random.Random(0)
    for turn in range(args.rounds + 1):
        for name in order.sample(sorted(contestants), len(contestants)):
            speed = contestants[name]()
            if turn:  # the first round warms up
                speeds[name].append(speed)
                print(f"round {turn}: {name}: {speed:.0f} images/s", flush=True)
    base = speeds["DataLoader, fp32"]
    ratios = {n: statistics.median(s / b for s, b in zip(v, base)) for n, v in speeds.items()}
    body = {
        "network": "resnet20",
        "data": args.data.partition(":")[0],
        "batch": BATCH,
        "batches": args.batches,
        "threads": args.threads,
        "torch": torch.__version__,
        "images_per_s": {name: [round(s, 1) for s in values] for name, values in speeds.items()},
        "median_images_per_s": {name: round(statistics.median(v), 1) for name, v in speeds.items()},
        "ratio_to_dataloader_fp32": {name: round(ratio, 3) for name, ratio in ratios.items()},
        "goal": 1.5,
        "reached": ratios["hwnas"] >= 1.5,
    }
    chart = bars(
        "Training ResNet-20, batch 256",
        ["images/s"],
        {n: [statistics.median(v)] for n, v in speeds.items()},
        "images/s",
    )
    print(save("train_speed", body, chart))
    print(f"hwnas / DataLoader fp32: {ratios['hwnas']:.2f} (goal 1.5)")


if __name__ == "__main__":
    main()
