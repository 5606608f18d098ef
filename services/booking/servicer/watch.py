"""Watching bookings change."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing

from driveflow.booking.v1 import booking_pb2 as pb
from libs import calls
from libs.events import Events
from libs.interceptors import Context
from services.booking.messages import watch as messages


class Watch:
    """WatchBookings."""

    def __init__(self, events: Events) -> None:
        self._events = events

    async def WatchBookings(
        self, request: pb.WatchBookingsRequest, context: Context
    ) -> AsyncIterator[pb.WatchBookingsResponse]:
        org_id = calls.org()
        after = request.resume_token or None
        async with aclosing(self._events.follow(org_id, ["booking"], after)) as changes:
            async for change in changes:
                yield messages.change(change)
