"""Stands where the package `tensorrt` would: the real bindings over a simulated library."""

from trtsim import start

_simulation = start()

from tensorrt_bindings import *  # noqa: E402, F403  (what the real package does)
from tensorrt_bindings import __version__  # noqa: E402, F401
