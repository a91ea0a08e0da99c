"""What a user writes to name a data set: one source, or one for each split.

``folder:PATH`` is one source. ``train=folder:A;val=folder:B;test=npz:C`` names a source for each split; the
options ``--train --val --test`` of the command line make such a text, so a run records one string.
"""

from __future__ import annotations

import re
from pathlib import Path

from hwnas.errors import InputError
from hwnas.plugins import names, unknown

# Of these the place is a file or folder; a source of another package decides by itself.
_NEED_A_PATH = ("folder", "parquet", "npz", "cifar10")


def compose(train: str | None, val: str | None, test: str | None) -> str:
    """One text for sources of their own; InputError without one to train on."""
    if train is None:
        raise InputError("--val and --test need --train or --data: name the training images as well")
    if val is None and test is None:
        return train
    given = {"train": train, "val": val, "test": test}
    return ";".join(f"{name}={source}" for name, source in given.items() if source is not None)


def parts(uri: str) -> dict[str, str]:
    """The source of each split; one that is not split is that of ``train`` alone.

    Raises:
        InputError: a split is named twice, or ``train`` is missing.
    """
    if re.match(r"(train|val|test)=", uri) is None:
        return {"train": uri}
    found: dict[str, str] = {}
    for text in re.split(r";(?=(?:train|val|test)=)", uri):
        name, _, source = text.partition("=")
        if name in found:
            raise InputError(f"data {uri!r} names {name} twice; name each split once")
        found[name] = source
    if "train" not in found:
        raise InputError(f"data {uri!r} names no training images; add train=SOURCE")
    return found


def parse(uri: str) -> tuple[str, str]:
    """Scheme and place of one source; ``module`` for ``module:function``. InputError otherwise."""
    scheme, colon, where = uri.partition(":")
    known = names("datasets")
    if scheme == "digits" and where:
        raise InputError("the data set 'digits' is built in and has no path; write digits")
    if scheme in _NEED_A_PATH and not where:
        raise InputError(f"data {uri!r} names no path; write {scheme}:PATH")
    if scheme in known:
        return scheme, where
    if colon and re.fullmatch(r"[^\W\d][\w.]*:[^\W\d]\w*", uri):
        return "module", uri
    message = unknown("data source", scheme, (*known, "module:function"))
    if _there(uri):
        message += f"; say what the path holds, for example folder:{uri} or parquet:{uri}"
    raise InputError(message)


def runs_code(uri: str) -> bool:
    """Whether loading this data set calls a user's function: never done for a text found in a file."""
    return any(parse(source)[0] == "module" for source in parts(uri).values())


def _there(path: str) -> bool:
    try:
        return Path(path).exists()
    except (OSError, ValueError):  # a name that is too long, or has a NUL
        return False
