"""What every service does about booking's events of schools: it keeps its list of them."""

from __future__ import annotations

from functools import partial

from libs.events.model import Effect, Event
from libs.idempotency import SQL
from libs.pooling import Connection


async def set_active(conn: Connection, event: Event, *, active: bool) -> None:
    """The school is known here, and at work or suspended."""
    await conn.execute(SQL.set_tenant_active, {"org_id": event.org_id, "active": active})


EFFECTS: dict[str, Effect] = {
    "org.created": partial(set_active, active=True),
    "org.suspended": partial(set_active, active=False),
    "org.resumed": partial(set_active, active=True),
}
