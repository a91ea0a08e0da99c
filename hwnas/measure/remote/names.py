"""Names that a user gave to devices of other machines, in ``devices.json`` of the data folder."""

from __future__ import annotations

from pathlib import Path

from hwnas import plugins, schemas, store
from hwnas.documents import read_json
from hwnas.errors import DataFormatError, InputError
from hwnas.locks import Lock
from hwnas.measure.remote.address import is_remote, parse

TAKEN = ("auto", "gpu", "cpu")


def path() -> Path:
    """The file."""
    return store.home() / "devices.json"


def named() -> dict[str, str]:
    """Every name with its address; DataFormatError where the file is damaged."""
    if not path().is_file():
        return {}
    devices = read_json(path(), "list of devices", schemas.DEVICES).get("devices")
    if not isinstance(devices, dict):
        raise DataFormatError(f"{path()} holds no devices; remove it and add them again")
    try:
        return {_checked(name): parse(str(text)).text for name, text in devices.items()}
    except InputError as exc:
        raise DataFormatError(f"{path()}: {exc}; remove it and add the devices again") from exc


def address_of(device: str) -> str:
    """The address of a name that the user gave; anything else as it is."""
    if is_remote(device) or not path().is_file():
        return device
    return named().get(device, device)


def add(name: str, address: str) -> str:
    """Give an address a name, in place of the one that it had; the address as it is kept.

    Raises:
        InputError: no address, or a name that cannot be one or is taken.
    """
    text = parse(address).text
    _checked(name)
    with Lock(path().parent / path().name):
        store.write_json(path(), {"schema": schemas.DEVICES, "devices": {**named(), name: text}})
    return text


def remove(name: str) -> None:
    """Forget a name; InputError where there is none."""
    with Lock(path().parent / path().name):
        devices = named()
        if name not in devices:
            raise InputError(plugins.unknown("device", name, devices))
        del devices[name]
        store.write_json(path(), {"schema": schemas.DEVICES, "devices": devices})


def _checked(name: str) -> str:
    if name in TAKEN or not plugins.NAME.fullmatch(name):
        raise InputError(
            f"a device cannot be called {name!r}; take {plugins.SPELLING}, and none of {', '.join(TAKEN)}"
        )
    return name
