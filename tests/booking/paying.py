"""Payments as booking knows it: someone who tells of payments and payouts."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from driveflow.booking.v1 import booking_pb2 as pb
from driveflow.events.v1 import events_pb2
from libs import issuer, outbox
from libs.access import Verifier
from libs.events import Events
from libs.events.consumer import Consumer
from libs.orgs import Orgs
from libs.server import Server
from services.booking import effects
from tests.booking.stories import School
from tests.booking.sweeping import Swept, swept
from tests.libs import eventing
from tests.libs.conftest import bare_settings
from tests.postgres import Database
from tests.serving import Clock
from tests.tracking.stories import rows
from tests.waiting import eventually

TAKEN = """
SELECT count(*) FROM payments."Outbox" AS o
  JOIN booking."EventCursor" AS c ON c.producer = 'payments' AND c.consumer = 'booking'
 WHERE o."aggregateId" = %s AND o."aggregateVersion" = %s
   AND (c."xactId", c.id) >= (o."xactId", o.id)
"""


@dataclass
class Payments:
    """Tells of events, and returns when booking has taken them in."""

    orgs: Orgs
    database: Database
    versions: dict[uuid.UUID, int] = field(default_factory=dict)

    async def tell(self, school: School, kind: str, id_: uuid.UUID, **payload: Any) -> None:
        """An event of the payment or payout `id_`."""
        version = self.versions[id_] = self.versions.get(id_, 0) + 1
        topic = kind.partition(".")[0]
        told = {f"{topic}_id": str(id_), **payload}
        async with self.orgs.write(school.org_id) as conn:
            await outbox.emit(conn, school.org_id, topic, id_, version, kind, told)
        await eventually(lambda: self._is_taken(id_, version))

    async def _is_taken(self, id_: uuid.UUID, version: int) -> bool:
        return await rows(self.database.admin_dsn, TAKEN, id_, version) == [(1,)]

    async def pay(self, school: School, booking: pb.Booking, kind: str = "succeeded") -> str:
        """A new payment of a booking has come so far; returns its id."""
        payment_id = uuid.uuid4()
        status = {"status": kind, **payment(booking)}
        await self.tell(school, f"payment.{kind}", payment_id, **status)
        return str(payment_id)

    async def parked(self, id_: str) -> list[str]:
        """What went wrong with the events of a payment or payout that wait to be tried again."""
        query = 'SELECT "lastError" FROM booking."ParkedEvent" WHERE "aggregateId" = %s'
        return [error for (error,) in await rows(self.database.admin_dsn, query, id_)]


@dataclass
class Office:
    """A booking service that listens to payments."""

    booking: Swept
    payments: Payments


def payment(booking: pb.Booking) -> dict[str, Any]:
    """What every event of a payment says, but for its id and status."""
    return {
        "booking_id": booking.id,
        "instructor_id": booking.instructor_id,
        "amount_cents": booking.price_cents,
        "currency": booking.currency,
    }


@asynccontextmanager
async def office(database: Database, folder: Path) -> AsyncIterator[Office]:
    """Both of them, until the block ends; nothing is swept unless the test does it."""
    key, keys = issuer.new_key(), folder / "payments"
    keys.mkdir()
    (keys / "jwks.json").write_text(issuer.jwks(key))
    (folder / "service_key.pem").write_text(key)
    settings = bare_settings(keys, event_consumers="booking")
    async with AsyncExitStack() as stack:
        orgs = await stack.enter_async_context(eventing.orgs_of("payments", database, keys))
        events = Events("payments", settings, orgs, Clock())
        events.start(stack)
        server = Server(settings, Verifier.of(settings), probe=_well)
        events.add_to(server)
        await server.start()
        stack.push_async_callback(server.drain)
        booking = await stack.enter_async_context(
            swept(
                database,
                folder,
                service_key=str(folder / "service_key.pem"),
                event_sources=f"payments=127.0.0.1:{server.port}",
            )
        )
        yield Office(booking, Payments(orgs, database))


async def _well() -> None:
    """The probe of a service that needs nothing."""


@dataclass
class Intake:
    """Booking's intake of events that a test hands over itself, as many at once as it likes."""

    consumer: Consumer
    producer: str
    database: Database
    clock: Clock
    count: int = 0

    def event(self, school: School, kind: str, **payload: Any) -> events_pb2.SubscribeResponse:
        """The first event of a new payment or payout, as it is received."""
        self.count += 1
        topic, id_ = kind.partition(".")[0], str(uuid.uuid4())
        return events_pb2.SubscribeResponse(
            event=events_pb2.Event(
                cursor=f"{self.producer}.{self.count:016x}.{self.count:016x}",
                org_id=str(school.org_id),
                topic=topic,
                type=kind,
                aggregate_type=topic,
                aggregate_id=id_,
                aggregate_version=1,
                payload=json.dumps({f"{topic}_id": id_, **payload}),
            )
        )

    def paid(self, school: School, booking: pb.Booking) -> events_pb2.SubscribeResponse:
        """That a new payment of a booking has succeeded."""
        return self.event(school, "payment.succeeded", **payment(booking))

    async def take(self, batch: Sequence[events_pb2.SubscribeResponse]) -> None:
        """Have the effects of these in one transaction."""
        await self.consumer.take(batch)

    async def parked(self) -> list[str]:
        """What went wrong with events that wait to be tried again."""
        query = 'SELECT "lastError" FROM booking."ParkedEvent" WHERE producer = %s'
        found = await rows(self.database.admin_dsn, query, self.producer)
        return [error for (error,) in found]

    async def retry_all(self) -> int:
        """Try again whatever is parked until nothing is; returns how often that was."""
        for tries in range(100):
            if not await self.parked():
                return tries
            self.clock.ahead += timedelta(seconds=10)
            await self.consumer.retry()
        raise AssertionError(f"still parked: {await self.parked()}")


@asynccontextmanager
async def intake(database: Database, folder: Path, clock: Clock) -> AsyncIterator[Intake]:
    """An intake with a cursor of its own, as if yet another service told of payments."""
    producer = f"payments-{uuid.uuid4().hex[:12]}"
    async with eventing.orgs_of("booking", database, folder) as orgs:
        nobody: Any = None  # no stub: it subscribes to nothing
        consumer = Consumer("booking", producer, nobody, orgs, effects.of_payments(clock), clock)
        await consumer._place()
        yield Intake(consumer, producer, database, clock)
