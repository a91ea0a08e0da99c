import sys
from pathlib import Path

# The fake trainer and cost model are shared with the contract tests.
sys.path.insert(0, str(Path(__file__).parents[2] / "contract"))
