"""Two services of libs alone, in this process: booking tells of events, payments takes them in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import grpc
import psycopg

from driveflow.events.v1 import events_pb2 as pb
from driveflow.events.v1.events_pb2_grpc import EventServiceStub
from libs import checks, issuer, outbox, pooling
from libs.access import Verifier
from libs.client import Connection, Refusal, refusal
from libs.events import Effect, Event, Events
from libs.events.consumer import Consumer
from libs.orgs import Orgs
from libs.server import Server
from tests.libs.conftest import bare_settings
from tests.postgres import Database
from tests.serving import SCHOOL, Clock
from tests.waiting import PATIENCE_S

TYPE = "lesson.completed"


@dataclass
class Platform:
    """A producer, `booking`, and what a consumer, `payments`, needs."""

    database: Database
    key: str
    clock: Clock
    events: Events
    server: Server
    producing: Orgs
    consuming: Orgs
    stack: AsyncExitStack
    versions: dict[UUID, int] = field(default_factory=dict)

    def stub(
        self,
        subject: str = "service:payments",
        org_id: UUID | None = None,
        *,
        scopes: tuple[str, ...] = issuer.TENANT_SCOPES,
        ttl: timedelta = timedelta(minutes=5),
    ) -> EventServiceStub:
        """A caller: a service unless `org_id` names a school."""
        token = issuer.sign(self.key, subject=subject, scopes=scopes, ttl=ttl, org_id=org_id)
        connection = Connection(f"127.0.0.1:{self.server.port}", token)
        self.stack.push_async_callback(connection.close)
        return connection.events

    def operator(self) -> EventServiceStub:
        return self.stub("operator", scopes=issuer.OPS_SCOPES)

    def subscribe(self, stub: EventServiceStub | None = None, **start: Any) -> Subscriber:
        return Subscriber((stub or self.stub()).Subscribe(wait_for_ready=True), start)

    def consumer(self, effects: Mapping[str, Effect], clock: Clock | None = None) -> Consumer:
        clock = clock or self.clock
        return Consumer("payments", "booking", self.stub(), self.consuming, effects, clock)

    async def own_consumer(self, effect: Effect, *aggregates: UUID) -> Consumer:
        """Booking takes in events of its own, one for each of these, so that it tells of them."""
        consumer = self.consumer({TYPE: effect})
        consumer._name, consumer._orgs = "booking", self.producing
        for aggregate in aggregates:
            await self.emit(aggregate)
        events = await self.subscribe().read(len(aggregates))
        await consumer._place()
        await consumer.take([pb.SubscribeResponse(event=event) for event in events])
        return consumer

    async def emit(self, aggregate: UUID | None = None, org_id: UUID = SCHOOL, **more: Any) -> UUID:
        """An event of its own transaction; returns the aggregate."""
        aggregate = aggregate or uuid4()
        async with self.producing.write(org_id) as conn:
            await self.emit_in(conn, aggregate, org_id, **more)
        return aggregate

    async def emit_in(
        self,
        conn: pooling.Connection,
        aggregate: UUID,
        org_id: UUID = SCHOOL,
        kind: str = TYPE,
        **payload: Any,
    ) -> int:
        version = self.versions[aggregate] = self.versions.get(aggregate, 0) + 1
        topic = kind.partition(".")[0]
        await outbox.emit(conn, org_id, topic, aggregate, version, kind, payload)
        return version

    def rows(self, query: str, *parameters: object) -> list[tuple[Any, ...]]:
        """As the superuser."""
        with psycopg.connect(self.database.admin_dsn, autocommit=True) as admin:
            return admin.execute(query, parameters).fetchall()


class Subscriber:
    """The other end of a subscription."""

    def __init__(self, call: Any, start: dict[str, Any]) -> None:
        self.call = call
        self._start = {"consumer": "payments"} | start
        self._begun = False
        self.caught_up: list[str] = []

    async def begin(self) -> None:
        self._begun = True
        start = pb.StartSubscription(**self._start)
        await self.call.write(pb.SubscribeRequest(start=start))

    async def read(self, count: int, *, acknowledge: bool = True) -> list[pb.Event]:
        """So many events, acknowledged one by one."""
        if not self._begun:
            await self.begin()
        events: list[pb.Event] = []
        async with asyncio.timeout(PATIENCE_S):
            while len(events) < count:
                received = await self.call.read()
                if received.HasField("caught_up"):
                    self.caught_up.append(received.caught_up.cursor)
                    continue
                events.append(received.event)
                if acknowledge:
                    await self.acknowledge(received.event.cursor)
        return events

    async def acknowledge(self, cursor: str) -> None:
        request = pb.SubscribeRequest(acknowledge=pb.Acknowledge(cursor=cursor))
        await self.call.write(request)

    async def until_caught_up(self) -> list[pb.Event]:
        """The events before the first word that there are no more."""
        if not self._begun:
            await self.begin()
        events: list[pb.Event] = []
        async with asyncio.timeout(PATIENCE_S):
            while True:
                received = await self.call.read()
                if received.HasField("caught_up"):
                    self.caught_up.append(received.caught_up.cursor)
                    return events
                events.append(received.event)

    async def refusal(self) -> Refusal:
        """Why the stream ended."""
        if not self._begun:
            await self.begin()
        try:
            async with asyncio.timeout(PATIENCE_S):
                while await self.call.read() is not grpc.aio.EOF:
                    pass
        except grpc.aio.AioRpcError as error:
            return refusal(error)
        raise AssertionError("the stream ended well")


@asynccontextmanager
async def running(
    database: Database, folder: Path, key: str | None = None, **overrides: object
) -> AsyncIterator[Platform]:
    """The producer serves until the block ends; `overrides` are its settings."""
    key = key or issuer.new_key()
    (folder / "jwks.json").write_text(issuer.jwks(key))
    settings = bare_settings(folder, event_consumers="payments", **overrides)
    clock = Clock()
    async with AsyncExitStack() as stack, AsyncExitStack() as connections:
        pools = {
            name: pooling.create(name, database.dsn(name), settings)
            for name in ("booking", "payments")
        }
        await checks.open_pools(stack, 30.0, *pools.values())
        producing = Orgs(pools["booking"])
        events = Events("booking", settings, producing, clock)
        events.start(stack)
        server = Server(settings, Verifier.of(settings), probe=_well)
        events.add_to(server)
        await server.start()
        stack.push_async_callback(server.drain)
        yield Platform(
            database,
            key,
            clock,
            events,
            server,
            producing,
            Orgs(pools["payments"]),
            connections,
        )


@asynccontextmanager
async def orgs_of(service: str, database: Database, folder: Path) -> AsyncIterator[Orgs]:
    """Transactions as a service opens them, until the block ends."""
    pool = pooling.create(service, database.dsn(service), bare_settings(folder))
    async with AsyncExitStack() as stack:
        await checks.open_pools(stack, 30.0, pool)
        yield Orgs(pool)


@asynccontextmanager
async def consuming(consumer: Consumer) -> AsyncIterator[None]:
    """The consumer runs until the block ends, which is as sudden to it as a crash."""
    task = asyncio.create_task(consumer.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def note(conn: pooling.Connection, event: Event) -> None:
    """An effect that can be counted: an audit entry of the event's school."""
    await conn.execute(
        'INSERT INTO "AuditLog" ("orgId", "actorUserId", "entityType", "entityId", action)'
        " VALUES (%s, 'test', %s, %s, %s)",
        (
            event.org_id,
            event.aggregate_type,
            str(event.aggregate_id),
            str(event.aggregate_version),
        ),
    )


def noted(platform: Platform) -> list[tuple[UUID, int]]:
    """(aggregate, version) of the effects of `note`, as they happened."""
    rows = platform.rows('SELECT "entityId", action FROM payments."AuditLog" ORDER BY id')
    return [(UUID(aggregate), int(version)) for aggregate, version in rows]


async def _well() -> None:
    """The probe of a service that needs nothing."""
