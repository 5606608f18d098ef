"""What the leader does every five minutes: take snapshots, check, keep the report, fire alerts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from services.monitor.health import Health
from services.monitor.model.checks import Report
from services.monitor.servicer.desk import Desk
from services.monitor.store import health as store

REPORTS_KEPT = timedelta(days=30)
SETTLE = timedelta(seconds=30)
"""At most so long it waits before its first run: services that start with it answer by then."""
Told = Callable[[Report], Awaitable[object]]
"""Hears of each report that is kept."""
Snapshot = Callable[[], Awaitable[object]]


class Schedule:
    """Runs that are due by the reports that are kept: a new leader goes on where the old one was.

    One leader makes one run at a time, so a run that takes longer than the interval skips the next.
    """

    def __init__(
        self,
        desk: Desk,
        health: Health,
        *,
        every: timedelta,
        snapshots: Sequence[Snapshot] = (),
        told: Sequence[Told] = (),
    ) -> None:
        self._desk = desk
        self._health = health
        self._every = every
        self._snapshots = snapshots
        self._told = told
        self._first_at = desk.clock() + min(SETTLE, every)

    async def when_due(self) -> Report | None:
        """Run if the last run was long enough ago; the report, if there is one."""
        now = self._desk.clock()
        if now < self._first_at:
            return None
        async with self._desk.read() as conn:
            last = await store.last_report_at(conn, now)
        if last is not None and now - last < self._every:
            return None
        return await self.run()

    async def run(self) -> Report:
        """Take snapshots, check everything, keep the report, tell of it."""
        for snapshot in self._snapshots:
            await snapshot()
        report = await self._health.report()
        async with self._desk.write() as conn:
            report = replace(report, id=await store.keep_report(conn, report))
        for each in self._told:
            await each(report)
        return report

    async def forget(self) -> None:
        """Delete reports that are older than they are kept."""
        while await self._forget_some(self._desk.clock() - REPORTS_KEPT):
            pass

    async def _forget_some(self, before: datetime) -> int:
        async with self._desk.write() as conn:
            return await store.forget_reports(conn, before)
