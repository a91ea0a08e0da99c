"""``--gpu``: what CUDA is shown is chosen before anything opens it."""

import os

import click
import pytest
from click.testing import CliRunner

from hwnas.backends.cuda import gpus
from hwnas_cli import options


@click.command()
@options.gpu
def shown() -> None:
    click.echo(f"{os.environ.get('CUDA_DEVICE_ORDER')} {os.environ.get('CUDA_VISIBLE_DEVICES')}")


@pytest.mark.parametrize(
    "value", ["0", "11", "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6", "MIG-GPU-8932f937/1/0", "MIG-41b3-aa"]
)
def test_a_number_or_a_uuid_in_nvidia_smis_order(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setattr(gpus, "gpus", lambda: ())  # where nothing tells which there are
    for name in ("CUDA_DEVICE_ORDER", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.setenv(name, "before")  # so that it is restored
    done = CliRunner().invoke(shown, ["--gpu", value])
    assert done.output == f"PCI_BUS_ID {value}\n"


@click.command()
@options.device
@options.gpu
def measured(device: str | None) -> None:
    click.echo(device)


@pytest.fixture
def two_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("NVIDIA TITAN Xp", "NVIDIA GeForce GTX 1080")
    cards = tuple(
        gpus.GpuInfo(name=n, compute_capability="6.1", memory_bytes=8 << 30, driver="580") for n in names
    )
    monkeypatch.setattr(gpus, "gpus", lambda: cards)
    for name in ("CUDA_DEVICE_ORDER", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.setenv(name, "before")


@pytest.mark.usefixtures("two_cards")
def test_a_number_that_no_gpu_has_is_refused_with_those_that_are_here() -> None:
    assert CliRunner().invoke(shown, ["--gpu", "1"]).output == "PCI_BUS_ID 1\n"
    done = CliRunner().invoke(shown, ["--gpu", "2"])
    assert done.exit_code == 2
    assert "no GPU 2 here, but 0: NVIDIA TITAN Xp, 1: NVIDIA GeForce GTX 1080" in done.output


@pytest.mark.usefixtures("two_cards")
@pytest.mark.parametrize("turned", [1, -1])
def test_a_gpu_of_another_machine_is_not_chosen_from_here(turned: int) -> None:
    """Whichever of the two options comes first."""
    there = [("--device", "ssh://pi@board"), ("--gpu", "1")][::turned]
    done = CliRunner().invoke(measured, [word for pair in there for word in pair])
    assert done.exit_code == 2
    assert "not of ssh://pi@board" in done.output
    assert CliRunner().invoke(measured, ["--device", "cpu", "--gpu", "1"]).output == "cpu\n"


# The last is an Arabic 3, which CUDA does not read.
@pytest.mark.parametrize("value", ["-1", "0,1", "titanxp", "GPU-", "1; rm", "\u0663"])
def test_other_words_are_refused(value: str) -> None:
    done = CliRunner().invoke(shown, ["--gpu", value])
    assert done.exit_code == 2
    assert "nvidia-smi -L" in done.output


def test_without_it_nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
    assert CliRunner().invoke(shown, []).output == "None 3\n"


def test_batch_sizes_are_a_list() -> None:
    sizes = options.BatchSizes()
    assert sizes.convert("1,8, 32,8", None, None) == (1, 8, 32)
    assert sizes.convert(4, None, None) == (4,)
    for wrong in ("0", "1,x", "", "99999999"):
        with pytest.raises(click.BadParameter, match="such as 1,8,32"):
            sizes.convert(wrong, None, None)
