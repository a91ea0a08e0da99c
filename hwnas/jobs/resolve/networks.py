"""Which network a user means: a file, the name of a shipped example, or a run."""

from __future__ import annotations

from pathlib import Path

from hwnas import runs
from hwnas.errors import InputError
from hwnas.jobs import own_model
from hwnas.plugins import unknown
from hwnas.spec import NetworkSpec
from hwnas.store import data_dir, read_network


def examples() -> dict[str, Path]:
    """Every shipped example by name (``resnet20``, ``stagewise-it1``, ...)."""
    return {path.stem: path for path in sorted((data_dir("examples") / "networks").glob("*.json"))}


def find(name: str, root: Path = runs.RUNS) -> Path:
    """The file of a network given as a file, a run (folder or name), or an example's name.

    A file wins over a run, a run over an example, so that what lies before the user is taken.

    Raises:
        InputError: nothing of that name; the message lists the examples.
    """
    path = Path(name)
    if path.is_file():
        return path
    for folder in (path, root / name):
        if folder.is_dir():
            if (folder / "network.json").is_file():
                return folder / "network.json"
            raise InputError(
                f"{folder} holds no network.json; is the run finished? (`hwnas runs show {name}`)"
            )
    known = examples()
    if name in known:
        return known[name]
    if path.suffix or len(path.parts) > 1:
        raise InputError(f"network {name} does not exist; give a network.json, a run or an example's name")
    raise InputError(unknown("network", name, known) + "; a file or a run folder is accepted as well")


def network(name: str, root: Path = runs.RUNS) -> NetworkSpec:
    """Read the network that `name` means (see `find`); DataFormatError if its file is damaged.

    A source of a model of the user's own (``torchvision:NAME``, ``FILE.py:function``) is one, too.
    """
    if ":" in name and not Path(name).exists():
        return own_model.space(name).variant()
    return read_network(find(name, root))
