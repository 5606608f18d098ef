"""The protocol of Subscribe: start, events ahead of acknowledgements, and every way it can end."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections import deque
from collections.abc import Collection
from typing import Any

import grpc

from driveflow.events.v1 import events_pb2 as pb
from libs import calls, interceptors, telemetry, validation
from libs.errors import InvalidArgument, PermissionDenied
from libs.events import messages, model, store
from libs.events.feed import Feed, Follower
from libs.events.figures import Delivery
from libs.events.model import Place
from libs.orgs import Orgs
from libs.pooling import connection

log = logging.getLogger(__name__)

WINDOW_EVENTS = 1_000
"""So many events are sent ahead of the last acknowledgement."""
READ_EVENTS = 200
LOOK_UP_S = 0.2
"""Without events the subscription looks up so often, to say that it has caught up."""
CAUGHT_UP_EVERY_S = 60.0
KEEP_EVERY_S = 1.0
"""An acknowledgement is written down so often at most; the subscriber keeps its own cursor."""


class Subscription:
    """One Subscribe call."""

    def __init__(
        self, orgs: Orgs, feed: Feed, registered: Collection[str], context: interceptors.Context
    ) -> None:
        """Events wait for the consumers in `registered` and for no others."""
        self._orgs = orgs
        self._feed = feed
        self._registered = registered
        self._context = context
        self._consumer = ""
        """The service that subscribes; empty for a school."""
        self._sent: deque[Place] = deque()
        self._told = model.FIRST
        """The last place that was sent, of an event or a caught_up."""
        self._acknowledged = model.FIRST
        self._room = asyncio.Event()
        self._news = asyncio.Event()

    async def run(self) -> None:
        """Serve the stream to its end; raises why it ended unless the subscriber half-closed."""
        stream = calls.stream()
        start = await self._start()
        org_id = self._whose(start)
        async with self._feed.follower(org_id, start.topics, start.cursor) as follower:
            await self._begin(start)
            stream.ends_itself = True
            work: list[asyncio.Future[None]] = [
                asyncio.ensure_future(each)
                for each in (self._read(), self._send(follower), self._keep())
            ]
            try:
                waited: set[asyncio.Future[Any]] = {*work, stream.ending}
                await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in work:
                    task.cancel()
                ended = await asyncio.gather(*work, return_exceptions=True)
            await self._write_down()
        for outcome in ended:
            if isinstance(outcome, Exception):
                raise outcome
        if stream.ending.done():
            raise stream.ending.result()

    async def _start(self) -> pb.StartSubscription:
        first = await self._context.read()
        if first is grpc.aio.EOF or first.WhichOneof("message") != "start":
            raise InvalidArgument("START_EXPECTED", "The first message of a stream is `start`.")
        validation.validate(first.start)
        return first.start  # type: ignore[no-any-return]

    def _whose(self, start: pb.StartSubscription) -> uuid.UUID | None:
        """The school whose events are sent; None for those of all."""
        caller = calls.caller()
        if caller.org_id is None:
            if caller.service != start.consumer:
                raise PermissionDenied(
                    "CONSUMER_NOT_YOURS", "A service subscribes under its own name alone."
                )
            self._consumer = start.consumer
        return caller.org_id

    async def _begin(self, start: pb.StartSubscription) -> None:
        """A cursor to go on from acknowledges what is before it."""
        if start.cursor:
            self._told = self._acknowledged = model.place(self._feed.service, start.cursor)
            self._news.set()
        if self._consumer in self._registered:
            async with connection(self._orgs.pool) as conn:
                await store.register_consumer(conn, self._consumer)
                await store.note_topics(conn, self._consumer, sorted(start.topics))

    async def _read(self) -> None:
        """Take acknowledgements until the subscriber half-closes."""
        while True:
            message: Any = await self._context.read()
            if message is grpc.aio.EOF:
                return
            kind = message.WhichOneof("message")
            if kind == "start":
                raise InvalidArgument("START_REPEATED", "The subscription has begun already.")
            if kind == "acknowledge":
                self._acknowledge(model.place(self._feed.service, message.acknowledge.cursor))

    def _acknowledge(self, place: Place) -> None:
        if place > self._told:
            raise model.bad_cursor()
        while self._sent and self._sent[0] <= place:
            self._sent.popleft()
        self._acknowledged = max(self._acknowledged, place)
        self._room.set()
        self._news.set()

    async def _send(self, follower: Follower) -> None:
        loop = asyncio.get_running_loop()
        figures = Delivery(self._consumer)
        caught_up_due = float("-inf")
        while True:
            room = await self._wait_for_room()
            rows = await follower.next(min(room, READ_EVENTS), LOOK_UP_S)
            for row in rows:
                self._sent.append(row.place)
                self._told = row.place
                event = messages.message(self._feed.service, row)
                await self._context.write(pb.SubscribeResponse(event=event))
            if rows:
                figures.sent(len(rows))
            place = follower.caught_up
            first = caught_up_due < 0
            if place is not None and (first or place > self._told) and loop.time() >= caught_up_due:
                caught_up_due = loop.time() + CAUGHT_UP_EVERY_S
                await self._tell_caught_up(place)

    async def _wait_for_room(self) -> int:
        while len(self._sent) >= WINDOW_EVENTS:
            self._room.clear()
            await self._room.wait()
        return WINDOW_EVENTS - len(self._sent)

    async def _tell_caught_up(self, place: Place) -> None:
        self._told = place
        caught_up = pb.CaughtUp(cursor=model.cursor(self._feed.service, place))
        await self._context.write(pb.SubscribeResponse(caught_up=caught_up))

    async def _keep(self) -> None:
        """Write acknowledgements down now and then."""
        while True:
            await self._news.wait()
            self._news.clear()
            await self._write_down()
            await asyncio.sleep(KEEP_EVERY_S)

    async def _write_down(self) -> None:
        if self._consumer not in self._registered or self._acknowledged == model.FIRST:
            return
        try:
            async with connection(self._orgs.pool) as conn:
                await store.note_acknowledged(conn, self._consumer, self._acknowledged)
        except Exception as error:  # noqa: BLE001 (the subscriber's own cursor is what counts)
            log.warning("acknowledgement", extra={"exception": telemetry.describe(error)})
