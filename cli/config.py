"""``--config FILE``: options from a YAML or TOML file; flags on the command line win."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import click

from hwnas import documents
from hwnas.errors import DataFormatError
from hwnas.plugins import unknown

COMMON = "common"  # options for every command that has them
RUN = "run"  # the run folder of a pipeline (`hwnas run`); no option of a single command


def read(path: Path) -> dict[str, Any]:
    """The mapping in a ``.yaml``, ``.yml`` or ``.toml`` file.

    Raises:
        click.BadParameter: another ending.
        InputError: no such file.
        DataFormatError: the file does not parse or is not a mapping.
    """
    if path.suffix not in (".yaml", ".yml", ".toml"):
        raise click.BadParameter(f"{path} must end in .yaml or .toml")
    reader = documents.read_toml if path.suffix == ".toml" else documents.read_yaml
    body = reader(path, "configuration")
    if body is None:
        return {}
    if not isinstance(body, dict):
        raise DataFormatError(f"{path} holds a {type(body).__name__}, not a mapping of options")
    return body


def defaults_for(command: click.Command, body: Mapping[str, Any], where: object) -> dict[str, Any]:
    """Parameter names and values for a command out of a file's mapping.

    A file of sections (one mapping a command) serves several commands: the section of this
    command's name is taken, over a section ``common`` whose options go to every command that has
    them. Any other file is the command's as a whole. Keys are the options' names, with or without
    leading hyphens.

    Raises:
        click.BadParameter: a key that is no option of the command (in ``common``: of any command).
    """
    if not any(isinstance(value, Mapping) for value in body.values()):
        return _values(command, body, where)
    _refuse_unknown_sections(body, where)
    known = _known(command)
    common = _section(body, COMMON, where)
    shared = {name: value for name, value in common.items() if name in known}
    _refuse_unknown(common.keys() - shared.keys(), where)
    return _values(command, {**shared, **_section(body, command.name or "", where)}, where)


def _section(body: Mapping[str, Any], name: str, where: object) -> dict[str, Any]:
    section = body.get(name) or {}
    if not isinstance(section, Mapping):
        raise click.BadParameter(f"{where}: {name} must be a mapping of options, not {section!r}")
    return {spell(key): value for key, value in section.items()}


def _refuse_unknown_sections(body: Mapping[str, Any], where: object) -> None:
    from .main import COMMANDS

    for key in body:
        if key not in COMMANDS and key != COMMON:
            raise click.BadParameter(f"{where}: " + unknown("section", str(key), [*COMMANDS, COMMON]))


def _values(command: click.Command, section: Mapping[str, Any], where: object) -> dict[str, Any]:
    known = _known(command)
    for key in section:
        if spell(key) not in known:
            raise click.BadParameter(f"{where}: " + unknown(f"{command.name} option", spell(key), known))
    several = {param.name for param in command.params if isinstance(param, click.Option) and param.multiple}

    def listed(name: str, value: Any) -> Any:  # click would take a text for a list of its letters
        return [value] if name in several and isinstance(value, (str, int, float)) else value

    return {name: listed(name, value) for key, value in section.items() for name in (known[spell(key)],)}


def _refuse_unknown(keys: Iterable[str], where: object) -> None:
    """A key of ``common`` that no command has is a misspelling."""
    missing = set(keys)
    if missing:
        from .main import COMMANDS, command_of

        everywhere = {key for name in COMMANDS for key in _known(command_of(name))}
        for key in sorted(missing - everywhere):
            raise click.BadParameter(f"{where}: " + unknown(f"{COMMON} option", key, everywhere))


def _known(command: click.Command) -> dict[str, str]:
    """Every name by which a file may call a parameter, to the parameter's own name."""
    return {
        spell(text): param.name
        for param in command.params
        if param.name and param.name not in ("config", "help")
        for text in (param.name, *param.opts)
    }


def spell(key: object) -> str:
    """An option's name as files spell it: ``--max_time`` and ``max-time`` are one."""
    return str(key).lstrip("-").replace("_", "-")


def _load(ctx: click.Context, param: click.Parameter, value: Path | None) -> None:
    if value is not None:
        ctx.default_map = {**(ctx.default_map or {}), **defaults_for(ctx.command, read(value), value)}


option = click.option(
    "--config",
    type=click.Path(path_type=Path),
    metavar="FILE",
    envvar="HWNAS_CONFIG",
    is_eager=True,
    expose_value=False,
    callback=_load,
    help="Options from a .yaml or .toml file; flags win.  [default: HWNAS_CONFIG, if set]",
)
