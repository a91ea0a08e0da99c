"""docs/engines.md says what the code does."""

import re
from pathlib import Path

from hwnas import plugins, schemas
from hwnas.deploy.parity import TOLERANCES

TEXT = (Path(__file__).parents[3] / "docs" / "engines.md").read_text()


def test_tolerances_are_those_of_the_code() -> None:
    for precision, limit in TOLERANCES.items():
        row = next(line for line in TEXT.splitlines() if re.match(rf"\| {precision} \| [\d.]+ \|", line))
        numbers = [float(n) for n in re.findall(r"(?<![\w.])\d+(?:\.\d+)?", row)]
        expected = [limit.error, limit.cosine, 100 * limit.agreement, 100 * limit.drop]
        assert [round(n, 6) for n in numbers] == [round(n, 6) for n in expected]


def test_every_format_and_the_schema_are_named() -> None:
    assert schemas.ENGINE in TEXT
    for name in plugins.names("formats"):
        assert f"| `{name}` |" in TEXT
