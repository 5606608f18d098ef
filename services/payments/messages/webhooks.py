"""Webhook events as messages."""

from __future__ import annotations

from driveflow.payments.v1 import webhooks_pb2 as pb
from libs.messages import stamp, text
from services.payments.store.webhooks import WebhookEvent

STATES = {
    number: name.removeprefix("WEBHOOK_EVENT_STATE_").lower()
    for name, number in pb.WebhookEventState.items()
    if number
}


def webhook_event(row: WebhookEvent) -> pb.WebhookEvent:
    """An event."""
    return pb.WebhookEvent(
        id=row.id,
        provider=row.provider,
        event_id=row.event_id,
        account=row.account,
        livemode=row.livemode,
        type=row.type,
        org_id=text(row.org_id),
        state=pb.WebhookEventState.Value(f"WEBHOOK_EVENT_STATE_{row.state.upper()}"),
        attempts=row.attempts,
        error=row.error,
        receive_time=stamp(row.received_at),
        process_time=stamp(row.processed_at),
    )
