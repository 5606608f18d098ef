"""What services tell of themselves: silent ones, full pools, slow RPCs, events that wait."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest

from driveflow.monitor.v1 import health_pb2 as pb
from driveflow.tracking.v1 import tracking_pb2
from libs import issuer, telemetry
from tests import serving as tracking_serving
from tests.booking import serving as booking_serving
from tests.booking.stories import School
from tests.monitor import serving
from tests.monitor.serving import Monitor
from tests.postgres import Database, free_port
from tests.serving import Tracking
from tests.waiting import eventually

NOBODY = "127.0.0.1:9"
POOL = 4


@dataclass
class Scene:
    """Tracking with a pool of four, and a monitor that reads its metrics."""

    monitor: Monitor
    tracking: Tracking


@pytest.fixture
async def scene(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Scene]:
    monkeypatch.setattr(telemetry, "_state", telemetry._State())
    monkeypatch.setattr(telemetry, "_configure_logs", lambda *_: None)
    listen = f"127.0.0.1:{free_port()}"
    told = tracking_serving.settings(database, tmp_path, metrics_listen=listen, pool_max_size=POOL)
    telemetry.configure("tracking", told)
    try:
        async with AsyncExitStack() as stack:
            tracking = await stack.enter_async_context(
                tracking_serving.serving(database, tmp_path, pool_max_size=POOL)
            )
            monitor = await stack.enter_async_context(
                serving.serving(
                    database, tmp_path, key=tracking.key, metrics_sources=f"tracking={listen}"
                )
            )
            yield Scene(monitor, tracking)
    finally:
        telemetry.shutdown()


async def test_a_pool_that_is_nearly_full_is_seen_and_that_it_is_so_no_more(scene: Scene) -> None:
    assert (await scene.monitor.check("pools")).verdict == pb.VERDICT_OK
    stub = scene.tracking.stub()
    with psycopg.connect(scene.monitor.database.admin_dsn) as admin:
        # All calls that write wait for this lock, each with a connection.
        admin.execute('LOCK TABLE tracking."Trip" IN ACCESS EXCLUSIVE MODE')
        calls = [asyncio.ensure_future(scene.tracking.start_trip(stub)) for _ in range(POOL)]
        full = await pools(scene.monitor, pb.VERDICT_CRITICAL)
        admin.rollback()
        await asyncio.gather(*calls, return_exceptions=True)
    assert full.figure == 100.0
    assert "4 of 4 in use" in full.summary
    await pools(scene.monitor, pb.VERDICT_OK)


async def pools(monitor: Monitor, verdict: pb.Verdict.ValueType) -> pb.Check:
    """The check, once it has this verdict."""
    return await eventually(lambda: monitor.check("pools"), lambda check: check.verdict == verdict)


async def test_a_slow_method_is_named_with_its_percentiles(scene: Scene) -> None:
    stub = scene.tracking.stub()
    trip = await scene.tracking.start_trip(stub)
    request = tracking_pb2.GetTripRequest(trip_id=trip.id)
    await asyncio.gather(*(stub.GetTrip(request) for _ in range(20)))
    assert (await scene.monitor.check("rpc_durations")).verdict == pb.VERDICT_OK
    with psycopg.connect(scene.monitor.database.admin_dsn) as admin:
        admin.execute('LOCK TABLE tracking."Trip" IN ACCESS EXCLUSIVE MODE')
        slow = [asyncio.ensure_future(stub.GetTrip(request)) for _ in range(25)]
        await asyncio.wait(slow, timeout=0.3)
        admin.rollback()
        await asyncio.gather(*slow)
    check = await scene.monitor.check("rpc_durations")
    assert (check.verdict, check.figure) == (pb.VERDICT_WARNING, 1)
    assert check.evidence[0].startswith("TrackingService/GetTrip: p50 ")
    # Five minutes later those calls lie behind, and only what was since then counts.
    for _ in range(2):
        scene.monitor.clock.ahead += timedelta(minutes=5)
        check = await scene.monitor.check("rpc_durations")
    assert check.verdict == pb.VERDICT_OK


async def test_who_does_not_answer_is_named(database: Database, tmp_path: Path) -> None:
    async with serving.serving(database, tmp_path, metrics_sources=f"booking={NOBODY}") as monitor:
        check = await monitor.check("services")
        assert (check.verdict, check.summary) == (pb.VERDICT_CRITICAL, "No answer from booking.")
        check = await monitor.check("pools")
        assert check.verdict == pb.VERDICT_UNKNOWN
        check = await monitor.check("outbox")
        assert check.verdict == pb.VERDICT_UNKNOWN
        assert "DRIVEFLOW_SERVICES" in check.summary


async def test_an_outbox_that_grows_is_seen_and_that_it_is_taken_in(
    database: Database, tmp_path: Path
) -> None:
    key, service_key = issuer.new_key(), tmp_path / "monitor_key.pem"
    service_key.write_text(key)
    async with (
        booking_serving.serving(database, tmp_path, key=key, event_consumers="payments") as booking,
        serving.serving(
            database,
            tmp_path,
            key=key,
            services=f"booking={booking.address}",
            service_key=str(service_key),
        ) as monitor,
    ):
        await School.founded(booking)
        check = await monitor.check("outbox")
        assert check.verdict == pb.VERDICT_OK, check
        with monitor.admin() as admin:
            admin.execute(
                """UPDATE booking."Outbox" SET "createdAt" = now() - make_interval(mins => 2)"""
            )
        check = await monitor.check("outbox")
        assert check.verdict == pb.VERDICT_WARNING
        assert "wait for payments" in check.evidence[0]
        with monitor.admin() as admin:
            admin.execute('DELETE FROM booking."EventConsumer"')
        check = await monitor.check("outbox")
        assert check.verdict == pb.VERDICT_OK
