"""Backups: what the job noted, how old it is, and an archive that fails."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from driveflow.monitor.v1 import health_pb2
from driveflow.monitor.v1 import tables_pb2 as pb
from services.monitor.model.backups import Archive, Backups
from tests.monitor.serving import Monitor

shared = pytest.mark.asyncio(loop_scope="session")
NOW = datetime.now(UTC)
HOUR = timedelta(hours=1)


async def status(watcher: Monitor) -> pb.BackupStatus:
    return await watcher.stub().GetBackupStatus(pb.GetBackupStatusRequest())


@shared
async def test_a_base_backup_counts_once_it_has_ended_well_and_grows_old(watcher: Monitor) -> None:
    check = await watcher.check("backups")
    assert (check.verdict, check.HasField("figure")) == (health_pb2.VERDICT_OK, False)
    assert check.summary.startswith("None recorded")
    assert (await status(watcher)).summary == "none recorded, WAL not archived"
    with (
        psycopg.connect(watcher.database.dsn("ops"), autocommit=True) as job,
        watcher.admin() as admin,
    ):
        job.execute(
            'INSERT INTO monitor."BackupRun" ("startedAt", location) VALUES (%s, %s)',
            [NOW - 3 * HOUR, "s3://backups/base"],
        )
        try:
            found = await status(watcher)
            assert (found.last_run.status, found.HasField("last_backup")) == ("running", False)
            assert (await watcher.check("backups")).verdict == health_pb2.VERDICT_UNKNOWN
            job.execute(
                'UPDATE monitor."BackupRun" SET status = \'done\', "endedAt" = %s, bytes = 1000000',
                [NOW - 2 * HOUR],
            )
            found = await status(watcher)
            assert found.summary == "base backup 3 h ago, WAL not archived"
            assert (found.last_backup, found.last_backup.size_bytes) == (found.last_run, 1_000_000)
            assert found.backup_age_seconds == pytest.approx(3 * 3_600, abs=600)
            assert (await watcher.check("backups")).verdict == health_pb2.VERDICT_OK
            job.execute(
                'INSERT INTO monitor."BackupRun" ("startedAt", "endedAt", status, error)'
                " VALUES (%s, now(), 'failed', 'no room')",
                [NOW - HOUR],
            )
            watcher.clock.ahead = timedelta(days=3)
            check = await watcher.check("backups")
            assert (check.verdict, round(check.figure)) == (health_pb2.VERDICT_WARNING, 3)
            assert "the last attempt failed" in check.summary
            assert "the last attempt: no room" in check.evidence
        finally:
            admin.execute('DELETE FROM monitor."BackupRun"')


@shared
async def test_the_monitor_can_not_say_itself_that_there_was_a_backup(watcher: Monitor) -> None:
    with (
        psycopg.connect(watcher.database.dsn("monitor"), autocommit=True) as monitor,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        monitor.execute("INSERT INTO monitor.\"BackupRun\" (status) VALUES ('running')")


@shared
async def test_an_archive_that_is_off_is_no_alarm(watcher: Monitor) -> None:
    check = await watcher.check("archive")
    assert (check.verdict, check.HasField("figure")) == (health_pb2.VERDICT_OK, False)


def test_an_archive_fails_from_its_last_success_on() -> None:
    works = Archive(
        is_on=True,
        last_at=NOW - HOUR,
        archived=9,
        failures=1,
        last_failure_at=NOW - 2 * HOUR,
        since=NOW - 9 * HOUR,
    )
    assert works.failing_s(NOW) == 0
    assert replace(works, last_failure_at=NOW).failing_s(NOW) == 3_600
    assert replace(works, last_at=None).failing_s(NOW) == 9 * 3_600
    assert replace(works, last_at=None, last_failure_at=None).failing_s(NOW) == 0
    assert replace(works, is_on=False).failing_s(NOW) is None
    assert Backups(None, None, works).summary(NOW) == "none recorded, WAL archived 60 min ago"
    failing = replace(works, last_failure_at=NOW)
    assert Backups(None, None, failing).summary(NOW) == "none recorded, archiving WAL fails"
