"""Statements about backups."""

from __future__ import annotations

from pathlib import Path

from libs import queries
from libs.orgs import Reader
from services.monitor.model.backups import Archive, BackupRun

SQL = queries.load("monitor", Path(__file__).parents[1] / "queries" / "backups.sql")


async def last_backup(conn: Reader, status: str = "") -> BackupRun | None:
    """The last one with this status; of all without one."""
    row = await (await conn.execute(SQL.last_backup, {"status": status})).fetchone()
    if row is None:
        return None
    id_, started_at, ended_at, found, size_bytes, location, error = row
    return BackupRun(
        id=id_,
        started_at=started_at,
        ended_at=ended_at,
        status=found,
        size_bytes=size_bytes,
        location=location,
        error=error,
    )


async def archiving(conn: Reader) -> Archive:
    row = await (await conn.execute(SQL.archiving)).fetchone()
    if row is None:
        raise ValueError("pg_stat_archiver has one row")
    is_on, last_at, archived, failures, last_failure_at, since = row
    return Archive(
        is_on=is_on,
        last_at=last_at,
        archived=archived,
        failures=failures,
        last_failure_at=last_failure_at,
        since=since,
    )
