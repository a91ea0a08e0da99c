"""`benchmarks` is not installed: it is imported from the checkout, whatever pytest is started from."""

import sys
from pathlib import Path

ROOT = str(Path(__file__).resolve().parents[3])
if ROOT not in sys.path:
    sys.path.insert(0, ROOT)
