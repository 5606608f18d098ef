"""A service in the test's own process, spoken to through real stubs: tracking, and what others
share with it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID, uuid4

from google.protobuf.timestamp_pb2 import Timestamp
from grpc_health.v1 import health_pb2, health_pb2_grpc

from driveflow.tracking.v1 import tracking_pb2 as pb
from driveflow.tracking.v1.tracking_pb2_grpc import TrackingServiceStub
from libs import issuer
from libs.client import Connection
from libs.server import Server
from services.tracking.__main__ import Settings, build
from tests.postgres import Database

SCHOOL = UUID("0a000000-0000-7000-8000-000000000001")
OTHER_SCHOOL = UUID("0b000000-0000-7000-8000-000000000002")


@dataclass
class Clock:
    """The service's clock: the real one, moved by `ahead`."""

    ahead: timedelta = timedelta(0)

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.ahead

    def set(self, moment: datetime) -> None:
        self.ahead = moment - datetime.now(UTC)


@dataclass
class Running:
    """A running service and what a test says to it."""

    address: str
    database: Database
    key: str
    clock: Clock
    connections: AsyncExitStack
    server: Server

    def token(
        self,
        org_id: UUID | None = SCHOOL,
        scopes: tuple[str, ...] = issuer.TENANT_SCOPES,
        subject: str = "gateway-1",
        ttl: timedelta = timedelta(minutes=5),
    ) -> str:
        return issuer.sign(self.key, subject=subject, scopes=scopes, org_id=org_id, ttl=ttl)

    @property
    def ops_token(self) -> str:
        return self.token(None, issuer.OPS_SCOPES, "operator")

    def connect(self, token: str | None) -> Connection:
        """A connection of its own, closed with the test."""
        connection = Connection(self.address, token)
        self.connections.push_async_callback(connection.close)
        return connection


RunningT = TypeVar("RunningT", bound=Running)
Build = Callable[[AsyncExitStack, Clock], Awaitable[Server]]


@dataclass
class Tracking(Running):
    """A running tracking service."""

    upload_id: UUID = field(default_factory=uuid4)

    def stub(self, token: str | None = None) -> TrackingServiceStub:
        """The stub of the demo school, or of whoever the token names."""
        return self.connect(token or self.token()).tracking

    async def start_trip(self, stub: TrackingServiceStub | None = None) -> pb.Trip:
        return await (stub or self.stub()).StartTrip(pb.StartTripRequest())


@asynccontextmanager
async def running(
    kind: type[RunningT],
    database: Database,
    folder: Path,
    build: Build,
    *,
    plain: bool = True,
    key: str | None = None,
) -> AsyncIterator[RunningT]:
    """Run a service until the block ends; the public half of its key is in `folder`."""
    key = key or issuer.new_key()
    (folder / "jwks.json").write_text(issuer.jwks(key))
    clock = Clock()
    async with AsyncExitStack() as stack, AsyncExitStack() as connections:
        server = await build(stack, clock)
        await server.start()
        stack.push_async_callback(server.drain)
        address = f"127.0.0.1:{server.port}"
        service = kind(address, database, key, clock, connections, server)
        if plain:
            await until_serving(service)
        yield service


@asynccontextmanager
async def serving(
    database: Database, folder: Path, *, key: str | None = None, **overrides: object
) -> AsyncIterator[Tracking]:
    """Run tracking until the block ends; `overrides` are settings."""

    async def built(stack: AsyncExitStack, clock: Clock) -> Server:
        return await build(settings(database, folder, **overrides), stack, clock)

    plain = "tls_cert" not in overrides
    async with running(Tracking, database, folder, built, plain=plain, key=key) as service:
        yield service


def settings(database: Database, folder: Path, **overrides: object) -> Settings:
    """What a test's tracking service is told; the public keys are in `folder`."""
    chosen = {
        **common_settings(folder),
        "dsn": database.dsn("tracking"),
        "ingest_dsn": database.dsn("tracking_ingest"),
        "maintenance_dsn": database.dsn("tracking_maintenance"),
        **overrides,
    }
    return Settings(**chosen)


def common_settings(folder: Path) -> dict[str, Any]:
    """What every service is told in a test."""
    return {
        "listen": "127.0.0.1:0",
        "jwks": str(folder / "jwks.json"),
        "page_token_key": "test" * 16,
        "drain_s": 2.0,
    }


async def until_serving(service: Running) -> None:
    stub: Any = health_pb2_grpc.HealthStub(service.connect(None).channel)
    async for answer in stub.Watch(health_pb2.HealthCheckRequest()):
        if answer.status == health_pb2.HealthCheckResponse.SERVING:
            return


def at(moment: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp


def points(
    start: datetime, count: int, step: timedelta = timedelta(seconds=1)
) -> list[pb.TripPoint]:
    """A drive to the north-east."""
    return [
        pb.TripPoint(
            time=at(start + step * place),
            lat=52.5 + place * 1e-4,
            lng=13.4 + place * 1e-4,
            speed_kph=36.0,
        )
        for place in range(count)
    ]
