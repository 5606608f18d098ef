"""A school whose payments service dies in the middle of calls, and what must be so afterwards."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import grpc
import psycopg

from driveflow.booking.v1 import booking_pb2, directory_pb2
from driveflow.payments.v1 import payments_pb2 as pb
from driveflow.payments.v1.payments_pb2_grpc import PaymentServiceStub
from libs import issuer, pooling
from libs.client import Connection, refusal
from libs.events import Event
from libs.healthcheck import status
from libs.local.paths import ROOT
from libs.orgs import Orgs
from libs.settings import Settings
from services.payments import effects
from tests.booking import stories
from tests.booking.serving import Booking
from tests.booking.stories import at, morning
from tests.payments.serving import SECRET, Town, town
from tests.payments.stories import SCOPES
from tests.postgres import Database
from tests.serving import SCHOOL, Clock, Running, common_settings

PATIENCE_S = 60.0
RETRIES = 3
HOURS = (8, 10, 12, 14, 16, 18)
PEOPLE = 6
"""Instructors, and as many students."""
OPEN = """
SELECT id FROM payments."Payment" WHERE status = 'unknown' OR "nextAttemptAt" IS NOT NULL
UNION ALL SELECT id FROM payments."Refund" WHERE status = 'pending'
UNION ALL SELECT id FROM payments."Payout" WHERE status IN ('pending', 'in_transit')
"""
HALF_A_MINUTE_LATER = """
UPDATE payments."{}" SET "nextAttemptAt" = now() WHERE "nextAttemptAt" > now()
"""
UNBALANCED = """
SELECT "transactionId" FROM payments."LedgerEntry" GROUP BY "transactionId", currency
HAVING sum("amountCents") <> 0
"""
TWICE = """
SELECT "sourceId", kind, account FROM payments."LedgerEntry" GROUP BY 1, 2, 3 HAVING count(*) > 1
"""


class Process:
    """The service, started again by its launcher whenever it was killed."""

    def __init__(self, settings: dict[str, str], folder: Path) -> None:
        self.address = settings["DRIVEFLOW_LISTEN"]
        self.fatal = folder / "fatal.txt"
        self._log = folder / "payments.log"
        self._settings = settings | {"FATAL": str(self.fatal)}
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        """Start it and return once it serves."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: ASYNC220 (returns at once)
                [sys.executable, "-P", "-m", "tests.payments.chaos.launcher"],
                cwd=ROOT,
                env=os.environ | self._settings,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        await self.serving()

    async def serving(self) -> None:
        """Return once it serves."""
        give_up = time.monotonic() + PATIENCE_S
        while await asyncio.to_thread(status, self.address) != "SERVING":
            ended = self._process is None or self._process.poll() is not None
            if ended or time.monotonic() > give_up:
                raise RuntimeError(f"payments does not serve:\n{self._log.read_text()[-4000:]}")
            await asyncio.sleep(0.02)

    @property
    def pid(self) -> int:
        """The number of the process that serves."""
        return int(self.fatal.with_suffix(".pid").read_text())

    def kill9(self) -> None:
        """Kill it wherever it is; it comes again by itself."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    async def close(self) -> None:
        """Make sure that it is gone, with what would start it again."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            await asyncio.to_thread(self._process.wait, PATIENCE_S)


@dataclass
class Call:
    """A call that is made until it is answered, and what was answered."""

    method: str
    request: Any
    answers: list[Any] = field(default_factory=list)

    async def once(self, stub: PaymentServiceStub) -> grpc.StatusCode:
        """Make it; how it went."""
        try:
            self.answers.append(await getattr(stub, self.method)(self.request, timeout=8))
        except grpc.aio.AioRpcError as error:
            return refusal(error).code
        return grpc.StatusCode.OK

    @property
    def is_same(self) -> bool:
        """Whether all answers were the same, byte for byte."""
        return len({each.SerializeToString(deterministic=True) for each in self.answers}) == 1


@dataclass
class Site:
    """A school with bookings, its payments service, and Stripe."""

    town: Town
    booked: stories.School
    process: Process
    orgs: Orgs
    connections: AsyncExitStack
    stubs: list[PaymentServiceStub] = field(default_factory=list)
    slots: int = 0

    @property
    def org_id(self) -> UUID:
        return self.booked.org_id

    @property
    def stub(self) -> PaymentServiceStub:
        """As the school's office calls."""
        if not self.stubs:
            service = self.booked.service
            token = service.token(self.org_id, SCOPES, "office")
            connection = Connection(self.process.address, token)
            self.connections.push_async_callback(connection.close)
            self.stubs.append(connection.payments)
        return self.stubs[0]

    # --- what a call needs ---

    async def hold(self) -> booking_pb2.Booking:
        """A held booking at a time of its own."""
        number, self.slots = self.slots, self.slots + 1
        who, place = number % PEOPLE, number // PEOPLE
        day, hour = 3 + place // len(HOURS), HOURS[place % len(HOURS)]
        request = booking_pb2.HoldSlotRequest(
            student_id=self.booked.students[who].id,
            instructor_id=self.booked.instructors[who].id,
            service_id=self.booked.lesson.id,
            start_time=at(morning(self.booked, day, hour)),
            request_id=str(uuid4()),
        )
        return await self.booked.bookings().HoldSlot(request)

    async def asking(self) -> Call:
        """CreatePayment for a new booking."""
        booking = await self.hold()
        request = pb.CreatePaymentRequest(booking_id=booking.id, request_id=str(uuid4()))
        return Call("CreatePayment", request)

    async def paid(self, count: int) -> list[pb.Payment]:
        """So many payments that were paid and heard of."""
        calls = [await self.asking() for _ in range(count)]
        for call in calls:
            await self.finish(call)
            self.town.fake.confirm(call.answers[-1].payment.stripe_payment_intent_id)
        ids = [call.answers[-1].payment.id for call in calls]
        await self.heard(ids)
        return [call.answers[-1].payment for call in calls]

    async def driven(self, count: int) -> list[pb.Payment]:
        """So many payments of which the instructor's share is due."""
        payments = await self.paid(count)
        for payment in payments:
            await self.drove(payment)
        return payments

    async def drove(self, payment: pb.Payment) -> None:
        """The lesson of a payment was given, as booking tells it."""
        told = {
            "booking_id": payment.booking_id,
            "instructor_id": payment.instructor_id,
            "instructor_share_cents": payment.instructor_share_cents,
        }
        id_, now = UUID(payment.booking_id), datetime.now(UTC)
        event = Event(self.org_id, "lesson", "lesson.completed", "booking", id_, 1, told, now)
        async with self.orgs.write(self.org_id) as conn:
            await effects.of_booking(Clock(), _nobody)["lesson.completed"](conn, event)

    async def heard(self, ids: list[str]) -> None:
        """Until Stripe has told that these were paid."""
        await self.until(lambda: self._are_paid(ids), "they are paid")

    def refunding(self, payment: pb.Payment, cents: int) -> Call:
        """RefundPayment of some of it."""
        request = pb.RefundPaymentRequest(
            payment_id=payment.id, amount_cents=cents, request_id=str(uuid4())
        )
        return Call("RefundPayment", request)

    def paying_out(self, payment: pb.Payment) -> Call:
        """CreatePayout of one payment."""
        request = pb.CreatePayoutRequest(
            instructor_id=payment.instructor_id,
            payments=pb.PaymentIds(payment_ids=[payment.id]),
            request_id=str(uuid4()),
        )
        return Call("CreatePayout", request)

    # --- crashes ---

    @contextmanager
    def deaf(self) -> Iterator[None]:
        """Stripe tells nothing by itself: its events would make up for what was forgotten."""
        self.town.fake.set_webhook(None, ())
        try:
            yield
        finally:
            listen(self.town)

    async def crash(self, calls: Sequence[Call], place: str, passing: int = 1) -> None:
        """Make the calls at once; the service dies when one of them passes the place."""
        pid = self.process.pid
        self.process.fatal.write_text(f"{calls[0].method} {place} {passing}")
        await asyncio.gather(*(call.once(self.stub) for call in calls))
        await self.until(lambda: self._is_another(pid), "it has died and come again")
        await self.process.serving()

    async def _is_another(self, pid: int) -> bool:
        return self.process.pid != pid

    async def finish(self, call: Call, tries: int = 1 + RETRIES) -> None:
        """Call until there is an answer; raises when there is none after so many tries."""
        codes = []
        for _ in range(tries):
            codes.append(await call.once(self.stub))
            if codes[-1] is grpc.StatusCode.OK:
                return
            await asyncio.sleep(0.05)
        raise AssertionError(f"{call.method} was answered {codes}")

    async def repeated(self, call: Call, **other: str) -> None:
        """Call again with the same id, and with another request under it."""
        await self.finish(call)
        assert call.is_same, f"{call.method} was answered in different ways: {call.answers}"
        changed = Call(call.method, type(call.request)())
        changed.request.CopyFrom(call.request)
        for name, value in other.items():
            setattr(changed.request, name, value)
        try:
            await getattr(self.stub, call.method)(changed.request, timeout=8)
        except grpc.aio.AioRpcError as error:
            if refusal(error).reason == "REQUEST_ID_REUSED":
                return
            raise
        raise AssertionError("another request had an answer under the same id")

    async def settle(self) -> None:
        """Half a minute passes; what nobody has repeated is finished by the sweep."""
        for table in ("Payment", "Refund", "Payout"):
            await self.rows(HALF_A_MINUTE_LATER.format(table))
        await self.until(self._is_finished, "nothing is open")

    async def _is_finished(self) -> bool:
        return not await self.rows(OPEN)

    async def _are_paid(self, ids: list[str]) -> bool:
        query = """SELECT count(*) FROM payments."Payment"
                    WHERE id = ANY (%s) AND status = 'succeeded'"""
        return await self.rows(query, ids) == [(len(ids),)]

    # --- the verdict ---

    async def faults(self) -> list[str]:
        """What was done more than once, and what does not add up."""
        fake, found = self.town.fake, []
        for kind, key in (
            ("payment_intents", "payment_id"),
            ("charges", "payment_id"),
            ("refunds", "refund_id"),
            ("transfers", "payout_id"),
        ):
            more = {name: n for name, n in fake.tally(kind, key).items() if n != 1}
            found += [f"{n} {kind} of {name}" for name, n in more.items()]
        found += [f"unbalanced {row}" for row in await self.rows(UNBALANCED)]
        found += [f"twice in the ledger: {row}" for row in await self.rows(TWICE)]
        found += await self._differences()
        return found

    async def _differences(self) -> list[str]:
        """What we know, and Stripe does not, or the other way round."""
        fake, found = self.town.fake, []
        for kind, key, query in (
            (
                "charges",
                "payment_id",
                """SELECT id::text FROM payments."Payment" WHERE status IN
                ('succeeded', 'partially_refunded', 'refunded', 'disputed')""",
            ),
            (
                "refunds",
                "refund_id",
                """SELECT id::text FROM payments."Refund"
                WHERE status = 'succeeded'""",
            ),
            (
                "transfers",
                "payout_id",
                """SELECT id::text FROM payments."Payout"
                WHERE status = 'paid'""",
            ),
        ):
            ours, theirs = {row[0] for row in await self.rows(query)}, set(fake.tally(kind, key))
            found += [f"{kind}: {id_} is not known to both" for id_ in ours ^ theirs]
        return found

    async def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """What a query returns, for a superuser."""
        dsn = self.town.database.admin_dsn
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as conn:
            cursor = await conn.execute(query.encode(), values or None)
            return await cursor.fetchall() if cursor.description else []

    async def until(self, condition: Callable[[], Awaitable[bool]], what: str) -> None:
        """Wait for it; raises TimeoutError."""
        give_up = time.monotonic() + PATIENCE_S
        while not await condition():
            if time.monotonic() > give_up:
                raise TimeoutError(what)
            await asyncio.sleep(0.05)


def listen(place: Town) -> None:
    """Have Stripe tell payments what happens."""
    place.fake.set_webhook(f"http://127.0.0.1:{place.webhook_port}/webhooks/stripe", (SECRET,))


class Patient(Booking):
    """Booking, with tokens that outlive a long run."""

    def token(
        self,
        org_id: UUID | None = SCHOOL,
        scopes: tuple[str, ...] = issuer.TENANT_SCOPES,
        subject: str = "office",
        ttl: timedelta = timedelta(hours=8),
    ) -> str:
        return super().token(org_id, scopes, subject, ttl)


@asynccontextmanager
async def site(database: Database, folder: Path) -> AsyncIterator[Site]:
    """Booking in this process, payments in one that may be killed, a furnished school."""
    async with AsyncExitStack() as stack:
        place = await stack.enter_async_context(town(database, folder))
        running = await stack.enter_async_context(place.booking())
        booking = Patient(**vars(running))
        listen(place)
        place.fake.top_up(10**9, "aud")
        process = Process(_environment(place, booking), folder)
        stack.push_async_callback(process.close)
        await process.start()
        booked = await stories.School.furnished(booking, instructors=PEOPLE, students=PEOPLE)
        for number, instructor in enumerate(booked.instructors):
            await _open_account(booked, instructor, f"acct_{number}")
        dsn = database.dsn("payments")
        settings = Settings(**common_settings(place.home("payments")), dsn=dsn)
        pool = await stack.enter_async_context(pooling.create("payments", dsn, settings))
        yield Site(place, booked, process, Orgs(pool), stack)


def _environment(place: Town, booking: Running) -> dict[str, str]:
    jwks = place.home("payments") / "jwks.json"
    jwks.write_text((place.home("booking") / "jwks.json").read_text())
    return {
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'protos'}",
        "DRIVEFLOW_LISTEN": f"127.0.0.1:{place.payments_port}",
        "DRIVEFLOW_DSN": place.database.dsn("payments"),
        "DRIVEFLOW_JWKS": str(jwks),
        "DRIVEFLOW_PAGE_TOKEN_KEY": "chaos" * 16,
        "DRIVEFLOW_DRAIN_S": "2",
        "DRIVEFLOW_SERVICE_KEY": str(place.service_key()),
        "DRIVEFLOW_EVENT_SOURCES": f"booking={booking.address}",
        "DRIVEFLOW_EVENT_CONSUMERS": "booking",
        "DRIVEFLOW_BOOKING_ADDRESS": booking.address,
        "DRIVEFLOW_STRIPE_KEY": "sk_test_chaos",
        "DRIVEFLOW_STRIPE_WEBHOOK_SECRETS": SECRET,
        "DRIVEFLOW_STRIPE_API_BASE": place.fake.url,
        "DRIVEFLOW_STRIPE_TIMEOUT_S": "2",
        "DRIVEFLOW_WEBHOOK_LISTEN": f"127.0.0.1:{place.webhook_port}",
    }


async def _open_account(booked: stories.School, instructor: Any, account: str) -> None:
    changed = directory_pb2.Instructor(id=instructor.id, stripe_account_id=account)
    request = directory_pb2.UpdateInstructorRequest(instructor=changed)
    request.update_mask.paths.append("stripe_account_id")
    await booked.directory().UpdateInstructor(request)


def _nobody(_org_id: UUID) -> None:
    """The running service looks by itself."""
