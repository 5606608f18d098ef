"""Events between services: each change is told once, in order, and has its effect exactly once.

A service writes an event in the transaction of the change (libs.outbox.emit). Others subscribe over
gRPC and have their effects in the transaction that moves their cursor. In a service's `__main__`,
once the pools are open:

    events = Events("booking", settings, orgs, clock)
    events.consume("tracking", effects.OF_TRACKING)
    events.start(stack)
    ...
    events.add_to(serving)

and in its effects.py:

    async def fill_lesson(conn: Connection, event: Event) -> None:
        ...

    OF_TRACKING: dict[str, Effect] = {"trip.completed": fill_lesson}

An effect is scoped to the event's school, in a transaction of up to a hundred effects. It raises to
have the event parked and tried again. It may run more than once before it is committed, so it has
no effect beyond its connection; it opens no transaction, calls no other service, and is quick: a
hundred share 30 s.
"""

from libs.events import tenants
from libs.events.delivery import Events
from libs.events.model import Delivered, Effect, Event

__all__ = ["Delivered", "Effect", "Event", "Events", "tenants"]
