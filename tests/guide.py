"""The performance guide's monitoring statements: the project's copy, and the guide itself if it is
there (DRIVEFLOW_GUIDE names its file)."""

from __future__ import annotations

import re
from pathlib import Path

from libs.local.paths import ROOT

COPY = ROOT / "docs" / "guide" / "monitoring.sql"
DATABASE_OF_THE_GUIDE = "driveflow_prod"
PARTS = (
    ("#### **Query Pattern Analysis**", "## Query Optimization"),
    ("## Performance Monitoring", "## Performance Best Practices"),
)
BLOCK = re.compile(r"^```sql\n(.*?)^```$|\$queryRaw[^`]*`(.*?)`", re.MULTILINE | re.DOTALL)


def statements() -> list[str]:
    """Those of the copy, each with the comment before it."""
    text = COPY.read_text().partition("\n\n")[2]
    return _statements(re.sub(r"^-- ### .*\n", "", text, flags=re.MULTILINE))


def statements_of(guide: Path) -> list[str]:
    """Those of the guide's own text, in its blocks of SQL and within its TypeScript."""
    text = guide.read_text()
    parts = [text.partition(first)[2].partition(behind)[0] for first, behind in PARTS]
    blocks = ["".join(block) for part in parts for block in BLOCK.findall(part)]
    return [each for block in blocks for each in _statements(block)]


def title(statement: str) -> str:
    """Its comment in the guide, or what it selects."""
    lines = [line.strip() for line in statement.splitlines()]
    comments = [line.removeprefix("-- ") for line in lines if line.startswith("-- ")]
    return (comments or lines)[0]


def _statements(text: str) -> list[str]:
    found = re.split(r";[ \t]*$", text, flags=re.MULTILINE)
    return [each.strip() for each in found if each.strip()]
