"""`hwnas profile`: measure a device into a latency table."""

from hwnas.jobs.profile.options import ProfileOptions
from hwnas.jobs.profile.result import HeldOut, ProfileOutcome
from hwnas.jobs.profile.run import profile
from hwnas.jobs.profile.several import PlannedProfiles, Profiles, profile_each

__all__ = [
    "HeldOut",
    "PlannedProfiles",
    "ProfileOptions",
    "ProfileOutcome",
    "Profiles",
    "profile",
    "profile_each",
]
