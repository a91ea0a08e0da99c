"""How good the latency table is."""

from __future__ import annotations

from hwnas.report.collect import RunData
from hwnas.report.page import Section


def table_sections(run: RunData) -> list[Section]:
    """Sections about the table that the run used."""
    return []
