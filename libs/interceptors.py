"""The chain around every method, composed once per method when the server is built.

Outermost first: telemetry, errors, load, deadline, access, stream, validation. Each layer around a
streaming method takes the handler below it and returns a handler of the same shape: `async (request
or request iterator, context) -> response or None`; streamed responses go out by context.write.
Around a unary method all of them are one coroutine, `Chain.unary`: a coroutine per layer would cost
a cached read a tenth of its time. None are registered as grpc.aio interceptors, which cost 130 us a
call.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from random import getrandbits
from typing import Any, NoReturn, TypeAlias

import grpc
from google.protobuf.descriptor import ServiceDescriptor

from libs import access, calls, errors, telemetry
from libs.calls import Call, Stream
from libs.errors import (
    DeadlineExceeded,
    DomainError,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
)
from libs.validation import validate

log = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]
Metadata: TypeAlias = Iterable[tuple[str, str | bytes]]
Handler = Callable[[Any, Context], Awaitable[Any]]
NEAR_S, LOOK_EVERY_S = 0.5, 0.2
"""A deadline within this time has a timer of its own; the others are looked at so often."""
STREAM_SETTLES_S = 5.0
"""How long a stream that ends itself may take before it is cancelled."""


@dataclass(frozen=True, slots=True)
class Method:
    """What the layers need to know of a method."""

    name: str
    """driveflow.tracking.v1.TrackingService/StartTrip"""
    rule: access.Rule | None
    """None: open to everyone (health, reflection)."""
    request_streaming: bool
    response_streaming: bool
    gated: bool = True
    """Whether it counts against the server's load; health does not."""
    timeout_s: float | None = None
    """Longest deadline; None: the server's."""

    @property
    def streaming(self) -> bool:
        return self.request_streaming or self.response_streaming


@dataclass(slots=True)
class Load:
    """Calls under way, and how many may be."""

    calls_max: int
    streams_max: int
    calls: int = 0
    streams: int = 0


class Deadline:
    """Ends what its task does once the call's time is up, until it is told that all is done.

    As asyncio.timeout, at a part of its price.
    """

    __slots__ = ("at", "expired", "task", "timer")

    def __init__(self, at: float, task: asyncio.Task[Any]) -> None:
        self.at = at
        """time.monotonic()"""
        self.task = task
        self.timer: asyncio.TimerHandle | None = None
        self.expired = False

    def expire(self) -> None:
        """Cancel the task."""
        self.expired = True
        self.task.cancel()

    def is_why(self) -> bool:
        """Whether the task was cancelled by this alone; by others as well, it stays cancelled."""
        return self.expired and self.task.uncancel() == 0


class Deadlines:
    """Those of the calls under way. Few come near their end, so few get a timer of their own."""

    def __init__(self) -> None:
        self._far: set[Deadline] = set()
        self._looking: asyncio.TimerHandle | None = None
        self.loop = asyncio.get_running_loop()

    def begin(self, call: Call, context: Context, limit_s: float) -> Deadline:
        """That of the call, which this task is to answer; `end` it."""
        # None without a deadline, whatever the stubs say.
        remaining: float | None = context.time_remaining()
        timeout_s = limit_s if remaining is None or remaining > limit_s else remaining
        call.deadline = at = time.monotonic() + timeout_s
        task: Any = asyncio.current_task(self.loop)
        deadline = Deadline(at, task)
        if timeout_s < NEAR_S:
            self._arm(deadline, timeout_s)
            return deadline
        self._far.add(deadline)
        if self._looking is None:
            self._looking = self.loop.call_later(LOOK_EVERY_S, self._look)
        return deadline

    def end(self, deadline: Deadline) -> None:
        """The call is answered, or refused."""
        self._far.discard(deadline)
        if deadline.timer is not None:
            deadline.timer.cancel()

    def _arm(self, deadline: Deadline, left_s: float) -> None:
        deadline.timer = self.loop.call_later(max(0.0, left_s), deadline.expire)

    def _look(self) -> None:
        """Every now and then, as long as there are calls."""
        now = time.monotonic()
        near = {deadline for deadline in self._far if deadline.at - now < NEAR_S}
        for deadline in near:
            self._arm(deadline, deadline.at - now)
        self._far -= near
        self._looking = self.loop.call_later(LOOK_EVERY_S, self._look) if self._far else None


class Streams:
    """The streaming calls under way, so that a draining server can ask them to end."""

    def __init__(self) -> None:
        self._live: set[Stream] = set()
        self._empty = asyncio.Event()
        self._empty.set()
        self._draining = False

    def add(self, stream: Stream) -> None:
        self._live.add(stream)
        self._empty.clear()
        if self._draining:
            stream.end(draining())

    def discard(self, stream: Stream) -> None:
        self._live.discard(stream)
        if not self._live:
            self._empty.set()

    async def drain(self, timeout_s: float) -> bool:
        """Ask every stream to end; whether all had ended in time."""
        self._draining = True
        for stream in list(self._live):
            stream.end(draining())
        try:
            await asyncio.wait_for(self._empty.wait(), timeout_s)
        except TimeoutError:
            return False
        return True


@dataclass(frozen=True, slots=True)
class Chain:
    """What the layers share; one per server."""

    verifier: access.Verifier
    load: Load
    streams: Streams
    call_timeout_s: float
    stream_age_max_s: float
    deadlines: Deadlines = field(default_factory=Deadlines)

    def stream(self, method: Method, behaviour: Handler) -> Handler:
        """All layers that concern a streaming method."""
        handler = self.stream_layer(method, behaviour)
        if method.rule is not None:
            handler = self.access_layer(method.rule, handler)
        if method.gated:
            handler = self.load_layer(handler)
        return telemetry_layer(method, errors_layer(handler))

    def unary(
        self,
        method: Method,
        behaviour: Handler,
        read: Callable[[bytes], Any],
        written: Callable[[Any], bytes],
    ) -> Handler:
        """All layers around a unary method, in the order of the module's first lines.

        The request is read behind access, the response written in here: from bytes to bytes.
        """
        observe = telemetry.rpc(method.name)
        load = self.load if method.gated else Load(sys.maxsize, 0)
        limit_s = method.timeout_s or self.call_timeout_s
        rule, verifier, deadlines = method.rule, self.verifier, self.deadlines

        async def handler(raw: bytes, context: Context) -> Any:
            call: Any = calls.current()
            headers = dict(call.metadata)
            observe.begin(call, headers)
            try:
                if load.calls >= load.calls_max:
                    raise overloaded()
                load.calls += 1
                deadline = deadlines.begin(call, context, limit_s)
                try:
                    if rule is not None:
                        header = headers.get("authorization", "")
                        # Also of a refused call: the log says whose it was.
                        caller = verifier.remembered(header) or await verifier.caller(header)
                        call.caller = caller
                        rule.allow(caller)
                    request = read(raw)
                    validate(request)
                    response = await behaviour(request, context)
                except asyncio.CancelledError:
                    if deadline.is_why():
                        raise too_late() from None
                    raise
                finally:
                    load.calls -= 1
                    deadlines.end(deadline)
                context.set_trailing_metadata(_trailing(call))
                return response if type(response) is bytes else written(response)
            except (asyncio.CancelledError, Exception) as raised:  # noqa: BLE001 (all become a status)
                await _refuse(context, raised)
            finally:
                observe.finished(context.code(), call)

        return handler

    def load_layer(self, inner: Handler) -> Handler:
        """Refuse at once a stream that would be more than the server takes on."""
        load = self.load

        async def stream(request: Any, context: Context) -> Any:
            if load.streams >= load.streams_max:
                raise overloaded()
            load.streams += 1
            try:
                return await inner(request, context)
            finally:
                load.streams -= 1

        return stream

    def access_layer(self, rule: access.Rule, inner: Handler) -> Handler:
        """A token with the method's scope, or no further."""
        verifier = self.verifier

        async def handler(request: Any, context: Context) -> Any:
            call: Any = calls.current()
            header = dict(call.metadata).get("authorization", "")
            call.caller = caller = await verifier.caller(header)
            rule.allow(caller)
            return await inner(request, context)

        return handler

    def stream_layer(self, method: Method, inner: Handler) -> Handler:
        """End a stream when its token expires, it is too old, or the server drains."""

        async def handler(request: Any, context: Context) -> Any:
            call: Any = calls.current()
            stream = call.stream = Stream()
            timers = self._timers(stream, call)
            self.streams.add(stream)
            work = asyncio.ensure_future(inner(request, context))
            # Not in `finally` below: the peer's end may cancel this handler a second time there.
            work.add_done_callback(lambda _: self.streams.discard(stream))
            try:
                await _settled(work, stream)
                return await work
            finally:
                for timer in timers:
                    timer.cancel()
                work.cancel()
                # Also takes note of how it ended, where nobody hears of it any more.
                await asyncio.gather(work, return_exceptions=True)

        return handler

    def _timers(self, stream: Stream, call: Call) -> list[asyncio.TimerHandle]:
        loop = asyncio.get_running_loop()
        timers = [loop.call_later(self.stream_age_max_s, stream.end, too_old())]
        if call.caller is not None:
            left_s = max(0.0, call.caller.expires_at - time.time())
            timers.append(loop.call_later(left_s, stream.end, token_expired()))
        return timers


async def _settled(work: asyncio.Future[Any], stream: Stream) -> None:
    """Wait until the stream's work is done; raise why it had to end before."""
    await asyncio.wait({work, stream.ending}, return_when=asyncio.FIRST_COMPLETED)
    if not work.done() and stream.ends_itself:
        await asyncio.wait({work}, timeout=STREAM_SETTLES_S)
    if not work.done():
        raise stream.ending.result()


def telemetry_layer(method: Method, inner: Handler) -> Handler:
    """A span, a duration and a line of log for each call."""
    observe = telemetry.rpc(method.name)

    async def handler(request: Any, context: Context) -> Any:
        call: Any = calls.current()
        observe.begin(call, dict(call.metadata))
        try:
            response = await inner(request, context)
            if call.consistency:
                context.set_trailing_metadata(_trailing(call))
            return response
        finally:
            observe.finished(context.code(), call)

    return handler


def errors_layer(inner: Handler) -> Handler:
    """Whatever goes wrong becomes a status with a reason, and nothing of ours leaks."""

    async def handler(request: Any, context: Context) -> Any:
        try:
            return await inner(request, context)
        except (asyncio.CancelledError, Exception) as raised:  # noqa: BLE001 (all become a status)
            await _refuse(context, raised)

    return handler


async def _refuse(context: Context, raised: asyncio.CancelledError | Exception) -> NoReturn:
    """End the call with what was raised, as a status. Does not return."""
    if isinstance(raised, asyncio.CancelledError):
        if context.cancelled():
            raise raised
        # Not the peer: a task of ours was cancelled. Without this the peer would never hear.
        await refuse(context, abandoned())
    if isinstance(raised, grpc.aio.AbortError):
        raise raised
    error = errors.translate(raised)
    if isinstance(error, errors.Internal):
        _log_fault(error, raised)
    await refuse(context, error)


async def refuse(context: Context, error: DomainError) -> NoReturn:
    """End the call with the error's status. Does not return."""
    call = calls.current()
    metadata: tuple[tuple[str, str | bytes], ...] = ((errors.DETAILS_KEY, error.details()),)
    if call is not None:
        call.error_reason = error.reason
        metadata = (*_trailing(call), *metadata)
    await context.abort(error.code, error.message, metadata)


def request_layer(read: Callable[[bytes], Any], inner: Handler) -> Handler:
    """The request from its bytes, and the rules written in the proto."""

    async def handler(raw: bytes, context: Context) -> Any:
        request = read(raw)
        validate(request)
        return await inner(request, context)

    return handler


class Methods(grpc.GenericRpcHandler):
    """All methods of a server. Here a call begins, in the task that answers it."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[str, grpc.RpcMethodHandler[Any, Any]]] = {}

    def add(self, service: str, methods: Mapping[str, grpc.RpcMethodHandler[Any, Any]]) -> None:
        """Those of a service, inside their chains."""
        for name, handler in methods.items():
            self._found[f"/{service}/{name}"] = f"{service}/{name}", handler

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        """The method that is called; None for one that is not there."""
        found = self._found.get(details.method)
        if found is None:
            return None
        name, handler = found
        # All is given: defaults would cost a call each.
        call_id = getrandbits(128).to_bytes(16, "big").hex()
        calls.begin(Call(name, call_id, details.invocation_metadata, time.monotonic()))
        return handler


def handlers(
    service: ServiceDescriptor,
    registered: dict[str, grpc.RpcMethodHandler[Any, Any]],
    chain: Chain,
    long_calls_s: Mapping[str, float],
) -> dict[str, grpc.RpcMethodHandler[Any, Any]]:
    """The service's generated handlers, each inside its chain."""
    wrapped = {}
    for descriptor in service.methods:
        handler = registered[descriptor.name]
        method = Method(
            name=f"{service.full_name}/{descriptor.name}",
            timeout_s=long_calls_s.get(descriptor.name),
            rule=access.rule(descriptor),
            request_streaming=handler.request_streaming,
            response_streaming=handler.response_streaming,
        )
        wrapped[descriptor.name] = wrap_handler(handler, method, chain)
    return wrapped


def wrap_handler(
    handler: grpc.RpcMethodHandler[Any, Any], method: Method, chain: Chain
) -> grpc.RpcMethodHandler[Any, Any]:
    """One generated handler inside its chain.

    The library gets whole requests as bytes: what is wrong with them would be UNKNOWN to the peer.
    """
    behaviour = _behaviour(handler)
    read: Any = handler.request_deserializer
    written: Any = handler.response_serializer
    if not method.streaming:
        return grpc.unary_unary_rpc_method_handler(chain.unary(method, behaviour, read, written))
    if not method.request_streaming:
        layered = chain.stream(method, request_layer(read, behaviour))
        return grpc.unary_stream_rpc_method_handler(layered, None, written)
    make = (
        grpc.stream_stream_rpc_method_handler
        if method.response_streaming
        else grpc.stream_unary_rpc_method_handler
    )
    return make(chain.stream(method, behaviour), read, written)


def _behaviour(handler: grpc.RpcMethodHandler[Any, Any]) -> Handler:
    """The servicer's method in the one shape that layers know."""
    method: Any = (
        handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
    )
    if not handler.response_streaming or asyncio.iscoroutinefunction(method):
        return method  # type: ignore[no-any-return]

    async def write_all(request: Any, context: Context) -> None:
        async for message in method(request, context):
            await context.write(message)

    return write_all


def _trailing(call: Call) -> tuple[tuple[str, str], ...]:
    if call.consistency is None:
        return (("driveflow-request-id", call.request_id),)
    return (
        ("driveflow-request-id", call.request_id),
        ("driveflow-consistency", call.consistency),
    )


def _log_fault(error: errors.Internal, raised: Exception) -> None:
    telemetry.log_fault(log, "internal error", raised, error_id=error.error_id)


def overloaded() -> DomainError:
    return ResourceExhausted("OVERLOADED", "The server is overloaded.", retry_after_s=1)


def too_late() -> DomainError:
    return DeadlineExceeded("DEADLINE_EXCEEDED", "The call took too long.")


def abandoned() -> DomainError:
    return Unavailable("CALL_ABANDONED", "The server gave the call up.", retry_after_s=1)


def draining() -> DomainError:
    return Unavailable("SERVER_DRAINING", "The server is shutting down.", retry_after_s=1)


def too_old() -> DomainError:
    return Unavailable("STREAM_TOO_OLD", "The stream is old: open a new one.", retry_after_s=0)


def token_expired() -> DomainError:
    return Unauthenticated("TOKEN_EXPIRED", "The token has expired.")
