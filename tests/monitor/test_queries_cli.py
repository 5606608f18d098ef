"""`driveflow queries`, as a process beside the monitor."""

from __future__ import annotations

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
    everything = ("--min-mean-ms", 0, "--limit", 1_000)
    table = await queries(watcher, *everything)
    assert "booking.find_org" in table.stdout
    assert "within the last" in table.stdout
    listed = (await queries(watcher, *everything, "--json")).json()["queries"]
    (number,) = [each["query_id"] for each in listed if each.get("name") == "booking.find_org"]
    plan = await queries(watcher, "explain", number)
    assert "Index Scan using org_pkey" in plan.stdout
    assert "indexes: org_pkey" in plan.stdout


async def test_plans_are_shown_with_what_is_wrong_as_exit_code(watcher: Monitor) -> None:
    shown = await queries(watcher, "plans", "--index", "idx_trip_lesson")
    assert shown.code == 0
    assert "not called yet" in shown.stdout
    unknown = await queries(watcher, "plans", "--index", "idx_nonsense")
    assert unknown.code == 1
    assert "INDEX_NOT_FOUND" in unknown.stderr
