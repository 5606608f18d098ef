"""Whether a trip's lesson exists: booking is asked by RPC, and no trip waits for it.

StartTrip asks with a deadline; without an answer the trip starts unverified, and the leader asks
again later. The token is tracking's own, never the caller's.
"""

from __future__ import annotations

import logging
import random
import time
import uuid
from collections.abc import Callable
from contextlib import AsyncExitStack
from datetime import datetime, timedelta
from functools import lru_cache, partial
from pathlib import Path

import grpc

from driveflow.booking.v1 import booking_pb2 as pb
from libs import calls, service_tokens
from libs.client import Connection, Refusal, refusal
from libs.leader import list_tenants
from libs.orgs import Orgs
from libs.service_tokens import ServiceTokens
from libs.settings import Settings
from services.tracking import store

log = logging.getLogger(__name__)

SCOPES = ("booking:read",)
SCHOOLS_MAX = 1_000
"""Tokens that are kept at a time, one a school."""
SILENT_S = 5.0
"""So long after booking failed to answer nobody asks it."""
VERIFIED_WITHIN = timedelta(days=30)
"""So long after its start was recorded a trip's lesson is asked about."""
ASK_AGAIN_AFTER = timedelta(days=1)
LESSONS_A_ROUND = 100


class Lessons:
    """What booking says of lessons."""

    def __init__(
        self, booking: Connection | None, tokens: ServiceTokens | None, *, timeout_s: float
    ) -> None:
        """Without a connection or tokens nothing is ever known."""
        self._booking = booking
        self._token = lru_cache(SCHOOLS_MAX)(partial(tokens.source, SCOPES)) if tokens else None
        self._timeout_s = timeout_s
        self._silent_until = float("-inf")
        self._failing = False

    async def exists(self, org_id: uuid.UUID, lesson_id: uuid.UUID) -> bool | None:
        """Whether the school has the lesson; None when booking does not say so in time."""
        if self._booking is None or self._token is None or time.monotonic() < self._silent_until:
            return None
        timeout_s = self._patience_s()
        try:
            await self._booking.bookings.GetLesson(
                pb.GetLessonRequest(lesson_id=str(lesson_id)),
                timeout=timeout_s,
                metadata=(("authorization", f"Bearer {self._token(org_id)()}"),),
            )
        except grpc.aio.AioRpcError as error:
            why = refusal(error)
            if why.reason != "LESSON_NOT_FOUND":
                self._failed(why, timeout_s)
                return None
            self._failing = False
            return False
        self._failing = False
        return True

    def _patience_s(self) -> float:
        """How long to wait: at most half of what the caller waits for the trip."""
        call = calls.current()
        if call is None:
            return self._timeout_s
        return call.remaining_ms(int(self._timeout_s * 2_000)) / 2_000

    def _failed(self, why: Refusal, timeout_s: float) -> None:
        hurried = timeout_s < self._timeout_s and why.code is grpc.StatusCode.DEADLINE_EXCEEDED
        if hurried:
            return
        self._silent_until = time.monotonic() + SILENT_S
        if not self._failing:
            log.warning("booking does not say whether lessons exist", extra={"answer": str(why)})
        self._failing = True


def connected(
    settings: Settings, stack: AsyncExitStack, address: str | None, timeout_s: float
) -> Lessons:
    """By the settings of the service; the stack closes the connection.

    Without an address or a key no lesson is verified, and the log says so. Raises WrongStart for an
    unusable key.
    """
    tokens = service_tokens.of(settings, "tracking")
    if address is None or tokens is None:
        lacks = "DRIVEFLOW_SERVICE_KEY" if address else "DRIVEFLOW_BOOKING_ADDRESS"
        log.warning("lessons not verified", extra={"lacks": lacks})
        return Lessons(None, None, timeout_s=timeout_s)
    ca = settings.event_tls_ca
    booking = Connection(address, tls_ca=Path(ca) if ca else None)
    stack.push_async_callback(booking.close)
    return Lessons(booking, tokens, timeout_s=timeout_s)


class Verification:
    """The leader's duty: ask booking again about the lessons of unverified trips."""

    def __init__(self, orgs: Orgs, lessons: Lessons, clock: Callable[[], datetime]) -> None:
        self._orgs = orgs
        self._lessons = lessons
        self._clock = clock

    async def round(self) -> None:
        """Go through the schools until booking does not answer: the next round goes on."""
        schools = await list_tenants(self._orgs.pool)
        # One that always fails must not keep the same others from their turn.
        random.shuffle(schools)
        for org_id in schools:
            if not await self.verify(org_id):
                return

    async def verify(self, org_id: uuid.UUID) -> bool:
        """Ask about a school's lessons, 100 at most; whether booking answered every time."""
        now = self._clock()
        lesson_ids = await store.unverified_lessons(
            self._orgs.reader(org_id),
            org_id,
            created_after=now - VERIFIED_WITHIN,
            asked_before=now - ASK_AGAIN_AFTER,
            limit=LESSONS_A_ROUND,
        )
        answers: dict[uuid.UUID, bool] = {}
        for lesson_id in lesson_ids:
            exists = await self._lessons.exists(org_id, lesson_id)
            if exists is None:
                break
            answers[lesson_id] = exists
        if answers:
            await self._keep(org_id, answers, now)
        return len(answers) == len(lesson_ids)

    async def _keep(self, org_id: uuid.UUID, answers: dict[uuid.UUID, bool], now: datetime) -> None:
        found = [lesson_id for lesson_id, exists in answers.items() if exists]
        missing = [lesson_id for lesson_id, exists in answers.items() if not exists]
        async with self._orgs.write(org_id) as conn:
            await store.verify_lessons(conn, org_id, found)
            await store.note_missing_lessons(conn, org_id, missing, now)
