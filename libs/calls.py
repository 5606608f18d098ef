"""What is known of the RPC under way, for everything that runs below it."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from random import getrandbits

from opentelemetry import trace

from libs.errors import DomainError, PermissionDenied, Unauthenticated


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls, as the verified token says."""

    subject: str
    org_id: uuid.UUID | None
    scopes: frozenset[str]
    expires_at: float
    """Seconds since the epoch."""

    @property
    def org(self) -> uuid.UUID:
        """The caller's school; methods that reach one are refused before without it."""
        if self.org_id is None:
            raise PermissionDenied("ORG_REQUIRED", "The token names no school.")
        return self.org_id

    @property
    def service(self) -> str | None:
        """The service that calls on its own behalf; None for everyone else."""
        kind, _, name = self.subject.partition(":")
        return name if self.org_id is None and kind == "service" and name else None


class Stream:
    """A streaming call that the server may have to end before its peer does."""

    def __init__(self) -> None:
        self.ending: asyncio.Future[DomainError] = asyncio.get_running_loop().create_future()
        self.ends_itself = False
        """Set by a handler that watches `ending` and settles its affairs before it raises it."""

    def end(self, why: DomainError) -> None:
        """Ask the stream to end with `why`; only the first reason counts."""
        if not self.ending.done():
            self.ending.set_result(why)


@dataclass(slots=True)
class Call:
    """An RPC under way."""

    method: str
    """Package-qualified, as in grpc: driveflow.tracking.v1.TrackingService/StartTrip."""
    request_id: str = field(default_factory=lambda: f"{getrandbits(128):032x}")
    """Told to the caller and written into logs: nothing is guarded by it."""
    metadata: Sequence[tuple[str, str | bytes]] = ()
    """That the caller sent."""
    began: float = field(default_factory=time.monotonic)
    """time.monotonic()"""
    deadline: float | None = None
    """time.monotonic() by which the answer must be there."""
    caller: Caller | None = None
    stream: Stream | None = None
    consistency: str | None = None
    """Token of the last write of this call: a reader that brings it back sees the write."""
    error_reason: str | None = None
    span: trace.Span | None = None
    """None: it is not traced."""

    def outlived(self) -> Call:
        """The call without its end, for work of it that others wait for as well."""
        return Call(self.method, self.request_id, caller=self.caller, span=self.span)

    def remaining_ms(self, at_most_ms: int) -> int:
        """Milliseconds until the deadline, at least 1 and at most `at_most_ms`."""
        if self.deadline is None:
            return at_most_ms
        return max(1, min(at_most_ms, int((self.deadline - time.monotonic()) * 1000)))


_current: ContextVar[Call | None] = ContextVar("driveflow_call", default=None)


begin = _current.set
"""Make a call the current one of this task."""

current = _current.get
"""The call under way; None in background work."""


def caller() -> Caller:
    """Who calls. Only inside a method that needs a token."""
    call = _current.get()
    if call is None or call.caller is None:
        raise Unauthenticated("TOKEN_MISSING", "No token.")
    return call.caller


def org() -> uuid.UUID:
    """The caller's school. Only inside a method that needs a token of one."""
    call = _current.get()
    if call is None or call.caller is None or call.caller.org_id is None:
        return caller().org
    return call.caller.org_id


def metadata() -> Sequence[tuple[str, str | bytes]]:
    """What the caller of the call under way sent along."""
    call = _current.get()
    return () if call is None else call.metadata


def stream() -> Stream:
    """The stream under way. Only inside a streaming method."""
    call = _current.get()
    if call is None or call.stream is None:
        raise RuntimeError("not a streaming call")
    return call.stream
