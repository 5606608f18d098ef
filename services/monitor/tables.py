"""What the monitor knows of tables and capacity: read now, and taken down once an hour."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import partial

from libs.orgs import Reader
from services.monitor.model.backups import Backups
from services.monitor.model.capacity import (
    TRANSACTION_IDS,
    Forecast,
    Points,
    fitted,
    soonest_first,
)
from services.monitor.model.replication import Replication, together
from services.monitor.servicer.desk import Desk
from services.monitor.store import backups, capacity, replication, tables

CAPTURED_EVERY = timedelta(hours=1)
HOURLY_KEPT = timedelta(days=14)
DAILY_KEPT = timedelta(days=400)


async def capture_tables(desk: Desk, at: datetime, *, force: bool = False) -> int:
    """Take down sizes, rows and counters; how many tables.

    0, and nothing is done, when the last time is less than an hour ago, unless `force`.
    """
    async with desk.read() as conn:
        last = await capacity.last_captured_at(conn, at)
    if not force and last is not None and at - last < CAPTURED_EVERY:
        return 0
    async with desk.write() as conn:
        await capacity.capture_capacity(conn, at)
        await capacity.capture_sequences(conn, at)
        return await tables.capture_tables(conn, at)


async def thin_snapshots(desk: Desk) -> None:
    """Delete snapshots that are older than they are kept: hourly ones first."""
    while await _thin_some(desk):
        pass


async def _thin_some(desk: Desk) -> int:
    now = desk.clock()
    async with desk.write() as conn:
        return await capacity.thin_snapshots(conn, now - DAILY_KEPT, now - HOURLY_KEPT)


async def forecasts(
    conn: Reader, since: datetime, disk_bytes_max: int | None
) -> tuple[list[Forecast], list[capacity.CapacitySnapshot]]:
    """When disk, transaction ids and sequences run out, by the snapshots from `since` on."""
    now = await capacity.capacity_now(conn)
    snapshots = await capacity.capacity_snapshots(conn, since)
    sequences = await capacity.sequence_snapshots(conn, since)
    found = [
        _forecast(
            "disk",
            "bytes",
            now.database_bytes,
            disk_bytes_max,
            [(each.at, each.database_bytes) for each in snapshots],
        ),
        # The age grows as ids are used; VACUUM brings it back, but may not be counted on.
        _forecast(
            "transaction_ids",
            "transactions",
            now.xid_age,
            TRANSACTION_IDS,
            [(each.at, each.transaction_ids) for each in snapshots],
        ),
    ]
    found += [
        _forecast(
            f"sequence {each.name}",
            "values",
            each.used,
            each.most,
            sequences.get((each.schema, each.sequence), []),
        )
        for each in await capacity.list_sequences(conn)
    ]
    return soonest_first(found), snapshots


def _forecast(
    resource: str, unit: str, used: float, limit: float | None, points: Points
) -> Forecast:
    return Forecast(
        resource=resource,
        unit=unit,
        used=used,
        limit=limit,
        line=fitted(points),
        snapshots=len(points),
    )


async def replication_status(desk: Desk, *, ask: bool = True) -> Replication:
    """What the primary sees and, with `ask`, what the configured replicas say themselves."""
    async with desk.read() as conn:
        position, synchronous = await replication.wal_position(conn)
        connected = await replication.list_replicas(conn)
        slots = await replication.list_slots(conn)
    names: Sequence[str] = desk.replicas.names if ask else ()
    words = {}
    if names:
        asked = await desk.replicas.ask(partial(replication.ask_replica, position=position))
        words = {name: word for name, word in asked.answers.items() if word is not None}
    return Replication(together(connected, names, words), tuple(slots), synchronous)


async def backup_status(conn: Reader) -> Backups:
    """The last base backups that are recorded, and the archive."""
    return Backups(
        await backups.last_backup(conn, "done"),
        await backups.last_backup(conn),
        await backups.archiving(conn),
    )
