"""What payments asks of booking, by RPC with its own token: prices, accounts, zones.

Nothing is guessed: without an answer the caller hears BOOKING_UNAVAILABLE, and nothing was done.
"""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import lru_cache, partial
from pathlib import Path
from typing import TypeVar

import grpc
from cachetools import TTLCache

from driveflow.booking.v1 import booking_pb2, directory_pb2
from libs import calls, errors, service_tokens
from libs.client import Connection, refusal
from libs.errors import Unavailable
from libs.server import WrongStart
from libs.settings import Settings

SCOPES = ("booking:read",)
SCHOOLS_MAX = 1_000
"""Tokens that are kept at a time, one a school."""
ZONE_S = 300
Answer = TypeVar("Answer")


class Bookings:
    """Booking, as payments sees it."""

    def __init__(
        self,
        connection: Connection,
        tokens: Callable[[uuid.UUID], Callable[[], str]],
        *,
        timeout_s: float,
    ) -> None:
        self._connection = connection
        self._token = lru_cache(SCHOOLS_MAX)(tokens)
        self._timeout_s = timeout_s
        self._zones: TTLCache[uuid.UUID, str] = TTLCache(SCHOOLS_MAX, ZONE_S)

    async def get_booking(self, org_id: uuid.UUID, booking_id: uuid.UUID) -> booking_pb2.Booking:
        """A booking; raises NotFound BOOKING_NOT_FOUND, Unavailable BOOKING_UNAVAILABLE."""
        request = booking_pb2.GetBookingRequest(booking_id=str(booking_id))
        call = partial(self._connection.bookings.GetBooking, request)
        return await self._ask(org_id, call, errors.not_found("booking", booking_id))

    async def get_instructor(
        self, org_id: uuid.UUID, instructor_id: uuid.UUID
    ) -> directory_pb2.Instructor:
        """An instructor; raises NotFound INSTRUCTOR_NOT_FOUND, Unavailable BOOKING_UNAVAILABLE."""
        request = directory_pb2.GetInstructorRequest(instructor_id=str(instructor_id))
        call = partial(self._connection.directory.GetInstructor, request)
        return await self._ask(org_id, call, errors.not_found("instructor", instructor_id))

    async def zone(self, org_id: uuid.UUID) -> str:
        """The school's IANA time zone, at most five minutes old."""
        zone = self._zones.get(org_id)
        if zone is None:
            request = directory_pb2.GetOrganizationRequest()
            call = partial(self._connection.directory.GetOrganization, request)
            org = await self._ask(org_id, call, errors.not_found("org", org_id))
            zone = self._zones[org_id] = org.time_zone
        return zone

    async def _ask(
        self,
        org_id: uuid.UUID,
        call: Callable[..., Awaitable[Answer]],
        absent: errors.NotFound,
    ) -> Answer:
        asked = call(
            timeout=self._patience_s(),
            metadata=(("authorization", f"Bearer {self._token(org_id)()}"),),
        )
        try:
            return await asked
        except grpc.aio.AioRpcError as error:
            if refusal(error).code is grpc.StatusCode.NOT_FOUND:
                raise absent from None
            raise Unavailable(
                "BOOKING_UNAVAILABLE", "Booking does not answer.", retry_after_s=1
            ) from error

    def _patience_s(self) -> float:
        """How long to wait: at most half of what the caller waits."""
        call = calls.current()
        if call is None:
            return self._timeout_s
        return call.remaining_ms(int(self._timeout_s * 2_000)) / 2_000


def connected(
    settings: Settings, stack: AsyncExitStack, address: str, timeout_s: float
) -> Bookings:
    """By the settings of the service; the stack closes the connection. Raises WrongStart."""
    tokens = service_tokens.of(settings, "payments")
    if tokens is None:
        raise WrongStart("DRIVEFLOW_SERVICE_KEY: payments asks booking, and signs its own tokens")
    ca = settings.event_tls_ca
    connection = Connection(address, tls_ca=Path(ca) if ca else None)
    stack.push_async_callback(connection.close)
    return Bookings(connection, partial(tokens.source, SCOPES), timeout_s=timeout_s)
