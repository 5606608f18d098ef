"""Tables: size, growth, dead rows and upkeep, and the checks of them, on tables that are in a bad
way indeed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from driveflow.monitor.v1 import health_pb2
from driveflow.monitor.v1 import tables_pb2 as pb
from services.monitor.checks import tables as checks
from tests.monitor.serving import Monitor
from tests.tracking.stories import refused

pytestmark = pytest.mark.asyncio(loop_scope="session")


@contextmanager
def table(
    watcher: Monitor, name: str, columns: str, options: str = ""
) -> Iterator[psycopg.Connection]:
    """A table of schema booking for one test, and a superuser's session to mistreat it with."""
    with watcher.admin() as admin:
        admin.execute(f'CREATE TABLE booking."{name}" ({columns}) {options}'.encode())
        try:
            yield admin
        finally:
            admin.execute(f'DROP TABLE booking."{name}" CASCADE'.encode())


def run(admin: psycopg.Connection, *statements: str) -> None:
    """Run them, and have the statistics of each told before the next."""
    for statement in statements:
        admin.execute(statement.encode())
        admin.execute("SELECT pg_stat_force_next_flush()")


async def stats(watcher: Monitor, name: str, *paths: str) -> pb.TableStats:
    mask = FieldMask(paths=[*paths, "table"] if paths else [])
    request = pb.ListTableStatsRequest(page_size=1_000, read_mask=mask)
    found = (await watcher.stub().ListTableStats(request)).tables
    (one,) = (each for each in found if each.table == name)
    return one


async def test_a_table_has_its_size_its_rows_and_when_it_was_seen_to(watcher: Monitor) -> None:
    with table(watcher, "Kept", "id int PRIMARY KEY", "WITH (autovacuum_enabled = false)") as admin:
        run(
            admin,
            'INSERT INTO booking."Kept" SELECT generate_series(1, 1000)',
            'DELETE FROM booking."Kept" WHERE id <= 100',
        )
        kept = await stats(watcher, "Kept")
        assert (kept.schema, kept.live_rows, kept.dead_rows, kept.dead_percent) == (
            "booking", 900, 100, 10.0,
        )  # fmt: skip
        assert kept.changed_since_analyze == 1_100
        assert not kept.HasField("last_vacuum_time")
        assert not kept.HasField("last_analyze_time")
        assert not kept.HasField("growth_bytes_per_day")
        sizes = "pg_total_relation_size(oid), pg_table_size(oid), pg_indexes_size(oid)"
        row = admin.execute(f"SELECT {sizes} FROM pg_class WHERE relname = 'Kept'").fetchone()
        assert (kept.total_bytes, kept.table_bytes, kept.index_bytes) == row
        run(admin, 'VACUUM ANALYZE booking."Kept"', 'SELECT FROM booking."Kept"')
        kept = await stats(watcher, "Kept")
        assert (kept.dead_rows, kept.changed_since_analyze) == (0, 0)
        assert kept.last_vacuum_time.seconds > 0
        assert kept.last_analyze_time.seconds > 0
        assert kept.sequential_scans >= 1


async def test_partitions_are_summed_under_their_parent_whose_own_analyze_counts(
    watcher: Monitor,
) -> None:
    with watcher.admin() as admin:
        run(admin, 'ANALYZE tracking."TripPoint"')
        row = admin.execute(
            "SELECT count(*), sum(pg_total_relation_size(inhrelid)) FROM pg_inherits"
            " WHERE inhparent = 'tracking.\"TripPoint\"'::regclass"
        ).fetchone()
        analyzed = admin.execute(
            "SELECT pg_stat_get_last_analyze_time('tracking.\"TripPoint\"'::regclass)"
        ).fetchone()
    points = await stats(watcher, "TripPoint")
    assert (points.partitions, points.total_bytes) == row
    assert points.last_analyze_time.ToMicroseconds() == int(analyzed[0].timestamp() * 1e6)  # type: ignore[index]
    assert 0 < points.frozen_xid_age < 2**31 - 1


async def test_all_tables_of_the_services_are_listed_page_by_page_largest_first(
    watcher: Monitor,
) -> None:
    stub = watcher.stub()
    request = pb.ListTableStatsRequest(page_size=7)
    found: list[pb.TableStats] = []
    while True:
        page = await stub.ListTableStats(request)
        found += page.tables
        request.page_token = page.next_page_token
        if not page.next_page_token:
            break
    with watcher.admin() as admin:
        wanted = admin.execute(
            "SELECT relnamespace::regnamespace::text, relname::text FROM pg_class"
            " WHERE relkind IN ('r', 'm', 'p') AND NOT relispartition AND relnamespace"
            "   = ANY ('{booking,payments,tracking,monitor}'::regnamespace[])"
        ).fetchall()
    assert sorted((each.schema, each.table) for each in found) == sorted(wanted)
    assert [each.total_bytes for each in found] == sorted(
        (each.total_bytes for each in found), reverse=True
    )
    of_one = await stub.ListTableStats(pb.ListTableStatsRequest(schema="tracking"))
    assert {each.schema for each in of_one.tables} == {"tracking"}


async def test_a_mask_chooses_figures_and_an_unknown_one_is_refused(watcher: Monitor) -> None:
    found = await stats(watcher, "Booking", "partitions")
    assert found == pb.TableStats(table="Booking")
    request = pb.ListTableStatsRequest(read_mask=FieldMask(paths=["nonsense"]))
    assert (await refused(watcher.stub().ListTableStats(request))).reason == "READ_MASK_INVALID"


async def test_a_table_that_is_locked_holds_no_answer_up(watcher: Monitor) -> None:
    with (
        table(watcher, "Locked", "id int PRIMARY KEY") as admin,
        watcher.admin() as locking,
        locking.transaction(),
    ):
        run(admin, 'INSERT INTO booking."Locked" SELECT generate_series(1, 1000)')
        run(admin, 'VACUUM ANALYZE booking."Locked"')
        before = await stats(watcher, "Locked")
        locking.execute('LOCK TABLE booking."Locked" IN ACCESS EXCLUSIVE MODE')
        found = await stats(watcher, "Locked")
        assert (found.live_rows, found.index_bytes) == (1_000, before.index_bytes)
        assert 0 < found.table_bytes <= before.table_bytes
        for name in ("dead_rows", "vacuum", "statistics", "wraparound", "disk_growth"):
            assert (await watcher.check(name)).verdict == health_pb2.VERDICT_OK, name


async def test_growth_is_the_slope_of_a_week_of_snapshots_that_span_a_day(watcher: Monitor) -> None:
    with table(watcher, "Growing", "id int") as admin:
        snapshots(admin, "Growing", hours=20)
        growing = await stats(watcher, "Growing", "growth_bytes_per_day")
        assert not growing.HasField("growth_bytes_per_day")
        snapshots(admin, "Growing", hours=6 * 24)
        growing = await stats(watcher, "Growing", "growth_bytes_per_day")
        assert growing.growth_bytes_per_day == pytest.approx(24_000_000)
        admin.execute('DELETE FROM monitor."CapacitySnapshot" WHERE "databaseBytes" = 1')


def snapshots(admin: psycopg.Connection, name: str, hours: int) -> None:
    """Of a table that grows by a megabyte an hour."""
    admin.execute('DELETE FROM monitor."CapacitySnapshot" WHERE "databaseBytes" = 1')
    admin.execute(
        'INSERT INTO monitor."CapacitySnapshot" (at, "databaseBytes", "walBytes", "transactionIds")'
        " SELECT now() - hour * '1 hour'::interval, 1, 1, 1 FROM generate_series(0, %s) AS hour",
        [hours],
    )
    admin.execute(
        'INSERT INTO monitor."TableSnapshot"'
        " SELECT at, 'booking', %s, 1000000000 - extract(epoch FROM now() - at) / 3600 * 1000000,"
        '        0, 0, 0 FROM monitor."CapacitySnapshot" WHERE "databaseBytes" = 1',
        [name],
    )


async def test_dead_rows_are_found_at_once_and_a_vacuum_that_is_due_for_an_hour(
    watcher: Monitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    with table(watcher, "Bloated", "id int", "WITH (autovacuum_enabled = false)") as admin:
        run(
            admin,
            'INSERT INTO booking."Bloated" SELECT generate_series(1, 30000)',
            'VACUUM ANALYZE booking."Bloated"',
            'DELETE FROM booking."Bloated" WHERE id <= 15000',
        )
        dead = await watcher.check("dead_rows")
        assert (dead.verdict, dead.figure) == (health_pb2.VERDICT_WARNING, 1)
        assert dead.evidence[0].startswith('booking."Bloated": 15,000 of 30,000 rows are dead')
        assert not await named(watcher, "vacuum", "Bloated")
        # Ages are the server's own, so the hour is shortened rather than the clock put forward.
        monkeypatch.setattr(checks, "OVERDUE_AFTER_S", 0.0)
        assert await named(watcher, "vacuum", "Bloated") == [
            'booking."Bloated": 15,000 dead rows, due at 6,050, vacuumed 0 s ago; autovacuum is off'
            " for it"
        ]
        assert (await watcher.check("vacuum")).verdict == health_pb2.VERDICT_WARNING
        run(admin, 'VACUUM booking."Bloated"')
        assert (await watcher.check("dead_rows")).verdict == health_pb2.VERDICT_OK
        assert not await named(watcher, "vacuum", "Bloated")


async def named(watcher: Monitor, check: str, name: str) -> list[str]:
    """The lines of a check's evidence that speak of a table."""
    return [line for line in (await watcher.check(check)).evidence if f'"{name}"' in line]


async def test_statistics_are_old_after_many_changes_and_of_a_parent_after_a_day(
    watcher: Monitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    with table(watcher, "Changed", "id int", "WITH (autovacuum_enabled = false)") as admin:
        run(
            admin,
            'INSERT INTO booking."Changed" SELECT generate_series(1, 1000)',
            'ANALYZE booking."Changed"',
            'ANALYZE tracking."TripPoint"',
            'UPDATE booking."Changed" SET id = -id',
        )
        assert not await named(watcher, "statistics", "Changed")
        monkeypatch.setattr(checks, "OVERDUE_AFTER_S", 0.0)
        assert await named(watcher, "statistics", "Changed") == [
            'booking."Changed": 1,000 rows changed, analyzed 0 s ago; autovacuum is off for it'
        ]
        assert not await named(watcher, "statistics", "TripPoint")
        run(admin, 'ANALYZE booking."Changed"')
        assert not await named(watcher, "statistics", "Changed")
    monkeypatch.setattr(checks, "PARENTS_STALE_AFTER_S", 0.0)
    assert await named(watcher, "statistics", "TripPoint") == [
        'tracking."TripPoint": parent of partitions, analyzed 0 s ago'
    ]


async def test_wraparound_tells_the_share_of_ids_of_the_oldest_database(watcher: Monitor) -> None:
    with watcher.admin() as admin:
        row = admin.execute("SELECT max(age(datfrozenxid)) FROM pg_database").fetchone()
    check = await watcher.check("wraparound")
    assert check.figure == pytest.approx(100 * row[0] / 2**31, rel=0.2)  # type: ignore[index]
    assert check.verdict == health_pb2.VERDICT_OK
    assert len(check.evidence) == 4
