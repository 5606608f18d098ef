"""WebhookService: for the platform."""

from __future__ import annotations

from datetime import timedelta

from driveflow.payments.v1 import webhooks_pb2 as pb
from driveflow.payments.v1 import webhooks_pb2_grpc
from libs import audit, masks, pages
from libs.errors import InvalidArgument
from libs.interceptors import Context
from libs.messages import time
from libs.pooling import connection
from services.payments.messages import webhooks as messages
from services.payments.servicer.desk import Desk
from services.payments.store import webhooks as store
from services.payments.webhooks import Webhooks

SINCE_MAX = timedelta(days=30)
"""Stripe lists no older events."""
LAST_NUMBER = 2**63 - 1


class WebhookServicer(webhooks_pb2_grpc.WebhookServiceServicer):
    """ReceiveWebhook, ListWebhookEvents, ReplayWebhookEvent, SweepUndeliveredEvents."""

    def __init__(self, desk: Desk, webhooks: Webhooks) -> None:
        self._desk = desk
        self._webhooks = webhooks

    async def ReceiveWebhook(
        self, request: pb.ReceiveWebhookRequest, context: Context
    ) -> pb.ReceiveWebhookResponse:
        if request.provider != store.PROVIDER:
            raise InvalidArgument(
                "PROVIDER_UNKNOWN",
                "Only stripe is known.",
                fields=[("provider", "only stripe is known")],
            )
        duplicate = await self._webhooks.receive(request.payload, request.signature)
        return pb.ReceiveWebhookResponse(duplicate=duplicate)

    async def ListWebhookEvents(
        self, request: pb.ListWebhookEventsRequest, context: Context
    ) -> pb.ListWebhookEventsResponse:
        paths = masks.paths(request.read_mask, store.PATHS)
        limit = pages.size(request)
        (before_id,) = self._desk.pages.start(request, audit.PLATFORM, [LAST_NUMBER])
        async with connection(self._desk.orgs.pool) as conn:
            if request.state:
                found = await store.list_webhook_events_with_state(
                    conn,
                    state=messages.STATES[request.state],
                    provider=request.provider,
                    before_id=before_id,
                    limit=limit + 1,
                    paths=paths,
                )
            else:
                found = await store.list_webhook_events(
                    conn,
                    provider=request.provider,
                    before_id=before_id,
                    limit=limit + 1,
                    paths=paths,
                )
        response = pb.ListWebhookEventsResponse(
            events=map(masks.reader(pb.WebhookEvent, paths), found[:limit])
        )
        if len(found) > limit:
            last = [found[limit - 1][-1]]
            response.next_page_token = self._desk.pages.token(request, audit.PLATFORM, last)
        return response

    async def ReplayWebhookEvent(
        self, request: pb.ReplayWebhookEventRequest, context: Context
    ) -> pb.WebhookEvent:
        return messages.webhook_event(await self._webhooks.replay(request.id))

    async def SweepUndeliveredEvents(
        self, request: pb.SweepUndeliveredEventsRequest, context: Context
    ) -> pb.SweepUndeliveredEventsResponse:
        since = time(request, "since")
        if since is None or since < self._desk.clock() - SINCE_MAX:
            raise InvalidArgument(
                "SINCE_TOO_OLD",
                "Stripe lists the events of 30 days.",
                fields=[("since", "more than 30 days ago")],
            )
        found, taken = await self._webhooks.sweep(since)
        return pb.SweepUndeliveredEventsResponse(found=found, taken=taken)
