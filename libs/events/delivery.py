"""All event delivery of a service process, by its settings."""

from __future__ import annotations

import logging
import uuid
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import datetime
from pathlib import Path

from driveflow.events.v1 import events_pb2, events_pb2_grpc
from libs import background, client, service_tokens
from libs.events import messages, model
from libs.events.consumer import TOKEN_AT_LEAST_S, Consumer
from libs.events.feed import Feed
from libs.events.model import Delivered, Effect
from libs.events.servicer import EventServicer
from libs.events.tidy import Tidy
from libs.orgs import Orgs
from libs.pages import Pages
from libs.server import Server
from libs.settings import Settings

log = logging.getLogger(__name__)

FOLLOW_EVENTS = 100
FOLLOW_WAIT_S = 60.0
SCOPES = ("events:subscribe",)


class Events:
    """The service's own events for others, and others' events for it."""

    def __init__(
        self, service: str, settings: Settings, orgs: Orgs, clock: Callable[[], datetime]
    ) -> None:
        """Raises WrongStart when the service's key can't be used."""
        self._service = service
        self._settings = settings
        self._orgs = orgs
        self._clock = clock
        self._tokens = service_tokens.of(settings, service)
        self._feed = Feed(service, orgs)
        self._consumers: list[Consumer] = []
        self._connections: list[client.Connection] = []

    def consume(self, producer: str, effects: Mapping[str, Effect]) -> None:
        """Have `effects` (by type of event) when `start` has been called.

        Without a key or the producer's address the service does without, and the log says so.
        """
        address = sources(self._settings).get(producer)
        if self._tokens is None or address is None:
            lacks = "DRIVEFLOW_SERVICE_KEY" if address else "DRIVEFLOW_EVENT_SOURCES"
            log.warning("events not consumed", extra={"producer": producer, "lacks": lacks})
            return
        ca = self._settings.event_tls_ca
        connection = client.Connection(
            address,
            self._tokens.source(SCOPES, at_least_s=TOKEN_AT_LEAST_S),
            tls_ca=Path(ca) if ca else None,
        )
        self._connections.append(connection)
        self._consumers.append(
            Consumer(self._service, producer, connection.events, self._orgs, effects, self._clock)
        )

    def start(self, stack: AsyncExitStack) -> None:
        """Begin all background work; the stack ends it. The pools are open."""
        for connection in self._connections:
            stack.push_async_callback(connection.close)
        tidy = Tidy(self._orgs, consumers(self._settings), self._clock)
        background.run(
            stack, self._feed.run(), tidy.run(), *(each.run() for each in self._consumers)
        )

    def add_to(self, server: Server) -> None:
        """Serve EventService."""
        page_tokens = Pages(self._settings.page_token_key.get_secret_value().encode())
        server.add(
            events_pb2.DESCRIPTOR.services_by_name["EventService"],
            events_pb2_grpc.add_EventServiceServicer_to_server,
            EventServicer(
                self._orgs, self._feed, consumers(self._settings), page_tokens, self._clock
            ),
        )

    async def follow(
        self, org_id: uuid.UUID, topics: Sequence[str] = (), after: str | None = None
    ) -> AsyncGenerator[Delivered, None]:
        """A school's own events of these topics (none: all) behind a cursor, for ever.

        From now on without a cursor. In order, and none is lost to a slow commit. Raises
        InvalidArgument CURSOR_INVALID and OutOfRange CURSOR_TOO_OLD, and what a read raises.
        Whoever stops before the caller's stream ends it closes it (contextlib.aclosing).
        """
        async with self._feed.follower(org_id, topics, after or None) as follower:
            while True:
                for row in await follower.next(FOLLOW_EVENTS, FOLLOW_WAIT_S):
                    cursor = model.cursor(self._service, row.place)
                    yield Delivered(cursor, messages.event_of_row(row))


def sources(settings: Settings) -> dict[str, str]:
    """Addresses of the services whose events are consumed."""
    pairs = (settings.event_sources or "").split(",")
    return {name: address for name, _, address in (pair.partition("=") for pair in pairs) if name}


def consumers(settings: Settings) -> frozenset[str]:
    """The services that must have taken an event before it is processed."""
    return frozenset(name for name in (settings.event_consumers or "").split(",") if name)
