"""A school with one of everything that payments keeps, and what is asked about it."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, NamedTuple

from google.protobuf.message import Message

from driveflow.booking.v1 import booking_pb2
from driveflow.payments.v1 import payments_pb2 as pb
from driveflow.payments.v1 import reconciliation_pb2 as rpb
from libs.client import Connection
from libs.local.stripe_fake import StripeFake
from libs.orgs import Orgs
from services.payments.store import payments as store
from services.payments.stripe_gateway import StripeGateway
from tests import walking
from tests.booking import stories
from tests.booking.serving import Booking
from tests.payments.paying import Till
from tests.payments.serving import Payments
from tests.payments.stories import School
from tests.serving import Clock, at
from tests.tenancy import forgetting, recipes_events
from tests.tenancy.schools import ALL_SCOPES, SECRET, Ids, Kit, Member, Pair, Recipe, Recipes
from tests.tracking.stories import rows
from tests.waiting import eventually

SERVICES = (
    "driveflow.payments.v1.PaymentService",
    "driveflow.payments.v1.ReconciliationService",
    "driveflow.payments.v1.WebhookService",
    recipes_events.SERVICE,
)
TOPIC = "payment"
PAYMENTS = ("unpaid", "cancelled", "paid", "refunded", "disputed", "due", "due_2")
"""The school's payments, each named after what it is or what may be done with it."""
PAYOUTS = ("payout", "reversed")
LONG_AGO = datetime(2001, 1, 1, tzinfo=UTC)
"""In its month lessons were given that the school has paid out in a batch."""


def period(start: datetime, end: datetime) -> pb.Period:
    return pb.Period(start_time=at(start), end_time=at(end))


THAT_MONTH = period(LONG_AGO, LONG_AGO + timedelta(days=31))


def now() -> datetime:
    return datetime.now(UTC)


def lately() -> pb.Period:
    """What is due, but for what was long ago."""
    return period(now() - timedelta(days=30), now() + timedelta(days=1))


def over() -> pb.Period:
    """What can be compared with Stripe's books."""
    return period(now() - timedelta(days=1), now() - timedelta(minutes=30))


def fresh() -> str:
    return str(uuid.uuid4())


# --- what is asked -----------------------------------------------------------------------------


def pay_out(
    ids: Ids, payments: Ids, name: str, request_id: Callable[[], str]
) -> pb.CreatePayoutRequest:
    return pb.CreatePayoutRequest(
        instructor_id=ids["instructor"],
        payments=pb.PaymentIds(payment_ids=[payments[name]]),
        request_id=request_id(),
    )


def report() -> pb.GetRevenueReportRequest:
    """By month, of all that there is."""
    return pb.GetRevenueReportRequest(
        range=period(LONG_AGO, LONG_AGO + timedelta(days=365 * 40)),
        bucket=pb.REVENUE_BUCKET_MONTH,
        currency="AUD",
    )


def take_back(payout_id: str) -> pb.ReversePayoutRequest:
    return pb.ReversePayoutRequest(payout_id=payout_id, reason="Wrong", request_id=fresh())


def account(ids: Ids) -> str:
    return f"instructor:{ids['instructor']}"


RECIPES: Recipes = {
    "CreatePayment": [
        lambda ids, _: [pb.CreatePaymentRequest(booking_id=ids["booking"], request_id=fresh())]
    ],
    "GetPayment": [
        partial(lambda name, ids, _: [pb.GetPaymentRequest(payment_id=ids[name])], name)
        for name in PAYMENTS
    ],
    "ListPayments": [
        lambda _, __: [pb.ListPaymentsRequest()],
        lambda _, __: [pb.ListPaymentsRequest(status=pb.PAYMENT_STATUS_SUCCEEDED)],
        lambda ids, _: [pb.ListPaymentsRequest(booking_id=ids["paid_booking"])],
        lambda ids, _: [
            pb.ListPaymentsRequest(
                booking_id=ids["paid_booking"], status=pb.PAYMENT_STATUS_SUCCEEDED
            )
        ],
    ],
    "LookupPayment": [
        lambda ids, _: [pb.LookupPaymentRequest(stripe_payment_intent_id=ids["intent"])]
    ],
    "CancelPayment": [
        lambda ids, _: [pb.CancelPaymentRequest(payment_id=ids["unpaid"], request_id=fresh())]
    ],
    "RefundPayment": [
        lambda ids, _: [
            pb.RefundPaymentRequest(payment_id=ids["paid"], amount_cents=1, request_id=fresh())
        ],
        lambda ids, _: [pb.RefundPaymentRequest(payment_id=ids["paid"], request_id=fresh())],
    ],
    "ListRefunds": [
        lambda _, __: [pb.ListRefundsRequest()],
        lambda ids, _: [pb.ListRefundsRequest(payment_id=ids["refunded"])],
    ],
    "ListDisputes": [
        lambda _, __: [pb.ListDisputesRequest()],
        lambda ids, _: [pb.ListDisputesRequest(payment_id=ids["disputed"])],
    ],
    "CreatePayout": [
        lambda ids, _: [pay_out(ids, ids, "due", fresh)],
        lambda ids, own: [pay_out(own, ids, "due_2", fresh)],
        lambda ids, _: [
            pb.CreatePayoutRequest(
                instructor_id=ids["instructor"], period=lately(), request_id=fresh()
            )
        ],
    ],
    "BatchCreatePayouts": [
        lambda ids, _: [
            pb.BatchCreatePayoutsRequest(
                instructor_ids=[ids["instructor"]], period=lately(), request_id=fresh()
            )
        ],
    ],
    "GetPayout": [
        partial(lambda name, ids, _: [pb.GetPayoutRequest(payout_id=ids[name])], name)
        for name in PAYOUTS
    ],
    "ListPayouts": [
        lambda _, __: [pb.ListPayoutsRequest()],
        lambda ids, _: [pb.ListPayoutsRequest(instructor_id=ids["instructor"])],
    ],
    "LookupPayout": [lambda ids, _: [pb.LookupPayoutRequest(stripe_transfer_id=ids["transfer"])]],
    "ReversePayout": [lambda ids, _: [take_back(ids["payout"])]],
    "GetInstructorBalance": [
        lambda ids, _: [pb.GetInstructorBalanceRequest(instructor_id=ids["instructor"])]
    ],
    "ListLedgerEntries": [
        lambda _, __: [pb.ListLedgerEntriesRequest(page_size=1_000)],
        lambda _, __: [pb.ListLedgerEntriesRequest(account="stripe")],
        lambda ids, _: [pb.ListLedgerEntriesRequest(account=account(ids))],
    ],
    "GetRevenueReport": [lambda _, __: [report()]],
    "StartReconciliation": [
        lambda _, __: [rpb.StartReconciliationRequest(period=over(), request_id=fresh())]
    ],
    "GetReconciliationRun": [lambda ids, _: [rpb.GetReconciliationRunRequest(run_id=ids["run"])]],
    "ListDiscrepancies": [
        lambda _, __: [rpb.ListDiscrepanciesRequest()],
        lambda ids, _: [rpb.ListDiscrepanciesRequest(run_id=ids["run"])],
        lambda _, __: [
            rpb.ListDiscrepanciesRequest(
                kind=rpb.DISCREPANCY_KIND_MISSING_THERE, unresolved_only=True
            )
        ],
    ],
    "ResolveDiscrepancy": [
        lambda ids, _: [
            rpb.ResolveDiscrepancyRequest(
                discrepancy_id=ids["discrepancy"], note="Paid in cash", request_id=fresh()
            )
        ]
    ],
}

# A request id that the other school has used, for the very same thing. It did so by these.
REMEMBERED: Mapping[str, Recipe] = {
    "CreatePayment": lambda ids, _: [
        pb.CreatePaymentRequest(booking_id=ids["asked_booking"], request_id=ids["request"])
    ],
    "CancelPayment": lambda ids, _: [
        pb.CancelPaymentRequest(payment_id=ids["cancelled"], request_id=ids["request"])
    ],
    "RefundPayment": lambda ids, _: [
        pb.RefundPaymentRequest(
            payment_id=ids["refunded"], amount_cents=9, request_id=ids["request"]
        )
    ],
    "CreatePayout": lambda ids, _: [
        pay_out(ids, ids, "paid_out", partial(ids.__getitem__, "request"))
    ],
    # Without an instructor: both ask for the very same.
    "BatchCreatePayouts": lambda ids, _: [
        pb.BatchCreatePayoutsRequest(period=THAT_MONTH, request_id=ids["request"])
    ],
    "ReversePayout": lambda ids, _: [
        pb.ReversePayoutRequest(
            payout_id=ids["reversed"], reason="Wrong", request_id=ids["request"]
        )
    ],
    "StartReconciliation": lambda ids, _: [
        rpb.StartReconciliationRequest(period=THAT_MONTH, dry_run=True, request_id=ids["request"])
    ],
    "ResolveDiscrepancy": lambda ids, _: [
        rpb.ResolveDiscrepancyRequest(
            discrepancy_id=ids["resolved"], note="Paid in cash", request_id=ids["request"]
        )
    ],
}

# Lists, but for the token of their page: the token was given for these very arguments.
PAGES: Mapping[str, tuple[str, Callable[[Ids], Any]]] = {
    "payment_pages": ("ListPayments", lambda _: pb.ListPaymentsRequest()),
    "status_pages": (
        "ListPayments",
        lambda _: pb.ListPaymentsRequest(status=pb.PAYMENT_STATUS_SUCCEEDED),
    ),
    "booking_pages": (
        "ListPayments",
        lambda ids: pb.ListPaymentsRequest(booking_id=ids["paid_booking"]),
    ),
    "refund_pages": ("ListRefunds", lambda _: pb.ListRefundsRequest()),
    "refunds_of_payment_pages": (
        "ListRefunds",
        lambda ids: pb.ListRefundsRequest(payment_id=ids["refunded"]),
    ),
    "dispute_pages": ("ListDisputes", lambda _: pb.ListDisputesRequest()),
    "payout_pages": ("ListPayouts", lambda _: pb.ListPayoutsRequest()),
    "payouts_of_instructor_pages": (
        "ListPayouts",
        lambda ids: pb.ListPayoutsRequest(instructor_id=ids["instructor"]),
    ),
    "ledger_pages": ("ListLedgerEntries", lambda _: pb.ListLedgerEntriesRequest()),
    "account_pages": (
        "ListLedgerEntries",
        lambda ids: pb.ListLedgerEntriesRequest(account=account(ids)),
    ),
    "discrepancy_pages": ("ListDiscrepancies", lambda _: rpb.ListDiscrepanciesRequest()),
    "discrepancies_of_run_pages": (
        "ListDiscrepancies",
        lambda ids: rpb.ListDiscrepanciesRequest(run_id=ids["run"]),
    ),
}


def turned(name: str, make: Callable[[Ids], Any], ids: Ids, _: Ids) -> Sequence[Message]:
    """The next page of a list."""
    request = make(ids)
    request.page_token = ids[name]
    return [request]


def all_recipes() -> Recipes:
    found = {method: [*asked] for method, asked in RECIPES.items()}
    for method, recipe in REMEMBERED.items():
        found[method].append(recipe)
    for name, (method, make) in PAGES.items():
        found[method].append(partial(turned, name, make))
    return {**found, **recipes_events.recipes(TOPIC)}


def of_any_payment() -> Recipes:
    """What may be done with a payment or payout, of every one of another, whatever its state."""
    found: dict[str, list[Recipe]] = {}
    by_payment: Mapping[str, Any] = {
        "CancelPayment": pb.CancelPaymentRequest,
        "RefundPayment": pb.RefundPaymentRequest,
    }

    def of_payment(kind: Any, name: str, ids: Ids, _: Ids) -> Sequence[Message]:
        return [kind(payment_id=ids[name], request_id=fresh())]

    def paid_out(name: str, ids: Ids, own: Ids) -> Sequence[Message]:
        return [pay_out(own, ids, name, fresh)]

    def reversal(name: str, ids: Ids, _: Ids) -> Sequence[Message]:
        return [take_back(ids[name])]

    for method, kind in by_payment.items():
        found[method] = [partial(of_payment, kind, name) for name in PAYMENTS]
    found["CreatePayout"] = [partial(paid_out, name) for name in PAYMENTS]
    found["ReversePayout"] = [partial(reversal, name) for name in PAYOUTS]
    return found


# --- what there is -----------------------------------------------------------------------------


class Place(NamedTuple):
    """Where schools are furnished: the services, and connections beside them."""

    booking: Booking
    payments: Payments
    fake: StripeFake
    orgs: Orgs
    gateway: StripeGateway


def kit(place: Place) -> Kit:
    async def furnish() -> Pair:
        begun = (Furnishing.begun(place, SECRET), Furnishing.begun(place, "Ours"))
        theirs, mine = await asyncio.gather(*begun)
        for each in (theirs, mine):
            # The other's events begin before those of this one.
            await each.ask()
        members = await asyncio.gather(theirs.member(), mine.member())
        await place.fake.webhooks_drained()
        return Pair(theirs=members[0], mine=members[1])

    async def rests() -> None:
        await eventually(partial(has_no_run, place))

    statement = forgetting.mutated(store.SQL).select("list_payments", ('"orgId"',))
    everything = store.Filter()
    return Kit(
        running=place.payments,
        schema="payments",
        services=SERVICES,
        recipes=all_recipes(),
        furnish=furnish,
        leaky=(
            statement,
            {
                "status": None,
                "from_at": everything.from_at,
                "to_at": everything.to_at,
                "before_at": everything.before_at,
                "before_id": everything.before_id,
                "limit": 1_000,
            },
        ),
        get="GetPayment",
        write=lambda by: by.reconciliation.StartReconciliation(
            rpb.StartReconciliationRequest(period=THAT_MONTH, dry_run=True, request_id=fresh())
        ),
        strange=of_any_payment(),
        makes=frozenset({"StartReconciliation"}),
        endless={"Subscribe": recipes_events.is_caught_up},
        rests=rests,
    )


async def has_no_run(place: Place) -> bool:
    """Whether no school's books are being compared."""
    query = """SELECT id FROM payments."ReconciliationRun" WHERE status = 'running'"""
    return await rows(place.payments.database.admin_dsn, query) == []


class Furnishing:
    """A school while it gets one of everything."""

    def __init__(self, place: Place, school: School, name: str) -> None:
        self.place = place
        self.school = school
        self.name = name
        self.ids = {"request": fresh(), "instructor": school.instructor.id}
        self.own = Ids(self.ids)
        # Their time can be compared with Stripe's books, which know nothing of them.
        clock = Clock(-timedelta(hours=1))
        self.till = Till(school, place.orgs, place.gateway, clock)

    @classmethod
    async def begun(cls, place: Place, name: str) -> Furnishing:
        """As booking knows it."""
        booked = await stories.School.founded(place.booking)
        booked.lesson = await booked.add_lesson(f"{name} lesson", 60)
        await booked.set_price(booked.lesson, stories.PRICE_CENTS)
        booked.instructors.append(await booked.add_instructor(f"{name} instructor"))
        await booked.set_hours(booked.instructors[0])
        booked.students.append(await booked.add_student(f"{name} student"))
        school = await School.furnished(place.payments, booked, place.fake)
        return cls(place, school, name)

    async def ask(self) -> None:
        """Bookings that may be paid for, and a payment that is asked for."""
        for name in ("booking", "asked_booking", "paid_booking"):
            self.ids[name] = (await self.school.hold()).id
        self.ids["unpaid"] = (await self.school.ask(await self.school.hold())).id

    async def charge(self) -> None:
        """Payments in other states, two of them of one booking."""
        school = self.school
        paid, refunded, *disputed = await asyncio.gather(*(school.paid() for _ in range(4)))
        for _ in range(2):
            part = pb.RefundPaymentRequest(
                payment_id=refunded.id, amount_cents=1_000, reason=self.name, request_id=fresh()
            )
            await school.stub().RefundPayment(part)
        for each in disputed:
            school.fake.dispute(each.stripe_payment_intent_id)
            await school.until(each, "DISPUTED")
        booking = booking_pb2.Booking(id=self.ids["paid_booking"])
        first = await school.ask(booking)
        cancel = pb.CancelPaymentRequest(payment_id=first.id, request_id=fresh())
        await school.stub().CancelPayment(cancel)
        cancelled = await school.ask(booking)
        self.ids |= {"paid": paid.id, "refunded": refunded.id}
        self.ids |= {"disputed": disputed[0].id, "cancelled": cancelled.id}
        self.ids["intent"] = paid.stripe_payment_intent_id

    async def pay_out(self) -> None:
        """Shares that are due, those of a batch of long ago, and payouts."""
        ids = self.ids
        for name in ("due", "due_2", "paid_out"):
            ids[name] = str((await self.till.due()).id)
        await self.till.due(lesson_at=LONG_AGO + timedelta(days=3))
        payouts = [await self.till.pay_out([await self.till.due()]) for _ in PAYOUTS]
        ids |= {name: payout.id for name, payout in zip(PAYOUTS, payouts, strict=True)}
        ids["transfer"] = payouts[0].stripe_transfer_id

    async def reconcile(self) -> None:
        """A run, and what it found."""
        stub = self.school.reconciliation()
        run = await stub.StartReconciliation(
            rpb.StartReconciliationRequest(period=over(), request_id=fresh())
        )
        await eventually(partial(has_no_run, self.place))
        listed = await stub.ListDiscrepancies(rpb.ListDiscrepanciesRequest(run_id=run.id))
        first, second, third, *_ = (each.id for each in listed.discrepancies)
        self.ids |= {"run": run.id, "discrepancy": first, "resolved": second}
        noted = rpb.ResolveDiscrepancyRequest(
            discrepancy_id=third, note=self.name, request_id=fresh()
        )
        await stub.ResolveDiscrepancy(noted)

    async def member(self) -> Member:
        """The school with one of everything, once it has used its request id."""
        await self.charge()
        await self.pay_out()
        await self.reconcile()
        connection = self.place.payments.connect(self.school.token("gateway-1", ALL_SCOPES))
        for method in walking.methods(*SERVICES):
            if method.name in REMEMBERED:
                requests = REMEMBERED[method.name](self.own, self.own)
                answer = await walking.call(connection.channel, method, requests)
                assert answer.refusal is None, (method.name, answer.refusal)
        await eventually(partial(has_no_run, self.place))
        tokens = await self._tokens(connection)
        nobodys = {recipes_events.CURSOR: recipes_events.first_cursor("payments")}
        return Member(self.school.org_id, Ids(self.ids, tokens, nobodys))

    async def _tokens(self, connection: Connection) -> dict[str, str]:
        """What continues each list."""
        tokens = await recipes_events.tokens(connection.events)
        for name, (method, make) in PAGES.items():
            request = make(self.own)
            request.page_size = 1
            stub = connection.payments if hasattr(connection.payments, method) else None
            page = await getattr(stub or connection.reconciliation, method)(request)
            tokens[name] = page.next_page_token
            assert tokens[name], f"{name}: {method} has one page"
        return tokens
