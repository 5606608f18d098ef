"""A booking service in the test's own process, spoken to through real stubs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from driveflow.booking.v1.booking_pb2_grpc import BookingServiceStub
from driveflow.booking.v1.directory_pb2_grpc import DirectoryServiceStub
from libs.server import Server
from libs.settings import Settings
from services.booking.__main__ import build
from tests.postgres import Database
from tests.serving import Clock, Running, common_settings, running


@dataclass
class Booking(Running):
    """A running booking service."""

    def directory(self, token: str | None = None) -> DirectoryServiceStub:
        """DirectoryService for whoever the token names."""
        return self.connect(token or self.token()).directory

    def bookings(self, token: str | None = None) -> BookingServiceStub:
        """BookingService for whoever the token names."""
        return self.connect(token or self.token()).bookings


@asynccontextmanager
async def serving(
    database: Database, folder: Path, *, key: str | None = None, **overrides: object
) -> AsyncIterator[Booking]:
    """Run the service until the block ends; `overrides` are settings."""

    async def built(stack: AsyncExitStack, clock: Clock) -> Server:
        chosen = {**common_settings(folder), "dsn": database.dsn("booking"), **overrides}
        return await build(Settings(**chosen), stack, clock)

    async with running(Booking, database, folder, built, key=key) as service:
        yield service
