"""EventService, the same in every service that emits: one method per RPC."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection
from datetime import datetime

from google.protobuf import json_format

from driveflow.events.v1 import events_pb2 as pb
from driveflow.events.v1 import events_pb2_grpc
from libs import audit, calls, errors, masks, pages
from libs.access import NIL_ORG
from libs.events import messages, model, store, tidy
from libs.events.feed import Feed
from libs.events.model import Place
from libs.events.store import Parked, Registered
from libs.events.subscription import Subscription
from libs.interceptors import Context
from libs.orgs import Orgs, rescope
from libs.pages import Pages
from libs.pooling import Connection, connection

COUNT_MAX = 10_000
PROCESSED_MAX = 100_000


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
        paths = masks.paths(request.read_mask, store.EVENT_PATHS)
        limit = pages.size(request)
        before = Place(*self._pages.start(request, bound_to, list(model.LAST)))
        rows = await self._events(org_id, before, request, limit + 1, paths)
        response = pb.ListEventsResponse(
            events=[messages.listed(self._service, row, paths) for row in rows[:limit]]
        )
        if len(rows) > limit:
            last = list(store.place(rows[limit - 1]))
            response.next_page_token = self._pages.token(request, bound_to, last)
        return response

    async def _events(
        self,
        org_id: uuid.UUID | None,
        before: Place,
        request: pb.ListEventsRequest,
        limit: int,
        paths: tuple[str, ...],
    ) -> list[masks.Row]:
        topic = request.topic or None
        processed = _processed(request.state)
        if org_id is None:
            async with connection(self._orgs.pool) as conn:
                return await store.list_events(conn, before, topic, processed, limit, paths)
        async with self._orgs.read(org_id) as conn:
            return await store.list_events_of_org(
                conn, org_id, before, topic, processed, limit, paths
            )

    async def ListParkedEvents(
        self, request: pb.ListParkedEventsRequest, context: Context
    ) -> pb.ListParkedEventsResponse:
        paths = masks.paths(request.read_mask, store.PARKED_PATHS)
        limit = pages.size(request)
        producer, *place = self._pages.start(request, NIL_ORG, ["", *model.FIRST])
        async with connection(self._orgs.pool) as conn:
            rows = await store.list_parked_events(
                conn, self._service, (producer, Place(*place)), limit + 1, paths
            )
        response = pb.ListParkedEventsResponse(
            parked_events=[messages.listed_parked_event(row, paths) for row in rows[:limit]]
        )
        if len(rows) > limit:
            last = rows[limit - 1]
            response.next_page_token = self._pages.token(
                request, NIL_ORG, [last[-3], *store.place(last)]
            )
        return response

    async def RetryParkedEvent(
        self, request: pb.RetryParkedEventRequest, context: Context
    ) -> pb.ParkedEvent:
        producer = request.producer
        place = model.place(producer, request.cursor)
        everything = tuple(store.PARKED_PATHS)
        just_before = (producer, Place(place.xact, place.id - 1))
        async with connection(self._orgs.pool) as conn, conn.transaction():
            if not await store.hasten_parked_events(
                conn, producer, self._service, place, self._clock()
            ):
                raise errors.not_found("parked_event", request.cursor)
            (row,) = await store.list_parked_events(conn, self._service, just_before, 1, everything)
        return messages.listed_parked_event(row, everything)

    async def DiscardParkedEvent(
        self, request: pb.DiscardParkedEventRequest, context: Context
    ) -> pb.ParkedEvent:
        producer = request.producer
        place = model.place(producer, request.cursor)
        async with self._orgs.walk("discard event") as conn:
            if await store.read_cursor(conn, producer, self._service) is None:
                raise errors.not_found("parked_event", request.cursor)
            # Whoever tries the event holds the cursor: it is discarded, or it had its effect.
            await store.lock_cursor(conn, producer, self._service)
            parked = await store.discard_parked_event(conn, producer, self._service, place)
            if parked is None:
                raise errors.not_found("parked_event", request.cursor)
            await _record(conn, parked, request)
        return messages.parked_event(parked)

    async def GetBacklog(self, request: pb.GetBacklogRequest, context: Context) -> pb.Backlog:
        backlog = pb.Backlog()
        async with connection(self._orgs.pool) as conn:
            registered = await store.list_consumers(conn)
            backlog.consumers.extend([await self._consumer(conn, each) for each in registered])
            async for topic in tidy.topics(conn):
                backlog.topics.extend(await _topic(conn, topic, registered))
            backlog.held_back_count, since = await store.count_held_back(conn, COUNT_MAX)
            holder = await store.find_horizon_holder(conn) if since is not None else None
            backlog.parked_count, oldest = await store.count_parked(conn, self._service)
        if holder is not None and since is not None:
            backlog.horizon_holder.CopyFrom(messages.horizon_holder(holder, since))
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


async def _topic(
    conn: Connection, topic: str, registered: Collection[Registered]
) -> list[pb.TopicBacklog]:
    """An entry for each consumer that takes the topic."""
    kept = await store.count_processed(conn, topic, PROCESSED_MAX)
    entries = []
    for consumer in registered:
        if consumer.takes(topic):
            entry = pb.TopicBacklog(topic=topic, consumer=consumer.consumer, processed_count=kept)
            behind = consumer.acknowledged or model.FIRST
            found = await store.count_pending_of_topic(conn, topic, behind, COUNT_MAX)
            entry.pending_count, oldest = found
            if oldest is not None:
                entry.oldest_pending_time.CopyFrom(messages.stamp(oldest))
            entries.append(entry)
    return entries or [pb.TopicBacklog(topic=topic, processed_count=kept)]


async def _record(conn: Connection, parked: Parked, request: pb.DiscardParkedEventRequest) -> None:
    """Note in the log of the event's school that it was given up."""
    event = pb.Event.FromString(parked.envelope)
    org_id = uuid.UUID(event.org_id)
    await rescope(conn, org_id)
    said = json_format.MessageToDict(event, preserving_proto_field_name=True)
    after = {"reason": request.reason}
    await audit.record(
        conn, org_id, "parked_event", event.cursor, "discard", before=said, after=after
    )


def _processed(state: pb.EventState.ValueType) -> bool | None:
    if state == pb.EVENT_STATE_UNSPECIFIED:
        return None
    return state == pb.EVENT_STATE_PROCESSED
