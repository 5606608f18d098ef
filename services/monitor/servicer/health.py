"""The checks and their reports."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

from driveflow.monitor.v1 import health_pb2 as pb
from libs import audit, masks, pages
from libs.errors import InvalidArgument
from libs.interceptors import Context
from libs.messages import stamp, time
from services.monitor.health import Health
from services.monitor.messages import health as messages
from services.monitor.model.checks import Verdict
from services.monitor.servicer.desk import Desk
from services.monitor.store import health as store

WATCH_DEFAULT_S = 10


class HealthReports:
    """CheckHealth, ListHealthReports, WatchHealth."""

    def __init__(self, desk: Desk, health: Health) -> None:
        self._desk = desk
        self._health = health

    async def CheckHealth(
        self, request: pb.CheckHealthRequest, context: Context
    ) -> pb.HealthReport:
        unknown = [name for name in request.checks if name not in self._health.names]
        if unknown:
            raise InvalidArgument(
                "CHECK_UNKNOWN",
                f"There is no check {unknown[0]}.",
                fields=[("checks", f"there are {', '.join(sorted(self._health.names))}")],
            )
        return messages.report(await self._health.report(request.checks))

    async def ListHealthReports(
        self, request: pb.ListHealthReportsRequest, context: Context
    ) -> pb.ListHealthReportsResponse:
        paths = masks.paths(request.read_mask, store.FIELDS, store.LIGHT)
        limit = pages.size(request)
        period = (time(request, "time_from") or store.FIRST, time(request, "time_to") or store.LAST)
        last = self._desk.pages.start(request, audit.PLATFORM, [])
        before = (store.LAST, store.LAST_ID)
        if last:
            before = (datetime.fromisoformat(last[0]), uuid.UUID(last[1]))
        async with self._desk.read() as conn:
            rows = await store.list_reports(conn, period, before, limit + 1, paths)
        response = pb.ListHealthReportsResponse(
            health_reports=[_kept(row, paths) for row in rows[:limit]]
        )
        if len(rows) > limit:
            end = rows[limit - 1]
            values = [end["time"].isoformat(), end["id"]]
            response.next_page_token = self._desk.pages.token(request, audit.PLATFORM, values)
        return response

    async def WatchHealth(
        self, request: pb.WatchHealthRequest, context: Context
    ) -> AsyncIterator[pb.HealthReport]:
        while True:
            yield messages.report(await self._health.report())
            await asyncio.sleep(request.interval_seconds or WATCH_DEFAULT_S)


def _kept(row: dict[str, Any], paths: tuple[str, ...]) -> pb.HealthReport:
    fields = {path: row[path] for path in paths}
    if "status" in fields:
        fields["status"] = messages.VERDICTS[Verdict(fields["status"])]
    if "time" in fields:
        fields["time"] = stamp(fields["time"])
    if "checks" in fields:
        fields["checks"] = [messages.recalled(each) for each in fields["checks"]]
    return pb.HealthReport(**fields)
