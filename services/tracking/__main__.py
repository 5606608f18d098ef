"""The tracking service: settings, pools, servicer, serve."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from functools import partial

from pydantic import Field, SecretStr

from driveflow.tracking.v1 import tracking_pb2, tracking_pb2_grpc
from libs import background, checks, pooling, server
from libs.access import Verifier
from libs.events import Events
from libs.orgs import Orgs
from libs.pages import Pages
from libs.settings import Settings as CommonSettings
from services.tracking import effects, lessons
from services.tracking.ingest import copying
from services.tracking.ingest.known import Known
from services.tracking.ingest.writer import Writer
from services.tracking.maintenance import Maintenance, connect
from services.tracking.partitions import RUNWAY_DAYS, Partitions
from services.tracking.servicer import TrackingServicer
from services.tracking.summaries import Summaries

LONG_CALLS_S = {"ApplyRetention": 600.0}


class Settings(CommonSettings):
    """What tracking needs beside the common settings."""

    ingest_dsn: SecretStr = Field(description="login role tracking_ingest: copies points")
    maintenance_dsn: SecretStr = Field(description="login role tracking_maintenance")
    retention_months: int = Field(24, ge=1, description="trips may start so far back")
    overspeed_kph: float = Field(130.0, gt=0, description="threshold of driving events")
    booking_address: str | None = Field(None, description="host:port that knows the lessons")
    booking_timeout_s: float = Field(1.0, gt=0, description="longest that a trip waits for it")


def now() -> datetime:
    """The clock of production; tests inject their own."""
    return datetime.now(UTC)


async def build(
    settings: Settings, stack: AsyncExitStack, clock: Callable[[], datetime] = now
) -> server.Server:
    """Everything of the service, started but for listening; the stack ends it in order."""
    pool = pooling.create("tracking", settings.dsn.get_secret_value(), settings)
    # Two fast lanes write; a third connection is there while one is being replaced.
    ingest_dsn = settings.ingest_dsn.get_secret_value()
    ingest_pool = pooling.create(
        "tracking_ingest",
        ingest_dsn,
        settings,
        min_size=1,
        max_size=3,
        send_buffer_bytes=copying.FLUSH_BYTES_MAX,
    )
    await checks.open_pools(stack, settings.start_timeout_s, pool, ingest_pool)
    await checks.refuse_wrong_start(pool, "tracking")

    orgs = Orgs(pool)
    maintenance_dsn = settings.maintenance_dsn.get_secret_value()
    summaries = Summaries(orgs, overspeed_kph=settings.overspeed_kph, clock=clock)
    partitions = Partitions(orgs, summaries, partial(connect, maintenance_dsn), clock)
    known = Known(orgs, clock)
    writer = Writer(orgs, ingest_pool, known, summaries)
    known_lessons = lessons.connected(
        settings, stack, settings.booking_address, settings.booking_timeout_s
    )
    verification = lessons.Verification(orgs, known_lessons, clock)
    maintenance = Maintenance(orgs, partitions, summaries, verification, maintenance_dsn, clock)
    servicer = TrackingServicer(
        orgs,
        writer,
        known,
        summaries,
        partitions,
        known_lessons,
        Pages(settings.page_token_key.get_secret_value().encode()),
        retention_months=settings.retention_months,
        clock=clock,
    )

    await partitions.ensure_ahead()
    writer.start()
    stack.push_async_callback(summaries.settle_touched)
    stack.push_async_callback(writer.stop)
    background.run(stack, summaries.run(), maintenance.run())
    events = Events("tracking", settings, orgs, clock)
    events.consume("booking", effects.OF_BOOKING)
    events.start(stack)
    serving = server.Server(settings, Verifier.of(settings), probe=probe(pool, partitions, clock))
    serving.add(
        tracking_pb2.DESCRIPTOR.services_by_name["TrackingService"],
        tracking_pb2_grpc.add_TrackingServiceServicer_to_server,
        servicer,
        long_calls_s=LONG_CALLS_S,
    )
    events.add_to(serving)
    return serving


def probe(
    pool: pooling.Pool, partitions: Partitions, clock: Callable[[], datetime]
) -> server.Probe:
    """Healthy: the database answers, and next week's points have a month to go to."""

    async def healthy() -> None:
        await checks.answer(pool)
        await partitions.check_runway(clock(), RUNWAY_DAYS)

    return healthy


async def main(settings: Settings) -> None:
    """Serve until told to stop."""
    async with AsyncExitStack() as stack:
        await (await build(settings, stack)).serve()


if __name__ == "__main__":
    server.run("tracking", Settings, main)
