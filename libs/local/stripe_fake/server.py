"""The HTTP side: who asks, what strikes, what a key remembers, which operation answers."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from aiohttp import web

from libs.local.stripe_fake import events, intents, ledger, refunds, transfers
from libs.local.stripe_fake.errors import BROKEN, CONFLICT, TOO_MANY, UNAUTHORIZED, Json, Refusal
from libs.local.stripe_fake.faults import AFTER, BEFORE, WITHIN, Cut, Faults, broken, strike_before
from libs.local.stripe_fake.idempotency import Keys, fingerprint
from libs.local.stripe_fake.lists import expanded, listed
from libs.local.stripe_fake.params import OF_LISTS, Params, parse
from libs.local.stripe_fake.state import State, new_id

JOURNAL = 100_000


@dataclass(frozen=True)
class Route:
    """One operation of the API. `public`: a publishable key and the client secret do."""

    method: str
    path: str
    operation: Callable[..., Json]
    accepts: frozenset[str] = frozenset()
    public: bool = False


def _one(kind: str) -> Callable[..., Json]:
    def retrieve(state: State, _params: Params, *ids: str) -> Json:
        return state.get(kind, ids[-1])

    return retrieve


def _get(path: str, kind: str) -> Route:
    return Route("GET", path, _one(kind))


def _list(path: str, operation: str | Callable[..., Json], *filters: str) -> Route:
    if isinstance(operation, str):
        operation = partial(listed, kind=operation, fields=filters)
    return Route("GET", path, operation, OF_LISTS.union(filters))


def _post(path: str, operation: Callable[..., Json], *accepts: str, public: bool = False) -> Route:
    return Route("POST", path, operation, frozenset(accepts), public)


INTENT = "/v1/payment_intents/{id}"
ROUTES = (
    _post("/v1/payment_intents", intents.create, *intents.CREATED),
    _list("/v1/payment_intents", "payment_intent", "customer"),
    _list("/v1/payment_intents/search", intents.search, "query", "page"),
    Route("GET", INTENT, _one("payment_intent"), frozenset({"client_secret"}), public=True),
    _post(INTENT, intents.update, *intents.UPDATED),
    _post(f"{INTENT}/confirm", intents.confirm, *intents.CONFIRMED, public=True),
    _post(f"{INTENT}/cancel", intents.cancel, "cancellation_reason"),
    _list("/v1/charges", "charge", "payment_intent", "customer", "transfer_group"),
    _get("/v1/charges/{id}", "charge"),
    _post("/v1/refunds", refunds.create, *refunds.CREATED),
    _list("/v1/refunds", "refund", "payment_intent", "charge"),
    _get("/v1/refunds/{id}", "refund"),
    _post("/v1/refunds/{id}", refunds.update, "metadata"),
    _post("/v1/transfers", transfers.create, *transfers.CREATED),
    _list("/v1/transfers", "transfer", "destination", "transfer_group"),
    _get("/v1/transfers/{id}", "transfer"),
    _post("/v1/transfers/{id}", transfers.update, "metadata", "description"),
    _post("/v1/transfers/{id}/reversals", transfers.reverse, "amount", "metadata"),
    _list("/v1/transfers/{id}/reversals", transfers.list_reversals),
    _get("/v1/transfers/{transfer}/reversals/{id}", "transfer_reversal"),
    _post("/v1/accounts", transfers.create_account, *transfers.ACCOUNT),
    _get("/v1/accounts/{id}", "account"),
    Route("GET", "/v1/balance", ledger.balance),
    _list("/v1/balance_transactions", "balance_transaction", "type", "source", "currency"),
    _get("/v1/balance_transactions/{id}", "balance_transaction"),
    _list("/v1/disputes", "dispute", "payment_intent", "charge"),
    _get("/v1/disputes/{id}", "dispute"),
    _list("/v1/events", events.list_events, "type", "types", "delivery_success"),
    _get("/v1/events/{id}", "event"),
)


@dataclass
class Exchange:
    """One request and what became of it; `status` 0 is a connection that was cut."""

    method: str
    path: str
    key: str | None
    account: str | None = None
    at: float = field(default_factory=time.time)
    id: str = field(default_factory=lambda: new_id("req"))
    status: int = 0
    replayed: bool = False
    fault: str | None = None

    def entry(self) -> Json:
        """Its line in the journal."""
        names = ("at", "method", "path", "key", "status", "replayed", "fault")
        return {name: getattr(self, name) for name in names}


class Server:
    """Answers requests one after the other; work that began is done whoever hangs up."""

    def __init__(self, state: State, faults: Faults) -> None:
        self.journal: deque[Exchange] = deque(maxlen=JOURNAL)
        self._state, self._faults, self._keys = state, faults, Keys(state)

    def routes(self) -> list[web.RouteDef]:
        """What the API answers to, and an error in its shape for all else."""
        known = [web.route(r.method, r.path, partial(self._serve, r)) for r in ROUTES]
        unknown = Route("*", "", _unknown)
        return [*known, web.route("*", "/v1/{id:.*}", partial(self._serve, unknown))]

    async def _serve(self, route: Route, request: web.Request) -> web.StreamResponse:
        key = request.headers.get("Idempotency-Key") if request.method == "POST" else None
        account = request.headers.get("Stripe-Account")
        exchange = Exchange(request.method, request.path, key, account)
        body: Json = {}
        try:
            exchange.status, body = await self._answer(route, request, exchange)
        except Refusal as refusal:
            exchange.status, body = refusal.status, refusal.body
        except Cut:
            if request.transport:
                request.transport.abort()
        self.journal.append(exchange)
        return _response(exchange, body)

    async def _answer(
        self, route: Route, request: web.Request, exchange: Exchange
    ) -> tuple[int, Json]:
        encoded = await request.text() if request.method == "POST" else request.query_string
        values, ids = parse(encoded), [*request.match_info.values()]
        self._authenticate(route, request, ids, values)
        params = Params(values)
        if route.operation is not _unknown:
            params.only(route.accepts)
        if exchange.account and route.operation is not ledger.balance:
            raise Refusal("The fake tells a connected account's balance, nothing else of it")
        strike_before(self._strike(exchange, *BEFORE))
        work = partial(self._work, route, params, ids)
        try:  # the work and its saved answer reach the disk together
            status, body = await self._once(exchange, values, work)
        finally:
            self._state.flush()
        await self._hang_up(exchange)
        return status, body

    async def _once(
        self, exchange: Exchange, values: Json, work: Callable[[], Json]
    ) -> tuple[int, Json]:
        if exchange.key is None:
            return await self._execute(exchange, work)
        digest = fingerprint(exchange.path, values)
        if saved := self._keys.answer(exchange.key, exchange.path, digest):
            exchange.replayed = True
            return saved["status"], saved["body"]
        with self._keys.under_way(exchange.key):
            status, body = await self._execute(exchange, work)
            body = json.loads(json.dumps(body))
            self._keys.save(exchange.key, exchange.path, digest, status, body)
        return status, body

    def _work(self, route: Route, params: Params, ids: list[str]) -> Json:
        body = route.operation(self._state, params, *ids)
        return expanded(self._state, body, params.texts("expand"))

    async def _execute(self, exchange: Exchange, work: Callable[[], Json]) -> tuple[int, Json]:
        if latency := self._strike(exchange, "latency"):
            await asyncio.sleep(latency.delay_s)
        fault = self._strike(exchange, *WITHIN)
        if fault and fault.kind == "error_saved":
            return BROKEN, broken().body
        status, body = self._attempt(exchange, work)
        return (BROKEN, broken().body) if fault else (status, body)

    def _attempt(self, exchange: Exchange, work: Callable[[], Json]) -> tuple[int, Json]:
        """No await from here to the end: an operation is one step."""
        key, account = exchange.key, exchange.account
        self._state.request = {"id": exchange.id, "idempotency_key": key, "account": account}
        try:
            return 200, work()
        except Refusal as refusal:
            if not refusal.saved:
                raise
            return refusal.status, refusal.body

    async def _hang_up(self, exchange: Exchange) -> None:
        if fault := self._strike(exchange, *AFTER):
            if fault.kind == "hang_after":
                await asyncio.sleep(fault.delay_s)
            raise Cut

    def _strike(self, exchange: Exchange, *kinds: str) -> Any:
        fault = self._faults.take(kinds, exchange.method, exchange.path)
        if fault:
            exchange.fault = fault.kind
        return fault

    def _authenticate(
        self, route: Route, request: web.Request, ids: list[str], values: Json
    ) -> None:
        key = _api_key(request.headers.get("Authorization", ""))
        if not key:
            raise Refusal("You did not provide an API key.", status=UNAUTHORIZED)
        if not key.startswith(("sk_test_", "rk_test_")) and not (
            key.startswith("pk_test_") and route.public
        ):
            raise Refusal(f"Invalid API Key provided: {key[:8]}****", status=UNAUTHORIZED)
        secret = values.get("client_secret")
        if route.public and (secret or key.startswith("pk_")):
            intent = self._state.get("payment_intent", ids[0])
            if intent["client_secret"] != secret:
                message = "The client_secret provided does not match this PaymentIntent."
                raise Refusal(message, "payment_intent_invalid_parameter", param="client_secret")


def _unknown(_state: State, _params: Params, path: str) -> Json:
    raise Refusal(f"Unrecognized request URL (/v1/{path}); the fake does not have it", status=404)


def _api_key(header: str) -> str:
    scheme, _, value = header.partition(" ")
    if scheme != "Basic":
        return value if scheme == "Bearer" else ""
    try:
        return base64.b64decode(value).decode().partition(":")[0]
    except ValueError:
        return ""


def _response(exchange: Exchange, body: Json) -> web.Response:
    headers = {"Request-Id": exchange.id}
    if exchange.key is not None:
        headers["Idempotency-Key"] = exchange.key
    if exchange.replayed:
        headers["Idempotent-Replayed"] = "true"
    # As Stripe does: a conflict passes, a failure saved under the key only comes again.
    if exchange.status in (CONFLICT, TOO_MANY) or exchange.fault == "error_unsaved":
        headers["Stripe-Should-Retry"] = "true"
    elif exchange.status == BROKEN:
        headers["Stripe-Should-Retry"] = "false"
    text = json.dumps(body) + "\n"
    return web.json_response(text=text, status=exchange.status or 200, headers=headers)
