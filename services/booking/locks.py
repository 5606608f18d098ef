"""One order of locks for all that takes or gives time in a calendar.

Exclusion constraints alone deadlock when two transactions insert across each other; whoever places,
moves or reopens a booking, or changes hours, takes these first, and then waits in line instead.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterable

from libs.pooling import Connection
from services.booking.store import hours as store


async def take(
    conn: Connection,
    org_id: uuid.UUID,
    *,
    instructors: Iterable[uuid.UUID] = (),
    vehicles: Iterable[uuid.UUID] = (),
    students: Iterable[uuid.UUID] = (),
) -> None:
    """Lock all that the transaction touches until its end: first of all, and once only."""
    wanted = {"instructor": instructors, "vehicle": vehicles, "student": students}
    keys = {key(org_id, kind, each) for kind, ids in wanted.items() for each in ids}
    await store.take_locks(conn, sorted(keys))


def key(org_id: uuid.UUID, kind: str, id: uuid.UUID) -> int:  # noqa: A002
    """The number that stands for a thing in PostgreSQL's advisory locks."""
    digest = hashlib.blake2b(org_id.bytes + kind.encode() + id.bytes, digest_size=8)
    return int.from_bytes(digest.digest(), "big", signed=True)
