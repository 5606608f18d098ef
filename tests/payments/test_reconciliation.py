"""Our books against Stripe's: what a run finds, and that it comes to its end."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
import pytest_asyncio
import stripe

from driveflow.payments.v1 import payments_pb2
from driveflow.payments.v1 import reconciliation_pb2 as pb
from libs.local.stripe_fake import StripeFake
from libs.orgs import Orgs
from services.payments import reconciling, stripe_gateway
from services.payments.model.reconciliation import ATTEMPTS_MAX, Discrepancy, Run
from services.payments.reconciling import Reconciling
from services.payments.store import reconciliation as store
from services.payments.stripe_gateway import StripeGateway, StripeUnavailable
from tests import postgres
from tests.libs import eventing
from tests.payments.stories import School, reason_of
from tests.postgres import Database
from tests.serving import at
from tests.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")
ABOUT = timedelta(hours=1)
CENTS = 8_000
LATER = timedelta(days=3)


class WatchedGateway(StripeGateway):
    """Stripe, asked only while no transaction is open; a call may be the process's last, or get no
    answer."""

    def __init__(self, url: str, admin: psycopg.AsyncConnection[Any]) -> None:
        super().__init__("sk_test_books", (), timeout_s=2.0, api_base=url)
        self.admin = admin
        self.calls = 0
        self.fails_at: int | None = None
        self.silent_at: int | None = None

    async def _ask(self, call: Awaitable[Any]) -> Any:
        assert not await self._in_transaction()
        self.calls += 1
        if self.calls == self.fails_at:
            asyncio.ensure_future(call).cancel()
            raise RuntimeError("the process ends here")
        if self.calls == self.silent_at:
            asyncio.ensure_future(call).cancel()
            raise StripeUnavailable("silent")
        return await super()._ask(call)

    async def _in_transaction(self) -> bool:
        query = """SELECT 1 FROM pg_stat_activity
                    WHERE datname = current_database() AND starts_with(state, 'idle in')"""
        return bool(await (await self.admin.execute(query)).fetchall())


@dataclass
class Books:
    """A school's books, here and at Stripe."""

    admin: psycopg.AsyncConnection[Any]
    orgs: Orgs
    fake: StripeFake
    gateway: WatchedGateway
    client: stripe.StripeClient
    org_id: uuid.UUID = field(default_factory=uuid.uuid4)

    async def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        cursor = await self.admin.execute(query.encode(), values or None)
        return await cursor.fetchall() if cursor.description else []

    async def charge(self, **given: Any) -> str:
        """A payment at Stripe, paid; its id there."""
        asked = {"amount": CENTS, "currency": "aud", "transfer_group": str(self.org_id), **given}
        made = await self.client.v1.payment_intents.create_async(asked)  # type: ignore[arg-type]
        self.fake.confirm(made.id)
        return made.id

    async def payment(self, intent_id: str, **given: Any) -> uuid.UUID:
        """A payment here, paid."""
        values = {
            "orgId": self.org_id,
            "bookingId": uuid.uuid4(),
            "instructorId": uuid.uuid4(),
            "amountCents": CENTS,
            "currency": "AUD",
            "applicationFeeCents": 1_200,
            "instructorShareCents": 6_800,
            "status": "succeeded",
            "stripePaymentIntentId": intent_id,
            "capturedCents": CENTS,
            "capturedAt": datetime.now(UTC),
            **given,
        }
        return await self._add("Payment", values)

    async def transfer(self, **given: Any) -> str:
        """A transfer at Stripe; its id there."""
        self.fake.top_up(10 * CENTS, "aud")
        asked = {
            "amount": CENTS,
            "currency": "aud",
            "destination": "acct_books",
            "metadata": {"org_id": str(self.org_id)},
            **given,
        }
        made = await self.client.v1.transfers.create_async(asked)  # type: ignore[arg-type]
        return made.id

    async def payout(self, transfer_id: str, **given: Any) -> uuid.UUID:
        """A payout here, paid."""
        values = {
            "orgId": self.org_id,
            "instructorId": uuid.uuid4(),
            "amountCents": CENTS,
            "currency": "AUD",
            "status": "paid",
            "stripeAccountId": "acct_books",
            "stripeTransferId": transfer_id,
            "transferredAt": datetime.now(UTC),
            **given,
        }
        return await self._add("Payout", values)

    async def refund(self, payment_id: uuid.UUID, cents: int, status: str) -> None:
        """A refund here."""
        values = {"orgId": self.org_id, "paymentId": payment_id, "amountCents": cents}
        await self._add(
            "Refund", {**values, "currency": "AUD", "status": status, "cause": "stripe"}
        )

    async def refund_there(self, intent_id: str, cents: int) -> None:
        """A refund at Stripe."""
        asked = {"payment_intent": intent_id, "amount": cents}
        await self.client.v1.refunds.create_async(asked)  # type: ignore[arg-type]

    async def _add(self, table: str, values: dict[str, Any]) -> uuid.UUID:
        columns, places = ", ".join(f'"{name}"' for name in values), ", ".join(["%s"] * len(values))
        query = f'INSERT INTO payments."{table}" ({columns}) VALUES ({places}) RETURNING id'
        ((id_,),) = await self.rows(query, *values.values())
        return uuid.UUID(str(id_))

    async def both(self, count: int = 1) -> list[tuple[str, uuid.UUID]]:
        """Payments that are the same on both sides."""
        made = [await self.charge() for _ in range(count)]
        return [(each, await self.payment(each)) for each in made]

    async def begin(self, *, dry_run: bool = False, ahead: timedelta = timedelta()) -> Run:
        """A run of the hours around now."""
        now = datetime.now(UTC) + ahead
        period: dict[str, Any] = {"from_at": now - ABOUT, "to_at": now + ABOUT}
        async with self.orgs.write(self.org_id) as conn:
            return await store.add_run(conn, self.org_id, now, dry_run=dry_run, **period)

    def worker(self, slice_s: float = 60.0) -> Reconciling:
        """What carries runs out in one process; with 0 s a page at a time."""
        return Reconciling(self.orgs, self.gateway, lambda: datetime.now(UTC), slice_s=slice_s)

    async def claim_runs_out(self, run: Run) -> None:
        """As if whoever carries the run out had been silent for a minute."""
        query = 'UPDATE payments."ReconciliationRun" SET "claimedUntil" = now() WHERE id = %s'
        await self.rows(query, run.id)

    async def run(self, run: Run) -> Run:
        """As it is now."""
        (row,) = await self._rows("get_run", store.RUN_COLUMNS, run_id=run.id)
        return store.run_of(row)

    async def found(self, run: Run) -> list[Discrepancy]:
        asked = asdict(store.Filter(run_id=run.id)) | {"limit": 100}
        rows = await self._rows("list_discrepancies_of_run", store.COLUMNS, **asked)
        return [store.discrepancy(row) for row in rows]

    async def _rows(self, name: str, columns: tuple[str, ...], **asked: Any) -> list[Any]:
        """Whole rows, whatever callers may ask for."""
        reader, parameters = self.orgs.reader(self.org_id), {"org_id": self.org_id, **asked}
        cursor = await reader.execute(store.SQL.select(name, columns), parameters)
        return await cursor.fetchall()

    async def reconciled(self, **of: Any) -> tuple[Run, list[Discrepancy]]:
        """A run from start to end, and what it found."""
        run = await self.begin(**of)
        await self.worker().school(self.org_id)
        return await self.run(run), await self.found(run)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def common_books(
    template: Database, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Books]:
    """A database that no service works on, and Stripe."""
    folder: Path = tmp_path_factory.mktemp("books")
    with postgres.copied(template) as database:
        async with (
            eventing.orgs_of("payments", database, folder) as orgs,
            StripeFake() as fake,
            await psycopg.AsyncConnection.connect(database.admin_dsn, autocommit=True) as admin,
        ):
            gateway = WatchedGateway(fake.url, admin)
            http = stripe.AIOHTTPClient()
            client = stripe.StripeClient(
                "sk_test_books", base_addresses={"api": fake.url}, http_client=http
            )
            yield Books(admin, orgs, fake, gateway, client)
            await gateway.close()
            await http.close_async()  # type: ignore[no-untyped-call]


@pytest.fixture
def books(common_books: Books, monkeypatch: pytest.MonkeyPatch) -> Books:
    """Those of a new school, compared three things at a time."""
    monkeypatch.setattr(reconciling, "PAGE", 3)
    monkeypatch.setattr(reconciling, "ASKED_A_PAGE", 2)
    monkeypatch.setattr(stripe_gateway, "PAGE", 2)
    each = common_books
    each.fake.clear_faults()
    each.gateway.calls, each.gateway.fails_at, each.gateway.silent_at = 0, None, None
    return Books(each.admin, each.orgs, each.fake, each.gateway, each.client)


def facts(found: list[Discrepancy]) -> list[tuple[object, ...]]:
    return [(each.kind, each.object_id, each.stripe_id, each.here, each.there) for each in found]


# --- what is compared --------------------------------------------------------------------------


async def test_books_that_are_the_same_match_however_many_pages_they_have(books: Books) -> None:
    await books.both(7)
    for _ in range(4):
        await books.payout(await books.transfer())
    run, found = await books.reconciled()
    assert (run.status, run.compared, run.matched, run.discrepancies) == ("done", 11, 11, 0)
    assert (found, run.attempts) == ([], 1)
    assert run.ended_at is not None


async def test_other_schools_are_not_compared(books: Books) -> None:
    await books.charge(transfer_group=str(uuid.uuid4()))
    await books.transfer(metadata={"org_id": str(uuid.uuid4())})
    await books.both()
    run, _ = await books.reconciled()
    assert (run.compared, run.matched) == (1, 1)


async def test_what_is_on_one_side_only_is_missing_on_the_other(books: Books) -> None:
    intent_id, transfer_id = await books.charge(), await books.transfer()
    payment_id = await books.payment(f"pi_gone_{books.org_id}")
    payout_id = await books.payout(f"tr_gone_{books.org_id}")
    run, found = await books.reconciled()
    assert facts(found[::-1]) == [
        ("missing_here", None, intent_id, "", "8000 AUD"),
        ("missing_there", payment_id, f"pi_gone_{books.org_id}", "8000 AUD", ""),
        ("missing_here", None, transfer_id, "", "8000 AUD"),
        ("missing_there", payout_id, f"tr_gone_{books.org_id}", "8000 AUD", ""),
    ]
    assert (run.compared, run.matched, run.discrepancies) == (4, 0, 4)
    assert [each.object_type for each in found[::-1]] == ["payment"] * 2 + ["payout"] * 2


UNPAID = {"status": "failed", "capturedCents": 0, "capturedAt": None}


@pytest.mark.parametrize(
    ("here", "there", "expected"),
    [
        ({"capturedCents": 7_999}, {}, ("amount", "7999 AUD", "8000 AUD")),
        ({"currency": "NZD"}, {}, ("currency", "8000 NZD", "8000 AUD")),
        (UNPAID, {}, ("status", "failed", "paid")),
        ({}, {"refund": 3_000}, ("status", "paid", "3000 AUD refunded")),
        ({}, {"dispute": True}, ("status", "paid", "disputed")),
        ({"refund": (3_000, "succeeded")}, {}, ("status", "3000 AUD refunded", "paid")),
        (
            {"refund": (3_000, "pending")},
            {"refund": 3_001},
            ("status", "paid", "3001 AUD refunded"),
        ),
        ({"dispute": True}, {}, ("status", "disputed", "paid")),
    ],
)
async def test_a_payment_that_differs_is_told_with_both_sides(
    books: Books, here: dict[str, Any], there: dict[str, Any], expected: tuple[str, ...]
) -> None:
    intent_id = await books.charge()
    values = {name: value for name, value in here.items() if name not in ("refund", "dispute")}
    payment_id = await books.payment(intent_id, **values)
    if "refund" in here:
        await books.refund(payment_id, *here["refund"])
    if "dispute" in here:
        await disputed_here(books, payment_id)
    if "refund" in there:
        await books.refund_there(intent_id, there["refund"])
    if "dispute" in there:
        books.fake.dispute(intent_id)
    run, found = await books.reconciled()
    kind, *texts = expected
    assert facts(found) == [(kind, payment_id, intent_id, *texts)]
    assert (run.compared, run.matched) == (1, 0)


async def disputed_here(books: Books, payment_id: uuid.UUID) -> None:
    values = {
        "orgId": books.org_id,
        "paymentId": payment_id,
        "amountCents": CENTS,
        "currency": "AUD",
        "status": "needs_response",
        "stripeDisputeId": f"du_{payment_id}",
        "stripeStateAt": datetime.now(UTC),
    }
    await books._add("Dispute", values)


async def test_what_stripe_has_not_answered_for_is_no_difference(books: Books) -> None:
    (asked, first), (done, second), (lost, third) = await books.both(3)
    await books.refund(first, 3_000, "pending")
    await books.refund(second, 3_000, "pending")
    await books.refund_there(done, 3_000)
    await books.refund(third, 3_000, "failed")
    assert (asked, lost) != (done, done)
    transfer_id = await books.transfer()
    await books.payout(transfer_id, reversal="requested")
    await books.client.v1.transfers.reversals.create_async(transfer_id)
    run, found = await books.reconciled()
    assert (found, run.compared, run.matched) == ([], 4, 4)


async def test_a_dispute_that_was_won_still_is_on_both_sides(books: Books) -> None:
    ((intent_id, payment_id),) = await books.both()
    books.fake.close_dispute(books.fake.dispute(intent_id)["id"], won=True)
    await disputed_here(books, payment_id)
    _, found = await books.reconciled()
    assert found == []


REVERSED = {"status": "reversed", "reversal": "done"}
LOST = {"stripeTransferId": None, "transferredAt": None, "status": "in_transit"}


@pytest.mark.parametrize(
    ("here", "reversed_there", "expected"),
    [
        ({}, 8_000, ("status", "paid", "reversed")),
        ({}, 500, ("status", "paid", "500 AUD reversed")),
        (REVERSED, 0, ("status", "reversed", "paid")),
        ({"amountCents": 8_001}, 0, ("amount", "8001 AUD", "8000 AUD")),
        ({"currency": "NZD"}, 0, ("currency", "8000 NZD", "8000 AUD")),
        (LOST, 0, ("status", "in_transit", "paid")),
    ],
)
async def test_a_payout_that_differs_is_told_with_both_sides(
    books: Books, here: dict[str, Any], reversed_there: int, expected: tuple[str, ...]
) -> None:
    payout_id = uuid.uuid4()
    transfer_id = await books.transfer(
        metadata={"org_id": str(books.org_id), "payout_id": str(payout_id)}
    )
    await books.payout(transfer_id, **{"id": payout_id, **here})
    if reversed_there:
        reversal: Any = {"amount": reversed_there}
        await books.client.v1.transfers.reversals.create_async(transfer_id, reversal)
    run, found = await books.reconciled()
    kind, *texts = expected
    assert facts(found) == [(kind, payout_id, transfer_id, *texts)]
    assert (run.compared, run.matched) == (1, 0)


async def test_a_transfer_that_was_made_twice_is_missing_here(books: Books) -> None:
    payout_id = uuid.uuid4()
    metadata = {"org_id": str(books.org_id), "payout_id": str(payout_id)}
    first, second = [await books.transfer(metadata=metadata) for _ in range(2)]
    await books.payout(first, id=payout_id)
    _, found = await books.reconciled()
    assert facts(found) == [("missing_here", None, second, "", "8000 AUD")]


async def test_a_dry_run_counts_and_keeps_nothing(books: Books) -> None:
    await books.charge()
    await books.both()
    run, found = await books.reconciled(dry_run=True)
    assert (run.status, run.compared, run.matched, run.discrepancies) == ("done", 2, 1, 1)
    assert found == []


async def test_at_the_edges_each_side_is_asked_for_what_the_other_dates_outside(
    books: Books,
) -> None:
    here_within = datetime.now(UTC) + LATER
    for _ in range(3):  # made at Stripe days before we date them
        await books.payment(await books.charge(), capturedAt=here_within)
        await books.payout(await books.transfer(), transferredAt=here_within)
    short = await books.payment(await books.charge(amount=7_000), capturedAt=here_within)
    books.fake.clock(LATER.total_seconds())
    try:
        for _ in range(3):  # and the other way round
            await books.payment(await books.charge(), capturedAt=here_within - LATER)
            await books.payout(await books.transfer(), transferredAt=here_within - LATER)
    finally:
        books.fake.clock(0)
    run, found = await books.reconciled(ahead=LATER)
    assert [(each.kind, each.object_id) for each in found] == [("amount", short)]
    assert (run.compared, run.matched) == (13, 12)


async def test_a_charge_that_was_not_made_in_the_end_is_told(books: Books) -> None:
    asked: Any = {"amount": CENTS, "currency": "aud", "transfer_group": str(books.org_id)}
    made = await books.client.v1.payment_intents.create_async(asked)
    payment_id = await books.payment(made.id)
    _, found = await books.reconciled()
    assert facts(found) == [("status", payment_id, made.id, "succeeded", "intent_created")]


# --- how it is carried out ---------------------------------------------------------------------


async def test_without_a_run_stripe_is_not_asked(books: Books) -> None:
    await books.worker().school(books.org_id)
    assert books.gateway.calls == 0


async def test_progress_is_seen_after_each_page(books: Books) -> None:
    await books.both(7)
    run, worker = await books.begin(), books.worker(slice_s=0)
    seen = []
    while (now := await books.run(run)).status == "running":
        seen.append(now.compared)
        await worker.school(books.org_id)
    assert [each for each in dict.fromkeys(seen) if each] == [3, 6, 7]
    assert (now.compared, now.matched) == (7, 7)


async def test_runs_are_carried_out_one_after_the_other(books: Books) -> None:
    await books.both()
    first, second = await books.begin(), await books.begin()
    worker = books.worker()
    await worker.school(books.org_id)
    assert [(await books.run(each)).status for each in (first, second)] == ["done", "running"]
    await worker.school(books.org_id)
    assert (await books.run(second)).status == "done"


async def test_without_an_answer_of_stripe_it_goes_on_where_it_was(books: Books) -> None:
    await books.both(5)
    missing = [await books.payment(f"pi_{n}_{books.org_id}") for n in range(3)]
    run, worker, rounds = await books.begin(), books.worker(), 0
    while (now := await books.run(run)).status == "running":
        for kind in ("reset_before", "rate_limit", "error_unsaved"):
            books.fake.fault(kind, chance=0.2)
        await worker.school(books.org_id)
        books.fake.clear_faults()
        rounds += 1
        assert rounds < 100
        if rounds == 1:
            books.fake.fault("reset_before", path="/v1/charges")
    assert (now.compared, now.matched, now.discrepancies, now.attempts) == (8, 5, 3, 1)
    assert sorted(each.object_id for each in await books.found(run) if each.object_id) == missing


@pytest.mark.parametrize("call", [1, 2, 3, 4])
async def test_a_list_that_breaks_off_is_gone_on_with(books: Books, call: int) -> None:
    made = sorted([await books.charge() for _ in range(7)])  # of one second or two
    run, worker, books.gateway.silent_at = await books.begin(), books.worker(), call
    await worker.school(books.org_id)
    assert (await books.run(run)).status == "running"
    await worker.school(books.org_id)
    now = await books.run(run)
    assert (now.status, now.attempts, now.compared) == ("done", 1, 7)
    assert sorted(each.stripe_id for each in await books.found(run)) == made


async def test_a_run_that_is_cut_off_anywhere_is_taken_up_from_its_start(books: Books) -> None:
    await books.both(4)
    await books.charge()
    await books.payment(f"pi_gone_{books.org_id}")
    await books.payout(await books.transfer())
    run = await books.begin()
    for call in (2, 4, 5):  # within a list, at what the list had not, at the other list
        books.gateway.calls, books.gateway.fails_at = 0, call
        with pytest.raises(RuntimeError):
            await books.worker().school(books.org_id)
        await books.claim_runs_out(run)
    books.gateway.fails_at = None
    await books.worker().school(books.org_id)
    now = await books.run(run)
    assert (now.status, now.attempts) == ("done", 4)
    assert (now.compared, now.matched, now.discrepancies) == (7, 5, 2)
    assert [each.kind for each in await books.found(run)] == ["missing_there", "missing_here"]


async def test_a_run_that_never_comes_to_its_end_is_given_up(books: Books) -> None:
    await books.both()
    run, worker = await books.begin(), books.worker()
    for _ in range(ATTEMPTS_MAX):
        books.gateway.calls, books.gateway.fails_at = 0, 1
        with pytest.raises(RuntimeError):
            await worker.school(books.org_id)
        await books.claim_runs_out(run)
    await worker.school(books.org_id)
    now = await books.run(run)
    assert (now.status, now.failure) == (
        "failed",
        "It was cut off 5 times; the service's log says by what.",
    )
    assert now.ended_at is not None


async def test_two_that_both_think_they_lead_do_not_take_a_run_from_each_other(
    books: Books,
) -> None:
    await books.both(7)
    run, one, other = await books.begin(), books.worker(slice_s=0), books.worker(slice_s=0)
    for _ in range(20):
        await asyncio.gather(one.school(books.org_id), other.school(books.org_id))
    now = await books.run(run)
    assert (now.status, now.compared, now.matched, now.attempts) == ("done", 7, 7, 1)


async def test_a_run_whose_process_is_silent_is_another_s_and_no_longer_its_own(
    books: Books,
) -> None:
    await books.both(7)
    run, old, new = await books.begin(), books.worker(slice_s=0), books.worker(slice_s=0)
    for _ in range(2):
        await old.school(books.org_id)
    stale = old._under_way[books.org_id]
    await books.claim_runs_out(run)
    await new.school(books.org_id)
    with pytest.raises(reconciling.TakenOver):
        await stale.step()
    for _ in range(20):
        await asyncio.gather(old.school(books.org_id), new.school(books.org_id))
    now = await books.run(run)
    assert (now.status, now.compared, now.attempts) == ("done", 7, 2)


async def test_one_that_goes_on_keeps_its_run(books: Books) -> None:
    await books.both(7)
    run, one, other = await books.begin(), books.worker(slice_s=0), books.worker(slice_s=0)
    await one.school(books.org_id)
    await books.claim_runs_out(run)
    await one.school(books.org_id)
    await other.school(books.org_id)
    assert (await books.run(run)).attempts == 1


async def test_the_last_attempt_is_not_given_up_while_it_is_under_way(books: Books) -> None:
    await books.both(7)
    run, one, other = await books.begin(), books.worker(slice_s=0), books.worker(slice_s=0)
    query = 'UPDATE payments."ReconciliationRun" SET attempts = %s WHERE id = %s'
    await books.rows(query, ATTEMPTS_MAX - 1, run.id)
    await one.school(books.org_id)
    await other.school(books.org_id)
    assert (await books.run(run)).status == "running"


async def test_what_changes_between_two_looks_is_looked_at_again(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    ((intent_id, payment_id),) = await books.both()
    look = store.list_payments_by_intent

    async def refunded_meanwhile(*of: Any) -> Any:
        monkeypatch.setattr(store, "list_payments_by_intent", look)
        await books.refund(payment_id, 3_000, "succeeded")
        await books.refund_there(intent_id, 3_000)
        return await look(*of)

    monkeypatch.setattr(store, "list_payments_by_intent", refunded_meanwhile)
    run, found = await books.reconciled()
    assert (found, run.compared, run.matched) == ([], 1, 1)


# --- the RPCs ----------------------------------------------------------------------------------


def period(start: timedelta, end: timedelta) -> payments_pb2.Period:
    now = datetime.now(UTC)
    return payments_pb2.Period(start_time=at(now + start), end_time=at(now + end))


def asked(start: timedelta = -ABOUT, end: timedelta = -2 * ABOUT / 60, **more: Any) -> Any:
    return pb.StartReconciliationRequest(
        period=period(start, end), request_id=str(uuid.uuid4()), **more
    )


async def test_an_operator_starts_a_run_and_it_ends_by_itself(school: School) -> None:
    stub, request = school.reconciliation(), asked()
    run = await stub.StartReconciliation(request)
    assert run.status == pb.RECONCILIATION_STATUS_RUNNING
    assert await stub.StartReconciliation(request) == run

    async def look() -> pb.ReconciliationRun:
        return await stub.GetReconciliationRun(pb.GetReconciliationRunRequest(run_id=run.id))

    ended = await eventually(look, lambda now: now.status == pb.RECONCILIATION_STATUS_DONE)
    assert (ended.compared, ended.period) == (0, request.period)
    audited = await school.rows(
        'SELECT action, "actorUserId" FROM payments."AuditLog" WHERE "entityId" = %s ORDER BY id',
        run.id,
    )
    assert audited == [("start", "operator"), ("end", "payments")]


@pytest.mark.parametrize(
    ("start", "end", "reason"),
    [
        (-ABOUT, timedelta(seconds=-50), "PERIOD_IN_FUTURE"),
        (-ABOUT, LATER, "PERIOD_IN_FUTURE"),
        (timedelta(days=-367), -ABOUT, "PERIOD_TOO_LONG"),
        (-ABOUT, -ABOUT, "END_BEFORE_START"),
    ],
)
async def test_a_period_that_cant_be_compared_is_refused(
    school: School, start: timedelta, end: timedelta, reason: str
) -> None:
    answer = await reason_of(school.reconciliation().StartReconciliation(asked(start, end)))
    assert answer == ("INVALID_ARGUMENT", reason)
    runs = 'SELECT id FROM payments."ReconciliationRun" WHERE "orgId" = %s'
    assert await school.rows(runs, school.org_id) == []


async def test_the_last_minute_may_be_over_to_the_second(school: School) -> None:
    run = await school.reconciliation().StartReconciliation(asked(end=timedelta(seconds=-61)))
    assert run.id


async def discrepancies(school: School, count: int) -> str:
    """A run that is done and found so many, of two kinds in turn; its id."""
    run = await school.reconciliation().StartReconciliation(asked(-2 * ABOUT, -ABOUT))
    await school.rows(
        'INSERT INTO payments."Discrepancy"'
        ' ("orgId", "runId", kind, "objectType", "stripeId", there)'
        " SELECT %s, %s, CASE n %% 2 WHEN 0 THEN 'missing_here' ELSE 'amount' END, 'payment',"
        " 'pi_' || n, '8000 AUD' FROM generate_series(1, %s::int) AS n",
        school.org_id,
        run.id,
        count,
    )
    return run.id


async def test_discrepancies_are_listed_by_page_latest_first(school: School) -> None:
    stub = school.reconciliation()
    run_id = await discrepancies(school, 5)
    request = pb.ListDiscrepanciesRequest(run_id=run_id, page_size=2)
    found: list[pb.Discrepancy] = []
    while not found or request.page_token:
        page = await stub.ListDiscrepancies(request)
        found += page.discrepancies
        request.page_token = page.next_page_token
    assert [each.stripe_id for each in found] == [f"pi_{n}" for n in (5, 4, 3, 2, 1)]
    assert {each.run_id for each in found} == {run_id}
    of_all = await stub.ListDiscrepancies(pb.ListDiscrepanciesRequest())
    assert [*of_all.discrepancies] == found
    of_kind = pb.ListDiscrepanciesRequest(kind=pb.DISCREPANCY_KIND_AMOUNT)
    page = await stub.ListDiscrepancies(of_kind)
    assert [each.stripe_id for each in page.discrepancies] == ["pi_5", "pi_3", "pi_1"]


async def test_a_discrepancy_is_resolved_once_by_a_request_and_again_by_another(
    school: School,
) -> None:
    stub, run_id = school.reconciliation("olga"), await discrepancies(school, 2)
    listed = await stub.ListDiscrepancies(pb.ListDiscrepanciesRequest(run_id=run_id))
    id_ = listed.discrepancies[0].id
    first = pb.ResolveDiscrepancyRequest(
        discrepancy_id=id_, note="refunded by hand", request_id=str(uuid.uuid4())
    )
    resolved = await stub.ResolveDiscrepancy(first)
    assert (resolved.note, resolved.resolved_by) == ("refunded by hand", "olga")
    second = pb.ResolveDiscrepancyRequest(
        discrepancy_id=id_, note="no, by bank", request_id=str(uuid.uuid4())
    )
    await stub.ResolveDiscrepancy(second)
    assert await stub.ResolveDiscrepancy(first) == resolved
    left = pb.ListDiscrepanciesRequest(run_id=run_id, unresolved_only=True)
    assert len((await stub.ListDiscrepancies(left)).discrepancies) == 1
    audited = await school.rows(
        'SELECT before, after FROM payments."AuditLog" WHERE "entityId" = %s ORDER BY id', id_
    )
    assert [after["note"] for _, after in audited] == ["refunded by hand", "no, by bank"]


async def test_what_the_school_has_not_is_not_found(school: School) -> None:
    stub, absent = school.reconciliation(), str(uuid.uuid4())
    run = pb.GetReconciliationRunRequest(run_id=absent)
    listed = pb.ListDiscrepanciesRequest(run_id=absent)
    resolved = pb.ResolveDiscrepancyRequest(
        discrepancy_id=absent, note="x", request_id=str(uuid.uuid4())
    )
    for call in (stub.GetReconciliationRun(run), stub.ListDiscrepancies(listed)):
        assert await reason_of(call) == ("NOT_FOUND", "RECONCILIATION_RUN_NOT_FOUND")
    answer = await reason_of(stub.ResolveDiscrepancy(resolved))
    assert answer == ("NOT_FOUND", "DISCREPANCY_NOT_FOUND")


async def test_only_an_operator_may_reconcile(school: School) -> None:
    office = school.service.reconciliation(school.token("office", ("payments:write",)))
    answer = await reason_of(office.StartReconciliation(asked()))
    assert answer == ("PERMISSION_DENIED", "SCOPE_MISSING")
