"""The schedule: one report an interval, whoever leads, kept and listed; reports watched live."""

from __future__ import annotations

from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from google.protobuf.field_mask_pb2 import FieldMask

from driveflow.monitor.v1 import health_pb2 as pb
from services.monitor.__main__ import Settings, assemble
from tests.monitor.serving import Monitor, keep_reports, serving
from tests.postgres import Database
from tests.serving import Clock, at, common_settings
from tests.tracking.stories import refused
from tests.waiting import eventually

EVERY = timedelta(minutes=5)
MOMENT = datetime(2027, 3, 1, 12, tzinfo=UTC)


async def reports(monitor: Monitor, **wanted: object) -> list[pb.HealthReport]:
    request = pb.ListHealthReportsRequest(**wanted)  # type: ignore[arg-type]
    return [*(await monitor.stub().ListHealthReports(request)).health_reports]


async def test_a_report_is_kept_each_interval_by_one_of_two_monitors(
    database: Database, tmp_path: Path
) -> None:
    async with (
        serving(database, tmp_path, schedule_s=300) as first,
        serving(database, tmp_path, schedule_s=300, key=first.key) as second,
    ):
        first.clock.set(MOMENT)
        second.clock.set(MOMENT)
        await eventually(lambda: reports(first), lambda found: len(found) >= 1)
        before = len(await reports(first))
        for monitor in (first, second):
            monitor.clock.ahead += EVERY
        found = await eventually(lambda: reports(second), lambda found: len(found) > before)
        assert len(found) == before + 1
        assert [each.id for each in found] == [each.id for each in await reports(first)]


async def test_a_report_is_not_made_before_its_time_and_a_clock_put_back_stops_none(
    database: Database, tmp_path: Path
) -> None:
    keep_reports(database, MOMENT + timedelta(days=2))
    async with serving(database, tmp_path, schedule_s=300) as monitor:
        monitor.clock.set(MOMENT)
        found = await eventually(
            lambda: reports(monitor, time_to=at(MOMENT + timedelta(days=1))),
            lambda found: len(found) == 1,
        )
        assert not found[0].checks  # heavy: only when asked for
        (whole,) = await reports(
            monitor,
            time_to=at(MOMENT + timedelta(days=1)),
            read_mask=FieldMask(paths=["checks", "time"]),
        )
        assert whole.checks[0].summary
        assert not whole.id


async def test_a_clock_that_was_put_back_has_runs_come_at_once_and_then_in_their_time(
    database: Database, tmp_path: Path
) -> None:
    clock = Clock()
    keep_reports(database, clock() + timedelta(days=2))
    async with AsyncExitStack() as stack:
        settings = Settings(**common_settings(tmp_path), dsn=database.dsn("monitor"))
        schedule = (await assemble(settings, stack, clock)).schedule
        clock.ahead = timedelta(minutes=1)
        runs = []
        for after in (timedelta(0), timedelta(0), EVERY / 2, EVERY):
            clock.ahead += after
            runs.append(await schedule.when_due() is not None)
        assert runs == [True, False, False, True]


async def test_reports_go_by_pages_latest_first_and_old_ones_are_forgotten(
    database: Database, tmp_path: Path
) -> None:
    now = datetime.now(UTC)
    keep_reports(database, *(now - timedelta(days=day) for day in (1, 2, 3, 31, 400)))
    async with serving(database, tmp_path, schedule_s=10**9) as monitor:
        stub = monitor.stub()
        await eventually(lambda: reports(monitor), lambda found: len(found) == 3)
        first = await stub.ListHealthReports(pb.ListHealthReportsRequest(page_size=2))
        request = pb.ListHealthReportsRequest(page_size=2, page_token=first.next_page_token)
        second = await stub.ListHealthReports(request)
        times = [
            each.time.ToDatetime(UTC) for each in (*first.health_reports, *second.health_reports)
        ]
        assert times == sorted(times, reverse=True)
        assert (len(times), second.next_page_token) == (3, "")
        for forged in (first.next_page_token[:-4] + "AAAA", "x"):
            asked = stub.ListHealthReports(pb.ListHealthReportsRequest(page_token=forged))
            assert (await refused(asked)).reason == "PAGE_TOKEN_INVALID"


async def test_health_is_watched_until_the_watcher_leaves(monitor: Monitor) -> None:
    call = monitor.stub().WatchHealth(pb.WatchHealthRequest(interval_seconds=1))
    first: Any = await call.read()
    second: Any = await call.read()
    call.cancel()
    assert first.time.ToDatetime() < second.time.ToDatetime()
    assert {check.name for check in first.checks} == {check.name for check in second.checks}
