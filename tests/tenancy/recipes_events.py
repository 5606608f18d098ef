"""What EventService is asked, by whichever service it is served."""

from __future__ import annotations

from google.protobuf.message import Message

from driveflow.events.v1 import events_pb2 as pb
from driveflow.events.v1.events_pb2_grpc import EventServiceStub
from tests.tenancy.schools import Recipes
from tests.waiting import eventually

SERVICE = "driveflow.events.v1.EventService"
PAGES, CURSOR = "outbox_pages", "cursor"


def recipes(topic: str) -> Recipes:
    """For a service that emits events of this topic."""
    return {
        "Subscribe": [
            lambda _, __: [pb.SubscribeRequest(start=pb.StartSubscription())],
            lambda _, __: [pb.SubscribeRequest(start=pb.StartSubscription(topics=[topic]))],
            lambda ids, _: [pb.SubscribeRequest(start=pb.StartSubscription(cursor=ids[CURSOR]))],
        ],
        "ListEvents": [
            lambda _, __: [pb.ListEventsRequest(page_size=1_000)],
            lambda _, __: [pb.ListEventsRequest(topic=topic, state=pb.EVENT_STATE_PENDING)],
            lambda ids, _: [pb.ListEventsRequest(page_token=ids[PAGES])],
        ],
    }


def is_caught_up(message: Message) -> bool:
    """Whether a subscription has nothing further to tell right now."""
    return isinstance(message, pb.SubscribeResponse) and message.HasField("caught_up")


async def tokens(stub: EventServiceStub) -> dict[str, str]:
    """Of a school with two events: its next page of them, and the cursor of its first one."""
    page = await eventually(
        lambda: stub.ListEvents(pb.ListEventsRequest(page_size=1)),
        lambda page: page.next_page_token != "",
    )
    everything = await stub.ListEvents(pb.ListEventsRequest(page_size=1_000))
    return {PAGES: page.next_page_token, CURSOR: everything.events[-1].cursor}


def first_cursor(service: str) -> str:
    """The place before all events: a cursor that nobody was given."""
    return f"{service}.{0:016x}.{0:016x}"
