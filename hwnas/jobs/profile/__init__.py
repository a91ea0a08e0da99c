"""`hwnas profile`: measure a device into a latency table."""

from hwnas.jobs.profile.options import ProfileOptions
from hwnas.jobs.profile.result import HeldOut, ProfileOutcome
from hwnas.jobs.profile.run import profile

__all__ = ["HeldOut", "ProfileOptions", "ProfileOutcome", "profile"]
