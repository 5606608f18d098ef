"""What payments live through at Stripe: the same twice, told of in order and otherwise.

A history is a random walk of a payment: cards refused, banks that take their time, refunds in parts
that end so or so, disputes. Two payments of a school have each history. Of the first the service is
told in order; of the second shuffled, three times, a tenth much later. In the end they are alike,
and as the walk says.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import stripe
from google.protobuf.timestamp_pb2 import Timestamp

from driveflow.payments.v1 import webhooks_pb2
from services.payments.charging import Charging
from services.payments.model.stripe import StripeEvent
from services.payments.paying_out import PayingOut
from services.payments.stripe_gateway import StripeGateway
from services.payments.sweeps import Sweeps
from services.payments.webhooks import Webhooks
from tests.booking.stories import at, morning
from tests.libs import eventing
from tests.payments.hooks import Endpoint
from tests.payments.stories import PRICE_CENTS, School

CARDS = ("pm_card_visa_chargeDeclined", "pm_card_chargeDeclinedExpiredCard")
HOURS = 6
"""Lessons a day: each is an hour, with a quarter between."""
LATE, COPIES = 0.1, 3
ROUNDS_MAX, ATTEMPTS_MAX, SWEEP_S = 40, 5, 60.0
AT_ONCE = 8
SIDES = ("told in order", "told otherwise")


@dataclass
class Walk:
    """A payment as its history leaves it."""

    chance: random.Random
    driven: bool
    status: str = "intent_created"
    code: str = ""
    refunds: list[list[Any]] = field(default_factory=list)
    """[cents, status] of each."""
    dispute: str = ""

    @property
    def given_cents(self) -> int:
        """Of refunds that have not failed."""
        return sum(cents for cents, status in self.refunds if status != "failed")

    def step(self) -> tuple[str, Any]:
        """What happens next, and with what; "" for nothing."""
        chosen = self.chance.choice(self._possible())
        getattr(self, f"_{chosen[0]}", lambda _: None)(chosen[1])
        return chosen

    def _possible(self) -> list[tuple[str, Any]]:
        if self.status == "cancelled":
            return [("", None)]
        if self.status in ("processing", "acting"):
            return [("settle", True), ("settle", False), ("", None)]
        if self.status != "paid":
            pay = [("pay", card) for card in (*CARDS, "pm_card_visa", "pm_usBankAccount")]
            return [*pay, ("pay", "pm_card_authenticationRequired"), ("cancel", None), ("", None)]
        return [("", None), *self._refunds(), *self._disputes()]

    def _refunds(self) -> list[tuple[str, Any]]:
        ends = [
            ("end", (number, ok))
            for number, (_, status) in enumerate(self.refunds)
            for ok in (True, False)
            if status == "pending" or (status == "succeeded" and not ok)
        ]
        left = PRICE_CENTS - self.given_cents
        if not left or self.dispute in ("needs_response", "lost") or len(self.refunds) > 4:
            return ends
        cents = self.chance.choice([left, self.chance.randint(1, left), min(left, 333)])
        kinds = [("give", (cents, status)) for status in ("succeeded", "pending", "failed")]
        return [*ends, *kinds]

    def _disputes(self) -> list[tuple[str, Any]]:
        if self.dispute == "needs_response":
            return [("close", True), ("close", False)]
        if self.dispute or self.given_cents == PRICE_CENTS:
            return []
        return [("contest", PRICE_CENTS - self.given_cents)]

    def _pay(self, card: str) -> None:
        bank = {"pm_card_visa": "paid", "pm_usBankAccount": "processing"}
        self.status = "failed" if card in CARDS else bank.get(card, "acting")

    def _settle(self, ok: bool) -> None:
        self.status = "paid" if ok else "failed"

    def _cancel(self, _: None) -> None:
        self.status = "cancelled"

    def _give(self, given: tuple[int, str]) -> None:
        self.refunds.append([*given])

    def _end(self, end: tuple[int, bool]) -> None:
        self.refunds[end[0]][1] = "succeeded" if end[1] else "failed"

    def _contest(self, _: int) -> None:
        self.dispute = "needs_response"

    def _close(self, won: bool) -> None:
        self.dispute = "won" if won else "lost"

    def outcome(self) -> tuple[str, int, int]:
        """Status, captured and given back, as the service must have them."""
        if self.status != "paid":
            status = "intent_created" if self.status == "acting" else self.status
            return status, 0, 0
        back = sum(cents for cents, status in self.refunds if status == "succeeded")
        status = "partially_refunded" if back else "succeeded"
        if back == PRICE_CENTS:
            status = "refunded"
        if self.dispute in ("needs_response", "lost"):
            status = "disputed"
        return status, PRICE_CENTS, self.given_cents


@dataclass
class Side:
    """One of the two payments of a history, at Stripe."""

    payment_id: str
    intent: str
    refunds: list[str] = field(default_factory=list)
    dispute: str = ""


@dataclass
class History:
    """A walk, and the two that live it."""

    walk: Walk
    sides: tuple[Side, Side]


@dataclass
class Verdict:
    """What was found; `faults` in words."""

    histories: int = 0
    events: int = 0
    deliveries: int = 0
    tried_again: int = 0
    unlike: int = 0
    wrong: int = 0
    doubled: int = 0
    unbalanced: int = 0
    faults: list[str] = field(default_factory=list)


@dataclass
class Stage:
    """Where histories are lived and told of."""

    school: School
    endpoint: Endpoint
    gateway: StripeGateway
    client: stripe.StripeClient
    webhooks: Webhooks
    sweeps: Sweeps
    chance: random.Random
    sent: set[str] = field(default_factory=set)

    async def run(self, count: int, ticks: int, *, sweep: bool) -> Verdict:
        """So many histories, lived at once. `sweep`: what is late is fetched, rather than sent."""
        fake = self.school.fake
        fake.fault("webhook_drop", times=None)
        since = self.school.service.clock()
        histories = [await self._open() for _ in range(count)]
        for _ in range(ticks):
            for each in histories:
                await self._live(each)
            self._pass(self.chance.choice([0, 0, 1, 2, 9]))
        events = await self._events(since)
        verdict = Verdict(histories=count, events=sum(map(len, events.values())))
        verdict.deliveries = await self._tell(histories, events)
        if sweep:
            await self._sweep(since)
        else:
            verdict.deliveries += await self._tell_late(histories, events)
        await self._come_to_rest(events)
        await self._judge(histories, events, verdict)
        return verdict

    # --- what happens ---

    async def _open(self) -> History:
        walk = Walk(random.Random(self.chance.random()), driven=self.chance.random() < 0.5)
        first, second = [await self._side(walk.driven) for _ in SIDES]
        return History(walk, (first, second))

    async def _side(self, driven: bool) -> Side:
        self.school.days_ahead += 1
        day, hour = divmod(self.school.days_ahead - 3, HOURS)
        start = morning(self.school.booked, day + 3) + timedelta(minutes=75) * hour
        payment = await self.school.ask(await self.school.hold(start_time=at(start)))
        if driven:
            completed = 'UPDATE payments."Payment" SET "lessonCompletedAt" = now() WHERE id = %s'
            await self.school.rows(completed, payment.id)
        return Side(payment.id, payment.stripe_payment_intent_id)

    async def _live(self, history: History) -> None:
        what, how = history.walk.step()
        if what:
            for side in history.sides:
                await getattr(self, f"_{what}")(side, how)

    async def _pay(self, side: Side, card: str) -> None:
        self.school.fake.confirm(side.intent, card)

    async def _settle(self, side: Side, ok: bool) -> None:
        self.school.fake.settle(side.intent, ok)

    async def _cancel(self, side: Side, _: None) -> None:
        await self.client.v1.payment_intents.cancel_async(side.intent)

    async def _give(self, side: Side, given: tuple[int, str]) -> None:
        cents, status = given
        if status != "succeeded":
            self.school.fake.fault(f"refund_{status}")
        made = await self.client.v1.refunds.create_async(
            {"payment_intent": side.intent, "amount": cents}
        )
        side.refunds.append(made.id)

    async def _end(self, side: Side, end: tuple[int, bool]) -> None:
        self.school.fake.settle_refund(side.refunds[end[0]], end[1])

    async def _contest(self, side: Side, cents: int) -> None:
        side.dispute = self.school.fake.dispute(side.intent, cents)["id"]

    async def _close(self, side: Side, won: bool) -> None:
        self.school.fake.close_dispute(side.dispute, won)

    def _pass(self, seconds: float) -> None:
        """Time, for Stripe and for the service."""
        clock = self.school.service.clock
        clock.ahead += timedelta(seconds=seconds)
        self.school.fake.clock(clock.ahead.total_seconds())

    # --- what is told ---

    async def _events(self, since: Any) -> dict[str, list[StripeEvent]]:
        """By intent, oldest first; those without effect are left out, but for some."""
        events: dict[str, list[StripeEvent]] = {}
        listed = [each async for each in self.gateway.undelivered(since - timedelta(seconds=2))]
        for each in reversed(listed):
            plain = each.type in ("charge.succeeded", "charge.failed", "charge.refunded")
            if plain and self.chance.random() > LATE:
                continue
            intent = each.object.get("payment_intent") or each.object["id"]
            events.setdefault(str(intent), []).append(each)
        return events

    async def _tell(
        self, histories: Sequence[History], events: dict[str, list[StripeEvent]]
    ) -> int:
        slots, told = asyncio.Semaphore(AT_ONCE), 0

        async def tell(batches: list[list[StripeEvent]]) -> None:
            nonlocal told
            for batch in batches:
                async with slots:
                    answers = await asyncio.gather(*map(self._send, batch))
                told += len(answers)

        async with asyncio.TaskGroup() as group:
            for first, second in (each.sides for each in histories):
                group.create_task(tell([[event] for event in events[first.intent]]))
                group.create_task(tell(self._shuffled(events[second.intent])))
        return told

    async def _tell_late(
        self, histories: Sequence[History], events: dict[str, list[StripeEvent]]
    ) -> int:
        seconds = [events[each.sides[1].intent] for each in histories]
        late = [each for some in seconds for each in some if each.id not in self.sent]
        self.chance.shuffle(late)
        for each in late:
            await self._send(each)
        return len(late)

    def _shuffled(self, events: list[StripeEvent]) -> list[list[StripeEvent]]:
        """Each three times, some two at once; a tenth not at all."""
        sent = [each for each in events if self.chance.random() > LATE] * COPIES
        self.chance.shuffle(sent)
        return [sent[place : place + 2] for place in range(0, len(sent), 2)]

    async def _send(self, event: StripeEvent) -> None:
        self.sent.add(event.id)
        answer = ""
        for _ in range(ATTEMPTS_MAX):
            answer = await self.endpoint.take(event.payload)
            if answer in ("taken", "duplicate"):
                return
            # As Stripe does when it was not taken, for whatever reason.
        raise AssertionError(answer)

    async def _sweep(self, since: Any) -> None:
        """What did not come yet is fetched; most of it is known."""
        stamp = Timestamp()
        stamp.FromDatetime(since - timedelta(seconds=2))
        request = webhooks_pb2.SweepUndeliveredEventsRequest(since=stamp)
        await self.endpoint.stub.SweepUndeliveredEvents(request, timeout=SWEEP_S)

    async def _come_to_rest(self, events: dict[str, list[StripeEvent]]) -> None:
        """The sweeps go round until nothing is open. Raises if something stays so."""
        for _ in range(ROUNDS_MAX):
            if not await self._open_things(events):
                return
            self._pass(400)
            await self.webhooks.retry()
            await self.sweeps.school(self.school.org_id)
        raise AssertionError(await self._open_things(events))

    async def _open_things(self, events: dict[str, list[StripeEvent]]) -> list[tuple[Any, ...]]:
        ids = [each.id for some in events.values() for each in some]
        return await self.school.rows(
            'SELECT "eventId", error FROM payments."WebhookEvent"'
            " WHERE state = 'failed' AND \"eventId\" = ANY (%s)"
            ' UNION ALL SELECT id::text, status FROM payments."Payment"'
            ' WHERE "orgId" = %s AND "nextAttemptAt" IS NOT NULL',
            ids,
            self.school.org_id,
        )

    # --- what became of it ---

    async def _judge(
        self,
        histories: Sequence[History],
        events: dict[str, list[StripeEvent]],
        verdict: Verdict,
    ) -> None:
        states = await self._states([side for each in histories for side in each.sides])
        for number, history in enumerate(histories):
            first, second = (states[side.payment_id] for side in history.sides)
            kinds = [each.type for each in events[history.sides[0].intent]]
            if first != second:
                verdict.unlike += 1
                verdict.faults.append(f"{number}: {first} is not {second} after {kinds}")
            if second["payment"][0][:3] != history.walk.outcome():
                verdict.wrong += 1
                verdict.faults.append(f"{number}: {second} is not {history.walk} after {kinds}")
        ids = [each.id for some in events.values() for each in some]
        ((verdict.tried_again,),) = await self.school.rows(
            'SELECT count(*) FROM payments."WebhookEvent" WHERE attempts > 1'
            ' AND "eventId" = ANY (%s)',
            ids,
        )
        verdict.doubled = len(await self.school.rows(DOUBLED, self.school.org_id))
        verdict.unbalanced = len(await self.school.unbalanced())

    async def _states(self, sides: Sequence[Side]) -> dict[str, dict[str, Any]]:
        """All that must not depend on the order, by payment."""
        states: dict[str, dict[str, Any]] = {}
        dsn = self.school.service.database.admin_dsn
        async with await psycopg.AsyncConnection.connect(dsn) as conn:
            for side in sides:
                found = states[side.payment_id] = {}
                for name, query in STATE.items():
                    cursor = await conn.execute(query, (self.school.org_id, side.payment_id))
                    found[name] = await cursor.fetchall()
        return states


STATE = {
    "payment": """
SELECT status, "capturedCents", "refundedCents", "failureCode", "shareStatus"
  FROM payments."Payment" WHERE "orgId" = %s AND id = %s
""",
    "refunds": """
SELECT "amountCents", status, cause FROM payments."Refund"
 WHERE "orgId" = %s AND "paymentId" = %s ORDER BY 1, 2
""",
    "disputes": """
SELECT "amountCents", status FROM payments."Dispute"
 WHERE "orgId" = %s AND "paymentId" = %s ORDER BY 1, 2
""",
    "balances": """
WITH payment AS (SELECT %s::uuid AS org, %s::uuid AS id)
SELECT e.account, sum(e."amountCents")::bigint
  FROM payments."LedgerEntry" AS e, payment AS p
 WHERE e."orgId" = p.org AND e."sourceId" IN (
   SELECT p.id
   UNION ALL SELECT r.id FROM payments."Refund" AS r WHERE r."paymentId" = p.id
   UNION ALL SELECT d.id FROM payments."Dispute" AS d WHERE d."paymentId" = p.id)
 GROUP BY e.account HAVING sum(e."amountCents") <> 0 ORDER BY e.account
""",
}
DOUBLED = """
SELECT "sourceId", kind, account FROM payments."LedgerEntry" WHERE "orgId" = %s
 GROUP BY "sourceId", kind, account HAVING count(*) > 1
"""


@asynccontextmanager
async def stage(
    school: School, endpoint: Endpoint, folder: Path, seed: int
) -> AsyncIterator[Stage]:
    """Beside the service, with sweeps of its own."""
    gateway = StripeGateway("sk_test_story", [], timeout_s=5.0, api_base=school.fake.url)
    http = stripe.AIOHTTPClient()
    bases: Any = {"api": school.fake.url}
    client = stripe.StripeClient("sk_test_dashboard", base_addresses=bases, http_client=http)
    clock = school.service.clock
    async with eventing.orgs_of("payments", school.service.database, folder) as orgs:
        paying_out = PayingOut(orgs, gateway, clock)
        webhooks = Webhooks(orgs, gateway, paying_out, clock)
        charging = Charging(orgs, gateway, clock)
        sweeps = Sweeps(orgs, charging, paying_out, webhooks, clock)
        chance = random.Random(seed)
        try:
            yield Stage(school, endpoint, gateway, client, webhooks, sweeps, chance)
        finally:
            # What was never delivered would be fetched with every other sweep.
            school.fake.reset()
            clock.ahead = timedelta(0)
            closing: Callable[[], Awaitable[None]] = http.close_async
            await asyncio.gather(gateway.close(), closing())
