"""Tables and what they stand on as messages."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any

from driveflow.monitor.v1 import tables_pb2 as pb
from libs.messages import stamp
from services.monitor.model.backups import BackupRun, Backups
from services.monitor.model.capacity import Forecast
from services.monitor.model.partitions import FIRST, LAST, Partition, Partitioned
from services.monitor.model.replication import Replication

TIMES = ("last_vacuum_time", "last_analyze_time")


def table(row: Mapping[str, Any], paths: Collection[str]) -> pb.TableStats:
    """A table, with the fields that are named."""
    fields = {path: row[path] for path in paths}
    fields |= {path: stamp(fields[path]) for path in TIMES if path in fields}
    return pb.TableStats(**fields)


def forecast(of: Forecast) -> pb.Forecast:
    """When one thing runs out."""
    return pb.Forecast(
        resource=of.resource,
        used=of.used,
        limit=of.limit,
        unit=of.unit,
        growth_per_day=None if of.line is None else of.line.per_day,
        days_left=of.days_left,
        fit_r_squared=None if of.line is None else of.line.r_squared,
        snapshots=of.snapshots,
    )


def partitioned(of: Partitioned, now: datetime) -> pb.PartitionedTable:
    """A partitioned table with its runway."""
    return pb.PartitionedTable(
        schema=of.schema,
        table=of.table,
        partitions=[_partition(each) for each in of.partitions],
        runway_end_time=stamp(of.runway_ends(now)),
        runway_days=of.runway_days(now),
        last_analyze_time=stamp(of.analyzed_at),
        default_partition=of.default,
    )


def _partition(of: Partition) -> pb.PartitionStats:
    return pb.PartitionStats(
        partition=of.name,
        start_time=None if of.start == FIRST else stamp(of.start),
        end_time=None if of.end == LAST else stamp(of.end),
        total_bytes=of.total_bytes,
        rows=of.rows,
        detaching=of.detaching,
    )


def replication(of: Replication) -> pb.ReplicationStatus:
    """Replicas and slots."""
    return pb.ReplicationStatus(
        replicas=[
            pb.Replica(
                name=each.name,
                state=each.state,
                sync_state=each.sync_state,
                lag_bytes=each.lag_bytes,
                lag_seconds=each.lag_s,
                client=each.client,
            )
            for each in of.replicas
        ],
        slots=[
            pb.ReplicationSlot(
                name=each.name,
                active=each.active,
                retained_bytes=each.retained_bytes,
                wal_status=each.wal_status,
            )
            for each in of.slots
        ],
        synchronous_standby_names=of.synchronous_standby_names,
    )


def backups(of: Backups, now: datetime) -> pb.BackupStatus:
    """Base backups and the archive."""
    return pb.BackupStatus(
        last_backup=_backup(of.last_done),
        last_run=_backup(of.last),
        backup_age_seconds=of.age_s(now),
        archiving=of.archive.is_on,
        last_archive_time=stamp(of.archive.last_at),
        archived=of.archive.archived,
        archive_failures=of.archive.failures,
        last_archive_failure_time=stamp(of.archive.last_failure_at),
        summary=of.summary(now),
    )


def _backup(of: BackupRun | None) -> pb.BackupRun | None:
    if of is None:
        return None
    return pb.BackupRun(
        id=of.id,
        start_time=stamp(of.started_at),
        end_time=stamp(of.ended_at),
        status=of.status,
        size_bytes=of.size_bytes,
        location=of.location,
        error=of.error,
    )
