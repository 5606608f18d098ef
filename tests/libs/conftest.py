"""A server of libs alone: the services' methods with whatever behaviour a test gives them."""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor

from driveflow.tracking.v1 import tracking_pb2
from libs import access, client, issuer
from libs.access import Verifier
from libs.client import Connection
from libs.server import Probe, Server
from libs.settings import Settings
from tests import walking
from tests.serving import SCHOOL
from tests.walking import Answer

SERVICE = tracking_pb2.DESCRIPTOR.services_by_name["TrackingService"]
ALL_SCOPES = (*issuer.TENANT_SCOPES, *issuer.OPS_SCOPES)
Behaviour = Callable[[Any, Any], Awaitable[Any]]


@dataclass
class Bare:
    """A running server and the key that signs its callers' tokens."""

    server: Server
    key: str
    _tokens: dict[bool, str] = field(default_factory=dict)
    """For walking, of the platform or not: to sign one takes as long as a call."""

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server.port}"

    def token(self, org_id: UUID | None = SCHOOL) -> str:
        return issuer.sign(
            self.key, subject="test", scopes=ALL_SCOPES, org_id=org_id, ttl=timedelta(minutes=5)
        )

    async def walk(self, channel: grpc.aio.Channel, method: MethodDescriptor) -> Answer:
        """Call a method with a request and a token that pass."""
        platform = access.rule(method).platform
        if platform not in self._tokens:
            self._tokens[platform] = self.token(None if platform else SCHOOL)
        token = self._tokens[platform]
        metadata = walking.bearer(token)
        return await walking.call(channel, method, [walking.valid(method)], metadata=metadata)

    def connect(self, org_id: UUID | None = SCHOOL) -> Connection:
        return Connection(self.address, self.token(org_id))


Serve = Callable[..., Any]


@pytest.fixture
def serve(tmp_path: Path) -> Serve:
    """`async with serve(behaviour, calls_max=2) as bare`: every method behaves like that."""

    async def well() -> None:
        """The probe of a service that needs nothing."""

    @asynccontextmanager
    async def serving(
        behaviour: Behaviour, *, probe: Probe = well, **overrides: object
    ) -> AsyncIterator[Bare]:
        key = issuer.new_key()
        (tmp_path / "jwks.json").write_text(issuer.jwks(key))
        settings = bare_settings(tmp_path, **overrides)
        server = Server(settings, Verifier.of(settings), probe=probe)
        for service in client.SERVICES:
            server.add(service, register(service), servicer(service, behaviour))
        await server.start()
        try:
            yield Bare(server, key)
        finally:
            await server.drain()

    return serving


def bare_settings(folder: Path, **overrides: object) -> Settings:
    chosen: dict[str, Any] = {
        "listen": "127.0.0.1:0",
        "dsn": "",
        "jwks": str(folder / "jwks.json"),
        "page_token_key": "test" * 16,
        "drain_s": 1.0,
        **overrides,
    }
    return Settings(**chosen)


def register(service: ServiceDescriptor) -> Callable[[Any, Any], None]:
    """The generated function that adds a servicer of this service to a server."""
    module = service.file.name.removesuffix(".proto").replace("/", ".") + "_pb2_grpc"
    add: Callable[[Any, Any], None] = getattr(
        importlib.import_module(module), f"add_{service.name}Servicer_to_server"
    )
    return add


def servicer(service: ServiceDescriptor, behaviour: Behaviour) -> object:
    """An object whose methods, those of the contract, all behave alike."""

    async def method(_: object, request: Any, context: Any) -> Any:
        return await behaviour(request, context)

    return type("Servicer", (), dict.fromkeys(service.methods_by_name, method))()
