"""Records to files and back: schema checked on reading, written atomically, found where data lives."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError

from hwnas import schemas, seals
from hwnas.documents import read_json
from hwnas.errors import DataFormatError, InputError
from hwnas.lazy import lazy_import
from hwnas.spec import NetworkSpec
from hwnas.traced import VariantSpec, place_of

if TYPE_CHECKING:
    import platformdirs
else:
    platformdirs = lazy_import("platformdirs")  # a target of ssh has none, and needs no such folder

Model = TypeVar("Model", bound=BaseModel)


def data_dir(name: str) -> Path:
    """A data folder that ships with hwnas (``profiles``, ``kernels``).

    Looks beside the installed package first and one level up second: that serves a wheel, an
    editable install and a bare checkout, where `importlib.resources` does not.
    """
    package = Path(__file__).resolve().parent
    for place in (package / name, package.parent / name):
        if place.is_dir():
            return place
    raise DataFormatError(f"the data folder {name!r} is missing from this installation; reinstall hwnas")


def home() -> Path:
    """Where the user's tables and caches live: ``HWNAS_HOME``, else the platform's data folder."""
    if "HWNAS_HOME" in os.environ:
        return Path(os.environ["HWNAS_HOME"]).expanduser()
    return platformdirs.user_data_path("hwnas", appauthor=False)


# Temporary files: `.NAME.hwnas-XXXXXXXX.tmp`. Their maker holds a lock on them, which ends with it.
_TEMPORARY = re.compile(r"\..+\.hwnas-[a-z0-9_]{8}\.tmp")
_swept: set[Path] = set()


@contextmanager
def atomic_path(path: Path, *, new: bool = False) -> Iterator[Path]:
    """Give a temporary path beside `path`; it takes the place of `path` only if the block succeeds.

    Args:
        path: a link there is refused, not followed and not replaced.
        new: refuse a file that is there already, also one that came meanwhile.

    Raises:
        InputError: `path` is a link or no file, or is there already.
    """
    _refuse_link(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = path.parent.resolve()
    if folder not in _swept:
        _swept.add(folder)
        sweep(folder)
    handle, temporary = _temporary(path)
    try:
        with _errors_of_the_system(path):
            yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        # mkstemp gives 0600; results are meant to be shared like any file the user makes.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        if new:
            _take_new(temporary, path)
        else:
            _refuse_link(path)
            temporary.replace(path)
        _sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)
        os.close(handle)


@contextmanager
def _errors_of_the_system(path: Path) -> Iterator[None]:
    """A full disk is an OSError also where a library in Rust says it (safetensors)."""
    try:
        yield
    except OSError:
        raise
    except Exception as exc:
        found = re.search(r"\(os error (\d+)\)", str(exc))
        if found is None:
            raise
        number = int(found.group(1))
        raise OSError(number, os.strerror(number), str(path)) from exc


def _temporary(path: Path) -> tuple[int, Path]:
    """A temporary file beside `path`, locked."""
    while True:
        # A name may have 255 bytes, and these 20 come to it.
        name = path.name.encode()[:200].decode(errors="ignore")
        handle, made = tempfile.mkstemp(prefix=f".{name}.hwnas-", suffix=".tmp", dir=path.parent)
        temporary = Path(made)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(handle), temporary.stat()):
                return handle, temporary
        except (BlockingIOError, FileNotFoundError):
            pass  # swept by another process before it was locked
        os.close(handle)


def is_temporary(name: str) -> bool:
    """Whether a file name is that of a temporary file of ours."""
    return _TEMPORARY.fullmatch(name) is not None


def sweep(folder: Path) -> None:
    """Remove temporary files of ours whose makers are dead."""
    try:
        names = [entry.name for entry in os.scandir(folder) if is_temporary(entry.name)]
    except OSError:
        return
    for name in names:
        path = folder / name
        with suppress(OSError):
            if path.is_symlink():  # `runs.link_latest` was killed between two system calls
                path.unlink()
                continue
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                if stat.S_ISREG(os.fstat(handle).st_mode):
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    path.unlink()
            finally:
                os.close(handle)


_SCRATCH = re.compile(r"hwnas-scratch-[a-z0-9_]{8}")


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder for temporary files, among the user's caches; removed at the end of the block.

    What a killed process left is removed when the next one asks for such a folder, or opens a run.
    """
    folder, handle = _scratch_folder()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(handle)


def _scratch_folder() -> tuple[Path, int]:
    """A new folder, locked: in `home`, or where that cannot be written in the system's place."""
    for root in _scratch_roots():
        sweep_scratch(root)
        with suppress(OSError):
            root.mkdir(parents=True, exist_ok=True)
            return _locked_folder(root)
    raise InputError(f"no folder for temporary files: neither {' nor '.join(map(str, _scratch_roots()))}")


def _locked_folder(root: Path) -> tuple[Path, int]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix="hwnas-scratch-", dir=root))
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if folder.exists():
                return folder, handle
        except BlockingIOError:
            pass  # swept before it was locked
        os.close(handle)


def _scratch_roots() -> list[Path]:
    return [home() / "scratch", Path(tempfile.gettempdir())]


def sweep_scratch(root: Path | None = None) -> None:
    """Remove the scratch folders of ours whose makers are dead."""
    for place in _scratch_roots() if root is None else [root]:
        try:
            names = [entry.name for entry in os.scandir(place) if _SCRATCH.fullmatch(entry.name)]
        except OSError:
            continue
        for name in names:
            with suppress(OSError):
                handle = os.open(place / name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
                try:
                    if os.fstat(handle).st_uid == os.getuid():
                        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        shutil.rmtree(place / name)
                finally:
                    os.close(handle)


def _refuse_link(path: Path) -> None:
    if path.is_symlink():
        raise InputError(
            f"{path} is a symbolic link, whose target is not overwritten; name the target itself"
        )
    if path.exists() and not path.is_file():
        raise InputError(f"{path} is not a file, so it cannot be written; choose another name")


def _take_new(temporary: Path, path: Path) -> None:
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise InputError(f"{path} exists already; choose another name") from None
    except OSError:  # a file system without hard links
        if path.exists():
            raise InputError(f"{path} exists already; choose another name") from None
        temporary.replace(path)


def _sync_folder(folder: Path) -> None:
    with suppress(OSError):  # not every file system can
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def append_line(path: Path, line: str) -> None:
    """Add a line to a file of ours and flush it to disk; a link is not followed."""
    _refuse_link(path)
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    with os.fdopen(handle, "ab") as file:
        file.write(f"{line}\n".encode())
        file.flush()
        os.fsync(file.fileno())


def refuse_foreign(path: Path, mark: str, what: str) -> None:
    """InputError where `path` holds something that is not ours and would be replaced.

    Args:
        path: what is about to be written; not there or empty is well.
        mark: stands in the first 4 KiB of every file of this kind.
        what: the kind, for the message ("a report of hwnas").
    """
    _refuse_link(path)
    if not path.exists() or path.stat().st_size == 0:
        return
    with path.open("rb") as file:
        start = file.read(4096)
    if mark.encode() not in start:
        raise InputError(f"{path} exists and is not {what}; it is not overwritten. Choose another name")


def write_text(path: Path, text: str, *, new: bool = False) -> None:
    """Write a text file atomically; `new` refuses one that is there."""
    with atomic_path(path, new=new) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_bytes(path: Path, data: bytes, *, new: bool = False) -> None:
    """Write a binary file atomically; `new` refuses one that is there."""
    with atomic_path(path, new=new) as temporary:
        temporary.write_bytes(data)


def write_json(path: Path, body: Mapping[str, Any], *, sealed: bool = False) -> None:
    """Write a JSON object atomically; NaN and infinity are refused, since JSON has neither.

    An object with a schema replaces only a file of the same kind (InputError). What hwnas itself continues
    from later is `sealed`: `documents.read_json` finds a change.
    """
    body = seals.sealed(body) if sealed else body
    if "schema" in body:
        kind = str(body["schema"]).partition("/")[0]
        refuse_foreign(path, f'"{kind}/', f"a file of the schema {kind}")
    write_text(path, json.dumps(body, indent=2, allow_nan=False) + "\n")


def parse(model: type[Model], body: Mapping[str, Any], where: object) -> Model:
    """Validate a mapping as `model`; DataFormatError names the file and the first wrong field."""
    try:
        return model.model_validate(body)
    except ValidationError as exc:
        first = exc.errors()[0]
        place = place_of(first["loc"]) or "the document"
        raise DataFormatError(f"{where}: {place}: {first['msg']}") from exc


def network_of(body: Mapping[str, Any], where: object) -> NetworkSpec:
    """A network, or a variant of a traced model, out of a document; DataFormatError if it is damaged."""
    return parse(VariantSpec if "base" in body else NetworkSpec, body, where)


def read_network(path: Path) -> NetworkSpec:
    """Read a ``network.json``; DataFormatError if it is damaged or its shapes do not join."""
    body = read_json(path, "network", schemas.NETWORK)
    del body["schema"]
    spec = network_of(body, f"network {path}")
    return spec if spec.name else spec.model_copy(update={"name": path.stem})


def write_network(path: Path, spec: NetworkSpec) -> None:
    """Write a network as JSON; only a network is replaced."""
    refuse_foreign(path, f'"{schemas.NETWORK.partition("/")[0]}/', "a network of hwnas")
    write_text(path, spec.to_json())
