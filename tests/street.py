"""Booking and tracking in the test's own process, each with the other's address."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from libs import issuer
from libs.client import Connection
from libs.service_tokens import ServiceTokens
from services.tracking.lessons import Lessons, Verification
from tests.booking import serving as booking_serving
from tests.booking import stories as booking_stories
from tests.booking.serving import Booking
from tests.libs.eventing import orgs_of
from tests.postgres import Database, free_port
from tests.serving import Clock, Tracking, serving
from tests.tracking.stories import School


@dataclass
class Street:
    """Where booking and tracking live beside each other: each knows the other's address.

    Under another name than tests do: a process shares its connections, also those that failed.
    """

    database: Database
    folder: Path
    key: str = field(default_factory=issuer.new_key)
    booking_port: int = field(default_factory=free_port)
    tracking_port: int = field(default_factory=free_port)

    def round_the_corner(self) -> Street:
        """The same database at other addresses: what served and has gone is not called again."""
        return Street(self.database, self.folder)

    def booking(self) -> AbstractAsyncContextManager[Booking]:
        """Booking, which takes in tracking's events."""
        return booking_serving.serving(
            self.database,
            self._home("booking"),
            key=self.key,
            listen=f"127.0.0.1:{self.booking_port}",
            service_key=str(self._service_key()),
            event_sources=f"tracking=localhost:{self.tracking_port}",
        )

    def tracking(self, **settings: object) -> AbstractAsyncContextManager[Tracking]:
        """Tracking, which asks booking."""
        chosen = {
            "listen": f"127.0.0.1:{self.tracking_port}",
            "service_key": str(self._service_key()),
            "booking_address": f"localhost:{self.booking_port}",
            **settings,
        }
        return serving(self.database, self._home("tracking"), key=self.key, **chosen)

    @asynccontextmanager
    async def both(self) -> AsyncIterator[tuple[booking_stories.School, School]]:
        """Both services, and one school as each of them sees it."""
        async with self.booking() as booking, self.tracking() as tracking:
            booked = await booking_stories.School.furnished(booking)
            yield booked, School(tracking, self.folder, booked.org_id)

    @asynccontextmanager
    async def verification(self, clock: Clock) -> AsyncIterator[Verification]:
        """The leader's duty, to be done by hand."""
        tokens = ServiceTokens(
            self.key, "tracking", issuer_name=issuer.ISSUER, audience=issuer.AUDIENCE
        )
        async with (
            orgs_of("tracking", self.database, self.folder) as orgs,
            Connection(f"localhost:{self.booking_port}") as connection,
        ):
            yield Verification(orgs, Lessons(connection, tokens, timeout_s=1.0), clock)

    def _home(self, name: str) -> Path:
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        return folder

    def _service_key(self) -> Path:
        path = self.folder / "service_key.pem"
        path.write_text(self.key)
        return path
