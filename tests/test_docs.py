"""The documents keep up with the code: every command and option, every link, the site of `make docs`."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from hwnas_cli.main import COMMANDS, cli, command_of

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
# Every `hwnas` line of a shell block; a line that ends in a backslash goes on.
SHOWN = [
    (page, line.strip().removeprefix("$ "))
    for page in PAGES
    for block in re.findall(
        r"^ *```sh\n(.*?)^ *```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    for line in re.sub(r"\\\n\s*", " ", block).splitlines()
    if line.strip().removeprefix("$ ").startswith("hwnas ")
]


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


def test_figures_of_the_new_user_are_those_of_the_committed_run() -> None:
    body = json.loads((ROOT / "tests" / "campaign" / "new_user.json").read_text(encoding="utf-8"))
    assert body["passed"]
    assert body["verified"]
    first, second, third = (f"{step['seconds']:.0f} s" for step in body["commands"])
    page = (ROOT / "docs" / "tutorials" / "own-images.md").read_text(encoding="utf-8")
    assert f"{first}, {second} and {third}, to an engine" in page


def test_figures_of_reliability_are_those_of_the_committed_campaign() -> None:
    """The page shows the file, and the file shows what the page promises."""
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        import generate_reliability as page
    finally:
        sys.path.pop(0)
    shown = page.PAGE.read_text(encoding="utf-8")
    assert page.text(shown) == shown, "run `python docs/generate_reliability.py`"
    parts = json.loads(page.RESULT.read_text(encoding="utf-8"))["parts"]
    assert parts["SIGKILL"]["tried"] >= 200
    assert parts["damaged files"]["tried"] >= 4000
    assert all(part["clear"] == part["jobs"] and not part["faults"] for part in parts.values())


def test_the_same_option_means_the_same_everywhere() -> None:
    """One kind of value under one name; `--out` may be a file or a folder, both are paths."""
    kinds: dict[str, set[str]] = {}
    for name in COMMANDS:
        for _, command in commands(command_of(name), name):
            for param in command.params:
                if isinstance(param, click.Option):
                    kinds.setdefault(param.opts[0], set()).add(param.type.name)
    assert {option: sorted(found) for option, found in kinds.items() if len(found) > 1} == {}


@pytest.mark.parametrize(("page", "line"), SHOWN, ids=[f"{page.stem}: {line}" for page, line in SHOWN])
def test_a_command_that_is_shown_parses(page: Path, line: str) -> None:
    """Every command and option exists and takes the value that is shown."""
    words = shlex.split(line, comments=True)[1:]
    command: click.Command = cli
    context = click.Context(cli, info_name="hwnas")
    while isinstance(command, click.Group):
        found = command.get_command(context, words[0])
        assert found is not None, f"{page.name}: {line}"
        command, words = found, words[1:]
    command.make_context(command.name, words, parent=context).close()


def test_pages_that_the_code_names_exist() -> None:
    files = [p for folder in ("hwnas", "cli", "tests", "benchmarks") for p in (ROOT / folder).rglob("*.py")]
    for path in [
        *files,
        ROOT / "Makefile",
        ROOT / "Dockerfile",
        ROOT / "pyproject.toml",
        ROOT / "CHANGELOG.md",
    ]:
        for page in re.findall(r"\bdocs/[\w/-]+\.(?:md|py)\b", path.read_text(encoding="utf-8")):
            assert (ROOT / page).is_file(), f"{path.relative_to(ROOT)} names {page}"


def test_the_site_builds_and_asks_no_other_host(tmp_path: Path) -> None:
    """What `make docs` runs: broken links, anchors and unknown names in the API pages are errors."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    env = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}  # Material's words about its successor
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    pages = {path.relative_to(tmp_path).with_suffix(".md") for path in tmp_path.rglob("*.html")}
    assert {path.relative_to(DOCS) for path in DOCS.rglob("*.md")} <= pages
    session = (tmp_path / "api" / "session.html").read_text(encoding="utf-8")
    assert "Raw scores (logits)" in session  # a docstring of the code
    jobs = (tmp_path / "api" / "jobs.html").read_text(encoding="utf-8")
    # "device, backend, ...: the conditions" of a docstring is an entry for each name
    assert {"device", "backend", "threads"} <= set(re.findall(r"ProfileOptions\.(\w+)\">\1</span>", jobs))
    assert "device,</" not in jobs
    for path in tmp_path.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        assert not re.findall(r"<(?:script|img|iframe)[^>]*src=\"?https?:", text), path
        assert not re.findall(r"<link[^>]*rel=\"?(?:stylesheet|preconnect|preload)[^>]*https?:", text), path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if not target.startswith(("http://", "https://", "mailto:")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
