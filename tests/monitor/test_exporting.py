"""What the monitor tells Prometheus of the database: found by the leader, and dropped when old."""

from __future__ import annotations

import asyncio
import re
import struct
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from libs import telemetry
from services.monitor import exporting
from services.monitor.__main__ import Settings
from services.monitor.checks import ALL
from services.monitor.schedule import SETTLE
from tests.monitor.serving import serving
from tests.postgres import Database, free_port
from tests.serving import common_settings

SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)
LABEL = re.compile(r'\b(?!otel_)\w+="([^"]*)"')
PATIENCE_S = 30.0
MEGABYTE = 1024**2


@asynccontextmanager
async def exporting_monitor(
    database: Database, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[str]:
    """A monitor with an endpoint, whose address this is."""
    monkeypatch.setattr(telemetry, "_state", telemetry._State())
    monkeypatch.setattr(telemetry, "_configure_logs", lambda *_: None)
    listen = f"127.0.0.1:{free_port()}"
    chosen = {**common_settings(folder), "dsn": database.dsn("monitor"), "metrics_listen": listen}
    telemetry.configure("monitor", Settings(**chosen))
    try:
        async with serving(database, folder, metrics_listen=listen) as monitor:
            # Else it waits for services that start with it.
            monitor.clock.ahead = SETTLE
            yield listen
    finally:
        telemetry.shutdown()


async def scraped(listen: str, until: str) -> dict[str, dict[tuple[str, ...], float]]:
    """Samples by name and by their labels' values, once there is one that is named `until`."""
    give_up = time.monotonic() + PATIENCE_S
    while True:
        text = await asyncio.to_thread(scrape, listen)
        if f"\n{until}" in text:
            break
        assert time.monotonic() < give_up, text
        await asyncio.sleep(0.05)
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for name, labels, value in SAMPLE.findall(text):
        found.setdefault(name, {})[tuple(LABEL.findall(labels))] = float(value)
    return found


def scrape(listen: str) -> str:
    with urllib.request.urlopen(f"http://{listen}/metrics", timeout=5) as answer:
        text: str = answer.read().decode()
        return text


@contextmanager
def replica(database: Database, name: str) -> Iterator[None]:
    """Who streams the write-ahead log, and says that he has replayed its first megabyte."""
    dsn = make_conninfo(database.admin_dsn, replication="true", application_name=name)
    with psycopg.connect(dsn, autocommit=True) as streaming:
        (identified,) = streaming.execute("IDENTIFY_SYSTEM").fetchall()
        started = streaming.pgconn.exec_(b"START_REPLICATION PHYSICAL " + identified[2])
        assert started.status == psycopg.pq.ExecStatus.COPY_BOTH, started.error_message
        streaming.pgconn.put_copy_data(
            struct.pack("!cqqqqb", b"r", MEGABYTE, MEGABYTE, MEGABYTE, 0, 0)
        )
        streaming.pgconn.flush()
        yield
        streaming.pgconn.finish()


def without_a_month(admin: psycopg.Connection) -> datetime:
    """Drop a month of points that is still to come, and return when it would begin."""
    months = admin.execute(
        "SELECT relname FROM pg_class WHERE relispartition AND relname ~ '^TripPoint_[0-9_]+$'"
        " ORDER BY relname DESC"
    ).fetchall()
    (name,) = months[1]
    admin.execute(sql.SQL("DROP TABLE tracking.{}").format(sql.Identifier(name)))
    return datetime.strptime(f"{name} +0000", "TripPoint_%Y_%m %z")


async def test_the_database_and_each_check_are_exported(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        replica(database, "reports"),
        psycopg.connect(database.admin_dsn) as forgotten,
        psycopg.connect(database.dsn("booking"), autocommit=True) as booking,
    ):
        booking.execute(
            """INSERT INTO "Tenant" ("orgId") SELECT uuidv7() FROM generate_series(1, 9)"""
        )
        booking.execute('UPDATE "Tenant" SET active = false')
        booking.execute("SELECT pg_stat_force_next_flush()")
        gap = without_a_month(forgotten)
        forgotten.commit()
        forgotten.execute("SELECT 1")
        async with exporting_monitor(database, tmp_path, monkeypatch) as listen:
            found = await scraped(listen, until="driveflow_database_size_bytes")
    verdicts = found["driveflow_health_verdict"]
    assert {check for (check,) in verdicts} == {each.question.name for each in ALL}
    assert found["driveflow_health_figure"]["settings", "count"] == 0
    assert abs(found["driveflow_health_time_seconds"][()] - time.time()) < PATIENCE_S
    assert found["driveflow_database_connections"]["idle in transaction",] == 1
    assert found["driveflow_database_connections"]["active",] >= 0
    assert found["driveflow_database_connections_max"][()] >= 100
    assert found["driveflow_database_transaction_age_seconds"][()] > 0
    assert found["driveflow_database_transactions_total"]["commit",] > 0
    assert found["driveflow_database_blocks_total"]["memory",] > 0
    assert found["driveflow_database_deadlocks_total"][()] == 0
    assert found["driveflow_database_temporary_bytes_total"][()] == 0
    assert found["driveflow_database_wal_bytes_total"][()] > 0
    assert found["driveflow_database_size_bytes"][()] > 1024**2
    sizes = found["driveflow_database_table_size_bytes"]
    assert not [table for _, table in sizes if table.startswith("TripPoint_")]
    assert sizes["tracking", "TripPoint"] > 0
    assert found["driveflow_database_table_dead_rows"]["booking", "Tenant"] == 9
    runway_s = found["driveflow_database_partition_runway_seconds"]["tracking", "TripPoint"]
    assert abs(time.time() + runway_s - gap.timestamp()) < PATIENCE_S
    assert found["driveflow_database_replication_lag_seconds"]["reports",] >= 0
    assert found["driveflow_database_replication_behind_bytes"]["reports",] > MEGABYTE


async def test_what_is_not_renewed_is_exported_no_more(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "LOOK_LASTS_S", 0.0)
    async with exporting_monitor(database, tmp_path, monkeypatch) as listen:
        found = await scraped(listen, until="driveflow_database_size_bytes")
    assert "driveflow_database_connections" not in found
    assert "driveflow_database_wal_bytes_total" not in found
