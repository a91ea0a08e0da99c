"""Damaged files of every format through the command line: a status, a sentence, no traceback, no hang.

Seeded, so that a failure repeats; `HWNAS_FUZZ` is the number of files; ``make test-campaign`` damages
as many others (another seed). In a process of its own, whose
children start warm (`tiny`).
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_a_thousand_damaged_files(tmp_path: Path) -> None:
    script = Path(__file__).with_name("damage.py")
    count = os.environ.get("HWNAS_FUZZ", "1000")
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path), count],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-3000:]
    assert f"{count} files" in done.stdout
