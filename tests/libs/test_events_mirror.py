"""The subscriber that docs/events.md shows, run as it stands there."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest

from libs import issuer
from libs.local.paths import ROOT
from tests.libs.eventing import TYPE, Platform, running
from tests.postgres import Database
from tests.serving import OTHER_SCHOOL, SCHOOL
from tests.waiting import eventually

PAGE = (ROOT / "docs" / "events.md").read_text()
PROGRAM = re.findall(r"```python\n(.+?)```", PAGE, re.DOTALL)[0]
LINES_MAX = 40


@pytest.fixture
async def platform(database: Database, tmp_path: Path) -> AsyncIterator[Platform]:
    async with running(database, tmp_path) as each:
        yield each


@contextmanager
def mirroring(platform: Platform, folder: Path) -> Iterator[None]:
    """The program runs until the block ends, which kills it."""
    (folder / "mirror.py").write_text(PROGRAM)
    ttl = timedelta(minutes=5)
    token = issuer.sign(
        platform.key, subject="mirror", scopes=("events:subscribe",), org_id=SCHOOL, ttl=ttl
    )
    environment = {
        "PYTHONPATH": str(ROOT / "protos"),
        "EVENTS_ADDRESS": f"127.0.0.1:{platform.server.port}",
        "EVENTS_TOKEN": token,
        "MIRROR_DB": str(folder / "mirror.db"),
    }
    with (folder / "mirror.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-P", folder / "mirror.py"],
            env=os.environ | environment,
            stdout=log,
            stderr=log,
        )
    try:
        yield
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def mirrored(folder: Path) -> list[tuple[str, str, int]]:
    if not (folder / "mirror.db").exists():
        return []
    with sqlite3.connect(folder / "mirror.db") as db:
        if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'happened'").fetchone():
            return []
        return db.execute("SELECT type, id, version FROM happened ORDER BY rowid").fetchall()


async def emit_both(platform: Platform, aggregates: list[UUID], count: int) -> None:
    """So many events of the school, each with one of another school beside it."""
    for _ in range(count):
        aggregates.append(await platform.emit())
        await platform.emit(org_id=OTHER_SCHOOL)


def test_the_documented_subscriber_is_short_and_knows_the_contract_alone() -> None:
    assert len(PROGRAM.splitlines()) <= LINES_MAX
    assert "from libs" not in PROGRAM
    assert "import libs" not in PROGRAM


async def test_the_documented_subscriber_keeps_its_place_over_kills_and_sees_its_own_alone(
    platform: Platform, tmp_path: Path
) -> None:
    emitted: list[UUID] = []
    for kill_after in (1, 60, 120):
        await emit_both(platform, emitted, 50)
        with mirroring(platform, tmp_path):
            await eventually(lambda least=kill_after: len(mirrored(tmp_path)) >= least)  # type: ignore[misc]
    with mirroring(platform, tmp_path):
        await emit_both(platform, emitted, 5)
        await eventually(lambda: len(mirrored(tmp_path)) >= len(emitted))
    assert mirrored(tmp_path) == [(TYPE, str(aggregate), 1) for aggregate in emitted]


async def test_the_documented_subscriber_goes_on_after_a_restart_of_the_service(
    platform: Platform, tmp_path: Path
) -> None:
    (tmp_path / "again").mkdir()
    listen = f"127.0.0.1:{platform.server.port}"
    with mirroring(platform, tmp_path):
        first = await platform.emit()
        await eventually(lambda: len(mirrored(tmp_path)) == 1)
        await platform.server.drain()
        second = await platform.emit()
        folder = tmp_path / "again"
        async with running(platform.database, folder, platform.key, listen=listen):
            await eventually(lambda: len(mirrored(tmp_path)) == 2)
    assert [id_ for _, id_, _ in mirrored(tmp_path)] == [str(first), str(second)]
