"""Indexes: used, unused, large, broken, missing; each condition is made and seen to go."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

import psycopg
import pytest
import pytest_asyncio
from google.protobuf.field_mask_pb2 import FieldMask
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from driveflow.monitor.v1 import health_pb2
from driveflow.monitor.v1 import indexes_pb2 as pb
from libs import pooling
from libs.bootstrap import SERVICES
from libs.orgs import Orgs
from libs.pages import Pages
from services.monitor.__main__ import Settings
from services.monitor.backlogs import AskingBacklogs
from services.monitor.checks import indexes as checks
from services.monitor.replicas import Replicas
from services.monitor.scraping import Scraping
from services.monitor.servicer.desk import Desk
from services.monitor.usage import capture_indexes
from tests.monitor.replica import following
from tests.monitor.rules import warning_at
from tests.monitor.serving import Monitor, serving
from tests.serving import common_settings
from tests.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")

T = TypeVar("T")
COUNTED = "SELECT pg_stat_force_next_flush()"
"""Otherwise what a session did is counted when it has been idle for a while."""
WARNING, OK = health_pb2.VERDICT_WARNING, health_pb2.VERDICT_OK
BIG = """
CREATE TABLE booking.probe (
  id int PRIMARY KEY, parent int REFERENCES booking.probe, name text, note text
);
INSERT INTO booking.probe SELECT k, NULL, 'n' || k, 'same' FROM generate_series(1, 12000) AS k;
CREATE INDEX probe_parent ON booking.probe (parent);
ANALYZE booking.probe
"""


@contextmanager
def probe(monitor: Monitor) -> Iterator[psycopg.Connection]:
    """A table of 12,000 rows, and the superuser's session to do what one likes with it."""
    with monitor.admin() as admin:
        admin.execute(BIG)
        admin.execute(COUNTED)
        try:
            yield admin
        finally:
            admin.execute('DROP TABLE booking.probe; DELETE FROM monitor."IndexSnapshot"')


@pytest.fixture
def table(watcher: Monitor) -> Iterator[psycopg.Connection]:
    with probe(watcher) as admin:
        yield admin


@pytest_asyncio.fixture(loop_scope="session")
async def desk(watcher: Monitor, tmp_path: Path) -> AsyncIterator[Desk]:
    """What the schedule works with."""
    dsn = watcher.database.dsn("monitor")
    settings = Settings(**common_settings(tmp_path), dsn=dsn)
    async with pooling.create("monitor", dsn, settings, min_size=1) as pool:
        yield Desk(
            orgs=Orgs(pool),
            pages=Pages(b"k" * 32),
            scraping=Scraping([], watcher.clock),
            backlogs=AskingBacklogs({}),
            replicas=Replicas({}),
            clock=watcher.clock,
        )


def scan(dsn: str, statement: str) -> None:
    """Run a statement by index, and have it counted."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("SET enable_seqscan = off; SET enable_bitmapscan = off")
        conn.execute(statement)
        conn.execute(COUNTED)


async def listed(monitor: Monitor, **asked: object) -> dict[str, pb.IndexUsage]:
    request = pb.ListIndexUsageRequest(page_size=1_000, **asked)  # type: ignore[arg-type]
    found = await monitor.stub().ListIndexUsage(request)
    return {index.index: index for index in found.indexes}


async def unused(monitor: Monitor, **asked: object) -> pb.ListUnusedIndexesResponse:
    request = pb.ListUnusedIndexesRequest(page_size=1_000, **asked)  # type: ignore[arg-type]
    return await monitor.stub().ListUnusedIndexes(request)


async def health(monitor: Monitor, *paths: str) -> pb.IndexHealth:
    request = pb.GetIndexHealthRequest(read_mask=FieldMask(paths=paths))
    return await monitor.stub().GetIndexHealth(request)


async def until(ask: Callable[[], Awaitable[T]], holds: Callable[[T], bool]) -> T:
    """The first answer of which it holds."""
    async with asyncio.timeout(10):
        while not holds(answer := await ask()):  # noqa: ASYNC110 (PostgreSQL tells nobody)
            await asyncio.sleep(0.01)
    return answer


# --- usage and sizes ---------------------------------------------------------------------------


async def test_scans_of_partitions_are_summed_under_the_parents_index(watcher: Monitor) -> None:
    name = "idx_trip_point_trip_ts"
    before = (await listed(watcher, table="TripPoint"))[name]
    scan(
        watcher.database.admin_dsn,
        'SELECT FROM tracking."TripPoint" WHERE "tripId" = gen_random_uuid() AND ts > now()',
    )
    after = (await listed(watcher, schema="tracking"))[name]
    assert before.partitions == after.partitions > 1
    assert after.scans > before.scans + 1
    assert after.last_scan_time.ToDatetime(UTC) > datetime.now(UTC) - timedelta(seconds=10)
    assert (after.table, after.constraint) == ("TripPoint", True)
    assert "TrackingService/ListTripPoints" in str(after.needed_by)
    assert after.definition.startswith("CREATE UNIQUE INDEX idx_trip_point_trip_ts ON ONLY")
    assert not any(index.startswith("TripPoint_2") for index in await listed(watcher))


async def test_indexes_come_in_pages_most_scans_first_with_the_wanted_fields_alone(
    watcher: Monitor,
) -> None:
    request = pb.ListIndexUsageRequest(page_size=70, read_mask=FieldMask(paths=["index", "scans"]))
    found: list[pb.IndexUsage] = []
    while True:
        page = await watcher.stub().ListIndexUsage(request)
        assert len(page.indexes) <= 70
        found += page.indexes
        request.page_token = page.next_page_token
        if not page.next_page_token:
            break
    assert [index.scans for index in found] == sorted((i.scans for i in found), reverse=True)
    assert {field.name for index in found for field, _ in index.ListFields()} == {"index", "scans"}


async def test_the_largest_indexes_come_first_beside_the_size_of_their_table(
    watcher: Monitor, table: psycopg.Connection
) -> None:
    table.execute("CREATE INDEX probe_name ON booking.probe (name, note)")
    sizes = "SELECT pg_relation_size('booking.probe_name'), pg_table_size('booking.probe')"
    row = table.execute(sizes).fetchone()
    found = await watcher.stub().ListIndexSizes(pb.ListIndexSizesRequest(page_size=1))
    (largest,) = found.indexes
    assert (largest.size_bytes, largest.table_bytes) == row
    assert (largest.index, largest.size[-2:]) == ("probe_name", "kB")
    assert found.next_page_token


# --- unused ------------------------------------------------------------------------------------


async def test_nothing_is_called_unused_while_the_statistics_are_young(watcher: Monitor) -> None:
    found = await unused(watcher)
    assert not found.indexes
    assert found.undecided.startswith("Use has been counted for")
    assert found.undecided.endswith("ask again when that is 14 days.")
    check = await watcher.check("unused_indexes")
    assert (check.verdict, check.HasField("figure")) == (OK, False)


async def test_an_old_index_that_nobody_scans_is_unused_and_a_new_or_a_needed_one_is_not(
    watcher: Monitor, table: psycopg.Connection, desk: Desk
) -> None:
    since = (await unused(watcher)).statistics.since_time.ToDatetime(UTC)
    table.execute("CREATE INDEX probe_idle ON booking.probe (name)")
    table.execute("CREATE INDEX probe_busy ON booking.probe (note, name)")
    table.execute("CREATE UNIQUE INDEX probe_rule ON booking.probe (name, id)")
    table.execute('DELETE FROM monitor."IndexSnapshot"')
    captured = await capture_indexes(desk, since - timedelta(days=20))
    row = table.execute(
        "SELECT count(*) FROM pg_class WHERE relkind IN ('i', 'I') AND NOT relispartition"
        " AND relnamespace = ANY (%s::regnamespace[])",
        [list(SERVICES)],
    )
    assert row.fetchone() == (captured,)
    table.execute("CREATE INDEX probe_young ON booking.probe (id, name)")
    assert await capture_indexes(desk, since + timedelta(hours=1)) == captured + 1
    scan(watcher.database.admin_dsn, "SELECT name FROM booking.probe WHERE note = 'x'")

    watcher.clock.set(since + timedelta(days=14))
    found = await unused(watcher)
    names = [index.index for index in found.indexes]
    assert found.undecided == ""
    assert "probe_idle" in names
    assert not {"probe_busy", "probe_rule", "probe_young", "probe_pkey"} & set(names)
    assert [i.size_bytes for i in found.indexes] == sorted(
        (i.size_bytes for i in found.indexes), reverse=True
    )
    check = await watcher.check("unused_indexes")
    assert check.figure >= 1
    assert any(line.startswith("booking.probe_idle: ") for line in check.evidence)

    # Whatever was never scanned, however small and young: a guide's index with what would lose it.
    never = {
        each.index: each for each in (await unused(watcher, min_age_days=0, min_bytes=0)).indexes
    }
    assert {"probe_idle", "probe_young", "idx_payout_instructor_created"} <= never.keys()
    assert "probe_busy" not in never
    assert never["idx_payout_instructor_created"].needed_by == [
        "driveflow.payments.v1.PaymentService/ListPayouts"
    ]
    table.execute("DROP INDEX booking.probe_idle")
    assert "probe_idle" not in [index.index for index in (await unused(watcher)).indexes]


async def test_a_day_keeps_its_first_counters_and_an_index_made_anew_is_new(
    watcher: Monitor, table: psycopg.Connection, desk: Desk
) -> None:
    at = datetime(2031, 3, 1, 12, tzinfo=UTC)
    kept = (
        'SELECT "firstSeenAt", scans FROM monitor."IndexSnapshot"'
        " WHERE index = 'probe_parent' AND day = %s"
    )
    await capture_indexes(desk, at)
    scan(watcher.database.admin_dsn, "SELECT FROM booking.probe WHERE parent = 1")
    await capture_indexes(desk, at + timedelta(hours=1))
    assert table.execute(kept, [at.date()]).fetchone() == (at, 0)
    tomorrow = at + timedelta(days=1)
    await capture_indexes(desk, tomorrow)
    assert table.execute(kept, [tomorrow.date()]).fetchone() == (at, 1)
    told = await watcher.stub().ListIndexUsage(
        pb.ListIndexUsageRequest(table="probe", read_mask=FieldMask(paths=["index", "days"]))
    )
    (listed,) = (each.days for each in told.indexes if each.index == "probe_parent")
    assert [(each.date.day, each.scans) for each in listed] == [(at.day, 0), (tomorrow.day, 1)]
    assert all(each.size_bytes > 0 for each in listed)
    plain = await watcher.stub().ListIndexUsage(pb.ListIndexUsageRequest(table="probe"))
    assert not any(each.days for each in plain.indexes)
    table.execute("DROP INDEX booking.probe_parent")
    table.execute("CREATE INDEX probe_parent ON booking.probe (parent)")
    later = tomorrow + timedelta(hours=2)
    await capture_indexes(desk, later)
    assert table.execute(kept, [tomorrow.date()]).fetchone() == (later, 0)
    await capture_indexes(desk, at + timedelta(days=61))
    days = table.execute('SELECT count(DISTINCT day) FROM monitor."IndexSnapshot"')
    assert days.fetchone() == (2,)


async def test_an_index_used_on_a_replica_alone_is_used_and_without_its_word_all_is_undecided(
    watcher: Monitor, table: psycopg.Connection, desk: Desk, tmp_path: Path
) -> None:
    table.execute("CREATE INDEX probe_there ON booking.probe (name)")
    table.execute("CREATE INDEX probe_nowhere ON booking.probe (note, name)")
    table.execute('DELETE FROM monitor."IndexSnapshot"')
    await capture_indexes(desk, datetime(2020, 1, 1, tzinfo=UTC))
    with following(watcher.database.server) as replica:
        replicas = f"replica-1={url(replica.dsn_of(watcher.database, 'monitor'))}"
        async with serving(watcher.database, tmp_path, replica_dsns=replicas) as monitor:
            since = (await unused(monitor)).statistics.since_time.ToDatetime(UTC)
            there = make_conninfo(replica.dsn(), dbname=watcher.database.name)
            scan(there, "SELECT name FROM booking.probe WHERE name = 'n1'")
            monitor.clock.set(since + timedelta(days=14))
            found = await unused(monitor)
            names = [index.index for index in found.indexes]
            assert found.undecided == ""
            assert list(found.statistics.replicas) == ["replica-1"]
            assert "probe_nowhere" in names
            assert "probe_there" not in names
            assert (await listed(monitor, table="probe"))["probe_there"].scans == 1
            assert (await listed(watcher, table="probe"))["probe_there"].scans == 0

            replica.stop()
            found = await unused(monitor)
            assert not found.indexes
            assert list(found.statistics.silent_replicas) == ["replica-1"]
            assert found.undecided.startswith("No answer from replica-1")
            assert not (await monitor.check("unused_indexes")).HasField("figure")


def url(dsn: str) -> str:
    """The settings take addresses without spaces."""
    known = conninfo_to_dict(dsn)
    who = f"{known['user']}:{known['password']}"
    return f"postgresql://{who}@{known['host']}:{known['port']}/{known['dbname']}"


# --- health ------------------------------------------------------------------------------------


async def test_the_schema_as_it_is_has_nothing_to_complain_of(watcher: Monitor) -> None:
    assert await health(watcher, "invalid", "duplicate", "foreign_keys") == pb.IndexHealth()
    check = await watcher.check("index_health")
    assert (check.verdict, check.figure) == (OK, 0)
    assert not (await watcher.check("index_hit_ratio")).HasField("figure")


async def test_an_index_that_another_one_covers_is_named_and_never_one_that_keeps_a_rule(
    watcher: Monitor, table: psycopg.Connection
) -> None:
    for made in (
        "INDEX probe_name ON booking.probe (name)",
        "INDEX probe_again ON booking.probe (name)",
        "INDEX probe_wide ON booking.probe (note, name)",
        "INDEX probe_short ON booking.probe (note)",
        "INDEX probe_backwards ON booking.probe (name DESC, note)",
        "INDEX probe_part ON booking.probe (note) WHERE parent IS NULL",
        "UNIQUE INDEX probe_rule ON booking.probe (id, name)",
        "INDEX probe_by_rule ON booking.probe (id)",
    ):
        table.execute(f"CREATE {made}")
    found = {
        each.index: (each.covered_by, each.exact, each.note)
        for each in (await health(watcher, "duplicate")).duplicate
    }
    assert found == {
        "probe_again": ("probe_name", True, ""),
        "probe_short": ("probe_wide", False, ""),
        "probe_by_rule": ("probe_pkey", True, ""),
    }
    check = await watcher.check("index_health")
    assert (check.verdict, check.figure) == (WARNING, 3)
    assert "booking.probe_again is covered by probe_name" in check.evidence


async def test_a_guides_index_that_is_covered_is_noted_and_no_alarm(watcher: Monitor) -> None:
    with watcher.admin() as admin:
        admin.execute('CREATE INDEX wider ON booking."Booking" ("orgId", "startAt", id, status)')
        try:
            (found,) = (await health(watcher, "duplicate")).duplicate
            assert (found.index, found.covered_by) == ("idx_booking_org_start", "wider")
            assert found.note.startswith("one of the guide's, for driveflow.booking.v1.Booking")
            assert found.size_bytes > 0
            assert (await watcher.check("index_health")).verdict == OK
        finally:
            admin.execute("DROP INDEX booking.wider")


async def test_an_index_whose_making_failed_is_invalid_until_it_is_dropped(
    watcher: Monitor, table: psycopg.Connection
) -> None:
    with pytest.raises(psycopg.errors.UniqueViolation):
        table.execute("CREATE UNIQUE INDEX CONCURRENTLY probe_once ON booking.probe (note)")
    (broken,) = (await health(watcher, "invalid")).invalid
    assert (broken.schema, broken.table, broken.index) == ("booking", "probe", "probe_once")
    assert (broken.building, broken.definition[:13]) == (False, "CREATE UNIQUE")
    check = await watcher.check("index_health")
    assert check.verdict == WARNING
    assert "booking.probe_once is invalid" in check.evidence[0]
    table.execute("DROP INDEX booking.probe_once")
    assert (await watcher.check("index_health")).verdict == OK


async def test_an_index_that_is_being_built_is_told_from_a_broken_one(
    watcher: Monitor, table: psycopg.Connection
) -> None:
    def build() -> None:
        with watcher.admin() as builder:
            builder.execute("CREATE INDEX CONCURRENTLY probe_slow ON booking.probe (name)")

    with watcher.admin() as reader, reader.transaction():
        reader.execute("UPDATE booking.probe SET note = 'held' WHERE id = 1")
        building = asyncio.create_task(asyncio.to_thread(build))
        found = await eventually(
            lambda: health(watcher, "invalid"), lambda found: len(found.invalid) == 1
        )
        assert found.invalid[0].building
        assert (await watcher.check("index_health")).verdict == OK
    await building
    assert not (await health(watcher, "invalid")).invalid


async def test_a_foreign_key_without_an_index_comes_with_the_index_that_helps(
    watcher: Monitor, table: psycopg.Connection
) -> None:
    table.execute("DROP INDEX booking.probe_parent")
    (missing,) = (await health(watcher, "foreign_keys")).foreign_keys
    assert (missing.table, missing.constraint) == ("probe", "probe_parent_fkey")
    assert list(missing.columns) == ["parent"]
    assert (await watcher.check("index_health")).verdict == WARNING
    # One of the rows that refer to something is as good; one of other rows is not.
    table.execute("CREATE INDEX probe_some ON booking.probe (parent) WHERE id > 5")
    assert len((await health(watcher, "foreign_keys")).foreign_keys) == 1
    table.execute("CREATE INDEX probe_given ON booking.probe (parent) WHERE parent IS NOT NULL")
    assert not (await health(watcher, "foreign_keys")).foreign_keys
    table.execute("DROP INDEX booking.probe_given")
    table.execute(missing.remedy)
    assert not (await health(watcher, "foreign_keys")).foreign_keys


async def test_a_large_table_that_is_read_whole_is_named_with_its_writes(
    watcher: Monitor, table: psycopg.Connection
) -> None:
    with watcher.admin() as reader:
        for _ in range(3):
            reader.execute("SELECT count(*) FROM booking.probe WHERE note = 'x'")
        reader.execute(COUNTED)
    found = await health(watcher, "sequential_scans")
    (scans,) = found.sequential_scans
    assert (scans.table, scans.rows) == ("probe", 12_000)
    assert scans.sequential_scans >= 3
    assert scans.index_percent < 95
    assert scans.writes_per_scan > 0
    assert not found.HasField("index_hit_percent")


async def test_the_share_of_index_blocks_in_memory_is_told_and_checked(
    watcher: Monitor, table: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(20):
        scan(watcher.database.admin_dsn, "SELECT count(*) FROM booking.probe WHERE id < 6000")
    found = await health(watcher, "index_hit_percent", "table_hit_percent", "cold_tables")
    assert 0 < found.index_hit_percent <= 100
    assert 0 < found.table_hit_percent <= 100
    monkeypatch.setattr(checks, "ASKED_BLOCKS_MIN", 1_000)
    check = await watcher.check("index_hit_ratio")
    assert (check.verdict, check.unit) == (OK, "percent")
    assert check.figure == pytest.approx(found.index_hit_percent, abs=1)
    async with warning_at(watcher, "index_hit_ratio", 100):
        assert (await watcher.check("index_hit_ratio")).verdict == WARNING
