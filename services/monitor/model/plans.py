"""Plans: by which indexes a statement goes, and what that says of the index made for it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from libs.bootstrap import SERVICES
from services.monitor.model.texts import scrubbed

SMALL_ROWS, SMALL_PAGES = 1_000, 64
"""Below either, reading all of a table is as good as an index, and one index as another."""
ROLES: Mapping[str, str] = {
    **{service: service for service in SERVICES},
    "tracking_ingest": "tracking",
}
"""Whose statements can be explained, and the schema whose function does it."""
_CONDITION = re.compile(r"^(\s*(?:[A-Z][\w-]* )*[A-Z]?[\w-]+: )(?!\d+$)(.*)$")


class PlanVerdict(StrEnum):
    """What a plan says of an index."""

    USED = "used"
    SMALL_TABLE = "small_table"
    NOT_USED = "not_used"
    NOT_SEEN = "not_seen"
    INDEX_MISSING = "index_missing"
    FAILED = "failed"


WHOLE = "reads all of it"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanCheck:
    """A line of the ledger, and what was last found."""

    schema: str
    index: str
    table: str
    rpc: str
    query: str
    """Empty where people alone ask by the index."""
    verdict: PlanVerdict | None
    """None: never looked at."""
    detail: str
    query_id: int
    checked_at: datetime | None
    last_used_at: datetime | None

    @property
    def is_bad(self) -> bool:
        """Whether the index is missing, was left, or all of a large table is read.

        Where many schools have few rows each, another index may be as good from the beginning.
        """
        if self.verdict is PlanVerdict.NOT_USED:
            return self.last_used_at is not None or WHOLE in self.detail
        return self.verdict is PlanVerdict.INDEX_MISSING


@dataclass(frozen=True, slots=True)
class IndexState:
    """An index that is there."""

    valid: bool
    rows: int
    """Of its table; of the largest part of a partitioned one."""
    pages: int

    @property
    def is_small(self) -> bool:
        """Whether the planner may well do without."""
        return self.rows < SMALL_ROWS or self.pages < SMALL_PAGES


@dataclass(frozen=True, slots=True)
class Read:
    """A step of a plan that reads a table or an index."""

    table: str
    """Of a partition its own name."""
    index: str
    """Empty where the table itself is read through."""


def reads(plan: Mapping[str, Any], table: str = "") -> Iterator[Read]:
    """Those steps at a node of EXPLAIN's JSON and below it."""
    # The index of a bitmap does not say whose it is; the step above does.
    table = plan.get("Relation Name", table)
    if "Index Name" in plan or plan["Node Type"] == "Seq Scan":
        yield Read(table, plan.get("Index Name", ""))
    for below in plan.get("Plans", ()):
        yield from reads(below, table)


def indexes(plan: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the indexes that a plan goes by, by name."""
    return tuple(sorted({read.index for read in reads(plan) if read.index}))


def instead(plan: Mapping[str, Any], table: str) -> str:
    """How a plan reads a table, or the partitions of one."""
    of_table = [r for r in reads(plan) if r.table == table or r.table.startswith(f"{table}_")]
    names = sorted({read.index for read in of_table if read.index})
    parts = [f"goes by {', '.join(names)}"] if names else []
    parts += [WHOLE] if any(not read.index for read in of_table) else []
    return ", ".join(parts) or "does not read it"


def shown(line: str) -> str:
    """A line of a plan without values: what stands in conditions is scrubbed."""
    found = _CONDITION.match(line)
    return found[1] + scrubbed(found[2]) if found else line
