"""These tests run by ``make test-sim``: they need what prepare.py downloads, and a process a machine."""

import os

# Without the simulated machines nothing here is collected; `make test` stays fast and offline.
collect_ignore_glob = ["*"] if "HWNAS_SIM" not in os.environ else []
