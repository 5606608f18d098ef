"""A school's money, moved by rules in any order: the service does what the model does.

Each rule does a thing twice, here in plain Python and there by the service's own classes, and the
answers must agree; after each rule the payments and the ledger must.
"""

from __future__ import annotations

import random
from asyncio import Runner
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any
from uuid import UUID, uuid4

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from driveflow.booking.v1 import booking_pb2
from driveflow.payments.v1 import payments_pb2 as pb
from services.payments import stripe_gateway
from services.payments.model.stripe import StripeEvent
from tests.payments.chaos.counter import SINCE, Counter, named
from tests.payments.chaos.money import WAITING, Back, Purse, School
from tests.serving import at

STAGES = ("asked", "paid", "heard", "driven")
FAULTS = (None, None, None, "cut_after", "error_after", "error_saved", "error_unsaved")
WORK_DONE = ("cut_after", "error_after")
"""Faults that use up what the first attempt was to bring about."""
OUTCOMES = (None, None, None, "refund_pending", "refund_failed")
ONCE = (
    ("payment_intents", "payment_id"),
    ("charges", "payment_id"),
    ("refunds", "refund_id"),
    ("transfers", "payout_id"),
)
SETTLED_AFTER = 5
"""Rounds of taking in and sweeping; two are enough where nothing waits for anything."""

ALWAYS = pb.Period(start_time=at(SINCE), end_time=at(datetime(2100, 1, 1, tzinfo=UTC)))

picks = st.integers(0, 1_000)
faults = st.sampled_from(FAULTS)


@dataclass
class Payout:
    """One that was paid, at Stripe."""

    transfer: str
    account: str
    emptied: bool = False
    reversed: bool = False


@dataclass
class Inbox:
    """Events of Stripe that we have not had the effect of, and those that we have."""

    made_up: list[StripeEvent] = field(default_factory=list)
    done: list[StripeEvent] = field(default_factory=list)


class Machine(RuleBasedStateMachine):
    """Payments beside the model of it, for one school."""

    def __init__(self, counter: Counter, runner: Runner) -> None:
        super().__init__()
        self.counter, self.runner = counter, runner
        self.org_id = uuid4()
        self.school, self.inbox = School(), Inbox()
        self.payouts: dict[str, Payout] = {}
        self.instructors = [uuid4(), uuid4()]
        counter.begin()

    # --- payments ---

    @initialize(
        cents=st.lists(st.integers(50, 20_000), min_size=3, max_size=3),
        fee=st.integers(0, 40),
        share=st.integers(0, 60),
    )
    def begin(self, cents: list[int], fee: int, share: int) -> None:
        """Lessons that were given and one that will be, all paid."""
        for each, until in zip(cents, ("driven", "driven", "heard"), strict=True):
            self.ask(each, fee, share, False, 0, False, None, until)

    @rule(
        cents=st.integers(50, 20_000),
        fee=st.integers(0, 40),
        share=st.integers(0, 60),
        euros=st.sampled_from((False, False, False, True)),
        who=st.integers(0, 1),
        again=st.sampled_from((False, False, False, True)),
        fault=faults,
        until=st.sampled_from(STAGES),
    )
    def ask(
        self,
        cents: int,
        fee: int,
        share: int,
        euros: bool,
        who: int,
        again: bool,
        fault: str | None,
        until: str,
    ) -> None:
        """For the price of a new booking, or once more for that of an old one; often it is paid."""
        booking = booking_pb2.Booking(
            id=str(uuid4()),
            instructor_id=str(self.instructors[who]),
            status=booking_pb2.BOOKING_STATUS_HELD,
            price_cents=cents,
            currency="EUR" if euros else "AUD",
            platform_fee_cents=cents * fee // 100,
            instructor_share_cents=cents * share // 100,
        )
        if again and self.school.purses:
            known = UUID(self._pick(self.school.purses, cents).booking)
            booking = self.counter.bookings.bookings[known]
        self.counter.bookings.bookings[UUID(booking.id)] = booking
        request = pb.CreatePaymentRequest(booking_id=booking.id, request_id=str(uuid4()))
        taken = any(True for _ in self.school.live(booking.id))
        answer = self._call("CreatePayment", request, fault, "/v1/payment_intents")
        if taken:
            assert answer == "PAYMENT_EXISTS"
            return
        if fault:
            assert answer == "STRIPE_UNAVAILABLE"
            self._sweep()
            answer = self._call("CreatePayment", request)
        self._is_kept("CreatePayment", request, answer, booking_id=str(uuid4()))
        self.school.purses.append(_purse(answer.payment))
        self._go_on(self.school.purses[-1], until)

    def _go_on(self, purse: Purse, until: str) -> None:
        stage = STAGES.index(until)
        if stage >= STAGES.index("paid"):
            self._pay(purse, declined=False)
        if stage >= STAGES.index("heard"):
            for event in self._waiting():
                if event.object.get("id") == purse.intent:
                    self._take(event)
        if stage >= STAGES.index("driven"):
            self._drive(purse)

    @precondition(lambda self: self.school.purses)
    @rule(pick=picks, declined=st.sampled_from((False, False, True)))
    def pay(self, pick: int, declined: bool) -> None:
        """The student gives a card, which is refused or not."""
        purse = self._pick(self.school.purses, pick, lambda purse: purse.bank.open)
        if purse.bank.open:
            self._pay(purse, declined)

    def _pay(self, purse: Purse, declined: bool) -> None:
        card = "pm_card_visa_chargeDeclined" if declined else "pm_card_visa"
        self.counter.fake.confirm(purse.intent, card)
        purse.bank.declined = declined
        if not declined:
            purse.bank.open, purse.bank.paid = False, purse.price

    @precondition(lambda self: self.school.purses)
    @rule(pick=picks, fault=faults)
    def cancel(self, pick: int, fault: str | None) -> None:
        """We no longer ask; who has paid meanwhile has paid."""
        purse = self._pick(self.school.purses, pick)
        request = pb.CancelPaymentRequest(payment_id=purse.id, request_id=str(uuid4()))
        path = "/v1/payment_intents/*/cancel"
        answer = self._call("CancelPayment", request, fault, path)
        if purse.status:
            assert answer == "INVALID_TRANSITION"
            return
        self._is_kept("CancelPayment", request, answer, payment_id=str(uuid4()))
        self._sweep()
        self._cancelled(purse)

    @precondition(lambda self: self.school.purses)
    @rule(pick=picks, refunded=st.integers(0, 120))
    def cancel_booking(self, pick: int, refunded: int) -> None:
        """What was paid goes back by the policy; what was not is no longer asked for."""
        booking = self._pick(self.school.purses, pick).booking
        purses = [each for each in self.school.purses if each.booking == booking]
        amount = purses[0].price * refunded // 100
        self._tell("booking.cancelled", booking_id=booking, refund_cents=amount)
        before = [purse.status for purse in purses]
        self._sweep()
        for purse, status in zip(purses, before, strict=True):
            if not status:
                self._cancelled(purse)
            elif status in ("succeeded", "partially_refunded") and amount and purse.refundable:
                self._gave_back(purse, min(amount, purse.refundable), None)

    @precondition(lambda self: self.school.purses)
    @rule(pick=picks)
    def drive(self, pick: int) -> None:
        """The lesson was given."""
        self._drive(self._pick(self.school.purses, pick, lambda purse: not purse.driven))

    def _drive(self, one: Purse) -> None:
        told = {"instructor_id": one.instructor, "instructor_share_cents": one.share}
        self._tell("lesson.completed", booking_id=one.booking, **told)
        self.school.drove(one.booking)

    # --- refunds ---

    @precondition(lambda self: self.school.purses)
    @rule(
        pick=picks,
        part=st.one_of(st.none(), st.integers(1, 110)),
        outcome=st.sampled_from(OUTCOMES),
        fault=faults,
    )
    def refund(self, pick: int, part: int | None, outcome: str | None, fault: str | None) -> None:
        """Some of it, or all that is left."""
        purse = self._pick(
            self.school.purses, pick, lambda purse: purse.refundable and (pick % 3 or purse.payout)
        )
        amount = purse.refundable if part is None else max(1, purse.price * part // 100)
        request = pb.RefundPaymentRequest(payment_id=purse.id, request_id=str(uuid4()))
        if part is not None:
            request.amount_cents = amount
        if outcome:
            self.counter.fake.fault(outcome)
        answer = self._call("RefundPayment", request, fault, "/v1/refunds")
        refusal = _refusal(purse, amount)
        if refusal:
            assert answer == refusal
            return
        self._is_kept("RefundPayment", request, answer, reason="another")
        if fault:
            assert answer.status == pb.REFUND_STATUS_PENDING
            if outcome:
                self.counter.fake.fault(outcome)
            self._sweep()
            self.counter.fake.clear_faults()
        self._gave_back(purse, amount, "any" if fault in WORK_DONE else outcome)

    @precondition(lambda self: self.school.purses)
    @rule(pick=picks, part=st.integers(1, 100), outcome=st.sampled_from(OUTCOMES))
    def refund_at_stripe(self, pick: int, part: int, outcome: str | None) -> None:
        """Somebody gives back past us; we hear of it."""
        purse = self._pick(self.school.purses, pick, lambda purse: purse.bank.can_give_back(1))
        amount = max(1, purse.price * part // 100)
        if not purse.bank.can_give_back(amount):
            return
        if outcome:
            self.counter.fake.fault(outcome)
        wanted: Any = {"payment_intent": purse.intent, "amount": amount}
        made = self._run(self.counter.dashboard.refunds.create_async(wanted))
        self.counter.fake.clear_faults()
        if outcome != "refund_failed":
            purse.bank.refunds[made.id] = amount
            purse.bank.given_back += amount

    @precondition(lambda self: any(purse.bank.refunds for purse in self.school.purses))
    @rule(pick=picks)
    def fail_refund(self, pick: int) -> None:
        """The student's bank does not take it after all."""
        made = [(purse, name) for purse in self.school.purses for name in purse.bank.refunds]
        purse, name = self._pick(made, pick)
        self.counter.fake.settle_refund(name, ok=False)
        purse.bank.given_back -= purse.bank.refunds.pop(name)

    # --- disputes ---

    @precondition(lambda self: self.school.purses)
    @rule(pick=picks, part=st.integers(1, 100))
    def dispute(self, pick: int, part: int) -> None:
        """The cardholder contests what is left of it, or less."""
        purse = self._pick(self.school.purses, pick, lambda purse: purse.bank.can_be_contested)
        if not purse.bank.can_be_contested:
            return
        left = purse.bank.paid - purse.bank.given_back
        amount = max(1, left * part // 100)
        purse.bank.dispute = self.counter.fake.dispute(purse.intent, amount)["id"]
        purse.bank.given_up, purse.bank.contested = amount, True

    @precondition(lambda self: any(purse.bank.is_open_dispute for purse in self.school.purses))
    @rule(pick=picks, won=st.booleans())
    def decide(self, pick: int, won: bool) -> None:
        """The card's bank decides."""
        purse = self._pick([p for p in self.school.purses if p.bank.is_open_dispute], pick)
        self.counter.fake.close_dispute(purse.bank.dispute, won)
        purse.bank.decided, purse.bank.contested = True, not won

    @precondition(lambda self: self.school.purses)
    @rule(pick=picks, status=st.sampled_from(("warning_needs_response", "warning_closed")))
    def inquire(self, pick: int, status: str) -> None:
        """The cardholder's bank asks, and takes nothing."""
        purse = self._pick(self.school.purses, pick, lambda purse: purse.bank.paid)
        if purse.bank.paid:
            self.inbox.made_up.append(_inquiry(purse, status, self.counter))

    # --- payouts ---

    @precondition(lambda self: self.school.purses)
    @rule(
        whose=picks,
        chosen=st.one_of(st.none(), st.lists(picks, min_size=1, max_size=2, unique=True)),
        account=st.sampled_from((*["acct_"] * 6, "acct_restricted", "")),
        broke=st.sampled_from((False, False, False, True)),
        fault=faults,
    )
    def pay_out(
        self, whose: int, chosen: list[int] | None, account: str, broke: bool, fault: str | None
    ) -> None:
        """What is due to an instructor, or what is named."""
        one = self._pick(self.school.purses, whose, lambda purse: purse.is_payable)
        instructor = UUID(one.instructor)
        request = pb.CreatePayoutRequest(
            instructor_id=str(instructor), request_id=str(uuid4()), period=ALWAYS
        )
        purses = [each for each in self.school.purses if each.instructor == str(instructor)]
        purses = [each for each in purses if each.is_payable]
        if chosen is not None:
            due = [
                self._pick(
                    self.school.purses,
                    pick,
                    lambda purse: purse.is_payable and purse.instructor == str(instructor),
                )
                for pick in chosen
            ]
            found = {purse.id: purse for purse in due}
            purses = list(found.values())
            request.payments.CopyFrom(named(*found))
        account += str(len(self.payouts)) if account else ""
        self.counter.bookings.accounts[instructor] = account
        if broke:
            self._top_up(-1)
        answer = self._call("CreatePayout", request, fault, "/v1/transfers")
        if broke:
            self._top_up(1)
        refusal = _payout_refusal(purses, str(instructor), account, chosen is not None)
        if refusal:
            assert answer == refusal
            return
        self._is_kept("CreatePayout", request, answer, instructor_id=str(uuid4()))
        for _ in range(2 if broke or fault else 0):
            # Stripe keeps what it refused under the key: the first may hear of that alone.
            self._sweep()
        found_payout = self._call("GetPayout", pb.GetPayoutRequest(payout_id=answer.id))
        if account.startswith("acct_restricted"):
            assert found_payout.status == pb.PAYOUT_STATUS_FAILED
            return
        assert found_payout.status == pb.PAYOUT_STATUS_PAID
        assert found_payout.amount_cents == sum(purse.share for purse in purses)
        self.school.paid_out(answer.id, purses)
        self.payouts[answer.id] = Payout(found_payout.stripe_transfer_id, account)

    @precondition(lambda self: self.payouts)
    @rule(pick=picks, emptied=st.booleans(), fault=faults)
    def reverse(self, pick: int, emptied: bool, fault: str | None) -> None:
        """We take a payout back, unless the instructor has taken it already."""
        payout_id = self._pick([*self.payouts], pick, self.school.payouts.__contains__)
        payout = self.payouts[payout_id]
        if emptied and not payout.emptied and not payout.reversed:
            self.counter.fake.pay_out(payout.account)
            payout.emptied = True
        request = pb.ReversePayoutRequest(
            payout_id=payout_id, reason="wrong", request_id=str(uuid4())
        )
        answer = self._call("ReversePayout", request, fault, "/v1/transfers/*/reversals")
        if payout_id not in self.school.payouts:
            assert answer == "INVALID_TRANSITION"
            return
        self._is_kept("ReversePayout", request, answer, reason="another")
        self._sweep()
        found = self._call("GetPayout", pb.GetPayoutRequest(payout_id=payout_id))
        if payout.emptied:
            assert found.reversal == pb.REVERSAL_STATUS_FAILED
            return
        assert found.status == pb.PAYOUT_STATUS_REVERSED
        payout.reversed = True
        self.school.taken_back(payout_id)

    @precondition(lambda self: self.payouts)
    @rule(pick=picks)
    def reverse_at_stripe(self, pick: int) -> None:
        """Somebody takes a payout back past us; we hear of it."""
        payout = self.payouts[self._pick([*self.payouts], pick)]
        if payout.emptied or payout.reversed:
            return
        payout.reversed = True
        self._run(self.counter.dashboard.transfers.reversals.create_async(payout.transfer))

    # --- events ---

    @rule(seed=picks, some=st.booleans(), copies=st.integers(1, 2))
    def take_in(self, seed: int, some: bool, copies: int) -> None:
        """Webhooks come: late, in any order, more than once."""
        dice = random.Random(seed)
        waiting = self._waiting()
        dice.shuffle(waiting)
        count = dice.randrange(len(waiting) + 1) if some else len(waiting)
        for event in waiting[:count]:
            for _ in range(copies):
                self._take(event)
        for event in dice.sample(self.inbox.done, min(2, len(self.inbox.done))):
            self._take(event)

    @rule()
    def settle(self) -> None:
        """Everything was heard, and minutes have passed: we know what Stripe knows."""
        for _ in range(SETTLED_AFTER):
            for event in self._waiting():
                self._take(event)
            self._sweep()
        assert not self._waiting()
        for kind, key in ONCE:
            assert set(self.counter.fake.tally(kind, key).values()) <= {1}, kind
        rows = self.counter.payments(self.org_id)
        for purse in self.school.purses:
            status = rows[purse.id][0]
            assert purse.status or status == ("failed" if purse.bank.declined else "intent_created")
            assert purse.captured == purse.bank.paid
            assert purse.reserved == purse.bank.given_back

    def teardown(self) -> None:
        self.settle()
        self.agree()

    # --- what must be so after each of them ---

    @invariant()
    def agree(self) -> None:
        """The service's rows are the model's, and no money was made or lost."""
        rows = self.counter.payments(self.org_id)
        assert len(rows) == len(self.school.purses)
        for purse in self.school.purses:
            status, *rest = rows[purse.id]
            assert status == purse.status or (not purse.status and status in WAITING)
            assert rest == [purse.captured, purse.reserved, purse.share_status, purse.payout]
        kept = {account: amount for account, amount in self.school.balances.items() if amount}
        assert self.counter.balances(self.org_id) == kept
        assert self.counter.unbalanced(self.org_id) == []

    # --- below the rules ---

    def _cancelled(self, purse: Purse) -> None:
        if purse.bank.paid:
            self.school.paid(purse)
        else:
            purse.bank.open, purse.cancelled = False, True

    def _gave_back(self, purse: Purse, amount: int, outcome: str | None) -> None:
        """A refund of ours that has been sent: Stripe decides by what it knows."""
        found = self._call("ListRefunds", pb.ListRefundsRequest(payment_id=purse.id)).refunds
        (made,) = (each for each in found if not self._knows(purse, each))
        assert made.amount_cents == amount
        status = pb.RefundStatus.Name(made.status).removeprefix("REFUND_STATUS_").lower()
        name = made.stripe_refund_id or made.id
        purse.refunds[name] = Back(amount)
        if not purse.bank.can_give_back(amount):
            assert (status, made.stripe_refund_id) == ("failed", "")
        elif outcome != "any":
            expected = (outcome or "refund_succeeded").removeprefix("refund_")
            assert status == expected
        if status != "failed":
            purse.bank.refunds[name] = amount
            purse.bank.given_back += amount
        self.school.learnt(purse, name, status)

    def _knows(self, purse: Purse, refund: pb.Refund) -> bool:
        return (refund.stripe_refund_id or refund.id) in purse.refunds

    def _waiting(self) -> list[StripeEvent]:
        done = {event.id for event in self.inbox.done}
        told = [*self._run(self.counter.events()), *self.inbox.made_up]
        return [event for event in told if event.id not in done]

    def _take(self, event: StripeEvent) -> None:
        """Its effect, once: `failed` is tried again, and what was had before has none."""
        taken = self._run(self.counter.webhooks.take(event))
        if event in self.inbox.done:
            assert taken is None
            return
        assert taken is not None
        assert taken.state == self._heard(event), taken.error
        if taken.state != "failed":
            self.inbox.done.append(event)

    def _heard(self, event: StripeEvent) -> str:
        """What the model makes of an event."""
        kind = event.type.partition(".")[0]
        if event.type.startswith("charge.dispute."):
            return self._heard_dispute(event)
        if kind == "payment_intent":
            return self._heard_intent(event)
        if kind == "refund":
            return self._heard_refund(event)
        if kind == "transfer":
            return self._heard_transfer(event)
        return "ignored"

    def _heard_intent(self, event: StripeEvent) -> str:
        told = stripe_gateway.intent(event.object)
        (purse,) = (each for each in self.school.purses if each.intent == told.id)
        if told.status == "succeeded":
            self.school.paid(purse)
        elif told.status == "cancelled":
            purse.cancelled = True
        return "processed"

    def _heard_refund(self, event: StripeEvent) -> str:
        told = stripe_gateway.refund(event.object)
        (purse,) = (each for each in self.school.purses if each.intent == told.intent_id)
        if not purse.captured:
            return "failed"
        if told.id not in purse.refunds:
            if told.amount > purse.refundable and told.status != "failed":
                return "failed"
            first = "failed" if told.status == "failed" else "pending"
            purse.refunds[told.id] = Back(told.amount, first)
        self.school.learnt(purse, told.id, told.status)
        return "processed"

    def _heard_dispute(self, event: StripeEvent) -> str:
        told = stripe_gateway.dispute(event.object)
        (purse,) = (each for each in self.school.purses if each.intent == told.intent_id)
        if not purse.captured:
            return "failed"
        self.school.contested(purse, told.id, told.status)
        return "processed"

    def _heard_transfer(self, event: StripeEvent) -> str:
        told = stripe_gateway.transfer(event.object)
        payout_id = told.metadata["payout_id"]
        if told.amount_reversed and payout_id in self.school.payouts:
            self.school.taken_back(payout_id)
        return "processed"

    def _call(self, method: str, request: Any, fault: str | None = None, path: str = "*") -> Any:
        if fault:
            self.counter.fake.fault(fault, method="POST", path=path)
        answer = self._run(self.counter.call(self.org_id, method, request))
        self.counter.fake.clear_faults()
        return answer

    def _is_kept(self, method: str, request: Any, answer: Any, **other: str) -> None:
        """The same call has the same answer; another under its id has none."""
        again = self._call(method, request)
        assert again.SerializeToString(deterministic=True) == answer.SerializeToString(
            deterministic=True
        )
        changed = type(request)()
        changed.CopyFrom(request)
        for name, value in other.items():
            setattr(changed, name, value)
        assert self._call(method, changed) == "REQUEST_ID_REUSED"

    def _top_up(self, sign: int) -> None:
        """Take all that the platform has at Stripe, or give it plenty."""
        for currency in ("aud", "eur"):
            left = self.counter.fake.balance().get(currency, 0)
            self.counter.fake.top_up(10**10 if sign > 0 else -left, currency)

    def _tell(self, kind: str, **payload: Any) -> None:
        self._run(self.counter.tell(self.org_id, kind, **payload))

    def _sweep(self) -> None:
        self._run(self.counter.sweep(self.org_id))

    def _run(self, work: Awaitable[Any]) -> Any:
        async def awaited() -> Any:
            return await work

        return self.runner.run(awaited())

    def _pick(
        self, things: Sequence[Any], pick: int, wanted: Callable[[Any], object] = bool
    ) -> Any:
        """One of the things, of those that are wanted if there are any; now and then of all."""
        chosen = [each for each in things if wanted(each)] if pick % 8 else []
        return (chosen or things)[pick % len(chosen or things)]


def run_machine(counter: Counter, runner: Runner, chosen: settings) -> None:
    """Drive both by the rules; raises AssertionError where they differ."""
    made: Any = partial(Machine, counter, runner)
    run_state_machine_as_test(made, settings=chosen)


def _purse(payment: pb.Payment) -> Purse:
    return Purse(
        id=payment.id,
        booking=payment.booking_id,
        intent=payment.stripe_payment_intent_id,
        instructor=payment.instructor_id,
        currency=payment.currency,
        price=payment.amount_cents,
        fee=payment.application_fee_cents,
        share=payment.instructor_share_cents,
    )


def _refusal(purse: Purse, amount: int) -> str:
    """Why a refund is refused; "" when it is not."""
    if purse.status == "disputed":
        return "PAYMENT_DISPUTED"
    if purse.status not in ("succeeded", "partially_refunded"):
        return "INVALID_TRANSITION"
    return "" if 0 < amount <= purse.refundable else "REFUND_TOO_LARGE"


def _payout_refusal(purses: Sequence[Purse], instructor: str, account: str, by_name: bool) -> str:
    """Why a payout is refused; "" when it is not."""
    if not account:
        return "PAYOUT_ACCOUNT_MISSING"
    for purse in purses if by_name else ():
        if purse.instructor == instructor and purse.payout:
            return "PAYMENT_PAID_OUT"
        if purse.instructor != instructor or not purse.is_payable:
            return "PAYMENT_NOT_DUE"
    if not purses:
        return "NOTHING_TO_PAY_OUT"
    return "CURRENCIES_DIFFER" if len({purse.currency for purse in purses}) > 1 else ""


def _inquiry(purse: Purse, status: str, counter: Counter) -> StripeEvent:
    """An event of an inquiry, which the fake has none of."""
    dispute = {
        "id": f"du_inquiry_{purse.id}",
        "object": "dispute",
        "status": status,
        "amount": purse.price,
        "currency": purse.currency.lower(),
        "payment_intent": purse.intent,
    }
    return stripe_gateway.event(
        {
            "id": f"evt_{uuid4().hex}",
            "object": "event",
            "type": "charge.dispute.updated",
            "livemode": False,
            "created": int(counter.clock().timestamp()),
            "data": {"object": dispute},
        }
    )
