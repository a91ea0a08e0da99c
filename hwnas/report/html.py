"""Page to HTML: one file that opens without network, and the same pictures as SVG or PNG."""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
import warnings
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

import hwnas
from hwnas.errors import BackendUnavailable, InputError
from hwnas.lazy import lazy_import
from hwnas.report.page import Page
from hwnas.store import write_bytes, write_text

go = lazy_import("plotly.graph_objects")

HERE = Path(__file__).resolve().parent
PICTURES = ("svg", "png")


@cache
def plotly_script() -> str:
    """Plotly's JavaScript, from the installed package. Its Python side is not imported: half a second."""
    found = importlib.util.find_spec("plotly")
    if found is None or found.origin is None:
        raise BackendUnavailable("the report's pictures need plotly: pip install plotly")
    return (Path(found.origin).parent / "package_data" / "plotly.min.js").read_text(encoding="utf-8")


def looks_numeric(text: str) -> bool:
    """Whether a table cell is a figure with perhaps a unit, to be kept on one line."""
    return re.fullmatch(r"[-+±]?[\d.,]+( ?[±%A-Za-zµ/]{1,7})?( ?± ?[\d.,]+)?", text) is not None


def render(page: Page) -> str:
    """The page as one HTML text.

    Everything that comes from files is escaped: text by Jinja2, figures by writing every ``<`` of
    their JSON as an escape, so that no text can end the script element that it stands in.
    """
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["looks_numeric"] = looks_numeric
    figures = json.dumps({p.name: p.figure for p in page.pictures}, allow_nan=False, separators=(",", ":"))
    # Markup: our own style sheet and Plotly's script are no user's text.
    return environment.get_template("page.html").render(
        page=page,
        version=hwnas.__version__,
        css=Markup((HERE / "page.css").read_text(encoding="utf-8")),
        plotly=Markup(plotly_script() if page.pictures else ""),
        figures=Markup(figures.replace("<", "\\u003c")),
    )


def write(page: Page, path: Path) -> None:
    """Write the page, atomically."""
    write_text(path, render(page))


def write_pictures(page: Page, folder: Path, kind: str) -> list[Path]:
    """Every picture of the page as a file of its own.

    Raises:
        InputError: `kind` is neither svg nor png.
        BackendUnavailable: kaleido, which draws them, is not installed or has no browser.
    """
    if kind not in PICTURES:
        raise InputError(f"pictures can be written as {' or '.join(PICTURES)}, not {kind!r}")
    if importlib.util.find_spec("kaleido") is None:
        raise BackendUnavailable(
            f"pictures as {kind.upper()} need kaleido and a Chrome or Chromium browser: pip install kaleido "
            "(the HTML report needs neither)"
        )
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{picture.name}.{kind}" for picture in page.pictures]
    figures = [go.Figure(picture.figure) for picture in page.pictures]
    for drawn in figures:
        drawn.update_layout(paper_bgcolor="white", plot_bgcolor="white")
    try:
        if figures:
            _draw(figures, paths, kind)
    except (RuntimeError, ValueError) as exc:
        raise BackendUnavailable(f"kaleido could not draw the pictures: {exc}") from exc
    return paths


def _draw(figures: list[Any], paths: list[Path], kind: str) -> None:
    """Draw by kaleido, with one browser for all pictures where its version offers that.

    The first picture goes without it: where no browser is found that raises, while the shared one
    would die in a thread of its own and keep everybody waiting.
    """
    kaleido = importlib.import_module("kaleido")  # optional, so its types are not known
    _draw_one(figures[0], paths[0], kind)
    one_browser = hasattr(kaleido, "start_sync_server") and len(figures) > 1
    if one_browser:
        kaleido.start_sync_server(silence_warnings=True)
    try:
        for drawn, path in zip(figures[1:], paths[1:]):
            _draw_one(drawn, path, kind)
    finally:
        if one_browser:
            kaleido.stop_sync_server(silence_warnings=True)


def _draw_one(drawn: Any, path: Path, kind: str) -> None:
    with warnings.catch_warnings():  # plotly passes an argument that a shared browser has no use for
        warnings.filterwarnings("ignore", message="The kopts argument")
        data = drawn.to_image(format=kind, width=960, height=drawn.layout.height, scale=2)
    write_bytes(path, data)
