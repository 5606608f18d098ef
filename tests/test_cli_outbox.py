"""`driveflow outbox`, as a process beside a service."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from libs import issuer
from libs.events import Event
from libs.pooling import Connection
from tests import commands
from tests.commands import Done
from tests.libs.eventing import TYPE, Platform, running
from tests.postgres import Database
from tests.waiting import eventually

NOBODY = "127.0.0.1:1"


@pytest.fixture
async def platform(database: Database, tmp_path: Path) -> AsyncIterator[Platform]:
    async with running(database, tmp_path) as each:
        yield each


def token(platform: Platform, *scopes: str) -> str:
    ttl = timedelta(minutes=5)
    return issuer.sign(platform.key, subject="olga", scopes=scopes, ttl=ttl, org_id=None)


def environment(platform: Platform) -> dict[str, str]:
    return {
        "DRIVEFLOW_BOOKING_ADDR": f"127.0.0.1:{platform.server.port}",
        "DRIVEFLOW_OPS_TOKEN": token(platform, *issuer.OPS_SCOPES),
    }


async def outbox(platform: Platform, *arguments: object, **more: str) -> Done:
    return await commands.driveflow({**environment(platform), **more}, "outbox", *arguments)


async def fails(conn: Connection, event: Event) -> None:
    raise RuntimeError("never")


async def two_parked(platform: Platform) -> list[dict[str, Any]]:
    aggregate = uuid4()
    await platform.own_consumer(fails, aggregate, aggregate)
    found: list[dict[str, Any]] = (await outbox(platform, "parked", "--json")).json()
    return found


async def test_the_table_tells_of_each_topic_and_consumer(platform: Platform) -> None:
    for _ in range(3):
        await platform.emit()
    await platform.subscribe().read(1)
    processed = 'SELECT count(*) FROM booking."Outbox" WHERE "processedAt" IS NOT NULL'
    await eventually(lambda: platform.rows(processed) == [(1,)])
    done = await outbox(platform)
    assert done.code == 0
    assert "events of booking" in done.stdout
    (line,) = (line for line in done.stdout.splitlines() if "lesson" in line)
    assert [cell.strip() for cell in line.strip("│").split("│")][:3] == ["lesson", "payments", "2"]
    (row,) = (await outbox(platform, "--json")).json()["rows"]
    assert row["oldest_s"] >= 0
    del row["oldest_s"]
    wanted = {"service": "booking", "topic": "lesson", "consumer": "payments", "waiting": 2}
    assert row == {**wanted, "processed": 1, "parked": 0}


async def test_it_says_who_holds_events_back(platform: Platform) -> None:
    async with platform.consuming.walk("dump") as other:
        await other.execute(b"SELECT pg_current_xact_id()")
        await platform.emit()
        done = await outbox(platform)
    assert "booking: 1 events are held back" in done.stdout
    assert "by a transaction of payments (payments dump, pid" in done.stdout


async def test_parked_events_are_listed(platform: Platform) -> None:
    first, second = await two_parked(platform)
    assert (first["service"], first["type"], first["attempts"]) == ("booking", TYPE, 1)
    assert (first["version"], second["version"], second["attempts"]) == (1, 2, 0)
    done = await outbox(platform, "parked", "--service", "booking")
    assert first["id"] in done.stdout
    assert "RuntimeError" in done.stdout
    assert "behind" in done.stdout


async def test_a_parked_event_can_be_tried_again_and_given_up(platform: Platform) -> None:
    first, second = await two_parked(platform)
    done = await outbox(platform, "retry", first["id"])
    assert (done.code, done.stderr) == (0, "")
    assert f"{TYPE} of {first['aggregate_id']} is tried now in booking" in done.stdout
    due = 'SELECT count(*) FROM booking."ParkedEvent" WHERE "nextAttemptAt" <= now()'
    assert platform.rows(due) == [(2,)]
    done = await outbox(platform, "discard", first["id"], "--reason", "sent by mistake")
    assert (done.code, done.stderr) == (0, "")
    left = (await outbox(platform, "parked", "--json")).json()
    assert [each["id"] for each in left] == [second["id"]]
    audited = 'SELECT "actorUserId", after FROM booking."AuditLog" WHERE action = %s'
    assert platform.rows(audited, "discard") == [("olga", {"reason": "sent by mistake"})]


async def test_what_is_not_parked_can_be_neither_tried_nor_given_up(platform: Platform) -> None:
    id_ = f"booking.{1:016x}.{1:016x}"
    for arguments in (("retry", id_), ("discard", id_, "--reason", "x"), ("retry", "x")):
        done = await outbox(platform, *arguments)
        (line,) = done.stderr.splitlines()
        assert line.startswith("driveflow: ")
        assert "parked" in line
        assert done.code == 1


async def test_a_service_that_does_not_answer_is_named_and_the_rest_is_shown(
    platform: Platform,
) -> None:
    await platform.emit()
    done = await outbox(platform, DRIVEFLOW_TRACKING_ADDR=NOBODY)
    assert done.code == 1
    assert "events of booking" in done.stdout
    assert "driveflow: tracking: UNAVAILABLE" in done.stderr
    assert "Traceback" not in done.stderr


async def test_without_an_address_or_a_token_it_says_what_is_missing(platform: Platform) -> None:
    done = await commands.driveflow({"DRIVEFLOW_OPS_TOKEN": "t"}, "outbox")
    assert "DRIVEFLOW_BOOKING_ADDR" in done.stderr
    assert done.code == 1
    done = await outbox(platform, DRIVEFLOW_OPS_TOKEN="")
    assert "DRIVEFLOW_OPS_TOKEN" in done.stderr
    assert done.code == 1
    done = await outbox(platform, "parked", "--service", "kitchen")
    assert "there is no service 'kitchen'" in done.stderr
    poor = token(platform, "events:subscribe")
    done = await outbox(platform, "parked", DRIVEFLOW_OPS_TOKEN=poor)
    assert "use a token that has the scope monitor:read" in done.stderr


async def test_watching_goes_on_until_it_is_interrupted(platform: Platform) -> None:
    await platform.emit()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-c", "from libs.cli import main; main()", "outbox", "--watch", "--json"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **environment(platform)},
    )
    assert process.stdout is not None
    async with asyncio.timeout(30):
        lines = [await process.stdout.readline() for _ in range(2)]
        process.send_signal(signal.SIGINT)
        await process.communicate()
    assert [len(json.loads(line)["rows"]) for line in lines] == [1, 1]
    assert process.returncode == 130
