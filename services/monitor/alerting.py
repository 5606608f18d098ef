"""Alerts out of reports: what is pending, fires, becomes worse and ends, and who is told."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime, timedelta

from libs.pooling import Connection
from services.monitor.messages import alerts as messages
from services.monitor.model.alerts import Alert, Kind, Step, retired, step
from services.monitor.model.checks import Check, Report
from services.monitor.servicer.desk import Desk
from services.monitor.store import alerts as store
from services.monitor.store import rules

log = logging.getLogger(__name__)

ALERTS_KEPT = timedelta(days=400)
NOTIFICATIONS_KEPT = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class _Told:
    """A change that somebody must hear of."""

    alert: Alert
    kind: Kind
    check: Check | None
    """What it looks like now; None when it is no longer asked."""
    to_sinks: bool


class Alerting:
    """Hears of each report that is kept."""

    def __init__(self, desk: Desk, *, webhook: bool) -> None:
        """`webhook`: whether there is one that delivers what is written for it."""
        self._desk = desk
        self._webhook = webhook

    async def told(self, report: Report) -> None:
        """Take a report of all checks in, in one transaction; then say what changed in the log."""
        changes = []
        async with self._desk.write() as conn:
            await store.lock_alerting(conn)
            known = {rule.name: rule for rule in await rules.all_rules(conn)}
            alerts = await store.unresolved_alerts(conn)
            for check in report.checks:
                name = check.question.name
                alert = alerts.pop(name, None)
                became = step(alert, check, known.get(name), report.at)
                changes += await self._keep(conn, alert, became, check, report.at)
            # What is asked no longer can't be answered any more either.
            for alert in alerts.values():
                became = retired(alert, report.at)
                changes += await self._keep(conn, alert, became, None, report.at)
        for change in changes:
            _say(change)

    async def forget(self) -> None:
        """Delete what is older than it is kept."""
        while await self._forget_some(self._desk.clock()):
            pass

    async def _forget_some(self, now: datetime) -> int:
        async with self._desk.write() as conn:
            alerts = await store.forget_alerts(conn, now - ALERTS_KEPT)
            return alerts + await store.forget_notifications(conn, now - NOTIFICATIONS_KEPT)

    async def _keep(
        self,
        conn: Connection,
        before: Alert | None,
        became: Step,
        check: Check | None,
        at: datetime,
    ) -> list[_Told]:
        """Store what changed, and what is to be told of it; that is in the list."""
        after = became.alert
        if after == before:
            return []
        if after is None:
            if before is not None:
                await store.drop_pending(conn, before.id)
            return []
        stored = await (store.update_alert if before else store.add_alert)(conn, after)
        if became.kind is None:
            return []
        if became.to_sinks and self._webhook:
            payload = messages.notification(stored, became.kind, check)
            await store.add_notification(conn, stored.id, became.kind, payload, at)
        return [_Told(stored, became.kind, check, became.to_sinks)]


def _say(change: _Told) -> None:
    alert = change.alert
    level = logging.INFO if change.kind is Kind.RESOLVED else logging.WARNING
    log.log(
        level,
        "alert %s",
        change.kind.value,
        extra={
            "alert": alert.id,
            "rule": alert.rule,
            "severity": alert.severity.value,
            "summary": alert.summary if change.check is None else change.check.summary,
            "muted": not change.to_sinks,
        },
    )
