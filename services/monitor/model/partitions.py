"""Partitions by time, and until when they lie side by side."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

FIRST = datetime.min.replace(tzinfo=UTC)
LAST = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """A range of time of one table; open ends are FIRST and LAST."""

    name: str
    start: datetime
    end: datetime
    detaching: bool
    """A DETACH was begun and not finished: rows go there no more."""
    total_bytes: int
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Partitioned:
    """A table with its partitions."""

    schema: str
    table: str
    analyzed_at: datetime | None
    default: str
    """Name of the default partition; empty when there is none."""
    partitions: tuple[Partition, ...]

    def runway_ends(self, now: datetime) -> datetime:
        """Until when there is a partition for each row, from now on; now when there is none."""
        return runway_ends(self.partitions, now)

    def runway_days(self, now: datetime) -> float:
        """So long."""
        return (self.runway_ends(now) - now).total_seconds() / 86_400


def runway_ends(partitions: Iterable[Partition], now: datetime) -> datetime:
    """Where the first gap after `now` begins."""
    end = now
    for partition in sorted(partitions, key=lambda each: each.start):
        if partition.start <= end < partition.end and not partition.detaching:
            end = partition.end
    return end
