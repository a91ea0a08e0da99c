"""`hwnas table`: look at, check, compare and share latency tables."""

from hwnas.jobs.table.verbs import diff, export, import_, listed, merge, show, validate

__all__ = ["diff", "export", "import_", "listed", "merge", "show", "validate"]
