"""`driveflow queries`, as a process beside the monitor."""

from __future__ import annotations

import re

import psycopg
import pytest

from driveflow.monitor.v1 import queries_pb2 as pb
from tests import commands
from tests.commands import Done
from tests.monitor.serving import Monitor

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def queries(watcher: Monitor, *arguments: object) -> Done:
    environment = {
        "DRIVEFLOW_MONITOR_ADDR": watcher.address,
        "DRIVEFLOW_OPS_TOKEN": watcher.ops_token,
    }
    return await commands.driveflow(environment, "queries", *arguments)


async def test_a_statement_is_listed_and_explained_by_its_number(watcher: Monitor) -> None:
    await watcher.stub().CaptureSnapshot(pb.CaptureSnapshotRequest())
    async with await psycopg.AsyncConnection.connect(watcher.database.dsn("booking")) as booking:
        await booking.execute('SELECT /* booking.find_org */ name FROM "Org" WHERE id = uuidv7()')
    table = await queries(watcher, "--min-mean-ms", 0, "--limit", 1_000)
    assert "within the last" in table.stdout
    (row,) = [line for line in table.stdout.splitlines() if "booking.find_org" in line]
    (number,) = re.findall(r"-?\d{15,}", row)
    plan = (await queries(watcher, "explain", number, "--json")).json()
    assert plan["name"] == "booking.find_org"
    assert plan["indexes"] == ["org_pkey"]


async def test_plans_are_shown_with_who_needs_them(watcher: Monitor) -> None:
    shown = await queries(watcher, "plans", "--index", "idx_trip_lesson")
    assert shown.code == 0
    assert "ListTrips" in shown.stdout
    assert "not called yet" in shown.stdout
