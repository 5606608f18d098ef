"""Alerts that have fired."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from datetime import datetime

from driveflow.monitor.v1 import alerts_pb2 as pb
from libs import audit, calls, errors, idempotency, masks, pages
from libs.errors import Unavailable
from libs.interceptors import Context
from services.monitor.messages import alerts as messages
from services.monitor.model.alerts import Alert
from services.monitor.servicer.desk import Desk
from services.monitor.store import alerts as store
from services.monitor.store.health import LAST, LAST_ID

FIELDS = masks.fields(pb.Alert.DESCRIPTOR)
LOOK_EVERY_S = 1.0
LATELY_S = 60.0
"""A change is looked for so long: far longer than a transaction of the monitor's may take."""


class Alerts:
    """ListAlerts, AcknowledgeAlert, WatchAlerts."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._watched = Watched(desk)

    async def ListAlerts(
        self, request: pb.ListAlertsRequest, context: Context
    ) -> pb.ListAlertsResponse:
        paths = masks.paths(request.read_mask, FIELDS, tuple(FIELDS))
        limit = pages.size(request)
        last = self._desk.pages.start(request, audit.PLATFORM, [])
        before = (LAST, LAST_ID)
        if last:
            before = (datetime.fromisoformat(last[0]), uuid.UUID(last[1]))
        state = messages.STATES[request.state]
        async with self._desk.read() as conn:
            alerts = await store.list_alerts(conn, state, request.rule, before, limit + 1)
        response = pb.ListAlertsResponse(
            alerts=[masks.kept(messages.alert(alert), paths) for alert in alerts[:limit]]
        )
        if len(alerts) > limit:
            end = alerts[limit - 1]
            values = [(end.fired_at or LAST).isoformat(), end.id]
            response.next_page_token = self._desk.pages.token(request, audit.PLATFORM, values)
        return response

    async def AcknowledgeAlert(
        self, request: pb.AcknowledgeAlertRequest, context: Context
    ) -> pb.Alert:
        by = calls.caller().subject
        async with self._desk.write() as conn:
            answer = await idempotency.recall(conn, audit.PLATFORM, request, pb.Alert)
            if answer is not None:
                return answer
            alert = await store.lock_alert(conn, request.alert_id)
            if alert is None:
                raise errors.not_found("alert", request.alert_id)
            if (alert.acknowledged_by, alert.note) != (by, request.note):
                now = self._desk.clock()
                alert = await store.acknowledge_alert(conn, alert.id, by, now, request.note)
                note = {"note": request.note}
                await audit.record(
                    conn, audit.PLATFORM, "alert", alert.id, "acknowledge", after=note
                )
            answer = messages.alert(alert)
            await idempotency.remember(conn, audit.PLATFORM, request, answer)
        return answer

    async def WatchAlerts(
        self, request: pb.WatchAlertsRequest, context: Context
    ) -> AsyncIterator[pb.Alert]:
        alerts = await self._watched.now()
        for alert in alerts:
            if alert.resolved_at is None:
                yield messages.alert(alert)
        looked_at = time.monotonic()
        while True:
            seen = {alert.id: alert.version for alert in alerts}
            await asyncio.sleep(LOOK_EVERY_S)
            if time.monotonic() - looked_at > LATELY_S / 2:
                raise Unavailable(
                    "STREAM_TOO_OLD", "The caller reads too slowly: watch again.", retry_after_s=0
                )
            looked_at = time.monotonic()
            alerts = await self._watched.now()
            for alert in alerts:
                if seen.get(alert.id) != alert.version:
                    yield messages.alert(alert)


class Watched:
    """What watchers compare: the open alerts and those that changed lately, read once for all.

    No position in a list of changes is kept, which a slow commit could slip behind: each look sees
    everything that may have changed since the last one, in whatever order it was committed.
    """

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._reading = asyncio.Lock()
        self._alerts: list[Alert] = []
        self._read_at = float("-inf")

    async def now(self) -> list[Alert]:
        """As they are, or were less than a second ago."""
        async with self._reading:
            if time.monotonic() - self._read_at >= LOOK_EVERY_S:
                async with self._desk.read() as conn:
                    self._alerts = await store.watched_alerts(conn, LATELY_S)
                self._read_at = time.monotonic()
            return self._alerts
