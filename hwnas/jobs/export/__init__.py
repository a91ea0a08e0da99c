"""`hwnas export`: an engine with its manifest, and the proof that it is right and fast enough."""

from hwnas.jobs.export.options import ExportOptions
from hwnas.jobs.export.outcome import ExportOutcome
from hwnas.jobs.export.run import export

__all__ = ["ExportOptions", "ExportOutcome", "export"]
