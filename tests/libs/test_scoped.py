"""Statements that travel together: what a reader, a read and a write may rely on."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest
import uvloop
from psycopg import errors
from psycopg.conninfo import make_conninfo

from libs import pooling, scoped
from libs.orgs import Orgs
from tests.libs.conftest import bare_settings
from tests.postgres import Database
from tests.serving import OTHER_SCHOOL, SCHOOL
from tests.waiting import eventually

SETTING = b"SELECT current_setting('driveflow.org_id', true)"
ADD = b'INSERT INTO "Trip" ("orgId", "startedAt") VALUES (%(org)s::uuid, now())'
COUNT = b'SELECT count(*) FROM "Trip" WHERE "orgId" = %(org)s::uuid'
FAIL = b"SELECT 1 / %(zero)s::int"
BY_SCHOOL = {"org": SCHOOL}


@pytest.fixture
async def orgs(database: Database, tmp_path: Path) -> AsyncIterator[Orgs]:
    """Schools over a pool of one connection, so that what one leaves another finds."""
    settings = bare_settings(tmp_path)
    pool = pooling.create("test", database.dsn("tracking"), settings, min_size=1, max_size=1)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(pool)
        yield Orgs(pool)


class Relay:
    """The way of one connection, which can end as a dead process leaves it: words, then a reset."""

    def __init__(self, database: Database) -> None:
        with psycopg.connect(database.admin_dsn) as admin:
            self._server = socket.create_connection((admin.info.host, admin.info.port))
        self._server.setblocking(False)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        self.port = int(self._listener.getsockname()[1])
        self._held: bytearray | None = None

    async def carry(self) -> None:
        loop = asyncio.get_running_loop()
        self._client, _ = await loop.sock_accept(self._listener)
        await asyncio.gather(self._ask(), self._answer())

    def hold(self) -> None:
        """Keep back what the server says."""
        self._held = bytearray()

    def reset(self) -> None:
        """Say what was held and reset the connection, both before the client can look."""
        assert self._held
        self._client.send(self._held)
        self._client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._client.close()

    def close(self) -> None:
        self._listener.close()
        self._server.close()

    async def _ask(self) -> None:
        loop = asyncio.get_running_loop()
        while asked := await loop.sock_recv(self._client, 65536):
            await loop.sock_sendall(self._server, asked)

    async def _answer(self) -> None:
        loop = asyncio.get_running_loop()
        while said := await loop.sock_recv(self._server, 65536):
            if self._held is None:
                await loop.sock_sendall(self._client, said)
            else:
                self._held += said


def sleeps(database: Database) -> bool:
    with psycopg.connect(database.admin_dsn, autocommit=True) as admin:
        asked = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database()"
        return admin.execute(asked + " AND wait_event = 'PgSleep'").fetchone() is not None


async def one(conn: Any, query: bytes, params: Any = None) -> Any:
    row = await (await conn.execute(query, params)).fetchone()
    return row[0] if row else None


async def count(orgs: Orgs) -> int:
    return int(await one(orgs.reader(SCHOOL), COUNT, BY_SCHOOL))


# --- one statement -----------------------------------------------------------------------------


async def test_a_reader_sees_its_school_and_leaves_nothing_behind(orgs: Orgs) -> None:
    for school in (SCHOOL, OTHER_SCHOOL):
        assert await one(orgs.reader(school), SETTING) == str(school)
    async with pooling.connection(orgs.pool) as conn:
        assert await one(conn, SETTING) in (None, "")
        assert await one(conn, b"SHOW statement_timeout") == "5s"
        assert conn.info.transaction_status is psycopg.pq.TransactionStatus.IDLE


async def test_a_reader_asks_once(orgs: Orgs, trips: list[list[str]]) -> None:
    await count(orgs)
    assert trips == [["libs.scope", "SELECT"]]


async def test_a_failed_read_harms_no_other(orgs: Orgs) -> None:
    for _ in range(3):
        with pytest.raises(errors.DivisionByZero):
            await orgs.reader(SCHOOL).execute(FAIL, {"zero": 0})
        assert await one(orgs.reader(SCHOOL), FAIL, {"zero": 1}) == 1


async def test_a_statement_that_cannot_be_prepared_says_why(orgs: Orgs) -> None:
    for _ in range(2):
        with pytest.raises(errors.UndefinedTable, match="nowhere"):
            await orgs.reader(SCHOOL).execute(b"SELECT 1 FROM nowhere")
    assert await count(orgs) == 0


# --- values ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "told"),
    [
        (b"SELECT %(x)s::uuid", SCHOOL),
        (b"SELECT %(x)s::text[]", ["a", None, "%"]),
        (b"SELECT %(x)s::bigint", 2**40),
        (b"SELECT %(x)s::bytea", b"\0\xff"),
        (b"SELECT %(x)s::float8", 0.1),
        (b"SELECT %(x)s::jsonb", None),
    ],
)
async def test_values_come_back_as_they_went(orgs: Orgs, query: bytes, told: object) -> None:
    # The first answer is read as text, later ones in the binary format.
    answers = [await one(orgs.reader(SCHOOL), query, {"x": told}) for _ in range(3)]
    assert answers == [told] * 3


async def test_a_type_without_a_binary_reader_stays_text(orgs: Orgs) -> None:
    query = b"SELECT '12/AB'::pg_lsn, '7'::xid8"
    for _ in range(3):
        assert await (await orgs.reader(SCHOOL).execute(query)).fetchall() == [("12/AB", "7")]


async def test_more_than_the_socket_takes_at_once_goes_through(orgs: Orgs) -> None:
    text = "x" * 20_000_000
    query = b"SELECT %(text)s::text"
    for _ in range(2):
        assert await one(orgs.reader(SCHOOL), query, {"text": text}) == text


async def test_placeholders_are_those_of_psycopg(orgs: Orgs) -> None:
    reader = orgs.reader(SCHOOL)
    assert await one(reader, b"SELECT %(a)s::int %% 3 + %(a)s::int", {"a": 5}) == 7
    assert await one(reader, b"SELECT %s::int - %s::int", (5, 3)) == 2
    assert await one(reader, b"SELECT 5 % 3") == 2
    for query, params in ((b"SELECT %(a)s::int", {"b": 1}), (b"SELECT %s::int", ())):
        with pytest.raises(errors.ProgrammingError):
            await reader.execute(query, params)


# --- several -----------------------------------------------------------------------------------


async def test_a_read_does_not_go_on_behind_a_failure(orgs: Orgs) -> None:
    async with orgs.read(SCHOOL) as conn:
        with pytest.raises(errors.DivisionByZero):
            await conn.execute(FAIL, {"zero": 0})
        with pytest.raises(errors.ProgrammingError, match="ended"):
            await conn.execute(COUNT, BY_SCHOOL)
    assert await count(orgs) == 0


async def test_a_read_takes_no_other_way_to_the_server(orgs: Orgs) -> None:
    async with orgs.read(SCHOOL) as conn:
        with pytest.raises(errors.ProgrammingError, match=r"conn\.execute"):
            await conn.cursor().execute(SETTING)
        assert await one(conn, SETTING) == str(SCHOOL)


async def test_a_write_begins_with_its_first_statement_and_what_was_sent_leaves_with_the_commit(
    orgs: Orgs, trips: list[list[str]]
) -> None:
    async with orgs.write(SCHOOL) as conn:
        await conn.execute(ADD, BY_SCHOOL)
        await conn.send(ADD, BY_SCHOOL)
        await conn.send(ADD, BY_SCHOOL)
    assert trips == [
        ["BEGIN", "libs.scope", "INSERT"],
        ["INSERT", "INSERT", "COMMIT", "libs.position"],
    ]
    assert await count(orgs) == 3


async def test_a_write_that_only_sends_is_one_trip(orgs: Orgs, trips: list[list[str]]) -> None:
    async with orgs.write(SCHOOL) as conn:
        await conn.send(ADD, BY_SCHOOL)
    assert trips == [["BEGIN", "libs.scope", "INSERT", "COMMIT", "libs.position"]]
    assert await count(orgs) == 1


async def test_rows_that_are_needed_later_come_with_those_of_the_next_statement(
    orgs: Orgs, trips: list[list[str]]
) -> None:
    async with orgs.write(SCHOOL) as conn:
        await conn.send(ADD, BY_SCHOOL)
        first = conn.later(COUNT, BY_SCHOOL)
        assert not first.rows
        await conn.send(ADD, BY_SCHOOL)
        assert await one(conn, COUNT, BY_SCHOOL) == 2
        assert [*first.rows] == [(1,)]
        last = conn.later(COUNT, BY_SCHOOL)
    assert [*last.rows] == [(2,)]
    assert len(trips) == 2


async def test_only_a_write_puts_rows_off(orgs: Orgs) -> None:
    async with orgs.read(SCHOOL) as conn:
        with pytest.raises(errors.ProgrammingError, match="nothing but a write"):
            conn.later(COUNT, BY_SCHOOL)


async def test_a_write_without_statements_asks_nothing(orgs: Orgs, trips: list[list[str]]) -> None:
    async with orgs.write(SCHOOL):
        pass
    assert trips == []


@pytest.mark.parametrize("another", [True, False], ids=["next statement", "commit"])
async def test_what_is_wrong_with_a_sent_statement_is_raised_by_what_it_travels_with(
    orgs: Orgs, another: bool
) -> None:
    async def write() -> None:
        async with orgs.write(SCHOOL) as conn:
            await conn.execute(ADD, BY_SCHOOL)
            await conn.send(FAIL, {"zero": 0})
            if another:
                await conn.execute(ADD, BY_SCHOOL)

    with pytest.raises(errors.DivisionByZero):
        await write()
    assert await count(orgs) == 0


async def test_a_failure_that_was_swallowed_is_no_commit(orgs: Orgs) -> None:
    async def write() -> None:
        async with orgs.write(SCHOOL) as conn:
            await conn.execute(ADD, BY_SCHOOL)
            with pytest.raises(errors.DivisionByZero):
                await conn.execute(FAIL, {"zero": 0})

    with pytest.raises(errors.InFailedSqlTransaction):
        await write()
    assert await count(orgs) == 0


async def test_a_savepoint_takes_back_what_came_behind_it(orgs: Orgs) -> None:
    async def attempt(conn: pooling.Connection) -> None:
        async with conn.transaction():
            await conn.execute(ADD, BY_SCHOOL)
            await conn.execute(FAIL, {"zero": 0})

    async with orgs.write(SCHOOL) as conn:
        await conn.send(ADD, BY_SCHOOL)
        with pytest.raises(errors.DivisionByZero):
            await attempt(conn)
        assert await one(conn, SETTING) == str(SCHOOL)
    assert await count(orgs) == 1


async def test_a_savepoint_that_comes_first_is_within_the_transaction(orgs: Orgs) -> None:
    async with orgs.write(SCHOOL) as conn:
        async with conn.transaction():
            await conn.execute(ADD, BY_SCHOOL)
        assert conn.info.transaction_status is psycopg.pq.TransactionStatus.INTRANS
    assert await count(orgs) == 1


# --- what goes wrong ---------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["reader", "read", "write"])
async def test_a_cancelled_statement_ends_and_its_connection_goes_on(orgs: Orgs, how: str) -> None:
    backend = await one(orgs.reader(SCHOOL), b"SELECT pg_backend_pid()")

    async def sleep() -> None:
        sleeping = b"SELECT pg_sleep(%(seconds)s::float8)"
        if how == "reader":
            await orgs.reader(SCHOOL).execute(sleeping, {"seconds": 4})
            return
        async with getattr(orgs, how)(SCHOOL) as conn:
            await conn.execute(sleeping, {"seconds": 4})

    for _ in range(3):
        started = time.monotonic()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await sleep()
        assert await one(orgs.reader(SCHOOL), SETTING) == str(SCHOOL)
        assert time.monotonic() - started < 3
    assert await one(orgs.reader(SCHOOL), b"SELECT pg_backend_pid()") == backend


async def test_a_connection_that_died_while_idle_is_not_given_out(
    orgs: Orgs, database: Database
) -> None:
    for _ in range(3):
        backend = await one(orgs.reader(SCHOOL), b"SELECT pg_backend_pid()")
        with psycopg.connect(database.admin_dsn, autocommit=True) as admin:
            admin.execute("SELECT pg_terminate_backend(%s, 5000)", [backend])
        await asyncio.sleep(0)  # the loop looks at its sockets once
        assert await one(orgs.reader(SCHOOL), b"SELECT pg_backend_pid()") != backend


async def test_a_connection_that_dies_under_way_is_an_operational_error_and_no_hang(
    orgs: Orgs,
) -> None:
    suicide = b"SELECT pg_terminate_backend(pg_backend_pid()), pg_sleep(1)"
    for how in (orgs.read, orgs.write):
        with pytest.raises(psycopg.OperationalError):
            async with how(SCHOOL) as conn:
                await conn.execute(suicide)
        assert await count(orgs) == 0


def test_an_answer_that_ends_in_a_reset_is_an_operational_error_and_no_hang(
    database: Database,
) -> None:
    async def story() -> None:
        relay = Relay(database)
        carries = asyncio.create_task(relay.carry())
        dsn = make_conninfo(database.dsn("tracking"), host="127.0.0.1", port=relay.port)
        conn = await scoped.Connection.connect(dsn, autocommit=True)
        relay.hold()
        # The first row is more than the server keeps before it sends.
        rows = b"SELECT repeat('x', 10000) UNION ALL SELECT pg_sleep(30)::text"
        asked = asyncio.create_task(conn.once(scoped.statement(b"SELECT 1", None), rows, None))
        await eventually(lambda: asyncio.to_thread(sleeps, database))
        carries.cancel()
        await asyncio.wait([carries])
        relay.reset()
        async with asyncio.timeout(20):
            with pytest.raises(psycopg.OperationalError):
                await asked
        await conn.close()
        relay.close()

    uvloop.run(story())  # the services' loop; asyncio's own would tell of the reset


async def test_statements_on_many_connections_at_once_answer_each_its_own(
    database: Database, tmp_path: Path
) -> None:
    pool = pooling.create("test", database.dsn("tracking"), bare_settings(tmp_path), max_size=4)
    async with pool:
        schools = [uuid.uuid4() for _ in range(40)]
        asked = (one(Orgs(pool).reader(school), SETTING) for school in schools)
        assert await asyncio.gather(*asked) == [str(school) for school in schools]
