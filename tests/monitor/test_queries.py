"""Statements: what they cost within a window, whatever resets and evictions come between."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from statistics import mean, pstdev
from typing import Any

import grpc
import psycopg
import pytest
import pytest_asyncio
from google.protobuf.field_mask_pb2 import FieldMask
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from driveflow.monitor.v1 import health_pb2
from driveflow.monitor.v1 import queries_pb2 as pb
from libs import pooling
from libs.client import refusal
from libs.orgs import Orgs
from services.monitor.__main__ import Settings
from services.monitor.model.queries import KEPT
from services.monitor.snapshots import forget
from services.monitor.store import queries as store
from tests.monitor.serving import Monitor
from tests.postgres import Database
from tests.serving import common_settings
from tests.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")

HOUR = timedelta(hours=1)


@pytest_asyncio.fixture(loop_scope="session")
async def booking(watched_database: Database) -> AsyncIterator[psycopg.AsyncConnection]:
    """A session of the booking service."""
    async with await psycopg.AsyncConnection.connect(
        watched_database.dsn("booking"), autocommit=True
    ) as conn:
        yield conn


def query(name: str, body: str) -> bytes:
    return f"SELECT /* booking.{name} */ {body}".encode()


async def slow(watcher: Monitor, **of: Any) -> list[pb.QueryStats]:
    of = {"min_mean_ms": 0, "page_size": 1_000} | of
    answer = await watcher.stub().ListSlowQueries(pb.ListSlowQueriesRequest(**of))
    return list(answer.queries)


async def one(watcher: Monitor, name: str, **of: Any) -> pb.QueryStats:
    (found,) = [each for each in await slow(watcher, **of) if each.name == f"booking.{name}"]
    return found


async def capture(watcher: Monitor) -> pb.Snapshot:
    return await watcher.stub().CaptureSnapshot(pb.CaptureSnapshotRequest())


@asynccontextmanager
async def orgs(database: Database, folder: Path) -> AsyncIterator[Orgs]:
    """The monitor's way to its tables, beside that of the one that runs."""
    settings = Settings(**common_settings(folder), dsn=database.dsn("monitor"))
    pool = pooling.create("monitor", database.dsn("monitor"), settings, min_size=1)
    async with pool:
        yield Orgs(pool)


def reset(watcher: Monitor, query_id: int = 0) -> None:
    """Forget the counters of one statement, as an eviction does, or of all of this database."""
    with watcher.admin() as admin:
        admin.execute(
            "SELECT pg_stat_statements_reset(0, oid, %s) FROM pg_database"
            " WHERE datname = current_database()",
            [query_id],
        )


def counted(watcher: Monitor, name: str) -> tuple[list[float], int]:
    """Times of two calls or one, as PostgreSQL's own mean and deviation tell, and their number."""
    with watcher.admin() as admin:
        row = admin.execute(
            "SELECT mean_exec_time, stddev_exec_time, calls FROM pg_stat_statements"
            " WHERE query LIKE %s",
            [f"SELECT /* booking.{name} */%"],
        ).fetchone()
    assert row is not None
    mean, deviation, calls = row
    return ([mean - deviation, mean + deviation] if calls > 1 else [mean]), calls


async def test_figures_are_those_of_the_calls_also_across_a_reset_in_the_window(
    watcher: Monitor, booking: psycopg.AsyncConnection
) -> None:
    await capture(watcher)
    for seconds in (0.02, 0.04):
        await booking.execute(query("nap", f"pg_sleep({seconds}), generate_series(1, 1)"))
    times, calls = counted(watcher, "nap")
    assert (await one(watcher, "nap")).calls == calls == 2
    await capture(watcher)
    reset(watcher)
    await booking.execute(query("nap", "pg_sleep(0.03), generate_series(1, 1)"))
    times += counted(watcher, "nap")[0]
    found = await one(watcher, "nap")
    assert (found.calls, found.rows, found.role) == (3, 3, "booking")
    assert found.total_ms == pytest.approx(sum(times))
    assert found.mean_ms == pytest.approx(mean(times))
    assert found.mean_ms >= 30
    assert found.stddev_ms == pytest.approx(pstdev(times), rel=1e-6)
    assert 0 < found.share_percent <= 100
    assert found.text == "SELECT /* booking.nap */ pg_sleep($1), generate_series($2, $3)"


ACTIONS = st.lists(
    st.one_of(
        st.integers(1, 5),
        st.sampled_from(["capture", "capture", "evict", "reset", "look", "other"]),
    ),
    min_size=1,
    max_size=16,
)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ACTIONS)
async def test_a_call_counts_once_unless_its_counters_were_lost_before_the_next_snapshot(
    watcher: Monitor, booking: psycopg.AsyncConnection, actions: list[int | str]
) -> None:
    watcher.clock.ahead += 2 * HOUR
    await capture(watcher)
    kept, since = Counter[str](), Counter[str]()
    query_id = 0
    for action in [*actions, "look"]:
        match action:
            case int(rows):
                await booking.execute(query("count", f"generate_series(1, {rows}), 1, 1"))
                since.update(calls=1, rows=rows)
            case "capture":
                await capture(watcher)
                kept, since = kept + since, Counter()
            case "evict" if query_id:
                reset(watcher, query_id)
                since.clear()
            case "reset":
                reset(watcher)
                since.clear()
            case "other":
                await booking.execute(query("other", "1"))
            case "look":
                found = [e for e in await slow(watcher) if e.name == "booking.count"]
                query_id = found[0].query_id if found else query_id
                told = [Counter(calls=each.calls, rows=each.rows) for each in found]
                assert told == ([kept + since] if kept + since else [])


async def test_a_text_that_postgresql_kept_with_its_values_leaves_without_them(
    watcher: Monitor, booking: psycopg.AsyncConnection
) -> None:
    await capture(watcher)
    text = query("find_person", "pg_advisory_xact_lock(4711), 'Svensson'::text /* Anna */")
    with watcher.admin() as admin:
        admin.execute("SELECT pg_advisory_lock(4711)")
        running = asyncio.create_task(booking.execute(text))
        waiting = "SELECT FROM pg_stat_activity WHERE pid = %s AND wait_event_type = 'Lock'"
        pid = booking.info.backend_pid
        await eventually(lambda: admin.execute(waiting, [pid]).rowcount == 1)
        # Its normalised text is forgotten while it runs: what is kept at its end is what was sent.
        reset(watcher)
        admin.execute("SELECT pg_advisory_unlock(4711)")
        await running
        kept = admin.execute(
            "SELECT queryid FROM pg_stat_statements WHERE query LIKE '%%''Svensson''%%Anna%%'"
            " AND userid = 'booking'::regrole"
        ).fetchall()
    ((query_id,),) = kept
    stub = watcher.stub()
    answers = [
        (await one(watcher, "find_person")).text,
        str(await stub.ExplainQuery(pb.ExplainQueryRequest(query_id=query_id))),
    ]
    await capture(watcher)
    answers.append(str(await stub.GetQueryStats(pb.GetQueryStatsRequest(query_id=query_id))))
    assert answers[0] == "SELECT /* booking.find_person */ pg_advisory_xact_lock(?), ?::text"
    assert not [a for a in answers if "Svensson" in a or "Anna" in a or "4711" in a]


async def test_a_list_pages_by_the_order_that_is_asked_for(
    watcher: Monitor, booking: psycopg.AsyncConnection
) -> None:
    await capture(watcher)
    for times in (1, 2, 3):
        for _ in range(times):
            await booking.execute(query("page", "1" + ", 1" * (times + 10)))
    stub = watcher.stub()
    request = pb.ListFrequentQueriesRequest(page_size=2)
    pages: list[list[pb.QueryStats]] = []
    while not pages or request.page_token:
        page = await stub.ListFrequentQueries(request)
        assert len(page.queries) <= 2
        pages.append(list(page.queries))
        request.page_token = page.next_page_token
    calls = [each.calls for page in pages for each in page if each.name == "booking.page"]
    assert calls == [3, 2, 1]
    everything = await stub.ListSlowQueries(pb.ListSlowQueriesRequest(min_mean_ms=0, page_size=1))
    assert everything.total_size >= sum(map(len, pages))


async def test_slow_is_what_takes_100_ms_on_average_unless_said_otherwise(
    watcher: Monitor, booking: psycopg.AsyncConnection
) -> None:
    await capture(watcher)
    await booking.execute(query("slow", "pg_sleep(0.11), 2, 2"))
    await booking.execute(query("quick", "2, 2, 2"))
    answer = await watcher.stub().ListSlowQueries(pb.ListSlowQueriesRequest())
    names = [each.name for each in answer.queries]
    assert "booking.slow" in names
    assert "booking.quick" not in names
    assert await slow(watcher, min_mean_ms=100_000) == []
    assert "booking.slow" not in [each.name for each in await slow(watcher, min_calls=2)]


async def test_a_mask_leaves_out_what_is_not_asked_for(
    watcher: Monitor, booking: psycopg.AsyncConnection
) -> None:
    await capture(watcher)
    await booking.execute(query("mask", "3, 3"))
    mask = FieldMask(paths=["calls", "name"])
    (found,) = [e for e in await slow(watcher, read_mask=mask) if e.name == "booking.mask"]
    assert found == pb.QueryStats(calls=1, name="booking.mask")


async def test_a_series_tells_when_a_statement_was_called_and_what_it_took_before(
    watcher: Monitor, booking: psycopg.AsyncConnection
) -> None:
    text = query("series", "4, 4, 4, 4")
    await capture(watcher)
    await booking.execute(text)
    await capture(watcher)
    watcher.clock.ahead += timedelta(days=5)
    first = await capture(watcher)
    for times in (2, 1):
        for _ in range(times):
            await booking.execute(text)
        if times == 2:
            await capture(watcher)
    found = await one(watcher, "series")
    assert found.calls == 3
    assert 0 < found.mean_before_ms < 1_000
    stub = watcher.stub()
    request = pb.GetQueryStatsRequest(query_id=found.query_id, window_seconds=3_600)
    series = await stub.GetQueryStats(request)
    assert series.stats.calls == 3
    assert series.stats.role == "booking"
    assert series.window.start_time == first.time == series.points[0].start_time
    assert [point.calls for point in series.points] == [2, 1]
    assert series.points[0].end_time == series.points[1].start_time
    with pytest.raises(grpc.aio.AioRpcError) as unknown:
        await stub.GetQueryStats(pb.GetQueryStatsRequest(query_id=1))
    assert refusal(unknown.value).reason == "QUERY_NOT_FOUND"


async def test_one_snapshot_is_taken_at_a_time_and_once_for_each_request(watcher: Monitor) -> None:
    stub = watcher.stub()
    request = pb.CaptureSnapshotRequest(request_id=str(uuid.uuid4()))
    assert await stub.CaptureSnapshot(request) == await stub.CaptureSnapshot(request)
    with watcher.admin() as other, other.transaction():
        other.execute("SELECT pg_advisory_xact_lock(%s)", [store.CAPTURE_LOCK])
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await capture(watcher)
        assert refusal(refused.value).reason == "SNAPSHOT_UNDER_WAY"
    await capture(watcher)


async def test_snapshots_are_kept_for_14_days_and_counters_as_long_as_they_live(
    watcher: Monitor, booking: psycopg.AsyncConnection, tmp_path: Path
) -> None:
    text = query("keep", "5, 5, 5, 5, 5")
    await capture(watcher)
    await booking.execute(text)
    await capture(watcher)
    watcher.clock.ahead += timedelta(days=15)
    async with orgs(watcher.database, tmp_path) as reached:
        await forget(reached, watcher.clock())
    with watcher.admin() as admin:
        kept = admin.execute(
            'SELECT (SELECT count(*) FROM monitor."QuerySnapshot" WHERE at < %(before)s),'
            ' (SELECT count(*) FROM monitor."QueryCapture" WHERE at < %(before)s)',
            {"before": watcher.clock() - KEPT},
        ).fetchone()
    assert kept == (0, 1)
    await booking.execute(text)
    assert (await one(watcher, "keep")).calls == 1


async def test_old_snapshots_become_one_an_hour_and_their_figures_stay(
    watcher: Monitor, booking: psycopg.AsyncConnection, tmp_path: Path
) -> None:
    text = query("merge", "6, 6, 6, 6, 6, 6")
    noon = watcher.clock().replace(hour=12, minute=0) + timedelta(days=40)
    watcher.clock.set(noon - HOUR)
    await capture(watcher)
    for minutes in (0, 5, 10, 15):
        watcher.clock.set(noon + timedelta(minutes=minutes))
        await booking.execute(text)
        await capture(watcher)
    watcher.clock.set(noon + timedelta(days=3))
    asked = pb.GetQueryStatsRequest(
        query_id=(await one(watcher, "merge", window_seconds=4 * 86_400)).query_id,
        window_seconds=4 * 86_400,
    )
    before = await watcher.stub().GetQueryStats(asked)
    assert [point.calls for point in before.points] == [1, 1, 1, 1]
    async with orgs(watcher.database, tmp_path) as reached:
        await forget(reached, watcher.clock())
    watcher.clock.set(noon + timedelta(minutes=30))
    await booking.execute(text)
    after = await watcher.stub().GetQueryStats(asked)
    assert [point.calls for point in after.points] == [4, 1]


async def test_six_slow_statements_are_a_warning_that_names_them(
    watcher: Monitor, booking: psycopg.AsyncConnection
) -> None:
    await capture(watcher)
    assert (await watcher.check("slow_queries")).verdict == health_pb2.VERDICT_OK
    napping = [query(f"nap_{n}", "pg_sleep(0.101)" + ", 6" * n) for n in range(6)]

    async def nap(text: bytes) -> None:
        async with await psycopg.AsyncConnection.connect(
            watcher.database.dsn("booking"), autocommit=True
        ) as conn:
            for _ in range(5):
                await conn.execute(text)

    await asyncio.gather(*map(nap, napping))
    check = await watcher.check("slow_queries")
    assert (check.figure, check.verdict) == (6, health_pb2.VERDICT_WARNING)
    assert any("booking.nap_3 (booking)" in line for line in check.evidence)
    watcher.clock.ahead += 2 * HOUR
    await capture(watcher)
    assert (await watcher.check("slow_queries")).verdict == health_pb2.VERDICT_OK


def drop_extension(monitor: Monitor) -> None:
    with monitor.admin() as admin:
        admin.execute("DROP EXTENSION pg_stat_statements")


@pytest.mark.asyncio(loop_scope="function")
async def test_without_the_extension_it_is_said_what_to_do(monitor: Monitor) -> None:
    # It waits for a snapshot that is being taken.
    await asyncio.to_thread(drop_extension, monitor)
    check = await monitor.check("slow_queries")
    assert check.verdict == health_pb2.VERDICT_UNKNOWN
    assert "shared_preload_libraries" in check.summary
    stub = monitor.stub()
    for call in (
        stub.ListSlowQueries(pb.ListSlowQueriesRequest()),
        stub.ListFrequentQueries(pb.ListFrequentQueriesRequest()),
        stub.GetQueryStats(pb.GetQueryStatsRequest(query_id=1)),
        stub.ExplainQuery(pb.ExplainQueryRequest(query_id=1)),
        stub.VerifyQueryPlans(pb.VerifyQueryPlansRequest()),
        stub.CaptureSnapshot(pb.CaptureSnapshotRequest()),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call
        assert refusal(refused.value).reason == "QUERIES_NOT_COUNTED"
