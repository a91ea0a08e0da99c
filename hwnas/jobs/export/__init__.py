"""`hwnas export`: an engine with its manifest, and the proof that it is right and fast enough."""

from hwnas.jobs.export.run import Exported, ExportOptions, check, conditions, export, summary

__all__ = ["ExportOptions", "Exported", "check", "conditions", "export", "summary"]
