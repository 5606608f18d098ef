"""Events: what happened, with the object as it was then."""

from __future__ import annotations

from libs.local.stripe_fake.errors import Json
from libs.local.stripe_fake.lists import listed
from libs.local.stripe_fake.params import Params
from libs.local.stripe_fake.state import State, copy

API_VERSION = "2026-10-28.endive"  # the one that stripe 16.1 speaks


def emit(state: State, kind: str, thing: Json) -> None:
    """Record an event of this type and have it delivered."""
    event = state.new(
        "event",
        "evt",
        api_version=API_VERSION,
        data={"object": copy(thing)},
        pending_webhooks=state.endpoints,
        request={name: state.request[name] for name in ("id", "idempotency_key")},
        type=kind,
    )
    state.put(event)
    delivery = {"id": event["id"], "state": "pending" if state.endpoints else "delivered"}
    state.put(delivery | {"attempts": 0}, "delivery")
    if state.endpoints:
        state.undelivered[event["id"]] = None
        state.on_event(event)


def list_events(state: State, params: Params) -> Json:
    """Events newest first; `delivery_success=false`: those pending or given up."""
    delivered, types = params.flag("delivery_success"), params.texts("types")
    return listed(
        state,
        params,
        "event",
        fields=("type",),
        ids=[*state.undelivered] if delivered is False else None,
        keep=lambda event: (
            (not types or event["type"] in types)
            and not (delivered and event["id"] in state.undelivered)
        ),
    )
