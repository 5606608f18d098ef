"""The producer's upkeep: who must have taken an event, when it has been, when it is deleted."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Collection
from datetime import datetime, timedelta

from libs import telemetry
from libs.events import model, store
from libs.events.model import Place
from libs.events.store import Registered
from libs.orgs import Orgs
from libs.pooling import Connection, connection

log = logging.getLogger(__name__)

KEPT = timedelta(days=14)
"""So long an event stays after every consumer has taken it: the horizon for going on."""
MARK_EVERY_S = 1.0
DELETE_EVERY_S = 60.0
STEP_EVENTS = 1_000
STEPS_MAX = 100
"""Steps of one round and topic; the next round goes on."""


class Tidy:
    """Marks events that all consumers have passed, and deletes them when they are old.

    Several processes of a service may do it at once: none takes rows that another holds.
    """

    def __init__(
        self, orgs: Orgs, consumers: Collection[str], clock: Callable[[], datetime]
    ) -> None:
        self._orgs = orgs
        self._consumers = consumers
        self._clock = clock
        self._marked: dict[str, Place] = {}
        """Of each topic, up to where nothing is left to mark, but for what others held then."""

    async def run(self) -> None:
        """Register the consumers, then mark once a second and delete once a minute, for ever."""
        delete_due = float("-inf")
        registered = False
        while True:
            try:
                if not registered:
                    await self.register()
                    registered = True
                await self.mark()
                if asyncio.get_running_loop().time() >= delete_due:
                    await self.delete()
                    self._marked.clear()
                    delete_due = asyncio.get_running_loop().time() + DELETE_EVERY_S
            except Exception as error:  # noqa: BLE001 (the next round tries again)
                log.warning("events not tidied", extra={"exception": telemetry.describe(error)})
            await asyncio.sleep(MARK_EVERY_S)

    async def register(self) -> None:
        """Exactly the consumers of the settings hold events back."""
        async with connection(self._orgs.pool) as conn, conn.transaction():
            await store.unregister_consumers(conn, self._consumers)
            for consumer in sorted(self._consumers):
                await store.register_consumer(conn, consumer)

    async def mark(self) -> None:
        """Mark the events that every consumer of their topic has passed."""
        async with connection(self._orgs.pool) as conn:
            registered = await store.list_consumers(conn)
            async for topic in topics(conn):
                await self._mark_topic(conn, topic, passed(registered, topic))

    async def _mark_topic(self, conn: Connection, topic: str, through: Place) -> None:
        for _ in range(STEPS_MAX):
            behind = self._marked.get(topic, model.FIRST)
            now = self._clock()
            last = await store.mark_processed(conn, topic, behind, through, now, STEP_EVENTS)
            if last is None:
                return
            self._marked[topic] = last

    async def delete(self) -> None:
        """Delete the events that were marked 14 days ago or earlier."""
        before = self._clock() - KEPT
        async with connection(self._orgs.pool) as conn:
            async for topic in topics(conn):
                for _ in range(STEPS_MAX):
                    if await store.delete_processed(conn, topic, before, STEP_EVENTS) == 0:
                        break


def passed(registered: Collection[Registered], topic: str) -> Place:
    """How far every consumer of a topic is; the end when there is none."""
    places = [each.acknowledged or model.FIRST for each in registered if each.takes(topic)]
    return min(places, default=model.LAST)


async def topics(conn: Connection) -> AsyncIterator[str]:
    """All topics that there are events of."""
    topic = await store.next_topic(conn, "")
    while topic is not None:
        yield topic
        topic = await store.next_topic(conn, topic)
