"""One order of locks for all that takes or gives time in a calendar.

Exclusion constraints alone deadlock when two transactions insert across each other; whoever places,
moves or reopens a booking, or changes hours, takes these first, and then waits in line instead.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterable

from libs.pooling import Connection
from libs.scoped import Later
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
    wanted = keys(org_id, instructors=instructors, vehicles=vehicles, students=students)
    await store.take_locks(conn, sorted(wanted))


class Tried:
    """Which locks were free: there once the next statement is answered."""

    def __init__(self, later: Later) -> None:
        self._later = later

    def missing(self) -> set[int]:
        """The keys of those that someone else has."""
        return {key for (key,) in self._later.rows}


async def try_all(conn: Connection, keys: Iterable[int]) -> Tried:
    """Lock what is free of these until the transaction's end, and wait for none of them."""
    return Tried(await store.try_locks(conn, sorted(set(keys))))


def keys(
    org_id: uuid.UUID,
    *,
    instructors: Iterable[uuid.UUID] = (),
    vehicles: Iterable[uuid.UUID] = (),
    students: Iterable[uuid.UUID] = (),
) -> set[int]:
    """The numbers of all these."""
    wanted = {"instructor": instructors, "vehicle": vehicles, "student": students}
    return {key(org_id, kind, each) for kind, ids in wanted.items() for each in ids}


def key(org_id: uuid.UUID, kind: str, id: uuid.UUID) -> int:  # noqa: A002
    """The number that stands for a thing in PostgreSQL's advisory locks."""
    digest = hashlib.blake2b(org_id.bytes + kind.encode() + id.bytes, digest_size=8)
    return int.from_bytes(digest.digest(), "big", signed=True)
