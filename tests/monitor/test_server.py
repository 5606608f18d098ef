"""The server itself: settings that endanger data, disk, memory, cores, the way to it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psycopg
import pytest

from driveflow.monitor.v1 import health_pb2 as pb
from services.monitor.checks import server as checks
from tests.monitor.rules import warning_at
from tests.monitor.serving import Monitor, serving
from tests.postgres import Database
from tests.waiting import eventually

shared = pytest.mark.asyncio(loop_scope="session")


@contextmanager
def setting(database: Database, role: str, name: str, value: str) -> Iterator[None]:
    """A setting of a role, until the block ends."""
    with psycopg.connect(database.admin_dsn, autocommit=True) as admin:
        admin.execute(f"ALTER ROLE {role} SET {name} = {value}".encode())
        try:
            yield
        finally:
            admin.execute(f"ALTER ROLE {role} RESET {name}".encode())


@shared
async def test_a_setting_that_endangers_data_is_named_with_what_it_does(watcher: Monitor) -> None:
    assert (await watcher.check("settings")).verdict == pb.VERDICT_OK
    with setting(watcher.database, "booking", "synchronous_commit", "off"):
        check = await watcher.check("settings")
        assert (check.verdict, check.figure) == (pb.VERDICT_CRITICAL, 1)
        assert check.evidence == [
            "synchronous_commit of booking = off: a crash loses what was just acknowledged"
        ]
    assert (await watcher.check("settings")).verdict == pb.VERDICT_OK


async def test_how_fast_the_disk_is_can_not_be_told_where_nobody_times_it(
    database: Database, tmp_path: Path
) -> None:
    with setting(database, "monitor", "track_io_timing", "off"):
        async with serving(database, tmp_path) as monitor:
            check = await monitor.check("storage")
            assert check.verdict == pb.VERDICT_UNKNOWN
            assert "track_io_timing is off" in check.summary


@shared
async def test_memory_and_disk_have_figures_once_enough_was_read(
    watcher: Monitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, least in (("memory", "ASKED_BLOCKS_MIN"), ("storage", "READS_MIN")):
        monkeypatch.setattr(checks, least, 10**15)
        check = await watcher.check(name)
        assert (check.verdict, check.HasField("figure")) == (pb.VERDICT_OK, False), name
        monkeypatch.setattr(checks, least, 0)
    assert 0 < (await watcher.check("memory")).figure <= 100
    assert "random_page_cost is 1.1" in (await watcher.check("storage")).summary


@shared
async def test_sessions_at_work_count_and_those_that_wait_for_a_lock_do_not(
    watcher: Monitor,
) -> None:
    with ExitStack() as stack:
        dsn = watcher.database.dsn("booking")
        at_work, holder, waiting = (
            stack.enter_context(psycopg.connect(dsn, autocommit=True)) for _ in range(3)
        )
        holder.execute("SELECT pg_advisory_lock(4711)")
        tasks = [
            asyncio.create_task(
                asyncio.to_thread(
                    at_work.execute, "SELECT count(*) FROM generate_series(1, 1000000000)"
                )
            ),
            asyncio.create_task(
                asyncio.to_thread(waiting.execute, "SELECT pg_advisory_lock(4711)")
            ),
        ]
        async with warning_at(watcher, "cores", 0.01):
            check = await eventually(
                lambda: watcher.check("cores"), lambda check: check.verdict == pb.VERDICT_WARNING
            )
            assert check.summary.startswith("Sessions at work: 1, ")
        at_work.cancel()
        holder.execute("SELECT pg_advisory_unlock(4711)")
        await asyncio.gather(*tasks, return_exceptions=True)
