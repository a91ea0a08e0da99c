"""The table of figures in docs/reliability.md, from the committed result of the campaign.

python docs/generate_reliability.py
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RESULT = HERE.parent / "tests" / "campaign" / "result.json"
PAGE = HERE / "reliability.md"
BEGIN, END = "<!-- figures -->\n", "<!-- end of figures -->\n"


def figures(body: dict[str, Any]) -> str:
    """The table and where it comes from."""
    lines = [
        "| what was done | times | commands carried to their end | right, or one clear sentence | traceback "
        "| wrong | lost | hang or memory |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, part in body["parts"].items():
        numbers = (part[key] for key in ("tried", "jobs", "clear", "traceback", "wrong", "lost", "hang"))
        lines.append(f"| {name} | {' | '.join(f'{number:,}' for number in numbers)} |")
    minutes = sum(part["seconds"] for part in body["parts"].values()) / 60
    disks = "small file systems that were mounted" if body["mounted_disks"] else "limits on file sizes"
    return (
        "\n".join(lines)
        + f"\n\nMeasured {body['date']} on {body['machine']}, Python {body['python']}, seed {body['seed']}; "
        f"the parts took {minutes:.0f} minutes together. Full disks were {disks}.\n"
    )


def text(page: str) -> str:
    """The page with its figures renewed."""
    new = BEGIN + figures(json.loads(RESULT.read_text(encoding="utf-8"))) + END
    return re.sub(re.escape(BEGIN) + ".*?" + re.escape(END), lambda _: new, page, flags=re.DOTALL)


if __name__ == "__main__":
    PAGE.write_text(text(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
