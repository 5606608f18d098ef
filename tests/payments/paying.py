"""What stories about payouts are told with: shares that are due, and a sweep of the test's own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

from driveflow.payments.v1 import payments_pb2 as pb
from libs.orgs import Orgs
from services.payments.model import ledger
from services.payments.model.payments import Payment
from services.payments.paying_out import PayingOut
from services.payments.store import ledger as ledger_store
from services.payments.store import payments as store
from services.payments.stripe_gateway import StripeGateway
from tests.booking.stories import at
from tests.libs import eventing
from tests.payments.stories import FEE_CENTS, PRICE_CENTS, SHARE_CENTS, School
from tests.serving import Clock
from tests.waiting import eventually

DAY = timedelta(days=1)
RICH_CENTS = 1_000_000_000
"""What the platform has at Stripe in AUD; of other currencies it has nothing."""


@dataclass
class Till:
    """A school's payouts."""

    school: School
    orgs: Orgs
    gateway: StripeGateway
    clock: Clock
    """Of the test's own sweep."""

    @property
    def paying_out(self) -> PayingOut:
        return PayingOut(self.orgs, self.gateway, self.clock)

    # --- what is due ---

    async def due(
        self,
        share_cents: int = SHARE_CENTS,
        *,
        instructor_id: str | None = None,
        currency: str = "AUD",
        lesson_at: datetime | None = None,
        refunded_cents: int = 0,
    ) -> Payment:
        """A payment whose lesson was given; written as it is by the time that its share is due."""
        org_id, now = self.school.org_id, self.clock()
        async with self.orgs.write(org_id) as conn:
            payment = await store.add_payment(
                conn,
                org_id,
                now,
                booking_id=uuid4(),
                student_id=None,
                instructor_id=UUID(instructor_id or self.school.instructor.id),
                amount_cents=PRICE_CENTS,
                currency=currency,
                application_fee_cents=FEE_CENTS,
                instructor_share_cents=share_cents,
                next_attempt_at=None,
            )
            assert payment is not None
            driven = replace(
                payment,
                status="succeeded",
                stripe_payment_intent_id=f"pi_{payment.id.hex}",
                captured_cents=PRICE_CENTS,
                captured_at=now,
                refunded_cents=refunded_cents,
                lesson_completed_at=lesson_at or now,
                share_status="due",
            )
            for moved in (
                ledger.charge(payment.id, currency, PRICE_CENTS, FEE_CENTS),
                ledger.share("share_due", payment.id, currency, payment.instructor_id, share_cents),
            ):
                await ledger_store.move_money(conn, org_id, moved)
            return await store.save_payment(conn, org_id, driven, now)

    async def dues(self, count: int) -> list[Payment]:
        return [await self.due() for _ in range(count)]

    async def instructor(self, name: str, account: str = "") -> str:
        """The id of another one."""
        added = await self.school.booked.add_instructor(name, stripe_account_id=account)
        return added.id

    # --- what is asked of the service ---

    def period(self, days_back: int = 1) -> pb.Period:
        """From so many days ago to tomorrow."""
        now = self.school.service.clock()
        return pb.Period(start_time=at(now - days_back * DAY), end_time=at(now + DAY))

    def request(
        self, named: Sequence[Payment] = (), instructor_id: str | None = None
    ) -> pb.CreatePayoutRequest:
        """For these payments, or for all that is due."""
        request = pb.CreatePayoutRequest(
            instructor_id=instructor_id or self.school.instructor.id, request_id=str(uuid4())
        )
        if named:
            request.payments.payment_ids.extend(str(each.id) for each in named)
        else:
            request.period.CopyFrom(self.period())
        return request

    async def pay_out(
        self, named: Sequence[Payment] = (), instructor_id: str | None = None
    ) -> pb.Payout:
        return await self.school.stub().CreatePayout(self.request(named, instructor_id))

    async def reverse(self, payout: pb.Payout, reason: str = "wrong month") -> pb.Payout:
        request = pb.ReversePayoutRequest(
            payout_id=payout.id, reason=reason, request_id=str(uuid4())
        )
        return await self.school.stub().ReversePayout(request)

    async def payout(self, payout: pb.Payout) -> pb.Payout:
        """As it is now."""
        return await self.school.stub().GetPayout(pb.GetPayoutRequest(payout_id=payout.id))

    async def until(self, payout: pb.Payout, status: str) -> pb.Payout:
        """Until a payout has a status."""
        wanted = pb.PayoutStatus.Value(f"PAYOUT_STATUS_{status}")
        return await eventually(lambda: self.payout(payout), lambda seen: seen.status == wanted)

    async def sweep(self, payout: pb.Payout) -> pb.Payout:
        """After what a sweep does an hour later."""
        self.clock.ahead += timedelta(hours=1)
        await self.paying_out.advance(self.school.org_id, UUID(payout.id))
        return await self.payout(payout)

    # --- what became of it ---

    def transfers(self, payout: pb.Payout) -> int:
        """How many Stripe made for it."""
        return self.school.fake.tally("transfers", "payout_id").get(payout.id, 0)

    def reversals(self, payout: pb.Payout) -> int:
        return self.school.fake.tally("reversals", "payout_id").get(payout.id, 0)

    def keys(self, path: str) -> list[str]:
        """Keys of the requests to Stripe whose path ends so, oldest first."""
        return [
            each["key"]
            for each in self.school.fake.journal()
            if each["path"].endswith(path) and each["method"] == "POST"
        ]

    async def owed(self, instructor_id: str | None = None) -> int:
        """What the ledger says that an instructor is owed."""
        account = f"instructor:{instructor_id or self.school.instructor.id}"
        return -(await self.school.balances()).get(account, 0)

    async def told(self, payout: pb.Payout) -> list[str]:
        """The events of a payout."""
        return [kind for kind, id_, *_ in await self.school.events() if id_ == payout.id]


@asynccontextmanager
async def till(school: School, folder: Path) -> AsyncIterator[Till]:
    """Beside the service, with its own connections."""
    school.fake.top_up(RICH_CENTS, "aud")
    gateway = StripeGateway("sk_test_story", [], timeout_s=2.0, api_base=school.fake.url)
    async with eventing.orgs_of("payments", school.service.database, folder) as orgs:
        yield Till(school, orgs, gateway, Clock())
    await gateway.close()
