"""What stories about webhooks are told with: events as Stripe sends them, and the two ways in."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from io import BytesIO
from typing import Any
from uuid import uuid4

import aiohttp
import grpc

from driveflow.payments.v1 import webhooks_pb2 as pb
from driveflow.payments.v1.webhooks_pb2_grpc import WebhookServiceStub
from libs.client import refusal
from libs.local.stripe_fake.deliveries import signature
from tests.payments.serving import SECRET, Payments
from tests.tracking.stories import rows

Json = dict[str, Any]
CODES = {400: "INVALID_ARGUMENT", 413: "INVALID_ARGUMENT", 503: "UNAVAILABLE"}
"""What the endpoint says in HTTP, and the RPC instead."""


@dataclass
class Endpoint:
    """One of the two ways by which webhooks come: http or rpc."""

    way: str
    service: Payments
    url: str
    http: aiohttp.ClientSession
    stub: WebhookServiceStub

    async def take(self, event: Json | bytes, signed: str | None = None) -> str:
        """How a webhook is answered: taken, duplicate, or the reason; well signed if nothing else
        is said."""
        body = event if isinstance(event, bytes) else json.dumps(event).encode()
        return await self.send(body, self.sign(body) if signed is None else signed)

    async def send(self, body: bytes, signed: str | None) -> str:
        """As it is; None: without a header."""
        return await (self._post if self.way == "http" else self._call)(body, signed)

    def sign(self, body: bytes, *secrets: str, later_s: float = 0.0) -> str:
        """A header made now, or so much later, by the service's clock."""
        moment = self.service.clock() + timedelta(seconds=later_s)
        return signature(body, secrets or (SECRET,), int(moment.timestamp()))

    async def kept(self, event: Json) -> list[tuple[Any, ...]]:
        """State, attempts and school of an event, if it is kept."""
        query = 'SELECT state, attempts, "orgId"::text FROM payments."WebhookEvent"'
        return await self.rows(f'{query} WHERE "eventId" = %s', event["id"])

    async def error(self, event: Json) -> str:
        query = 'SELECT error FROM payments."WebhookEvent" WHERE "eventId" = %s'
        return str((await self.rows(query, event["id"]))[0][0])

    async def is_in(self, event: Json, state: str) -> bool:
        return [row[0] for row in await self.kept(event)] == [state]

    async def number(self, event: Json) -> int:
        """Ours of an event."""
        query = 'SELECT id FROM payments."WebhookEvent" WHERE "eventId" = %s'
        return int((await self.rows(query, event["id"]))[0][0])

    async def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        return await rows(self.service.database.admin_dsn, query, *values)

    async def _post(self, body: bytes, signed: str | None) -> str:
        headers = {} if signed is None else {"Stripe-Signature": signed}
        async with self.http.post(self.url, data=BytesIO(body), headers=headers) as answer:
            said = await answer.json()
        if answer.status == 200:
            return "duplicate" if said["duplicate"] else "taken"
        reason = str(said["error"])
        assert answer.status in CODES, reason
        assert (answer.status == 413) == (reason == "WEBHOOK_TOO_LARGE")
        return f"{CODES[answer.status]} {reason}"

    async def _call(self, body: bytes, signed: str | None) -> str:
        request = pb.ReceiveWebhookRequest(provider="stripe", payload=body, signature=signed or "")
        try:
            answer = await self.stub.ReceiveWebhook(request)
        except grpc.aio.AioRpcError as error:
            return f"{error.code().name} {refusal(error).reason}"
        return "duplicate" if answer.duplicate else "taken"


@asynccontextmanager
async def endpoint(service: Payments, webhook_port: int, way: str) -> AsyncIterator[Endpoint]:
    """A way into a running service; whoever calls is an operator of the platform."""
    url = f"http://127.0.0.1:{webhook_port}/webhooks/stripe"
    async with aiohttp.ClientSession() as http:
        yield Endpoint(way, service, url, http, service.webhooks())


def an_event(kind: str, thing: Json, **given: Any) -> Json:
    """An event as Stripe makes it, about a thing as it was then."""
    return {
        "id": f"evt_{uuid4().hex}",
        "object": "event",
        "api_version": "2026-10-28.endive",
        "created": 1_790_000_000,
        "livemode": False,
        "pending_webhooks": 1,
        "type": kind,
        "data": {"object": thing},
        **given,
    }
