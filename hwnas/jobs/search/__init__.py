"""`hwnas search`: the most accurate network that keeps a latency budget."""

from hwnas.jobs.search.options import SearchOptions
from hwnas.jobs.search.result import SearchOutcome, Winner
from hwnas.jobs.search.run import search

__all__ = ["SearchOptions", "SearchOutcome", "Winner", "search"]
