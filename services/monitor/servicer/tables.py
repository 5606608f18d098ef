"""Tables and what they stand on: growth, partitions, replicas, backups."""

from __future__ import annotations

from datetime import timedelta

from driveflow.monitor.v1 import tables_pb2 as pb
from libs import audit, masks, pages
from libs.interceptors import Context
from libs.messages import stamp
from services.monitor import tables
from services.monitor.messages import tables as messages
from services.monitor.servicer.desk import Desk
from services.monitor.store import partitions
from services.monitor.store import tables as store

GROWTH_WINDOW = timedelta(days=7)
FORECAST_DAYS = 30
BYTES_MAX = 2**62
CAPACITY = masks.fields(pb.CapacityForecast.DESCRIPTOR)
RUNWAY = {f"tables.{name}": name for name in masks.fields(pb.PartitionedTable.DESCRIPTOR)}
REPLICATION = masks.fields(pb.ReplicationStatus.DESCRIPTOR)
BACKUPS = masks.fields(pb.BackupStatus.DESCRIPTOR)


class Tables:
    """ListTableStats, GetCapacityForecast, GetPartitionRunway, GetReplicationStatus,
    GetBackupStatus.
    """

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def ListTableStats(
        self, request: pb.ListTableStatsRequest, context: Context
    ) -> pb.ListTableStatsResponse:
        paths = masks.paths(request.read_mask, store.FIELDS, tuple(store.FIELDS))
        limit = pages.size(request)
        size, schema, table = self._desk.pages.start(request, audit.PLATFORM, [BYTES_MAX, "", ""])
        since = self._desk.clock() - GROWTH_WINDOW
        async with self._desk.read() as conn:
            rows = await store.list_tables(
                conn, request.schema, since, (size, schema, table), limit + 1, paths
            )
        response = pb.ListTableStatsResponse(
            tables=[messages.table(row, paths) for row in rows[:limit]]
        )
        if len(rows) > limit:
            values = [rows[limit - 1][path] for path in store.KEY]
            response.next_page_token = self._desk.pages.token(request, audit.PLATFORM, values)
        return response

    async def GetCapacityForecast(
        self, request: pb.GetCapacityForecastRequest, context: Context
    ) -> pb.CapacityForecast:
        paths = masks.paths(request.read_mask, CAPACITY, tuple(CAPACITY))
        since = self._desk.clock() - timedelta(days=request.window_days or FORECAST_DAYS)
        async with self._desk.read() as conn:
            found, snapshots = await tables.forecasts(conn, since, self._desk.disk_bytes_max)
        forecast = pb.CapacityForecast(
            forecasts=[messages.forecast(each) for each in found],
            since_time=stamp(snapshots[0].at) if snapshots else None,
        )
        return masks.kept(forecast, paths)

    async def GetPartitionRunway(
        self, request: pb.GetPartitionRunwayRequest, context: Context
    ) -> pb.PartitionRunway:
        paths = masks.paths(request.read_mask, RUNWAY, tuple(RUNWAY))
        sizes = "tables.partitions" in paths
        async with self._desk.read() as conn:
            found = await partitions.list_partitions(conn, sizes=sizes)
        now = self._desk.clock()
        kept = [RUNWAY[path] for path in paths]
        return pb.PartitionRunway(
            tables=[masks.kept(messages.partitioned(each, now), kept) for each in found]
        )

    async def GetReplicationStatus(
        self, request: pb.GetReplicationStatusRequest, context: Context
    ) -> pb.ReplicationStatus:
        paths = masks.paths(request.read_mask, REPLICATION, tuple(REPLICATION))
        status = await tables.replication_status(self._desk, ask="replicas" in paths)
        return masks.kept(messages.replication(status), paths)

    async def GetBackupStatus(
        self, request: pb.GetBackupStatusRequest, context: Context
    ) -> pb.BackupStatus:
        paths = masks.paths(request.read_mask, BACKUPS, tuple(BACKUPS))
        async with self._desk.read() as conn:
            status = await tables.backup_status(conn)
        return masks.kept(messages.backups(status, self._desk.clock()), paths)
