"""`driveflow locks` and `driveflow indexes` beside a monitor."""

from __future__ import annotations

import asyncio
import json

import psycopg
import pytest

from libs.cli import indexes, locks
from tests import commands
from tests.monitor.serving import Monitor

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_locks_draws_who_waits_below_who_holds(
    watcher: Monitor, capsys: pytest.CaptureFixture[str]
) -> None:
    async def drawn(*, as_json: bool = False) -> str:
        await locks.show(watcher.address, watcher.ops_token, 0, watch=False, as_json=as_json)
        return capsys.readouterr().out

    def wait() -> None:
        dsn = watcher.database.admin_dsn
        with psycopg.connect(dsn, application_name="booking.ListBookings 1a2b") as waiter:
            waiter.execute('SELECT /* booking.list_bookings */ FROM booking."Tenant"')

    with watcher.admin() as holder, holder.transaction():
        holder.execute("SET application_name = 'migrator'")
        holder.execute('LOCK TABLE booking."Tenant"')
        waiting = asyncio.create_task(asyncio.to_thread(wait))
        async with asyncio.timeout(10):
            while "sessions wait for locks" not in (text := await drawn()):
                pass
        lines = text.splitlines()
        told = json.loads(await drawn(as_json=True))
    await waiting
    (root,) = (place for place, line in enumerate(lines) if line.startswith("migrator pid "))
    assert 'holds AccessExclusiveLock on booking."Tenant"' in " ".join(lines[root:])
    (below,) = (line for line in lines if "booking.ListBookings 1a2b pid" in line)
    assert below.startswith("└── ")
    assert "booking.list_bookings" in below
    assert "long transactions" in text
    assert told["lock_tree"]["waiting"] == 1
    assert "no session waits for a lock" in await drawn()


async def test_indexes_shows_what_is_wrong_and_that_the_rest_is_not(
    watcher: Monitor, capsys: pytest.CaptureFixture[str]
) -> None:
    environment = {
        "DRIVEFLOW_MONITOR_ADDR": watcher.address,
        "DRIVEFLOW_OPS_TOKEN": watcher.ops_token,
    }
    with watcher.admin() as admin:
        admin.execute('CREATE INDEX again ON booking."Booking" ("orgId", "serviceId")')
        try:
            await indexes.show(watcher.address, watcher.ops_token, 14, 10, as_json=False)
            told = await commands.driveflow(environment, "indexes", "--json")
        finally:
            admin.execute("DROP INDEX booking.again")
    drawn = capsys.readouterr().out
    assert "invalid: none" in drawn
    assert "unused: Use has been counted for" in drawn
    (line,) = (line for line in drawn.splitlines() if "(the same)" in line)
    assert line.split()[0] == "booking.again"
    (duplicate,) = told.json()["health"]["duplicate"]
    assert duplicate["covered_by"] == "idx_booking_service"
    assert len(told.json()["largest"]) == 10
