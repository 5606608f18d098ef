"""Reconciliation runs are carried out: our books against Stripe's, a page at a time.

What is paid or transferred is compared from both sides. Stripe's lists are read first, each thing
in them looked up here by its id, whenever we date it; then what we date within the period and the
lists had not is asked for singly. A run's place is kept in memory alone: cut off, it begins anew.

A run is claimed in the database by the number of the attempt, which each write checks and which
nobody raises while pages go on: of two processes that both think they lead, one carries it out.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial
from typing import Generic, TypeVar

from libs import audit
from libs.orgs import Orgs
from libs.pooling import Connection
from services.payments.model.reconciliation import (
    ATTEMPTS_MAX,
    Difference,
    PayoutHere,
    Run,
    Tally,
    compare_charge,
    compare_intent,
    compare_transfer,
    missing_transfer,
)
from services.payments.model.stripe import Charge, Intent, Transfer
from services.payments.store import reconciliation as store
from services.payments.stripe_gateway import StripeGateway, StripeRefused, StripeUnavailable

SLICE_S = 1.0
"""So long a school's run is carried on at a time: other schools wait."""
PAGE = 50
ASKED_A_PAGE = 10
"""Things that Stripe's lists had not, of a page of ours: each is a call."""
SECOND = timedelta(seconds=1)
CLAIM = timedelta(seconds=60)
"""So long after its last page a run is still its process's; then another begins it anew."""
ABSENT = "resource_missing"
Thing = TypeVar("Thing", Charge, Transfer)


class TakenOver(Exception):
    """Another process carries the run out."""


class Reconciling:
    """Carries out the runs of all schools, one at a time of each."""

    def __init__(
        self,
        orgs: Orgs,
        gateway: StripeGateway,
        clock: Callable[[], datetime],
        *,
        slice_s: float = SLICE_S,
    ) -> None:
        self._orgs = orgs
        self._gateway = gateway
        self._clock = clock
        self._slice_s = slice_s
        self._under_way: dict[uuid.UUID, Comparison] = {}

    async def school(self, org_id: uuid.UUID) -> None:
        """Carry the school's run on for a while; costs a statement when there is none."""
        run = await store.find_running_run(self._orgs.reader(org_id), org_id)
        comparison = self._under_way.pop(org_id, None)
        if run is None:
            return
        if comparison is None or not comparison.is_of(run):
            comparison = None if run.is_claimed else await self._take_up(org_id, run)
        if comparison is None:
            return
        with suppress(TakenOver):
            if not await self._carry_on(org_id, comparison):
                self._under_way[org_id] = comparison

    async def _take_up(self, org_id: uuid.UUID, run: Run) -> Comparison | None:
        """From its start, whatever an attempt before has found."""
        if run.attempts >= ATTEMPTS_MAX:
            why = f"It was cut off {ATTEMPTS_MAX} times; the service's log says by what."
            await self._end(org_id, run, "failed", why)
            return None
        async with self._orgs.write(org_id) as conn:
            begun = await store.begin_run(conn, org_id, run, CLAIM)
            if begun is None:
                return None
            await store.delete_discrepancies(conn, org_id, run.id)
        return Comparison(self._orgs, self._gateway, self._clock, org_id, begun)

    async def _carry_on(self, org_id: uuid.UUID, comparison: Comparison) -> bool:
        """Whether it has ended."""
        until = time.monotonic() + self._slice_s
        try:
            while await comparison.step():
                if time.monotonic() >= until:
                    return False
        except StripeUnavailable:
            return False
        except StripeRefused as error:
            await self._end(org_id, comparison.run, "failed", f"Stripe refuses: {error.code}.")
        else:
            await self._end(org_id, comparison.run, "done")
        return True

    async def _end(self, org_id: uuid.UUID, run: Run, status: str, failure: str = "") -> None:
        async with self._orgs.write(org_id) as conn:
            ended = await store.end_run(
                conn, org_id, run, self._clock(), status=status, failure=failure
            )
            if ended is None:
                return
            figures = {
                "status": ended.status,
                "compared": ended.compared,
                "discrepancies": ended.discrepancies,
                "failure": ended.failure,
            }
            await audit.record(
                conn,
                org_id,
                "reconciliation_run",
                run.id,
                "end",
                after=figures,
                actor="payments",
            )


class Listing(Generic[Thing]):
    """A list of Stripe's, latest first, that goes on where it was when there is no answer."""

    def __init__(self, ask: Callable[[datetime], AsyncIterator[Thing]], to_at: datetime) -> None:
        """`ask` lists what was made before a time."""
        self._ask: Callable[[datetime], AsyncIterator[Thing]] = ask
        self._to_at = to_at
        self._things: AsyncIterator[Thing] | None = None
        self._page: list[Thing] = []
        self.seen: set[str] = set()
        """Ids of all that was listed, about 100 bytes each."""

    async def page(self) -> Sequence[Thing]:
        """The next page, the same until it is `done`; empty at the end."""
        if not self._page:
            try:
                self._page = await self._next()
            except StripeUnavailable:
                self._things = None
                raise
        return self._page

    def done(self) -> None:
        """The page was dealt with."""
        self.seen.update(thing.id for thing in self._page)
        # Times of Stripe are whole seconds: some of the last one may be on the next page.
        self._to_at = self._page[-1].created + SECOND
        self._page = []

    async def _next(self) -> list[Thing]:
        if self._things is None:
            self._things = self._ask(self._to_at)
        page: list[Thing] = []
        async for thing in self._things:
            if thing.id not in self.seen:
                page.append(thing)
            if len(page) == PAGE:
                break
        return page


class Comparison:
    """One attempt at a run."""

    def __init__(
        self,
        orgs: Orgs,
        gateway: StripeGateway,
        clock: Callable[[], datetime],
        org_id: uuid.UUID,
        run: Run,
    ) -> None:
        self.run = run
        self._orgs = orgs
        self._reader = orgs.reader(org_id)
        self._gateway = gateway
        self._clock = clock
        self._org_id = org_id
        self._charges = Listing(partial(gateway.charges, org_id, run.from_at), run.to_at)
        self._transfers = Listing(partial(gateway.transfers, org_id, run.from_at), run.to_at)
        self._intent_ids: set[str] = set()
        self._after = store.FIRST_PLACE
        self._stages: list[Callable[[], Awaitable[bool]]] = [
            self._their_charges,
            self._our_payments,
            self._their_transfers,
            self._our_payouts,
        ]

    def is_of(self, run: Run) -> bool:
        """Whether it is the latest attempt at this run."""
        return (self.run.id, self.run.attempts) == (run.id, run.attempts)

    async def step(self) -> bool:
        """Compare a page more; False when there is none.

        Raises StripeUnavailable: the same step can be tried again; StripeRefused, TakenOver.
        """
        if not await self._stages[0]():
            self._stages.pop(0)
            self._after = store.FIRST_PLACE
        return bool(self._stages)

    # --- payments ---

    async def _their_charges(self) -> bool:
        charges = await self._charges.page()
        if not charges:
            return False
        found = await self._compare_charges(charges)
        # Something may have happened between the two looks: what differs is looked at again.
        differing = [each for each in charges if _in_state(found[each.id])]
        again = [await self._charge_now(each) for each in differing]
        await self._keep([*(found | await self._compare_charges(again)).values()])
        self._intent_ids.update(each.intent_id for each in charges)
        self._charges.done()
        return True

    async def _compare_charges(self, charges: Sequence[Charge]) -> dict[str, list[Difference]]:
        ids = [each.intent_id for each in charges if each.intent_id]
        here = await store.list_payments_by_intent(self._reader, self._org_id, ids) if ids else []
        by_id = {each.intent_id: each for each in here}
        return {each.id: compare_charge(by_id.get(each.intent_id), each) for each in charges}

    async def _charge_now(self, charge: Charge) -> Charge:
        made = charge.created
        async for now in self._gateway.charges(self._org_id, made, made + SECOND):
            if now.id == charge.id:
                return now
        return charge

    async def _our_payments(self) -> bool:
        here = await store.list_payments_captured(
            self._reader,
            self._org_id,
            from_at=self.run.from_at,
            to_at=self.run.to_at,
            after=self._after,
            limit=PAGE,
        )
        alone = [each for each in here if each.intent_id not in self._intent_ids][:ASKED_A_PAGE]
        found = [compare_intent(each, await self._intent(each.intent_id)) for each in alone]
        await self._keep(found)
        if len(alone) == ASKED_A_PAGE:
            self._after = (alone[-1].at, alone[-1].id)
        elif here:
            self._after = (here[-1].at, here[-1].id)
        return bool(here)

    async def _intent(self, intent_id: str) -> Intent | None:
        try:
            return await self._gateway.get_intent(intent_id)
        except StripeRefused as error:
            if error.code == ABSENT:
                return None
            raise

    # --- payouts ---

    async def _their_transfers(self) -> bool:
        transfers = await self._transfers.page()
        if not transfers:
            return False
        found = await self._compare_transfers(transfers)
        differing = [each for each in transfers if _in_state(found[each.id])]
        again = [await self._gateway.get_transfer(each.id) for each in differing]
        await self._keep([*(found | await self._compare_transfers(again)).values()])
        self._transfers.done()
        return True

    async def _compare_transfers(
        self, transfers: Sequence[Transfer]
    ) -> dict[str, list[Difference]]:
        if not transfers:
            return {}
        named = {each.id: _payout_id(each) for each in transfers}
        ids = [each for each in named.values() if each is not None]
        here = await store.list_payouts_by_transfer(self._reader, self._org_id, [*named], ids)
        by_transfer = {each.transfer_id: each for each in here if each.transfer_id}
        # Of one whose answer was lost we do not know Stripe's name yet; it carries ours.
        waiting = {each.id: each for each in here if not each.transfer_id}
        return {
            each.id: compare_transfer(
                by_transfer.get(each.id) or _of(waiting, named[each.id]), each
            )
            for each in transfers
        }

    async def _our_payouts(self) -> bool:
        here = await store.list_payouts_transferred(
            self._reader,
            self._org_id,
            from_at=self.run.from_at,
            to_at=self.run.to_at,
            after=self._after,
            limit=PAGE,
        )
        alone = [each for each in here if each.transfer_id not in self._transfers.seen]
        alone = alone[:ASKED_A_PAGE]
        await self._keep([await self._ask_transfer(each) for each in alone])
        last = alone[-1:] if len(alone) == ASKED_A_PAGE else here[-1:]
        for each in last:
            if each.at is not None:
                self._after = (each.at, each.id)
        return bool(here)

    async def _ask_transfer(self, payout: PayoutHere) -> list[Difference]:
        try:
            transfer = await self._gateway.get_transfer(payout.transfer_id or "")
        except StripeRefused as error:
            if error.code == ABSENT:
                return missing_transfer(payout)
            raise
        return compare_transfer(payout, transfer)

    # --- what was found ---

    async def _keep(self, found: Sequence[Sequence[Difference]]) -> None:
        """One short transaction a page. Raises TakenOver."""
        if not found:
            return
        shown = Tally.of(found)
        async with self._orgs.write(self._org_id) as conn:
            if not await store.advance_run(conn, self._org_id, self.run, shown, CLAIM):
                raise TakenOver
            await self._add(conn, shown.differences)

    async def _add(self, conn: Connection, differences: Sequence[Difference]) -> None:
        if differences and not self.run.dry_run:
            await store.add_discrepancies(
                conn, self._org_id, self.run.id, differences, self._clock()
            )


def _in_state(differences: Sequence[Difference]) -> bool:
    return any(each.kind == "status" for each in differences)


def _payout_id(transfer: Transfer) -> uuid.UUID | None:
    """Of the payout that a transfer says it is."""
    try:
        return uuid.UUID(transfer.metadata.get("payout_id", ""))
    except ValueError:
        return None


def _of(waiting: dict[uuid.UUID, PayoutHere], payout_id: uuid.UUID | None) -> PayoutHere | None:
    return None if payout_id is None else waiting.get(payout_id)
