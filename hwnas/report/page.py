"""What a page holds, before it is drawn: headline, cards, sections with pictures and tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from hwnas.report.style import Figure


@dataclass(frozen=True)
class Picture:
    """A figure with its name (also the file name of an exported picture) and what it shows."""

    name: str
    figure: Figure
    alt: str


@dataclass(frozen=True)
class Table:
    """Rows of text; `folded` is the line behind which a long table hides."""

    head: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    folded: str = ""

    def without_empty(self) -> Table:
        """The table without columns that are empty in every row."""
        kept = [at for at in range(len(self.head)) if any(row[at] for row in self.rows)]
        rows = [tuple(row[at] for at in kept) for row in self.rows]
        return Table(tuple(self.head[at] for at in kept), rows, self.folded)


@dataclass(frozen=True)
class Section:
    """A title, one or two sentences, then pictures and tables. `half` lets two stand side by side."""

    title: str
    lead: str
    pictures: list[Picture] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    half: bool = False


@dataclass(frozen=True)
class Card:
    """One large figure: what it is, the figure, a line below."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Chapter:
    """One run. `used` is the share of the latency budget that the measured network takes."""

    name: str
    headline: str
    story: str
    good: bool | None
    cards: list[Card]
    sections: list[Section]
    missing: list[str]
    commands: list[str]
    warnings: list[str] = field(default_factory=list)
    used: float | None = None


@dataclass(frozen=True)
class Page:
    """One HTML page: comparisons when there are several runs, one for each data set, and a chapter a run."""

    title: str
    chapters: list[Chapter]
    comparisons: list[Section] = field(default_factory=list)
    made: str = ""

    @property
    def pictures(self) -> list[Picture]:
        """Every picture of the page in order."""
        sections = list(self.comparisons)
        sections += [s for chapter in self.chapters for s in chapter.sections]
        return [picture for section in sections for picture in section.pictures]
