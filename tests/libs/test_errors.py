"""Whatever goes wrong in a method, its caller gets a status with a reason and nothing of ours."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import uuid
from typing import Any

import grpc
import psycopg
import psycopg_pool
import pytest
from grpc import StatusCode
from psycopg import errors as pg

from driveflow.tracking.v1 import tracking_pb2 as pb
from libs import errors
from libs.client import Refusal, refusal
from tests import walking
from tests.libs.conftest import Serve
from tests.postgres import Database
from tests.serving import SCHOOL

SECRET = "SELECT secret: constraint, DETAIL: Key (/etc/passwd) Traceback INSERT"
LEAK = re.compile(r"select|insert|constraint|detail:|traceback|/|secret", re.IGNORECASE)
METHODS = walking.methods()
KNOWN_CODES = {
    StatusCode.INTERNAL: (
        Exception,
        ValueError,
        TypeError,
        KeyError,
        IndexError,
        AttributeError,
        ZeroDivisionError,
        RecursionError,
        MemoryError,
        AssertionError,
        NotImplementedError,
        RuntimeError,
        StopAsyncIteration,
        StopIteration,
        EOFError,
        BufferError,
        OSError,
        ConnectionResetError,
        FileNotFoundError,
        PermissionError,
        TimeoutError,
        asyncio.QueueFull,
        asyncio.InvalidStateError,
        json.JSONDecodeError,
        UnicodeError,
        grpc.RpcError,
        grpc.aio.UsageError,
        psycopg.ProgrammingError,
        psycopg.NotSupportedError,
        pg.UndefinedTable,
        pg.InsufficientPrivilege,
        pg.NotNullViolation,
    ),
    StatusCode.UNAVAILABLE: (
        psycopg.OperationalError,
        pg.AdminShutdown,
        pg.CrashShutdown,
        pg.CannotConnectNow,
        pg.TooManyConnections,
        pg.DiskFull,
        pg.OutOfMemory,
        pg.TransactionTimeout,
        pg.IdleInTransactionSessionTimeout,
        pg.ReadOnlySqlTransaction,
        psycopg_pool.PoolTimeout,
        psycopg_pool.PoolClosed,
    ),
    StatusCode.RESOURCE_EXHAUSTED: (psycopg_pool.TooManyRequests,),
    StatusCode.DEADLINE_EXCEEDED: (pg.QueryCanceled,),
    StatusCode.ABORTED: (pg.DeadlockDetected, pg.SerializationFailure, pg.LockNotAvailable),
    StatusCode.INVALID_ARGUMENT: (pg.NumericValueOutOfRange, pg.UntranslatableCharacter),
}
CASES = [(code, kind) for code, kinds in KNOWN_CODES.items() for kind in kinds]


def made(kind: type[Exception]) -> Exception:
    if kind is json.JSONDecodeError:
        return json.JSONDecodeError(SECRET, SECRET, 0)
    return kind(SECRET)


def clean(answer: Refusal) -> bool:
    """Whether nothing in an answer comes from within."""
    said = [answer.message, *answer.metadata.values(), *map(str, answer.fields)]
    return not any(LEAK.search(text) for text in said)


async def test_every_kind_of_exception_in_every_method_becomes_its_status(serve: Serve) -> None:
    raised: Exception = Exception()

    async def behave(request: Any, context: Any) -> None:
        raise raised

    async with serve(behave) as bare, walking.channel(bare.address) as channel:
        for code, kind in CASES:
            raised = made(kind)
            for method in METHODS:
                answer = await bare.walk(channel, method)
                assert answer.refusal is not None
                assert (answer.refusal.code, kind) == (code, kind), method.name
                assert answer.refusal.reason
                assert clean(answer.refusal), answer.refusal


async def test_a_fault_of_ours_is_found_in_the_log_by_the_id_in_the_answer(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    async def behave(request: Any, context: Any) -> None:
        raise pg.UndefinedTable(SECRET)

    async with serve(behave) as bare, bare.connect() as connection:
        with pytest.raises(grpc.aio.AioRpcError) as caught, caplog.at_level(logging.ERROR):
            await connection.tracking.StartTrip(pb.StartTripRequest())
    error_id = refusal(caught.value).metadata["error_id"]
    (record,) = (each for each in caplog.records if vars(each).get("error_id") == error_id)
    assert SECRET not in str(vars(record))
    assert vars(record)["exception"]["type"] == "UndefinedTable"


async def test_what_the_database_says_stays_within(serve: Serve, database: Database) -> None:
    """Real errors of a real server, with the rows that they quote."""
    raised: Exception = Exception()

    async def behave(request: Any, context: Any) -> None:
        raise raised

    wrong = {
        'INSERT INTO "Trip" ("orgId", "startedAt", status) VALUES (%(org)s, now(), %(text)s)': (
            "TRIP_STATUS_KNOWN"
        ),
        'INSERT INTO "DrivingEvent" ("orgId", "tripId", ts, kind, value)'
        " VALUES (%(org)s, %(org)s, now(), 'stop', 1)": "DRIVING_EVENT_OF_TRIP",
        'INSERT INTO "Trip" ("orgId", "startedAt") VALUES (%(other)s, now())': "INTERNAL",
        'INSERT INTO "Trip" ("orgId") VALUES (%(org)s)': "INTERNAL",
        'SELECT secret FROM "Trip"': "INTERNAL",
        "SELECT %(text)s::int": "INVALID_VALUE",
        "SELECT 1 / 0": "INVALID_VALUE",
    }
    with psycopg.connect(database.dsn("tracking"), autocommit=True) as conn:
        conn.execute("SELECT set_config('driveflow.org_id', %s, false)", [str(SCHOOL)])
        async with serve(behave) as bare, bare.connect() as connection:
            for statement, reason in wrong.items():
                with pytest.raises(psycopg.Error) as refused:
                    conn.execute(
                        statement.encode(),
                        {"org": SCHOOL, "other": uuid.uuid4(), "text": "secret"},
                    )
                raised = refused.value
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await connection.tracking.StartTrip(pb.StartTripRequest())
                answer = refusal(caught.value)
                assert answer.reason == reason
                assert clean(answer), answer


async def test_a_cancellation_of_ours_is_told_to_the_peer(serve: Serve) -> None:
    async def behave(request: Any, context: Any) -> None:
        raise asyncio.CancelledError

    async with serve(behave) as bare, walking.channel(bare.address) as channel:
        for method in METHODS:
            answer = await bare.walk(channel, method)
            assert answer.refusal is not None
            assert answer.refusal.code is StatusCode.UNAVAILABLE, method.name
            assert answer.refusal.reason == "CALL_ABANDONED", method.name


async def test_a_method_that_hangs_is_ended_by_the_servers_limit(serve: Serve) -> None:
    async def behave(request: Any, context: Any) -> None:
        await asyncio.Event().wait()

    async with serve(behave, call_timeout_s=0.2) as bare, bare.connect() as connection:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await connection.tracking.StartTrip(pb.StartTripRequest())
    assert refusal(caught.value).reason == "DEADLINE_EXCEEDED"


async def test_an_unknown_method_is_unimplemented(serve: Serve) -> None:
    async def behave(request: Any, context: Any) -> None:
        raise AssertionError

    async with serve(behave) as bare, bare.connect() as connection:
        call: Any = connection.channel.unary_unary("/driveflow.tracking.v1.TrackingService/Nothing")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(b"")
    assert caught.value.code() is StatusCode.UNIMPLEMENTED


async def test_a_bad_request_names_every_field_that_is_wrong(serve: Serve) -> None:
    async def behave(request: Any, context: Any) -> None:
        raise AssertionError

    request = pb.ListTripPointsRequest(trip_id="no uuid", page_size=-1)
    async with serve(behave) as bare, bare.connect() as connection:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await connection.tracking.ListTripPoints(request)
    answer = refusal(caught.value)
    assert (answer.code, answer.reason) == (StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
    assert [field for field, _ in answer.fields] == ["trip_id", "page_size"]


def test_each_error_of_the_domain_has_a_code_of_its_own() -> None:
    """Services may have kinds of their own, which share the code of one of these."""
    every = walking.subclasses(errors.DomainError)
    codes = [kind.code for kind in every if errors.DomainError in kind.__bases__]
    assert len(set(codes)) == len(codes)
    assert StatusCode.UNKNOWN not in codes
