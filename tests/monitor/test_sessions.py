"""Sessions: connections, locks between real sessions, long transactions, signals."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import grpc
import psycopg
import pytest
import pytest_asyncio
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp

from driveflow.monitor.v1 import health_pb2
from driveflow.monitor.v1 import sessions_pb2 as pb
from libs.client import refusal
from services.monitor.checks import sessions as checks
from tests.monitor.rules import warning_at
from tests.monitor.serving import Monitor, serving
from tests.postgres import Database
from tests.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")

Session = psycopg.AsyncConnection[tuple[object, ...]]
T = TypeVar("T")
WARNING, OK = health_pb2.VERDICT_WARNING, health_pb2.VERDICT_OK
FIRST, SECOND = uuid.UUID(int=1), uuid.UUID(int=2)
CLOSE = 'UPDATE /* booking.close_school */ booking."Tenant" SET active = false WHERE "orgId" = %s'


@asynccontextmanager
async def session(
    monitor: Monitor, name: str, role: str = "booking", *, autocommit: bool = False
) -> AsyncIterator[Session]:
    """A session of a service, known by its application_name."""
    dsn = monitor.database.dsn(role) if role != "postgres" else monitor.database.admin_dsn
    async with await psycopg.AsyncConnection.connect(
        dsn, application_name=name, autocommit=autocommit, prepare_threshold=None
    ) as conn:
        try:
            yield conn
        finally:
            await conn.close()


async def until(ask: Callable[[], Awaitable[T]], holds: Callable[[T], bool]) -> T:
    """The first answer of which it holds."""
    async with asyncio.timeout(10):
        while not holds(answer := await ask()):  # noqa: ASYNC110 (locks tell nobody)
            await asyncio.sleep(0.01)
    return answer


@pytest_asyncio.fixture(loop_scope="session")
async def two_rows(watcher: Monitor) -> AsyncIterator[None]:
    """Two rows for sessions to compete for."""
    with watcher.admin() as admin:
        for org_id in (FIRST, SECOND):
            admin.execute('INSERT INTO booking."Tenant" ("orgId") VALUES (%s)', [org_id])
        yield
        admin.execute('DELETE FROM booking."Tenant"')


# --- connections -------------------------------------------------------------------------------


async def stats(monitor: Monitor) -> pb.ConnectionStats:
    return await monitor.stub().GetConnectionStats(pb.GetConnectionStatsRequest())


async def test_connections_are_counted_by_state_and_role_and_the_fullness_is_checked(
    watcher: Monitor,
) -> None:
    async with session(watcher, "booking.ListBookings") as one, session(watcher, "x", "payments"):
        await one.execute("SELECT 1")
        found = await stats(watcher)
        states = {each.state: each for each in found.states}
        assert states["idle in transaction"].connections == 1
        assert states["idle"].connections >= 1
        assert 0 <= states["idle"].mean_seconds <= states["idle"].longest_seconds
        roles = {each.role: each for each in found.services}
        assert (roles["booking"].connections, roles["booking"].idle_in_transaction) == (1, 1)
        assert roles["payments"].connections == 1
        assert "monitor" not in roles
        assert found.limit == 120 - 3
        assert found.used_percent == pytest.approx(100 * found.total / found.limit)
        async with warning_at(watcher, "connections", found.used_percent):
            check = await watcher.check("connections")
            assert (check.verdict, check.unit) == (WARNING, "percent")
            assert any("1 idle in a transaction" in line for line in check.evidence)
    assert (await watcher.check("connections")).verdict == OK


async def test_a_mask_decides_what_is_counted(watcher: Monitor) -> None:
    request = pb.GetConnectionStatsRequest(read_mask=FieldMask(paths=["limit"]))
    assert await watcher.stub().GetConnectionStats(request) == pb.ConnectionStats(limit=117)


# --- locks -------------------------------------------------------------------------------------


async def tree(monitor: Monitor) -> pb.LockTree:
    return await monitor.stub().GetLockTree(pb.GetLockTreeRequest())


async def test_a_chain_of_three_is_told_from_its_root_and_strangers_stand_apart(
    watcher: Monitor, two_rows: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "LONG_WAIT_S", 0.05)
    async with (
        session(watcher, "booking.First 1a2b") as first,
        session(watcher, "booking.Second 1a2b") as second,
        session(watcher, "booking.Third 1a2b") as third,
        session(watcher, "payments.Holder", "payments") as holder,
        session(watcher, "payments.Stranger", "payments") as stranger,
    ):
        await first.execute(CLOSE, [FIRST])
        await second.execute(CLOSE, [SECOND])
        await holder.execute('LOCK TABLE payments."Tenant" IN ROW EXCLUSIVE MODE')
        async with asyncio.TaskGroup() as waits:
            waits.create_task(second.execute(CLOSE, [FIRST]))
            found = await eventually(lambda: tree(watcher), lambda found: found.waiting == 1)
            waits.create_task(third.execute(CLOSE, [SECOND]))
            locked = "SELECT pg_advisory_xact_lock(7)"
            await holder.execute(locked)
            waits.create_task(stranger.execute(locked))
            found = await eventually(lambda: tree(watcher), lambda found: found.waiting == 3)

            assert [root.session.application_name for root in found.roots] == [
                "booking.First 1a2b",
                "payments.Holder",
            ]
            root, other = found.roots
            (middle,), (leaf,) = root.blocks, root.blocks[0].blocks
            assert (root.waits_for, root.wait_seconds, root.holds) == (
                "", 0, "ExclusiveLock on transaction",
            )  # fmt: skip
            assert root.session.state == "idle in transaction"
            assert middle.session.application_name == "booking.Second 1a2b"
            assert middle.waits_for == "ShareLock on transaction"
            assert (middle.session.query, middle.session.wait) == (
                "booking.close_school", "Lock: transactionid",
            )  # fmt: skip
            assert middle.session.text.endswith('SET active = $2 WHERE "orgId" = $1')
            assert leaf.session.application_name == "booking.Third 1a2b"
            assert (len(leaf.blocks), leaf.holds) == (0, "")
            assert found.longest_wait_seconds >= middle.wait_seconds >= leaf.wait_seconds > 0
            assert [each.waits_for for each in other.blocks] == ["ExclusiveLock on advisory lock"]
            assert str(FIRST) not in str(found)

            check = await eventually(
                lambda: watcher.check("blocked_sessions"), lambda check: check.figure == 3
            )
            assert check.verdict == WARNING
            assert "booking.Second 1a2b booking.close_school" in check.evidence[1]
            await first.rollback()
            await holder.rollback()
            await eventually(lambda: tree(watcher), lambda found: found.waiting == 1)
            await second.rollback()
    assert await tree(watcher) == pb.LockTree()
    assert (await watcher.check("blocked_sessions")).verdict == OK


async def test_a_reader_behind_a_waiting_writer_is_below_it_and_not_below_the_reader_it_waits_for(
    watcher: Monitor,
) -> None:
    async with (
        session(watcher, "reader") as reader,
        session(watcher, "writer", "postgres") as writer,
        session(watcher, "late") as late,
    ):
        await reader.execute('SELECT FROM booking."Tenant"')
        async with asyncio.TaskGroup() as waits:
            waits.create_task(writer.execute('LOCK TABLE booking."Tenant"'))
            await eventually(lambda: tree(watcher), lambda found: found.waiting == 1)
            waits.create_task(late.execute('SELECT FROM booking."Tenant"'))
            found = await eventually(lambda: tree(watcher), lambda found: found.waiting == 2)
            (root,) = found.roots
            (queued,) = root.blocks
            assert root.holds == 'AccessShareLock on booking."Tenant"'
            assert queued.waits_for == 'AccessExclusiveLock on booking."Tenant"'
            # It holds nothing yet: it is merely ahead.
            assert (queued.session.role, queued.holds) == ("postgres", "")
            assert [each.session.application_name for each in queued.blocks] == ["late"]
            await reader.rollback()
            await eventually(lambda: tree(watcher), lambda found: found.waiting == 1)
            await writer.rollback()


# --- long transactions -------------------------------------------------------------------------


async def long(monitor: Monitor, **asked: object) -> pb.ListLongTransactionsResponse:
    request = pb.ListLongTransactionsRequest(min_age_seconds=0.05, **asked)  # type: ignore[arg-type]
    return await monitor.stub().ListLongTransactions(request)


async def test_a_session_that_idles_in_its_transaction_is_listed_and_warned_of_until_it_ends(
    watcher: Monitor,
) -> None:
    async with session(watcher, "tracking.EndTrip 1a2b", "tracking") as idle:
        query = "SELECT /* tracking.find_trip */ oid FROM pg_class WHERE relpages = {}"
        await idle.execute(query.format(4711))
        found = await eventually(lambda: long(watcher), lambda found: len(found.sessions) == 1)
        (told,) = found.sessions
        assert (told.role, told.state) == ("tracking", "idle in transaction")
        assert (told.query, told.text) == ("tracking.find_trip", query.format("$1"))
        assert told.transaction_seconds >= told.state_seconds > 0
        assert not told.HasField("query_seconds")
        async with (
            warning_at(watcher, "idle_in_transaction", 0.05),
            warning_at(watcher, "long_transactions", 0.05),
        ):
            for name in ("idle_in_transaction", "long_transactions"):
                check = await eventually(
                    lambda name=name: watcher.check(name),  # type: ignore[misc]
                    lambda check: check.verdict == WARNING,
                )
                assert "tracking.EndTrip 1a2b tracking.find_trip" in str(check.evidence)
                assert "4711" not in str(check)
            await idle.rollback()
            assert (await watcher.check("idle_in_transaction")).verdict == OK
            assert (await watcher.check("long_transactions")).verdict == OK
    assert not (await long(watcher)).sessions


async def test_long_transactions_come_in_pages_oldest_first_the_idle_ones_alone_if_wanted(
    watcher: Monitor,
) -> None:
    async with (
        session(watcher, "older") as older,
        session(watcher, "younger") as younger,
    ):
        await older.execute("SELECT 1")
        await younger.execute("SELECT 1")
        await eventually(lambda: long(watcher), lambda found: len(found.sessions) == 2)
        mask = FieldMask(paths=["application_name"])
        first = await long(watcher, page_size=1, read_mask=mask)
        assert list(first.sessions) == [pb.Session(application_name="older")]
        token = first.next_page_token
        second = await long(watcher, page_size=1, page_token=token, read_mask=mask)
        assert list(second.sessions) == [pb.Session(application_name="younger")]
        assert second.next_page_token == ""
        busy = asyncio.create_task(older.execute("SELECT pg_sleep(1)"))
        found = await eventually(
            lambda: long(watcher, idle_only=True), lambda found: len(found.sessions) == 1
        )
        assert found.sessions[0].application_name == "younger"
        await older.cancel_safe()
        with pytest.raises(psycopg.errors.QueryCanceled):
            await busy


# --- signals -----------------------------------------------------------------------------------


async def known(monitor: Monitor, name: str) -> pb.Session:
    """A session with an open transaction, by its application_name."""
    request = pb.ListLongTransactionsRequest(min_age_seconds=0, page_size=1_000)

    async def ask() -> list[pb.Session]:
        found = await monitor.stub().ListLongTransactions(request)
        return [each for each in found.sessions if each.application_name == name]

    (session,) = await eventually(ask, bool)
    return session


async def test_what_a_session_runs_is_cancelled_and_the_audit_log_says_by_whom_and_why(
    watcher: Monitor,
) -> None:
    async with session(watcher, "booking.Slow", autocommit=True) as slow:
        running = asyncio.create_task(slow.execute("SELECT pg_sleep(4)"))
        target = await known(watcher, "booking.Slow")
        request = pb.CancelBackendRequest(
            pid=target.pid, backend_start=target.backend_start, reason="it blocks the month's end"
        )
        told = await watcher.stub().CancelBackend(request)
        with pytest.raises(psycopg.errors.QueryCanceled, match="user request"):
            await running
        assert (told.session.application_name, told.session.state) == ("booking.Slow", "active")
        assert await (await slow.execute("SELECT 1")).fetchone() == (1,)
    with watcher.admin() as admin:
        row = admin.execute(
            "SELECT \"actorUserId\", action, before->>'application_name', after->>'reason'"
            ' FROM monitor."AuditLog" WHERE "entityId" LIKE %s',
            [f"{target.pid} %"],
        )
        assert row.fetchone() == (
            "operator", "cancel", "booking.Slow", "it blocks the month's end",
        )  # fmt: skip


async def test_a_session_is_ended_once_however_often_the_same_request_comes(
    watcher: Monitor,
) -> None:
    async with session(watcher, "booking.Stuck") as stuck:
        await stuck.execute("SELECT 1")
        target = await known(watcher, "booking.Stuck")
        request = pb.TerminateBackendRequest(
            pid=target.pid,
            backend_start=target.backend_start,
            reason="its client is gone",
            request_id=str(uuid.uuid4()),
        )
        told = await watcher.stub().TerminateBackend(request)
        with pytest.raises(psycopg.errors.AdminShutdown):
            await stuck.execute("SELECT 1")
        assert await watcher.stub().TerminateBackend(request) == told


async def refused(call: Awaitable[object]) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return refusal(error.value).reason


def end(pid: int, backend_start: Timestamp) -> pb.TerminateBackendRequest:
    return pb.TerminateBackendRequest(pid=pid, backend_start=backend_start, reason="a test")


async def test_a_later_session_of_that_number_the_monitors_own_and_superusers_are_left_alone(
    watcher: Monitor,
) -> None:
    stub = watcher.stub()
    async with (
        session(watcher, "booking.Innocent") as innocent,
        session(watcher, "psql", "postgres") as superuser,
    ):
        await innocent.execute("SELECT 1")
        await superuser.execute("SELECT 1")
        target = await known(watcher, "booking.Innocent")
        start = Timestamp()
        start.FromNanoseconds(target.backend_start.ToNanoseconds() - 1_000)
        assert await refused(stub.TerminateBackend(end(target.pid, start))) == "SESSION_NOT_FOUND"
        boss = await known(watcher, "psql")
        request = end(boss.pid, boss.backend_start)
        assert await refused(stub.TerminateBackend(request)) == "SESSION_NOT_SIGNALLED"
        with watcher.admin() as admin:
            rows = admin.execute(
                "SELECT pid, backend_start FROM pg_stat_activity"
                " WHERE datname = current_database() AND usename = 'monitor'"
            ).fetchall()
        for pid, backend_start in rows:
            start.FromDatetime(backend_start)
            assert await refused(stub.TerminateBackend(end(pid, start))) == "SESSION_NOT_FOUND"
        for left_alone in (innocent, superuser):
            assert await (await left_alone.execute("SELECT 1")).fetchone() == (1,)


async def test_signals_can_be_switched_off(watched_database: Database, tmp_path: Path) -> None:
    async with serving(watched_database, tmp_path, signals=False) as monitor:
        request = pb.CancelBackendRequest(pid=1, backend_start=Timestamp(seconds=1), reason="why")
        assert await refused(monitor.stub().CancelBackend(request)) == "SIGNALS_OFF"
