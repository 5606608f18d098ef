"""Base backups and the archive of WAL."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from services.monitor.model.sizes import age

NONE_RECORDED = "none recorded"


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupRun:
    """A base backup, as the job that took it noted."""

    id: str
    started_at: datetime
    ended_at: datetime | None
    status: str
    size_bytes: int
    location: str
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """How archiving WAL goes."""

    is_on: bool
    last_at: datetime | None
    archived: int
    failures: int
    last_failure_at: datetime | None
    since: datetime
    """When the statistics began."""

    def failing_s(self, now: datetime) -> float | None:
        """How old the newest file of the archive is while attempts fail: so much would be lost.

        0 while they succeed; None when nothing is archived by will.
        """
        if not self.is_on:
            return None
        last = self.last_at or self.since
        if self.last_failure_at is None or self.last_failure_at <= last:
            return 0.0
        return max(0.0, (now - last).total_seconds())


@dataclass(frozen=True, slots=True)
class Backups:
    """Both at one time."""

    last_done: BackupRun | None
    last: BackupRun | None
    archive: Archive

    def age_s(self, now: datetime) -> float | None:
        """Of the last base backup that ended well: since it began, for it holds that state."""
        done = self.last_done
        return None if done is None else max(0.0, (now - done.started_at).total_seconds())

    def summary(self, now: datetime) -> str:
        """In a sentence, without a full stop."""
        old_s = self.age_s(now)
        said = NONE_RECORDED if old_s is None else f"base backup {age(old_s)} ago"
        if self.last is not None and self.last.status == "failed":
            said += ", the last attempt failed"
        if not self.archive.is_on:
            return f"{said}, WAL not archived"
        if self.archive.failing_s(now):
            return f"{said}, archiving WAL fails"
        if self.archive.last_at is None:
            return f"{said}, no WAL archived yet"
        return f"{said}, WAL archived {age((now - self.archive.last_at).total_seconds())} ago"
