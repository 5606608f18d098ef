"""What runs out: lines through snapshots, sequences near their end, the disk; snapshots that are
taken once an hour and thinned out."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import psycopg
import pytest
from hypothesis import assume, given
from hypothesis import strategies as some

from driveflow.monitor.v1 import health_pb2
from driveflow.monitor.v1 import queries_pb2 as pb_queries
from driveflow.monitor.v1 import tables_pb2 as pb
from services.monitor.model.capacity import Forecast, Line, fitted, soonest_first
from services.monitor.schedule import SETTLE
from tests.monitor.serving import Monitor, serving
from tests.postgres import Database
from tests.waiting import eventually

shared = pytest.mark.asyncio(loop_scope="session")
MB = 1024**2
NOW = datetime.now(UTC)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


def kept(database: Database) -> list[datetime]:
    with psycopg.connect(database.admin_dsn, autocommit=True) as admin:
        rows = admin.execute('SELECT at FROM monitor."CapacitySnapshot" ORDER BY at').fetchall()
    return [at for (at,) in rows]


def keep(database: Database, moments: list[datetime], megabytes_a_day: int = 0) -> None:
    """Snapshots of a database that grew, to about what it has now."""
    with psycopg.connect(database.admin_dsn, autocommit=True) as admin:
        row = admin.execute("SELECT pg_database_size(current_database())").fetchone()
        for at in moments:
            days = (NOW - at) / DAY
            admin.execute(
                'INSERT INTO monitor."CapacitySnapshot" VALUES (%s, %s, %s, %s)',
                [at, row[0] - megabytes_a_day * MB * days, -MB * days, -1_000 * days],  # type: ignore[index]
            )
            admin.execute(
                'INSERT INTO monitor."TableSnapshot" VALUES (%s, %s, %s, 0, 0, 0, 0)',
                [at, "booking", "Booking"],
            )


async def forecasts(monitor: Monitor, days: int = 0) -> dict[str, pb.Forecast]:
    request = pb.GetCapacityForecastRequest(window_days=days)
    found = await monitor.stub().GetCapacityForecast(request)
    return {each.resource: each for each in found.forecasts}


async def test_snapshots_are_taken_once_an_hour_and_old_ones_thinned_out(
    database: Database, tmp_path: Path
) -> None:
    midnight = NOW.replace(hour=0, minute=0, second=0, microsecond=0)
    old = [midnight - 20 * DAY + number * 6 * HOUR for number in range(8)]
    forgotten = [midnight - 401 * DAY, midnight - 500 * DAY]
    new = [NOW - 13 * DAY + number * HOUR for number in range(3)]
    keep(database, [*old, *forgotten, *new])

    async def moments() -> list[datetime]:
        return kept(database)

    async with serving(database, tmp_path, schedule_s=300) as monitor:
        monitor.clock.ahead = SETTLE
        thinned = [old[0], old[4], *new]
        found = await eventually(moments, lambda found: found[:-1] == thinned)
        with monitor.admin() as admin:
            counts = admin.execute(
                'SELECT (SELECT count(*) FROM monitor."TableSnapshot" WHERE at = %s),'
                '       (SELECT count(*) FROM monitor."TableSnapshot" WHERE at = ANY (%s)),'
                '       (SELECT count(*) FROM monitor."SequenceSnapshot" WHERE at = %s)',
                [found[-1], [*old[1:4], *forgotten], found[-1]],
            ).fetchone()
            reports = admin.execute('SELECT count(*) FROM monitor."HealthReport"').fetchone()
        listed = await monitor.stub().ListTableStats(pb.ListTableStatsRequest(page_size=1_000))
        assert counts == (len(listed.tables), 0, 5)
        monitor.clock.ahead = timedelta(minutes=59)

        async def reported() -> int:
            with monitor.admin() as admin:
                row = admin.execute('SELECT count(*) FROM monitor."HealthReport"').fetchone()
            return int(row[0]) if row else 0

        await eventually(reported, lambda count: count > (reports or (0,))[0])
        assert kept(database) == found
        monitor.clock.ahead = timedelta(minutes=65)
        later = await eventually(moments, lambda moments: len(moments) > len(found))
        assert later[:-1] == found


@shared
async def test_a_snapshot_that_is_asked_for_is_taken_before_its_hour(watcher: Monitor) -> None:
    before = set(kept(watcher.database))
    for _ in range(2):
        taken = await watcher.stub().CaptureSnapshot(pb_queries.CaptureSnapshotRequest())
        assert taken.tables > 50
    made = set(kept(watcher.database)) - before
    assert len(made) == 2
    with watcher.admin() as admin:
        admin.execute('DELETE FROM monitor."CapacitySnapshot" WHERE at = ANY (%s)', [[*made]])


async def test_the_disk_is_full_when_the_line_says_so_and_nothing_is_said_too_early(
    database: Database, tmp_path: Path
) -> None:
    with psycopg.connect(database.admin_dsn) as admin:
        row = admin.execute("SELECT pg_database_size(current_database())").fetchone()
    limit = row[0] + 60 * MB  # type: ignore[index]
    async with serving(database, tmp_path, disk_bytes_max=limit) as monitor:
        # The one snapshot of the start is none of these.
        monitor.clock.ahead = timedelta(seconds=1)
        disk = (await forecasts(monitor))["disk"]
        assert (disk.limit, disk.unit) == (limit, "bytes")
        assert disk.used == pytest.approx(row[0], rel=0.1)  # type: ignore[index]
        assert disk.snapshots <= 1
        assert not disk.HasField("growth_per_day")
        assert not disk.HasField("days_left")
        assert not disk.HasField("fit_r_squared")
        check = await monitor.check("disk_growth")
        assert (check.verdict, check.HasField("figure")) == (health_pb2.VERDICT_OK, False)

        keep(database, [NOW - 23 * HOUR, NOW - 20 * HOUR], megabytes_a_day=1_000)
        assert not (await monitor.check("disk_growth")).HasField("figure")

        keep(database, [NOW - days * DAY for days in (2, 3, 4)], megabytes_a_day=10)
        with monitor.admin() as admin:
            admin.execute('DELETE FROM monitor."CapacitySnapshot" WHERE at > %s', [NOW - DAY])
        found = await forecasts(monitor)
        assert found["disk"].growth_per_day == pytest.approx(10 * MB)
        assert found["disk"].days_left == pytest.approx(6, abs=0.2)
        assert found["disk"].fit_r_squared == pytest.approx(1)
        assert found["disk"].snapshots == 3
        assert found["transaction_ids"].growth_per_day == pytest.approx(1_000)
        assert found["transaction_ids"].days_left > 2_000_000
        assert next(iter(found)) == "disk"
        check = await monitor.check("disk_growth")
        assert (check.verdict, round(check.figure)) == (health_pb2.VERDICT_CRITICAL, 6)
        assert "grows by 10 MB a day: enough for 6 days." in check.summary
        assert (await forecasts(monitor, days=1))["disk"].snapshots == 0


@shared
async def test_a_sequence_ends_where_its_column_does_and_is_found_before(watcher: Monitor) -> None:
    with watcher.admin() as admin:
        admin.execute('CREATE TABLE booking."Ticket" (id int)')
        admin.execute('CREATE SEQUENCE booking.tickets AS bigint OWNED BY booking."Ticket".id')
        admin.execute("GRANT SELECT ON SEQUENCE booking.tickets TO monitor")
        try:
            assert (await watcher.check("sequences")).verdict == health_pb2.VERDICT_OK
            for used, verdict in (
                (1_700_000_000, health_pb2.VERDICT_WARNING),
                (2_000_000_000, health_pb2.VERDICT_CRITICAL),
            ):
                admin.execute("SELECT setval('booking.tickets', %s)", [used])
                check = await watcher.check("sequences")
                assert check.verdict == verdict
                assert check.evidence[0] == f'booking."Ticket".id: {used:,} of 2,147,483,647'
            ticket = (await forecasts(watcher))['sequence booking."Ticket".id']
            assert (ticket.used, ticket.limit) == (2_000_000_000, 2**31 - 1)
            admin.execute("ALTER SEQUENCE booking.tickets CYCLE")
            assert (await watcher.check("sequences")).verdict == health_pb2.VERDICT_OK
        finally:
            admin.execute('DROP TABLE booking."Ticket"')


# --- the line ----------------------------------------------------------------------------------

POINTS = some.lists(
    some.tuples(some.integers(0, 400 * 86_400), some.integers(0, 10**13)), min_size=2, max_size=60
)


@given(POINTS)
def test_the_line_is_that_of_least_squares(points: list[tuple[int, int]]) -> None:
    assume(len({second for second, _ in points}) > 1)
    days = np.array([second / 86_400 for second, _ in points])
    values = np.array([float(value) for _, value in points])
    slope, start = np.polyfit(days - days.mean(), values, 1)
    off = float(((values - (slope * (days - days.mean()) + start)) ** 2).sum())
    spread = float(((values - values.mean()) ** 2).sum())
    line = fitted([(NOW + timedelta(seconds=second), value) for second, value in points])
    assert line is not None
    close = 1e-6 * max(1.0, spread**0.5) / float(days.std())
    assert line.per_day == pytest.approx(slope, rel=1e-6, abs=close)
    if spread:
        assert line.r_squared == pytest.approx(1 - off / spread, abs=1e-6)


def test_a_line_needs_two_times_and_a_flat_one_explains_everything() -> None:
    assert fitted([]) is None
    assert fitted([(NOW, 1)]) is None
    assert fitted([(NOW, 1), (NOW, 2)]) is None
    flat = fitted([(NOW, 5), (NOW + DAY, 5), (NOW + 2 * DAY, 5)])
    assert flat is not None
    assert (flat.per_day, flat.r_squared) == (0, 1)


def test_days_are_left_only_of_what_grows_towards_a_limit() -> None:
    grows = fitted([(NOW, 0), (NOW + DAY, 10)])
    shrinks = fitted([(NOW, 10), (NOW + DAY, 0)])

    def days(used: float, limit: float | None, line: Line | None) -> float | None:
        return Forecast(
            resource="",
            unit="",
            used=used,
            limit=limit,
            line=line,
            snapshots=2,
        ).days_left

    assert days(50, 100, grows) == 5
    assert days(100, 100, None) == 0
    assert days(50, None, grows) is None
    assert days(50, 100, shrinks) is None
    assert days(50, 100, None) is None
    order = [
        Forecast(resource=name, unit="", used=used, limit=100, line=line, snapshots=2)
        for name, used, line in (
            ("b", 0, shrinks),
            ("a", 0, None),
            ("c", 50, grows),
            ("d", 90, grows),
        )
    ]
    assert [each.resource for each in soonest_first(order)] == ["d", "c", "a", "b"]
