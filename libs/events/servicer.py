"""EventService, the same in every service that emits: one method per RPC."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection
from datetime import datetime

from driveflow.events.v1 import events_pb2 as pb
from driveflow.events.v1 import events_pb2_grpc
from libs import calls, errors, pages
from libs.access import NIL_ORG
from libs.events import messages, model, store
from libs.events.feed import Feed
from libs.events.model import Place, Row
from libs.events.store import Registered
from libs.events.subscription import Subscription
from libs.interceptors import Context
from libs.orgs import Orgs
from libs.pages import Pages
from libs.pooling import Connection, connection

COUNT_MAX = 10_000


class EventServicer(events_pb2_grpc.EventServiceServicer):
    """Tells of the events of one service, and of those that wait in it."""

    def __init__(
        self,
        orgs: Orgs,
        feed: Feed,
        registered: Collection[str],
        page_tokens: Pages,
        clock: Callable[[], datetime],
    ) -> None:
        """Events wait for the consumers in `registered`."""
        self._service = feed.service
        self._orgs = orgs
        self._feed = feed
        self._registered = registered
        self._pages = page_tokens
        self._clock = clock

    async def Subscribe(  # type: ignore[override] # writes by context, not by yield
        self, request_iterator: object, context: Context
    ) -> None:
        await Subscription(self._orgs, self._feed, self._registered, context).run()

    async def ListEvents(
        self, request: pb.ListEventsRequest, context: Context
    ) -> pb.ListEventsResponse:
        org_id = calls.caller().org_id
        bound_to = org_id or NIL_ORG
        limit = pages.size(request)
        before = Place(*self._pages.start(request, bound_to, list(model.LAST)))
        rows = await self._events(org_id, before, request, limit + 1)
        response = pb.ListEventsResponse(
            events=[messages.message(self._service, row) for row in rows[:limit]]
        )
        if len(rows) > limit:
            last = list(rows[limit - 1].place)
            response.next_page_token = self._pages.token(request, bound_to, last)
        return response

    async def _events(
        self, org_id: uuid.UUID | None, before: Place, request: pb.ListEventsRequest, limit: int
    ) -> list[Row]:
        topic = request.topic or None
        processed = _processed(request.state)
        if org_id is None:
            async with connection(self._orgs.pool) as conn:
                return await store.list_events(conn, before, topic, processed, limit)
        async with self._orgs.read(org_id) as conn:
            return await store.list_events_of_org(conn, org_id, before, topic, processed, limit)

    async def ListParkedEvents(
        self, request: pb.ListParkedEventsRequest, context: Context
    ) -> pb.ListParkedEventsResponse:
        limit = pages.size(request)
        producer, *place = self._pages.start(request, NIL_ORG, ["", *model.FIRST])
        async with connection(self._orgs.pool) as conn:
            parked = await store.list_parked_events(
                conn, self._service, (producer, Place(*place)), limit + 1
            )
        response = pb.ListParkedEventsResponse(
            parked_events=[messages.parked_event(each) for each in parked[:limit]]
        )
        if len(parked) > limit:
            last = parked[limit - 1]
            response.next_page_token = self._pages.token(
                request, NIL_ORG, [last.producer, *last.place]
            )
        return response

    async def RetryParkedEvent(
        self, request: pb.RetryParkedEventRequest, context: Context
    ) -> pb.ParkedEvent:
        producer = request.producer
        place = model.place(producer, request.cursor)
        just_before = (producer, Place(place.xact, place.id - 1))
        async with connection(self._orgs.pool) as conn, conn.transaction():
            if not await store.hasten_parked_events(
                conn, producer, self._service, place, self._clock()
            ):
                raise errors.not_found("parked_event", request.cursor)
            (parked,) = await store.list_parked_events(conn, self._service, just_before, 1)
        return messages.parked_event(parked)

    async def GetBacklog(self, request: pb.GetBacklogRequest, context: Context) -> pb.Backlog:
        async with connection(self._orgs.pool) as conn:
            consumers = await store.list_consumers(conn)
            backlog = pb.Backlog(
                consumers=[await self._consumer(conn, consumer) for consumer in consumers],
                held_back_count=await store.count_held_back(conn, COUNT_MAX),
            )
            backlog.parked_count, oldest = await store.count_parked(conn, self._service)
        if oldest is not None:
            backlog.oldest_park_time.CopyFrom(messages.stamp(oldest))
        return backlog

    async def _consumer(self, conn: Connection, registered: Registered) -> pb.ConsumerBacklog:
        place = registered.acknowledged
        behind = place or model.FIRST
        count, oldest = await store.count_pending(conn, behind, registered.topics, COUNT_MAX)
        backlog = pb.ConsumerBacklog(
            consumer=registered.consumer,
            topics=registered.topics,
            acknowledged_cursor=model.cursor(self._service, place) if place else "",
            pending_count=count,
        )
        if oldest is not None:
            backlog.oldest_pending_time.CopyFrom(messages.stamp(oldest))
        return backlog


def _processed(state: pb.EventState.ValueType) -> bool | None:
    if state == pb.EVENT_STATE_UNSPECIFIED:
        return None
    return state == pb.EVENT_STATE_PROCESSED
