"""`hwnas export`: an engine with its manifest, and the proof that it is right and fast enough."""

from hwnas.jobs.export.run import ExportOptions, ExportOutcome, check, conditions, export, summary

__all__ = ["ExportOptions", "ExportOutcome", "check", "conditions", "export", "summary"]
