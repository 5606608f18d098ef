"""`POST /webhooks/stripe`: the raw body and its signature go to services.payments.webhooks.

2xx only once it is committed; 4xx for what will never be believed; 5xx has Stripe send it again.
"""

from __future__ import annotations

import json
import logging
from contextlib import AsyncExitStack

from aiohttp import web

from libs import telemetry
from libs.errors import DomainError, InvalidArgument, translate
from services.payments.webhooks import BYTES_MAX, Webhooks

log = logging.getLogger(__name__)

PATH = "/webhooks/stripe"
SIGNATURE = "Stripe-Signature"


async def listen(stack: AsyncExitStack, webhooks: Webhooks, address: str) -> int:
    """Serve on host:port until the stack ends; the port that was taken."""

    async def post(request: web.Request) -> web.Response:
        return await _receive(webhooks, request)

    app = web.Application(client_max_size=BYTES_MAX + 1)
    app.router.add_post(PATH, post)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    host, _, port = address.rpartition(":")
    await web.TCPSite(runner, host, int(port)).start()
    taken: int = runner.addresses[0][1]
    return taken


async def _receive(webhooks: Webhooks, request: web.Request) -> web.Response:
    try:
        body = await request.read()
    except web.HTTPRequestEntityTooLarge:
        return _answer(413, {"error": "WEBHOOK_TOO_LARGE"})
    try:
        duplicate = await webhooks.receive(body, request.headers.get(SIGNATURE, ""))
    except InvalidArgument as refused:
        log.warning("webhook refused", extra={"reason": refused.reason})
        status = 413 if refused.reason == "WEBHOOK_TOO_LARGE" else 400
        return _answer(status, {"error": refused.reason})
    except Exception as error:  # noqa: BLE001 (Stripe sends it again)
        known: DomainError = translate(error)
        telemetry.log_fault(log, "webhook failed", error)
        return _answer(503, {"error": known.reason})
    return _answer(200, {"duplicate": duplicate})


def _answer(status: int, body: dict[str, object]) -> web.Response:
    return web.Response(status=status, text=json.dumps(body), content_type="application/json")
