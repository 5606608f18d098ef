"""What a school's money does, in plain Python: one payment after the other, no database, no I/O.

Amounts are in minor units. `Purse` is what we know of a payment, `Bank` what Stripe knows: the two
differ as long as events are under way.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

PAYABLE = ("succeeded", "partially_refunded")
WAITING = ("unknown", "intent_created", "processing", "failed")
HELD = ("needs_response", "under_review", "lost")
"""Statuses of a dispute in which the money is not ours."""

Balances = defaultdict[tuple[str, str], int]


@dataclass
class Bank:
    """A payment as Stripe knows it."""

    paid: int = 0
    given_back: int = 0
    dispute: str = ""
    """Name of the one that was opened."""
    contested: bool = False
    """Open or lost."""
    given_up: int = 0
    """What is contested."""
    open: bool = True
    """May be paid yet."""
    declined: bool = False
    decided: bool = False
    refunds: dict[str, int] = field(default_factory=dict)
    """Amounts of those that have not failed."""

    @property
    def can_be_contested(self) -> bool:
        return not self.dispute and self.paid > self.given_back

    @property
    def is_open_dispute(self) -> bool:
        return bool(self.dispute) and not self.decided

    def can_give_back(self, amount: int) -> bool:
        return 0 < amount <= self.paid - self.given_back and not self.contested


@dataclass
class Back:
    """A refund as we know it."""

    amount: int
    status: str = "pending"


@dataclass
class Purse:
    """A payment as we know it."""

    id: str
    booking: str
    intent: str
    instructor: str
    currency: str
    price: int
    fee: int
    share: int
    bank: Bank = field(default_factory=Bank)
    captured: int = 0
    cancelled: bool = False
    refunds: dict[str, Back] = field(default_factory=dict)
    """By Stripe's names, or by ours of those that Stripe did not make."""
    disputes: dict[str, str] = field(default_factory=dict)
    driven: bool = False
    share_status: str = "none"
    payout: str | None = None

    @property
    def reserved(self) -> int:
        """Given back, or about to be."""
        return sum(each.amount for each in self.refunds.values() if each.status != "failed")

    @property
    def refundable(self) -> int:
        return self.captured - self.reserved

    @property
    def given_back(self) -> int:
        return sum(each.amount for each in self.refunds.values() if each.status == "succeeded")

    @property
    def status(self) -> str:
        """Of one that was paid or cancelled; "" of one that waits."""
        if not self.captured:
            return "cancelled" if self.cancelled else ""
        if any(status in HELD for status in self.disputes.values()):
            return "disputed"
        if not self.given_back:
            return "succeeded"
        return "refunded" if self.given_back >= self.captured else "partially_refunded"

    @property
    def is_payable(self) -> bool:
        """Whether the instructor may be paid his share."""
        due = self.share_status == "due" and self.payout is None
        return due and self.status in PAYABLE and self.refundable > 0


class School:
    """All payments of a school, and its balances by account and currency."""

    def __init__(self) -> None:
        self.purses: list[Purse] = []
        self.payouts: dict[str, list[Purse]] = {}
        """Those that were paid, with what they paid."""
        self.balances: Balances = defaultdict(int)

    def live(self, booking: str) -> Iterator[Purse]:
        """Payments that stand in the way of another of the booking."""
        for each in self.purses:
            if each.booking == booking and each.status not in ("cancelled", "refunded"):
                yield each

    # --- what happens to a payment ---

    def paid(self, purse: Purse) -> None:
        """Its capture has become known."""
        if purse.captured:
            return
        purse.captured = purse.price
        self._move(purse, stripe=purse.price, platform=-purse.fee, school=purse.fee - purse.price)
        self._share(purse)

    def learnt(self, purse: Purse, name: str, status: str) -> None:
        """A refund's status has become known; failed is final, and success but for that."""
        back = purse.refunds[name]
        before = back.status
        if status == before or before == "failed" or (before, status) == ("succeeded", "pending"):
            return
        given_back = purse.given_back
        back.status = status
        self._gave(purse, given_back)
        self._share(purse)

    def _gave(self, purse: Purse, before: int) -> None:
        """More is given back than before, or less; the platform bears its part of the sum."""
        fees = [purse.fee * each // purse.captured for each in (before, purse.given_back)]
        amount, fee = purse.given_back - before, fees[1] - fees[0]
        self._move(purse, stripe=-amount, platform=fee, school=amount - fee)

    def contested(self, purse: Purse, name: str, status: str) -> None:
        """A dispute's status has become known; one that is decided stays so."""
        before = purse.disputes.get(name, "")
        if before in ("won", "lost"):
            return
        purse.disputes[name] = status
        if status.startswith("warning_"):
            return
        if before in ("", "warning_needs_response"):
            self._move(purse, disputed=purse.bank.given_up, stripe=-purse.bank.given_up)
        if status == "won":
            self._move(purse, stripe=purse.bank.given_up, disputed=-purse.bank.given_up)
        if status == "lost":
            self._move(purse, school=purse.bank.given_up, disputed=-purse.bank.given_up)
        self._share(purse)

    def drove(self, booking: str) -> None:
        """The lesson was given: one payment pays the instructor, the latest of those that stand;
        or that may yet be paid; or that went back, which may fail."""
        purses = [each for each in self.purses if each.booking == booking]
        if any(each.driven for each in purses):
            return
        standing = [each for each in purses if each.status in (*PAYABLE, "disputed")]
        waiting = [each for each in purses if not each.status]
        refunded = [each for each in purses if each.status == "refunded"]
        for purse in (standing or waiting or refunded)[-1:]:
            purse.driven = True
            self._share(purse)

    def _share(self, purse: Purse) -> None:
        """The instructor's share: due when it is paid and driven, until all of it went back, and
        again when that fails."""
        if not purse.driven or not purse.share:
            return
        owed = f"instructor:{purse.instructor}"
        if purse.share_status != "due" and purse.status in PAYABLE:
            purse.share_status = "due"
            self._move(purse, **{"school": purse.share, owed: -purse.share})
        elif (purse.share_status, purse.status, purse.payout) == ("due", "refunded", None):
            purse.share_status = "void"
            self._move(purse, **{"school": -purse.share, owed: purse.share})

    # --- payouts ---

    def paid_out(self, payout: str, purses: list[Purse]) -> None:
        """An instructor was paid."""
        self.payouts[payout] = purses
        for each in purses:
            each.payout = payout
            self._move(each, **{f"instructor:{each.instructor}": each.share, "stripe": -each.share})

    def taken_back(self, payout: str) -> None:
        """A payout came back."""
        for each in self.payouts.pop(payout):
            each.payout = None
            self._move(each, **{f"instructor:{each.instructor}": -each.share, "stripe": each.share})
            self._share(each)

    def _move(self, purse: Purse, **amounts: int) -> None:
        if sum(amounts.values()):
            raise AssertionError(f"the model makes or loses money: {amounts}")
        for account, amount in amounts.items():
            self.balances[account, purse.currency] += amount
