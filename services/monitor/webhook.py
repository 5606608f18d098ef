"""The webhook that hears of alerts: signed, in order for each alert, again until it answers 2xx.

The body is JSON: `id` (the same in every attempt), `kind` (fired, escalated, resolved), `alert` as
ListAlerts has it, and `now`, how the check looks at this moment. The header Driveflow-Signature is
`t=…,v1=…`: Unix seconds, and the HMAC-SHA256, in hex, of "t.body" under the secret.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
from datetime import datetime

import aiohttp

from services.monitor.servicer.desk import Desk
from services.monitor.store import alerts as store

log = logging.getLogger(__name__)

SIGNATURE = "Driveflow-Signature"
TIMEOUT_S = 5.0
AT_ONCE_MAX = 10
"""Sent side by side, so that a round takes no longer than the slowest answer."""
ATTEMPTS_MAX = 10
"""Within about three hours."""
ERROR_CHARS_MAX = 200


class Webhook:
    """One address that is told."""

    def __init__(self, desk: Desk, url: str, secret: str) -> None:
        self._desk, self._url, self._secret = desk, url, secret.encode()

    async def deliver(self) -> None:
        """Send what is due; what gets no answer, by our own death too, is due again later."""
        now = self._desk.clock()
        async with self._desk.write() as conn:
            due = await store.claim_notifications(conn, now, AT_ONCE_MAX)
        if not due:
            return
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            await asyncio.gather(*(self._send(session, each, now) for each in due))

    async def _send(
        self, session: aiohttp.ClientSession, notification: store.Notification, now: datetime
    ) -> None:
        body = json.dumps({"id": notification.id, **notification.payload}).encode()
        headers = {
            "Content-Type": "application/json",
            SIGNATURE: signature(self._secret, body, now),
        }
        try:
            async with session.post(
                self._url, data=body, headers=headers, allow_redirects=False
            ) as answer:
                error = "" if 200 <= answer.status < 300 else f"status {answer.status}"
        except OSError as failure:
            error = f"{type(failure).__name__}: {failure}"[:ERROR_CHARS_MAX]
        except (aiohttp.ClientError, TimeoutError) as failure:
            # What it says may hold the address, whose path may be a secret.
            error = type(failure).__name__
        await self._note(notification, error)

    async def _note(self, notification: store.Notification, error: str) -> None:
        give_up = bool(error) and notification.attempt >= ATTEMPTS_MAX
        async with self._desk.write() as conn:
            if error:
                await store.note_failed(conn, notification.id, error, give_up=give_up)
            else:
                await store.note_delivered(conn, notification.id, self._desk.clock())
        if error:
            said = "the webhook is given up" if give_up else "the webhook does not take an alert"
            log.log(
                logging.ERROR if give_up else logging.WARNING,
                said,
                extra={
                    "notification": notification.id,
                    "attempt": notification.attempt,
                    "error": error,
                },
            )


def signature(secret: bytes, body: bytes, at: datetime) -> str:
    """The header's value for a body that is sent at a time."""
    stamp = int(at.timestamp())
    mac = hmac.digest(secret, b"%d." % stamp + body, hashlib.sha256).hex()
    return f"t={stamp},v1={mac}"
