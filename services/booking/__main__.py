"""The booking service: settings, pool, servicers, serve."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from functools import partial

from driveflow.booking.v1 import (
    booking_pb2,
    booking_pb2_grpc,
    directory_pb2,
    directory_pb2_grpc,
)
from libs import background, checks, pooling, server
from libs.access import Verifier
from libs.batching import Batches
from libs.cache import Cache
from libs.events import Events
from libs.leader import Leader, at_most_every, per_school
from libs.orgs import Orgs
from libs.pages import Pages
from libs.settings import Settings
from services.booking import effects
from services.booking.placing import Placing
from services.booking.servicer import stats
from services.booking.servicer.booking import LONG_CALLS_S, BookingServicer
from services.booking.servicer.desk import Desk
from services.booking.servicer.directory import DirectoryServicer
from services.booking.slot_tokens import SlotTokens
from services.booking.sweeps import Sweeps

LEADER_LOCK = 0x626F6F6B696E67  # "booking"
SWEEP_S = 5.0
FORGET_S = 60.0
FIGURES_S = 300.0


def now() -> datetime:
    """The clock of production; tests inject their own."""
    return datetime.now(UTC)


async def build(
    settings: Settings, stack: AsyncExitStack, clock: Callable[[], datetime] = now
) -> server.Server:
    """Everything of the service, started but for listening; the stack ends it in order."""
    dsn = settings.dsn.get_secret_value()
    # To plan a judgement takes several times as long as to judge; tests hold the plans of all.
    pool = pooling.create("booking", dsn, settings, generic_plans=True)
    await checks.open_pools(stack, settings.start_timeout_s, pool)
    await checks.refuse_wrong_start(pool, "booking")

    cache, batches = Cache(pool), Batches(pool)
    key = settings.page_token_key.get_secret_value().encode()
    desk = Desk(Orgs(pool, batches), Pages(key), cache, SlotTokens(key), clock)
    events = Events("booking", settings, desk.orgs, clock)
    events.consume("tracking", effects.OF_TRACKING)
    events.consume("payments", effects.of_payments(clock))
    background.run(stack, cache.run(), batches.run(), maintenance(desk, dsn).run())
    events.start(stack)
    probe = partial(checks.answer, pool)
    serving = server.Server(settings, Verifier.of(settings), probe=probe)
    serving.add(
        booking_pb2.DESCRIPTOR.services_by_name["BookingService"],
        booking_pb2_grpc.add_BookingServiceServicer_to_server,
        BookingServicer(desk, events),
        long_calls_s=LONG_CALLS_S,
    )
    serving.add(
        directory_pb2.DESCRIPTOR.services_by_name["DirectoryService"],
        directory_pb2_grpc.add_DirectoryServiceServicer_to_server,
        DirectoryServicer(desk),
    )
    events.add_to(serving)
    return serving


def maintenance(desk: Desk, dsn: str) -> Leader:
    """What one process of all does: sweeps of each school, instructors' figures."""
    sweeps = Sweeps(desk.orgs, Placing(desk.orgs, desk.zone, desk.clock), desk.clock)
    duties = [
        ("sweep", per_school(desk.orgs, sweeps.school)),
        ("forget", at_most_every(FORGET_S, per_school(desk.orgs, sweeps.forget))),
        ("figures", at_most_every(FIGURES_S, partial(stats.refresh, desk.orgs))),
    ]
    return Leader(dsn, lock=LEADER_LOCK, every_s=SWEEP_S, name="booking", duties=duties)


async def main(settings: Settings) -> None:
    """Serve until told to stop."""
    async with AsyncExitStack() as stack:
        await (await build(settings, stack)).serve()


if __name__ == "__main__":
    server.run("booking", Settings, main)
