"""Webhooks: signed, sent until they are taken, held and shuffled when a test says so."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import random
import time
from collections.abc import Sequence

import aiohttp

from libs.local.stripe_fake.errors import Json
from libs.local.stripe_fake.faults import WEBHOOKS, Faults
from libs.local.stripe_fake.state import State

AT_ONCE, TIMEOUT_S, LONGEST_WAIT_S = 16, 10.0, 10.0


def signature(body: bytes, secrets: Sequence[str], timestamp: int) -> str:
    """The Stripe-Signature header: one v1 for each secret that is active."""
    signed = b"%d.%s" % (timestamp, body)
    macs = [hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest() for secret in secrets]
    return ",".join([f"t={timestamp}", *[f"v1={mac}" for mac in macs]])


class Deliveries:
    """Sends each event to the endpoint; retries with doubling waits, `limit` attempts in all."""

    def __init__(self, state: State, faults: Faults, retry_base_s: float, limit: int) -> None:
        self.url: str | None = None
        self.secrets: tuple[str, ...] = ()
        self._state, self._faults = state, faults
        self._retry_base_s, self._limit = retry_base_s, limit
        self._held: list[str] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._session: aiohttp.ClientSession | None = None

    def start(self) -> None:
        """Begin with what an earlier run left undelivered."""
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        self._session = aiohttp.ClientSession(timeout=timeout)
        for event_id in [*self._state.undelivered]:
            if self._state.get("delivery", event_id)["state"] == "pending":
                self.send(event_id)

    async def stop(self) -> None:
        """Leave everything as it is."""
        await self._cancel()
        if self._session:
            await self._session.close()

    def enqueue(self, event: Json) -> None:
        """Send a new event, unless a fault has other plans for it."""
        fault = self._faults.take(WEBHOOKS, event=event["type"])
        kind = fault.kind if fault else ""
        if kind == "webhook_drop":
            self._mark(event["id"], "dropped")
            return
        delay_s = fault.delay_s if fault and kind == "webhook_late" else 0.0
        for _ in range(2 if kind == "webhook_duplicate" else 1):
            self.send(event["id"], delay_s)

    def send(self, event_id: str, delay_s: float = 0.0) -> None:
        """Send an event, or keep it for the release."""
        if self._held is not None:
            self._held.append(event_id)
            return
        task = asyncio.get_running_loop().create_task(self._deliver(event_id, delay_s))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def hold(self) -> None:
        """Send nothing until the release; what is on its way arrives."""
        if self._held is None:
            self._held = []

    def release(self, shuffle: bool, copies: int, seed: int) -> int:
        """Send what was held; return how many deliveries that are."""
        ids = (self._held or []) * copies
        if shuffle:
            random.Random(seed).shuffle(ids)  # noqa: S311
        self._held = None
        for event_id in ids:
            self.send(event_id)
        return len(ids)

    async def drained(self, timeout_s: float) -> None:
        """Return when nothing is due any more; raise TimeoutError after `timeout_s`."""
        async with asyncio.timeout(timeout_s):
            while self._tasks:
                await asyncio.wait(self._tasks)

    def forget(self) -> None:
        """Give up everything that is due or held."""
        self._held = None
        for task in self._tasks:
            task.cancel()

    async def _cancel(self) -> None:
        self.forget()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _deliver(self, event_id: str, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        for attempt in range(self._limit):
            if self._held is not None:
                self._held.append(event_id)
                return
            async with self._slots:
                taken = await self._post(event_id)
            self._mark(event_id, "delivered" if taken else "pending", attempts=1)
            if taken:
                return
            await asyncio.sleep(min(LONGEST_WAIT_S, self._retry_base_s * 2**attempt))
        self._mark(event_id, "failed")

    async def _post(self, event_id: str) -> bool:
        if self.url is None or self._session is None:
            return False
        body = json.dumps(self._state.get("event", event_id), indent=2).encode()
        headers = {
            "Content-Type": "application/json; charset=utf-8",
            "User-Agent": "Stripe/1.0 (fake)",
            "Stripe-Signature": signature(body, self.secrets, int(time.time())),
        }
        try:
            async with self._session.post(self.url, data=body, headers=headers) as answer:
                return answer.ok and answer.status < 300
        except (aiohttp.ClientError, OSError, TimeoutError):
            return False

    def _mark(self, event_id: str, outcome: str, attempts: int = 0) -> None:
        delivery = self._state.get("delivery", event_id)
        delivery["attempts"] += attempts
        if delivery["state"] != "delivered":  # a copy that fails later does not undo it
            delivery["state"] = outcome
        self._state.put(delivery, "delivery")
        if outcome == "delivered":
            self._state.undelivered.pop(event_id, None)
            event = self._state.get("event", event_id)
            self._state.put(event | {"pending_webhooks": 0})
        self._state.flush()
