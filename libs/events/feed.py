"""Who waits for events of this service is woken when there are some.

One query every 50 ms serves all who wait in this process, and there is none when nobody does. It
reads whose events have become ready, not what they say; each reader then reads its own.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from libs import telemetry
from libs.events import model, store
from libs.events.model import Place, Row
from libs.orgs import Orgs
from libs.pooling import connection

log = logging.getLogger(__name__)

POLL_S = 0.05
LOOK_EVENTS = 1_000


class Follower:
    """A reader's place in the events of one school, or of all."""

    def __init__(
        self, feed: Feed, org_id: uuid.UUID | None, topics: Sequence[str], place: Place | None
    ) -> None:
        self.org_id = org_id
        self._feed = feed
        self._topics = tuple(topics)
        self._place = place
        self._behind = place is not None
        """Whether there may be events between its place and the head."""
        self._wake = asyncio.Event()
        self._advance()

    @property
    def caught_up(self) -> Place | None:
        """Its place, when every event up to there has been read; None while there are more."""
        self._advance()
        return None if self._behind else self._place

    def notice(self, topic: str | None) -> None:
        """Events of a topic (None: perhaps) have become ready."""
        if topic is not None and self._topics and topic not in self._topics:
            return
        # Without a place it begins at the head as it was before these.
        self._advance()
        self._behind = self._place is not None
        self._wake.set()

    async def next(self, limit: int, wait_s: float) -> list[Row]:
        """The next events, at least one; none when there are none for so long."""
        give_up = asyncio.get_running_loop().time() + wait_s
        while True:
            self._advance()
            head = self._feed.head
            if head is not None and self._place is not None and self._behind:
                rows = await self._read(self._place, head, limit)
                if rows:
                    return rows
            try:
                async with asyncio.timeout_at(give_up):
                    await self._wake.wait()
            except TimeoutError:
                return []
            self._wake.clear()

    def _advance(self) -> None:
        """What the feed has passed since without a notice concerns others."""
        head = self._feed.head
        if head is not None and not self._behind:
            self._place = head if self._place is None else max(self._place, head)

    async def _read(self, place: Place, head: Place, limit: int) -> list[Row]:
        self._behind = False
        try:
            rows = await self._feed.read(self.org_id, place, head, self._topics, limit)
        except BaseException:
            self._behind = True
            raise
        if len(rows) >= limit:
            self._behind = True
            self._place = rows[-1].place
        else:
            self._place = max(place, head)
        return rows


class Feed:
    """Looks for events that have become ready while someone waits for them."""

    def __init__(self, service: str, orgs: Orgs) -> None:
        self.service = service
        self.head: Place | None = None
        """The last event that may be sent, as of the last look; None while nobody looks."""
        self._orgs = orgs
        self._followers: dict[uuid.UUID | None, set[Follower]] = {}
        self._wanted = asyncio.Event()

    async def run(self) -> None:
        """Look every 50 ms while there are followers, for ever."""
        failing = False
        while True:
            await self._wanted.wait()
            try:
                await self._look()
                failing = False
            except Exception as error:  # noqa: BLE001 (the next look may succeed)
                if not failing:
                    log.warning("events wait", extra={"exception": telemetry.describe(error)})
                failing = True
            await asyncio.sleep(POLL_S)

    @asynccontextmanager
    async def follower(
        self, org_id: uuid.UUID | None, topics: Sequence[str], cursor: str | None
    ) -> AsyncIterator[Follower]:
        """A reader of one school's events, or with None of all schools'.

        It goes on behind `cursor`, from the oldest event with "", from now on with None. Raises
        InvalidArgument CURSOR_INVALID and OutOfRange CURSOR_TOO_OLD.
        """
        follower = Follower(self, org_id, topics, await self._checked(cursor, topics))
        self._followers.setdefault(org_id, set()).add(follower)
        self._wanted.set()
        try:
            yield follower
        finally:
            self._leave(follower)

    async def read(
        self,
        org_id: uuid.UUID | None,
        behind: Place,
        through: Place,
        topics: Sequence[str],
        limit: int,
    ) -> list[Row]:
        """Events between two places: a school's through its view, or everyone's."""
        if org_id is None:
            async with connection(self._orgs.pool) as conn:
                return await store.read_events(conn, behind, through, topics, limit)
        # On the primary: a replica may not have what the head, read there, promises.
        async with self._orgs.read(org_id) as conn:
            return await store.read_events_of_org(conn, org_id, behind, through, topics, limit)

    async def _checked(self, cursor: str | None, topics: Sequence[str]) -> Place | None:
        if not cursor:
            return None if cursor is None else model.FIRST
        place = model.place(self.service, cursor)
        async with connection(self._orgs.pool) as conn:
            ahead, gone = await store.check_place(conn, place, topics)
        if ahead:
            raise model.bad_cursor()
        if gone:
            raise model.too_old()
        return place

    async def _look(self) -> None:
        async with connection(self._orgs.pool) as conn:
            if self.head is None:
                self.head = await store.read_head(conn)
                for follower in self._all():
                    follower.notice(None)
            while self._followers and self.head is not None:
                ready = await store.look_ahead(conn, self.head, LOOK_EVENTS)
                self._announce(ready)
                if len(ready) < LOOK_EVENTS:
                    return

    def _announce(self, ready: Sequence[store.Ready]) -> None:
        if not ready:
            return
        for org_id, topic in {(each.org_id, each.topic) for each in ready}:
            for key in (org_id, None):
                for follower in self._followers.get(key, ()):
                    follower.notice(topic)
        self.head = ready[-1].place

    def _all(self) -> list[Follower]:
        return [follower for group in self._followers.values() for follower in group]

    def _leave(self, follower: Follower) -> None:
        group = self._followers[follower.org_id]
        group.discard(follower)
        if not group:
            del self._followers[follower.org_id]
        if not self._followers:
            self._wanted.clear()
            self.head = None
