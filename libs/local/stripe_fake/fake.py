"""The fake as a thing to hold: start, stop, and everything that a test or the stack may do to it.

Each public method that is not async is also `POST /_fake/<name>` with its arguments as a JSON
object.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from inspect import iscoroutinefunction, isfunction
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from aiohttp import web

from libs.local.stripe_fake import disputes, intents, ledger, refunds
from libs.local.stripe_fake.deliveries import Deliveries
from libs.local.stripe_fake.errors import DECLINED, Json, Refusal
from libs.local.stripe_fake.faults import Fault, Faults
from libs.local.stripe_fake.params import Params
from libs.local.stripe_fake.server import Server
from libs.local.stripe_fake.state import State, copy, new_id

HOST = "127.0.0.1"
RETRY_BASE_S, ATTEMPTS = 0.5, 16
KINDS = {
    "payment_intents": "payment_intent",
    "charges": "charge",
    "refunds": "refund",
    "transfers": "transfer",
    "reversals": "transfer_reversal",
    "disputes": "dispute",
    "events": "event",
}
# What moved no money does not count.
WITHOUT_EFFECT = {"charge": ("pending", "failed"), "refund": ("failed",)}


class StripeFake:
    """Stripe's API on 127.0.0.1. `state`: a file that outlives it. Use it in one event loop."""

    def __init__(
        self,
        port: int = 0,
        webhook_url: str | None = None,
        webhook_secrets: Sequence[str] = ("whsec_test",),
        state: Path | None = None,
        retry_base_s: float = RETRY_BASE_S,
        attempts: int = ATTEMPTS,
        seed: int = 0,
    ) -> None:
        self.url = ""
        self._port = port
        self._state, self._faults = State(state), Faults(seed)
        self._deliveries = Deliveries(self._state, self._faults, retry_base_s, attempts)
        self._server = Server(self._state, self._faults)
        self._runner: web.AppRunner | None = None
        self._state.on_event = self._deliveries.enqueue
        self._state.refund_outcome = self._faults.refund_outcome
        self.set_webhook(webhook_url, webhook_secrets)

    async def start(self) -> None:
        """Serve; `url` is set from here on."""
        app = web.Application()
        app.add_routes(self._server.routes())
        app.router.add_route("*", "/_fake/{control}", self._control)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, HOST, self._port).start()
        self.url = f"http://{HOST}:{self._runner.addresses[0][1]}"
        self._deliveries.start()

    async def stop(self) -> None:
        """Serve no more; what is undelivered stays so."""
        await self._deliveries.stop()
        if self._runner:
            await self._runner.cleanup()
        self._state.close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    # The world outside: customers, banks.

    def confirm(self, intent: str, card: str = "pm_card_visa") -> Json:
        """Pay as the customer's browser does; a declined intent is returned, not raised."""
        try:
            params = Params({"payment_method": card})
            return copy(intents.confirm(self._outside(), params, intent))
        except Refusal as refusal:
            if refusal.status != DECLINED:
                raise
            return copy(self._state.get("payment_intent", intent))

    def settle(self, intent: str, ok: bool = True) -> Json:
        """End an intent that is `processing` or `requires_action`."""
        state = self._outside()
        return copy(intents.settle(state, state.get("payment_intent", intent), ok))

    def settle_refund(self, refund: str, ok: bool = True) -> Json:
        """End a pending refund, or have a succeeded one fail after all."""
        state = self._outside()
        return copy(refunds.settle(state, state.get("refund", refund), ok))

    def dispute(
        self, charge_or_intent: str, amount: int | None = None, reason: str = "fraudulent"
    ) -> Json:
        """The customer's bank takes `amount`, or what is left, back."""
        state = self._outside()
        intent = state["payment_intent"].by_id.get(charge_or_intent)
        charge = state.get("charge", intent["latest_charge"] if intent else charge_or_intent)
        return copy(disputes.open_dispute(state, charge, amount, reason))

    def close_dispute(self, dispute: str, won: bool) -> Json:
        """The bank decides."""
        state = self._outside()
        return copy(disputes.close_dispute(state, state.get("dispute", dispute), won))

    def top_up(self, amount: int, currency: str = "usd") -> Json:
        """Change the platform's balance, in cents; return it."""
        source = {"id": new_id("tu"), "currency": currency}
        ledger.record(self._outside(), "topup", source, amount)
        return self.balance()

    def pay_out(self, account: str) -> None:
        """A connected account takes its whole balance to its bank."""
        for currency, amount in dict(self._state.balances.get(account, {})).items():
            self._outside().add_balance(account, currency, -amount)

    # Faults, webhooks, time.

    def fault(self, kind: str, **how: Any) -> None:
        """Switch a fault on; `how` are the fields of Fault."""
        self._faults.add(Fault(kind, **how))

    def faults(self) -> list[Json]:
        """What was switched on, with its `hits`."""
        return [dict(vars(fault)) for fault in self._faults.on]

    def clear_faults(self) -> None:
        """All faults off."""
        self._faults.on.clear()

    def hold_webhooks(self) -> None:
        """Keep webhooks back."""
        self._deliveries.hold()

    def release_webhooks(self, shuffle: bool = False, copies: int = 1, seed: int = 0) -> int:
        """Send what was kept back; return how many requests that makes at least."""
        return self._deliveries.release(shuffle, copies, seed)

    def resend(self, event: str) -> None:
        """Send an event once more, also one that was dropped or given up."""
        self._state.get("event", event)
        self._deliveries.send(event)

    def set_webhook(self, url: str | None, secrets: Sequence[str]) -> None:
        """The endpoint and its active secrets; no endpoint, no deliveries of later events."""
        self._deliveries.url, self._deliveries.secrets = url, tuple(secrets)
        self._state.endpoints = 0 if url is None else 1

    async def webhooks_drained(self, timeout_s: float = 5.0) -> None:
        """Return when no delivery is due; TimeoutError if that takes too long."""
        await self._deliveries.drained(timeout_s)

    def clock(self, offset_s: float) -> None:
        """Move the fake's clock against the real one."""
        self._state.clock.offset_s = offset_s

    def search_lag(self, lag_s: int) -> None:
        """How long a search does not find a new intent; 0 at first."""
        self._state.search_lag_s = lag_s

    def reset(self) -> None:
        """Forget everything but the endpoint."""
        self._deliveries.forget()
        self._state.clear()
        self.clear_faults()
        self._server.journal.clear()
        self.clock(0)

    # What is there, for the judge.

    def health(self) -> Json:
        """It serves."""
        return {"ok": True}

    def counts(self) -> dict[str, int]:
        """How many there are; of charges and refunds those that moved money."""
        return {name: len(self._effective(name)) for name in KINDS}

    def tally(self, kind: str, metadata_key: str) -> dict[str, int]:
        """How many of a kind there are for each value of a metadata key."""
        found = (thing["metadata"].get(metadata_key) for thing in self._effective(kind))
        return dict(Counter(value for value in found if value is not None))

    def charges_per_intent(self) -> dict[str, int]:
        """Succeeded charges of each intent that has any."""
        return dict(Counter(charge["payment_intent"] for charge in self._effective("charges")))

    def find_intents(self, metadata: dict[str, str]) -> list[Json]:
        """Intents whose metadata have all of these, oldest first."""
        return [copy(intent) for intent in self._state["payment_intent"].with_metadata(metadata)]

    def balance(self) -> dict[str, int]:
        """The platform's available balance by currency."""
        return dict(self._state.balances.get("", {}))

    def deliveries(self) -> dict[str, Json]:
        """State and attempts of each event's delivery."""
        rows = self._state["delivery"].all()
        return {row["id"]: {"state": row["state"], "attempts": row["attempts"]} for row in rows}

    def journal(self) -> list[Json]:
        """Every request to the API since the start, oldest first."""
        return [exchange.entry() for exchange in self._server.journal]

    def _outside(self) -> State:
        self._state.request = {"id": None, "idempotency_key": None}
        return self._state

    def _effective(self, name: str) -> list[Json]:
        if name not in KINDS:
            raise Refusal(f"Cannot count {name}; there are {', '.join(KINDS)}")
        kind = KINDS[name]
        without = WITHOUT_EFFECT.get(kind, ())
        return [thing for thing in self._state[kind].all() if thing.get("status") not in without]

    async def _control(self, request: web.Request) -> web.Response:
        name = request.match_info["control"]
        try:
            method = getattr(type(self), name, None)
            if name.startswith("_") or not isfunction(method) or iscoroutinefunction(method):
                raise Refusal(f"No such control: {name}", status=404)
            arguments = json.loads(await request.text() or "{}")
            body = method(self, **arguments)
            self._state.flush()
        except Refusal as refusal:
            return web.json_response(refusal.body, status=refusal.status)
        except (TypeError, ValueError) as error:
            return web.json_response(Refusal(str(error)).body, status=400)
        return web.json_response(body)
