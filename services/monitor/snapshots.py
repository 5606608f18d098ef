"""Taking down what PostgreSQL counts: it knows totals alone, and a reset or a crash ends them."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from libs import audit, telemetry
from libs.errors import FailedPrecondition, Unavailable
from libs.orgs import Orgs
from libs.pooling import Connection
from services.monitor.model.queries import KEPT, MERGED_AFTER
from services.monitor.model.texts import name_of, shown
from services.monitor.servicer.desk import Desk
from services.monitor.store import queries as store

log = logging.getLogger(__name__)

TEXTS_MAX = 200
"""New texts that one snapshot reads and scrubs: the rest come with the next ones."""
Capture = Callable[[Desk, datetime], Awaitable[int]]
"""Takes down one topic in a transaction of its own; how many things."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What was taken down."""

    at: datetime
    queries: int = 0
    tables: int = 0
    indexes: int = 0


class Snapshots:
    """Takes snapshots of statements, and of what else was registered by its name in Snapshot."""

    def __init__(
        self,
        desk: Desk,
        captures: Mapping[str, Capture] | None = None,
        forced: Mapping[str, Capture] | None = None,
    ) -> None:
        """`captures` may do nothing while it is too early; `forced` are those that do all the same,
        where they differ."""
        self._desk = desk
        self._captures = captures or {}
        self._forced = {**self._captures, **(forced or {})}

    async def take(self, conn: Connection, *, force: bool = False) -> Snapshot:
        """All of them, in the transaction `conn`, which keeps others from taking any meanwhile.

        With `force` also what was taken lately.

        Raises Unavailable SNAPSHOT_UNDER_WAY, FailedPrecondition QUERIES_NOT_COUNTED.
        """
        if not await store.lock_captures(conn):
            raise Unavailable(
                "SNAPSHOT_UNDER_WAY", "Another snapshot is being taken.", retry_after_s=1
            )
        at = self._desk.clock()
        captures = self._forced if force else self._captures
        taken = {name: await capture(self._desk, at) for name, capture in captures.items()}
        return Snapshot(at, queries=await capture_queries(conn, at), **taken)

    async def take_scheduled(self) -> None:
        """As `take`; what can't be taken now is logged, and stops nothing else."""
        try:
            async with self._desk.write() as conn:
                await self.take(conn)
        except Exception as error:  # noqa: BLE001 (the checks that follow say what is wrong)
            log.warning("no snapshot", extra={"exception": telemetry.describe(error)})

    async def forget(self) -> None:
        """Make less of what is old, and delete what is older than it is kept."""
        await forget(self._desk.orgs, self._desk.clock())


async def capture_queries(conn: Connection, at: datetime) -> int:
    """Statements that were called since the last capture; new ones get their texts, scrubbed."""
    with store.counted():
        called, without_text = await store.capture_queries(conn, at)
        if without_text:
            texts = await store.texts_missing(conn, TEXTS_MAX)
            await store.keep_texts(conn, [(t, shown(t.raw), name_of(t.raw)) for t in texts])
    return called


async def forget(orgs: Orgs, now: datetime) -> None:
    """Make one snapshot an hour of those that are a day old, and delete those of 14 days.

    Little in each transaction.
    """
    merged = deleted = 1
    while deleted:
        async with orgs.write(audit.PLATFORM) as conn:
            deleted = await store.forget_snapshots(conn, now - KEPT)
    async with orgs.write(audit.PLATFORM) as conn:
        await store.forget_captures(conn, now - KEPT)
    while merged:
        async with orgs.write(audit.PLATFORM) as conn:
            merged = await store.merge_captures(conn, now - MERGED_AFTER)
    # Where nothing is counted it is not known what still is.
    with suppress(FailedPrecondition), store.counted():
        async with orgs.write(audit.PLATFORM) as conn:
            await store.forget_queries(conn, now - KEPT)
