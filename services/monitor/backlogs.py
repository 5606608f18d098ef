"""How far events are behind: each service's own GetBacklog, asked with the monitor's own token."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import grpc

from driveflow.events.v1 import events_pb2 as pb
from libs import service_tokens
from libs.client import Connection, refusal
from libs.settings import Settings
from services.monitor.shared import Shared

SCOPES = ("monitor:read",)
TIMEOUT_S = 1.0


@dataclass(frozen=True, slots=True)
class Backlogs:
    """What the services told."""

    known: Mapping[str, pb.Backlog]
    silent: Mapping[str, str]
    """Services that did not answer, with the reason."""


class AskingBacklogs:
    """Asks the services that the settings name."""

    def __init__(self, connections: Mapping[str, Connection]) -> None:
        self._connections = connections
        self._shared = Shared(self._read)

    @property
    def is_configured(self) -> bool:
        """Whether there is any service to ask."""
        return bool(self._connections)

    async def read(self) -> Backlogs:
        """Ask all of them, side by side."""
        return await self._shared()

    async def _read(self) -> Backlogs:
        found = await asyncio.gather(*(self._ask(each) for each in self._connections.values()))
        named = dict(zip(self._connections, found, strict=True))
        return Backlogs(
            {name: each for name, each in named.items() if isinstance(each, pb.Backlog)},
            {name: each for name, each in named.items() if isinstance(each, str)},
        )

    async def _ask(self, connection: Connection) -> pb.Backlog | str:
        try:
            return await connection.events.GetBacklog(pb.GetBacklogRequest(), timeout=TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            return str(refusal(error))


def connected(
    settings: Settings, stack: AsyncExitStack, addresses: Mapping[str, str]
) -> AskingBacklogs:
    """By the settings; without a key nobody is asked. The stack closes what it opens."""
    tokens = service_tokens.of(settings, "monitor")
    if tokens is None:
        return AskingBacklogs({})
    ca = settings.event_tls_ca
    connections = {}
    for name, address in addresses.items():
        tls_ca = Path(ca) if ca else None
        connections[name] = Connection(address, tokens.source(SCOPES), tls_ca=tls_ca)
        stack.push_async_callback(connections[name].close)
    return AskingBacklogs(connections)
