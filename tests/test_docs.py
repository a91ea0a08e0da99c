"""The documents keep up with the code: every command and option, every link."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from hwnas_cli.main import COMMANDS, command_of

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        for name, child in command.commands.items():
            yield from commands(child, f"{path} {name}")


@pytest.mark.parametrize("name", COMMANDS)
def test_the_reference_has_every_option(name: str) -> None:
    text = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    for path, command in commands(command_of(name), f"hwnas {name}"):
        section = re.search(rf"^### {re.escape(path)}\n(.*?)(?=^##|\Z)", text, re.MULTILINE | re.DOTALL)
        assert section, f"{path} is missing; run `python docs/generate_cli.py`"
        for param in command.params:
            for option in param.opts if isinstance(param, click.Option) else ():
                assert option in section.group(1), f"{path} {option}: run `python docs/generate_cli.py`"


def test_the_same_option_means_the_same_everywhere() -> None:
    """One kind of value under one name; `--out` may be a file or a folder, both are paths."""
    kinds: dict[str, set[str]] = {}
    for name in COMMANDS:
        for _, command in commands(command_of(name), name):
            for param in command.params:
                if isinstance(param, click.Option):
                    kinds.setdefault(param.opts[0], set()).add(param.type.name)
    assert {option: sorted(found) for option, found in kinds.items() if len(found) > 1} == {}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if not target.startswith(("http://", "https://", "mailto:")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
