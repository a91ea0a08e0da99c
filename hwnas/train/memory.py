"""How much memory may still be taken: the sizes that files claim are compared with it first."""

from __future__ import annotations

import os
import re
import resource
from pathlib import Path

from hwnas.errors import InputError
from hwnas.units import parse_bytes

# Decoded images of more than this part of the free memory stay on disk, unless IMAGE_MEMORY says otherwise.
IMAGE_SHARE = 0.5
IMAGE_MEMORY = "HWNAS_IMAGE_MEMORY"


def free_bytes() -> int | None:
    """Memory that this process may still take: the machine's, within limits; None where nothing tells."""
    found = [_available(), _within_address_space(), _within_container()]
    return min((size for size in found if size is not None), default=None)


def image_limit() -> float | None:
    """Memory that decoded images may take, in bytes; None where nothing tells.

    Raises:
        InputError: the variable of the environment is no size.
    """
    asked = os.environ.get(IMAGE_MEMORY)
    if asked:
        try:
            return parse_bytes(asked)
        except InputError as exc:
            raise InputError(
                f"{IMAGE_MEMORY} is {asked!r}; expected the memory for decoded images, such as 4GiB"
            ) from exc
    free = free_bytes()
    return None if free is None else IMAGE_SHARE * free


def check(needed: int, what: str, cure: str) -> None:
    """Refuse to take so many bytes where they are not free.

    Args:
        needed: bytes.
        what: subject of the sentence, in the plural ("a.npz: its images").
        cure: what to do instead.

    Raises:
        InputError: they are not free.
    """
    free = free_bytes()
    if free is not None and needed > free:
        raise InputError(
            f"{what} need {needed / 2**30:.1f} GiB of memory, {free / 2**30:.1f} GiB are free; {cure}"
        )


def _available() -> int | None:
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
    except OSError:
        return None
    found = re.search(r"MemAvailable:\s+(\d+) kB", text)
    return int(found.group(1)) * 1024 if found else None


def _within_address_space() -> int | None:
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft == resource.RLIM_INFINITY:
        return None
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    except (OSError, ValueError, IndexError):
        return soft
    return max(0, soft - pages * resource.getpagesize())


def _within_container() -> int | None:
    group = Path("/sys/fs/cgroup")
    try:
        most = int((group / "memory.max").read_text(encoding="ascii"))
        return max(0, most - int((group / "memory.current").read_text(encoding="ascii")))
    except (OSError, ValueError):
        return None  # no control groups here, or no limit ("max")
