"""What one process of all does: what is open at Stripe is finished, school by school.

Failed webhooks are tried again, undelivered ones fetched, old ones deleted.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

from libs import telemetry
from libs.errors import DomainError
from libs.orgs import Orgs
from services.payments.charging import Charging
from services.payments.paying_out import PayingOut
from services.payments.store import payments as store
from services.payments.webhooks import Webhooks

log = logging.getLogger(__name__)

DUE_A_ROUND = 100
SOON_S = 0.2
"""After so long what is being written is most likely committed; else the next round finds it."""
UNDELIVERED_SINCE = timedelta(days=3)
"""Stripe itself gives up after three days; the sweep runs much more often than that."""


class Sweeps:
    """The duties that go school by school, and those of the platform."""

    def __init__(
        self,
        orgs: Orgs,
        charging: Charging,
        paying_out: PayingOut,
        webhooks: Webhooks,
        clock: Callable[[], datetime],
    ) -> None:
        self._orgs = orgs
        self._webhooks = webhooks
        self._clock = clock
        self._called: set[uuid.UUID] = set()
        self._anyone = asyncio.Event()
        self._finish: dict[str, Callable[[uuid.UUID, uuid.UUID], Awaitable[object]]] = {
            "payment": charging.advance,
            "refund": charging.send_refund,
            "payout": paying_out.advance,
        }

    def soon(self, org_id: uuid.UUID) -> None:
        """A school has something for Stripe: look at it in a moment, not in the next round."""
        self._called.add(org_id)
        self._anyone.set()

    async def run(self) -> None:
        """Look at the schools that were called, for ever."""
        while True:
            await self._anyone.wait()
            await asyncio.sleep(SOON_S)
            self._anyone.clear()
            while self._called:
                await self._look(self._called.pop())

    async def _look(self, org_id: uuid.UUID) -> None:
        try:
            await self.school(org_id)
        except Exception as error:  # noqa: BLE001 (the next round looks again)
            telemetry.log_fault(log, "sweep failed", error)

    async def school(self, org_id: uuid.UUID) -> None:
        """One look at a school: costs a statement when there is nothing to do."""
        reader = self._orgs.reader(org_id)
        for kind, id_ in await store.list_due(reader, org_id, self._clock(), DUE_A_ROUND):
            try:
                await self._finish[kind](org_id, id_)
            except DomainError as error:
                # It is written down with the time of the next attempt.
                log.info("open at Stripe", extra={"kind": kind, "id": id_, "answer": error.reason})
            except Exception as error:  # noqa: BLE001 (one thing does not stop the others)
                telemetry.log_fault(log, f"{kind} {id_} could not be finished", error)

    async def undelivered(self) -> None:
        """Fetch what Stripe could not deliver."""
        await self._webhooks.sweep(self._clock() - UNDELIVERED_SINCE)
