"""What the metrics say of events."""

from __future__ import annotations

import asyncio
import re
import urllib.request
from pathlib import Path
from uuid import uuid4

import pytest

from libs import telemetry
from libs.events import Event
from libs.pooling import Connection
from tests.libs.conftest import bare_settings
from tests.libs.eventing import TYPE, consuming, note, noted, running
from tests.postgres import Database, free_port
from tests.serving import SCHOOL
from tests.waiting import eventually


async def test_prometheus_reads_what_is_sent_taken_failed_and_parked_and_how_late(
    monkeypatch: pytest.MonkeyPatch, database: Database, tmp_path: Path
) -> None:
    bad = uuid4()

    async def effect(conn: Connection, event: Event) -> None:
        await note(conn, event)
        if event.aggregate_id == bad:
            raise RuntimeError("never")

    monkeypatch.setattr(telemetry, "_state", telemetry._State())
    monkeypatch.setattr(telemetry, "_configure_logs", lambda *_: None)
    listen = f"127.0.0.1:{free_port()}"
    telemetry.configure("payments", bare_settings(tmp_path, metrics_listen=listen))
    try:
        async with running(database, tmp_path) as platform:
            for aggregate in (bad, bad, uuid4(), uuid4()):
                await platform.emit(aggregate)
            await platform.subscribe(platform.stub("console", org_id=SCHOOL)).read(4)
            async with consuming(platform.consumer({TYPE: effect})):
                await eventually(lambda: len(noted(platform)) == 2)
                await eventually(lambda: "driveflow_events_parked 2" in plain(scrape(listen)))
                text = plain(await asyncio.to_thread(scrape, listen))
    finally:
        telemetry.shutdown()
    assert 'driveflow_events_sent_total{consumer="payments"} 4' in text
    assert 'driveflow_events_sent_total{consumer="schools"} 4' in text
    assert 'driveflow_events_taken_total{producer="booking"} 4' in text
    assert 'driveflow_events_failed_total{producer="booking"} 1' in text
    (lag_s,) = re.findall(r'driveflow_events_lag_seconds{producer="booking"} (\S+)', text)
    assert 0 <= float(lag_s) < 20


def plain(text: str) -> str:
    """Without the scope that each line names, and whole numbers without their fraction."""
    text = re.sub(r'otel_scope_\w+="[^"]*",?', "", text)
    return re.sub(r",}", "}", re.sub(r"{}", "", re.sub(r"\.0$", "", text, flags=re.MULTILINE)))


def scrape(listen: str) -> str:
    with urllib.request.urlopen(f"http://{listen}/metrics", timeout=5) as answer:
        text: str = answer.read().decode()
        return text
