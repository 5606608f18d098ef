"""Takes in the events of another service, each effect exactly once.

The cursor moves in the transaction of the effects, so a crash anywhere leaves both done or neither.
Effects run in the order of the cursor, up to a hundred in a transaction. When one fails nothing of
its transaction has happened: it is taken again in halves, until the event that fails is alone. That
one is parked, and later events of its aggregate join it; the others go on. What is parked is tried
again with backoff, first of its aggregate first.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, TypeAlias

import grpc
import psycopg
from psycopg import errors as pg

from driveflow.events.v1 import events_pb2 as pb
from driveflow.events.v1.events_pb2_grpc import EventServiceStub
from libs import orgs, telemetry
from libs.client import Refusal
from libs.errors import DomainError, Unavailable, translate
from libs.events import messages, model, store
from libs.events.figures import Intake
from libs.events.model import Effect, Place
from libs.events.store import Due, Parked
from libs.gateway.ending import Ending
from libs.orgs import Orgs
from libs.pooling import Connection, connection

log = logging.getLogger(__name__)

BATCH_EVENTS = 100
"""Effects of one transaction at most."""
QUEUE_EVENTS = 500
RENEW_AFTER_S = 230.0
"""A subscription is renewed at this age; its token lives for at least TOKEN_AT_LEAST_S."""
TOKEN_AT_LEAST_S = 240.0
RETRY_EVERY_S = 1.0
COUNT_EVERY_S = 15.0
"""What is parked is counted so often, for the metrics."""
RECONNECT_MIN_S = 0.1
RECONNECT_MAX_S = 10.0
BACKOFF_MIN = timedelta(seconds=1)
BACKOFF_MAX = timedelta(hours=1)
CUT_SHORT = (pg.TransactionTimeout, pg.IdleInTransactionSessionTimeout)
"""The database ended the connection over what ran on it, not over itself."""

NOT_MENDING = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNIMPLEMENTED,
)
"""How a subscription ends that an operator must look at."""

Aggregate: TypeAlias = tuple[str, str]
Received: TypeAlias = tuple[Place, pb.Event]
"""Where a message leaves its reader; of a caught_up the event is empty, and has no type."""
Call: TypeAlias = grpc.aio.StreamStreamCall[pb.SubscribeRequest, pb.SubscribeResponse]


class SubscriptionEnded(Exception):
    """The producer ended the stream, or could not be reached."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(str(refusal))
        self.refusal = refusal


class EffectRefused(Exception):
    """An effect raised an answer of the API, whose code says nothing of the database."""

    def __init__(self, error: DomainError) -> None:
        super().__init__(str(error))
        self.error = error


class Consumer:
    """One service's intake of one other's events."""

    def __init__(
        self,
        name: str,
        producer: str,
        stub: EventServiceStub,
        tenants: Orgs,
        effects: Mapping[str, Effect],
        clock: Callable[[], datetime],
    ) -> None:
        """`effects` is by type of event; topics are what stands before the dot in a type.

        `stub` calls with a token of subject `service:<name>`. Types without an effect are passed
        over.
        """
        self._name = name
        self._producer = producer
        self._stub = stub
        self._orgs = tenants
        self._effects = effects
        self._clock = clock
        self._figures = Intake(producer)
        self._took = False
        """Whether the subscription under way has had effects."""
        self.topics = sorted({kind.partition(".")[0] for kind in effects})

    async def run(self) -> None:
        """Subscribe, again and again, and retry what is parked, for ever."""
        retrying = asyncio.create_task(self._retry_forever())
        try:
            await self._subscribe_forever()
        finally:
            retrying.cancel()
            await asyncio.gather(retrying, return_exceptions=True)

    async def _subscribe_forever(self) -> None:
        pause_s = RECONNECT_MIN_S
        failing = False
        while True:
            self._took = False
            try:
                await self._subscribe()
            except Exception as error:  # noqa: BLE001 (whatever it is, it may be better later)
                if self._took:
                    failing, pause_s = False, RECONNECT_MIN_S
                if not failing:
                    self._log_outage(error)
                failing = True
                await asyncio.sleep(pause_s * random.uniform(0.5, 1))  # noqa: S311
                pause_s = min(pause_s * 2, RECONNECT_MAX_S)

    async def _subscribe(self) -> None:
        """Take events from where the cursor stands, until it is time to renew."""
        start = pb.StartSubscription(consumer=self._name, topics=self.topics)
        place = await self._place()
        if place != model.FIRST:
            start.cursor = model.cursor(self._producer, place)
        call = self._stub.Subscribe()
        ending = Ending(call)  # type: ignore[arg-type] # whatever the call's messages are
        queue: asyncio.Queue[pb.SubscribeResponse] = asyncio.Queue(QUEUE_EVENTS)
        receiving = asyncio.ensure_future(_receive(call, queue))
        taking = asyncio.ensure_future(self._take_all(call, queue, start))
        try:
            done, _ = await asyncio.wait(
                (receiving, taking), timeout=RENEW_AFTER_S, return_when=asyncio.FIRST_COMPLETED
            )
            if taking in done:
                taking.result()
            if done:
                raise SubscriptionEnded(await ending.refusal())
        finally:
            receiving.cancel()
            taking.cancel()
            call.cancel()
            await asyncio.gather(receiving, taking, return_exceptions=True)

    async def _take_all(
        self,
        call: Call,
        queue: asyncio.Queue[pb.SubscribeResponse],
        start: pb.StartSubscription,
    ) -> None:
        """Take what was received, batch by batch; returns when the stream is at its end."""
        if not await _write(call, pb.SubscribeRequest(start=start)):
            return
        while True:
            batch = [await queue.get()]
            while len(batch) < BATCH_EVENTS and not queue.empty():
                batch.append(queue.get_nowait())
            await self.take(batch)
            self._took = True
            acknowledge = pb.Acknowledge(cursor=_cursor(batch[-1]))
            if not await _write(call, pb.SubscribeRequest(acknowledge=acknowledge)):
                return

    async def take(self, batch: Sequence[pb.SubscribeResponse]) -> None:
        """Have the effects of what was received, and move the cursor behind it.

        Raises when the database can't be reached; nothing has happened then.
        """
        await self._take_or_halve([(self._place_of(each), each.event) for each in batch])
        events = sum(each.HasField("event") for each in batch)
        self._figures.taken(events, batch[-1].event, self._clock())

    async def _take_or_halve(self, batch: Sequence[Received]) -> None:
        """In one transaction; what fails is halved until it is alone, and then parked."""
        try:
            await self._take(batch)
        except Exception as error:
            if _is_outage(error):
                raise
            if len(batch) == 1:
                await self._take(batch, failed=error)
                return
            middle = len(batch) // 2
            await self._take_or_halve(batch[:middle])
            await self._take_or_halve(batch[middle:])

    async def _take(self, batch: Sequence[Received], *, failed: Exception | None = None) -> None:
        """All effects, or none of them; one that `failed` before is parked instead."""
        async with self._orgs.walk("events") as conn:
            behind = await self._lock(conn)
            new = [each for each in batch if each[0] > behind]
            events = [event for _, event in new if event.type in self._effects]
            waiting = await self._waiting(conn, events)
            for event in events:
                await self._take_event(conn, event, waiting, failed)
            if new:
                await store.move_cursor(conn, self._producer, self._name, new[-1][0])

    async def _take_event(
        self, conn: Connection, event: pb.Event, waiting: set[Aggregate], failed: Exception | None
    ) -> None:
        """One effect, or a place behind the events of its aggregate that failed before."""
        if _aggregate(event) in waiting:
            await self._park(conn, event, None)
        elif failed is None:
            await self._have_effect(conn, event)
        else:
            self._note_failure(event, failed)
            await self._park(conn, event, failed)

    async def _have_effect(self, conn: Connection, sent: pb.Event) -> None:
        """The effect on behalf of the event's school; raises what went wrong."""
        event = messages.event(sent)
        await orgs.rescope(conn, event.org_id)
        try:
            await self._effects[sent.type](conn, event)
        except DomainError as error:
            raise EffectRefused(error) from error

    def _note_failure(self, event: pb.Event, error: Exception) -> None:
        told = {"type": event.type, "cursor": event.cursor, "org_id": event.org_id}
        telemetry.log_fault(log, "event parked", error, **told)
        self._figures.failed()

    async def _waiting(self, conn: Connection, events: Sequence[pb.Event]) -> set[Aggregate]:
        """The aggregates of these events that have some parked."""
        if not events:
            return set()
        among = {_aggregate(event) for event in events}
        return await store.parked_aggregates(conn, self._producer, self._name, among)

    async def _park(self, conn: Connection, event: pb.Event, error: Exception | None) -> None:
        """Keep the event; without an error it waits behind an earlier one of its aggregate."""
        now = self._clock()
        await store.park_event(
            conn,
            self._name,
            Parked(
                producer=self._producer,
                place=model.place(self._producer, event.cursor),
                aggregate_type=event.aggregate_type,
                aggregate_id=event.aggregate_id,  # type: ignore[arg-type] # cast by the statement
                aggregate_version=event.aggregate_version,
                envelope=event.SerializeToString(),
                attempts=0 if error is None else 1,
                next_attempt_at=now if error is None else now + backoff(1),
                last_error="" if error is None else _kind(error),
                parked_at=now,
            ),
        )

    # --- what is parked ---

    async def _retry_forever(self) -> None:
        failing = False
        count_due = float("-inf")
        while True:
            await asyncio.sleep(RETRY_EVERY_S)
            try:
                while await self.retry():
                    pass
                if asyncio.get_running_loop().time() >= count_due:
                    count_due = asyncio.get_running_loop().time() + COUNT_EVERY_S
                    await self._count_parked()
                failing = False
            except Exception as error:  # noqa: BLE001 (it may be better later)
                if not failing:
                    log.warning("retries wait", extra={"exception": telemetry.describe(error)})
                failing = True

    async def retry(self) -> bool:
        """Try the effect of the parked event that is due longest; whether there was one."""
        due = await self._due()
        if due is None:
            return False
        try:
            await self._retry(due)
        except Exception as error:
            if _is_outage(error):
                raise
            self._note_failure(pb.Event.FromString(due.envelope), error)
            async with connection(self._orgs.pool) as conn:
                await self._postpone(conn, due, error)
        return True

    async def _count_parked(self) -> None:
        async with connection(self._orgs.pool) as conn:
            count, _ = await store.count_parked(conn, self._name)
        self._figures.parked(count)

    async def _due(self) -> Due | None:
        async with connection(self._orgs.pool) as conn:
            return await store.due_parked_event(conn, self._producer, self._name, self._clock())

    async def _retry(self, first: Due) -> None:
        """The effect of a parked event, which leaves with it; raises what went wrong."""
        async with self._orgs.walk("events") as conn:
            # With the cursor held no event of its aggregate passes it, and it is tried once.
            await self._lock(conn)
            due = await store.due_parked_event(conn, self._producer, self._name, self._clock())
            if due is None or due.place != first.place:
                return
            event = pb.Event.FromString(due.envelope)
            if event.type in self._effects:
                await self._have_effect(conn, event)
            await store.unpark_event(conn, self._producer, self._name, due.place)

    async def _postpone(self, conn: Connection, due: Due, error: Exception) -> None:
        await store.postpone_parked_event(
            conn,
            self._producer,
            self._name,
            due,
            next_attempt_at=self._clock() + backoff(due.attempts + 1),
            last_error=_kind(error),
        )

    # --- the cursor ---

    async def _place(self) -> Place:
        async with connection(self._orgs.pool) as conn:
            place = await store.read_cursor(conn, self._producer, self._name)
            if place is None:
                await store.begin_cursor(conn, self._producer, self._name)
        return place or model.FIRST

    async def _lock(self, conn: Connection) -> Place:
        """The cursor, until the transaction ends; no event is to blame if another holds it."""
        try:
            return await store.lock_cursor(conn, self._producer, self._name)
        except (pg.LockNotAvailable, pg.QueryCanceled) as error:
            raise Unavailable(
                "DATABASE_BUSY", "Another process takes the events.", retry_after_s=1
            ) from error

    def _place_of(self, received: pb.SubscribeResponse) -> Place:
        return model.place(self._producer, _cursor(received))

    def _log_outage(self, error: Exception) -> None:
        """Once for each outage; what does not mend itself is an error."""
        level, what = logging.WARNING, telemetry.describe(error)
        if isinstance(error, SubscriptionEnded):
            what = {"type": "SubscriptionEnded", "message": str(error.refusal)}
            level = logging.ERROR if error.refusal.code in NOT_MENDING else logging.WARNING
        log.log(level, "no events", extra={"producer": self._producer, "exception": what})


async def _receive(call: Call, queue: asyncio.Queue[pb.SubscribeResponse]) -> None:
    """Hand over what comes; returns at the end of the stream, however it ended."""
    while True:
        try:
            received: Any = await call.read()
        except grpc.aio.AioRpcError:
            return
        except asyncio.CancelledError:
            # Also raised when it is the server that cancelled the call.
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            return
        if received is grpc.aio.EOF:
            return
        await queue.put(received)


async def _write(call: Call, request: pb.SubscribeRequest) -> bool:
    """Whether the stream still took it."""
    try:
        await call.write(request)
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
        return False
    return True


def backoff(attempts: int) -> timedelta:
    """How long an event waits after so many failures: a second, doubled, up to an hour."""
    doublings = min(attempts - 1, 20)
    return min(BACKOFF_MIN * (1 << doublings), BACKOFF_MAX)


def _aggregate(event: pb.Event) -> Aggregate:
    return event.aggregate_type, event.aggregate_id


def _cursor(received: pb.SubscribeResponse) -> str:
    return received.event.cursor or received.caught_up.cursor


def _kind(error: Exception) -> str:
    """What may be stored of an error: no words of a driver, which hold values."""
    if isinstance(error, EffectRefused):
        return error.error.reason
    reason = translate(error).reason
    return f"{type(error).__qualname__} {reason}"[:200]


def _is_outage(error: Exception) -> bool:
    """Whether the database could not be reached, rather than that it refused the work."""
    if isinstance(error, CUT_SHORT):
        return False
    if isinstance(error, psycopg.Error) and error.sqlstate is not None:
        # Shutdown, recovery, out of connections or of room; an answer about the work otherwise.
        return error.sqlstate[:2] in ("57", "53", "08") and not isinstance(error, pg.QueryCanceled)
    return translate(error).code is grpc.StatusCode.UNAVAILABLE or isinstance(
        error, psycopg.OperationalError
    )
