"""Calls to DriveFlow's services: a channel, typed stubs, and what a refusal says.

    async with Connection("127.0.0.1:7103", token) as connection:
        trip = await connection.tracking.GetTrip(tracking_pb2.GetTripRequest(trip_id=trip_id))

Every call carries the token; a unary call has a deadline of 10 s unless it names another.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeAlias

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.descriptor_pb2 import MethodOptions
from google.rpc import error_details_pb2, status_pb2

from driveflow.booking.v1 import (
    booking_pb2,
    booking_pb2_grpc,
    directory_pb2,
    directory_pb2_grpc,
)
from driveflow.events.v1 import events_pb2, events_pb2_grpc
from driveflow.monitor.v1 import monitor_pb2, monitor_pb2_grpc
from driveflow.payments.v1 import (
    payments_pb2,
    payments_pb2_grpc,
    reconciliation_pb2,
    reconciliation_pb2_grpc,
    webhooks_pb2,
    webhooks_pb2_grpc,
)
from driveflow.tracking.v1 import tracking_pb2, tracking_pb2_grpc
from libs.errors import DETAILS_KEY

UNARY_TIMEOUT_S = 10.0
MESSAGE_BYTES_MAX = 4 * 1024 * 1024
SERVICES = (
    booking_pb2.DESCRIPTOR.services_by_name["BookingService"],
    directory_pb2.DESCRIPTOR.services_by_name["DirectoryService"],
    tracking_pb2.DESCRIPTOR.services_by_name["TrackingService"],
    events_pb2.DESCRIPTOR.services_by_name["EventService"],
    payments_pb2.DESCRIPTOR.services_by_name["PaymentService"],
    webhooks_pb2.DESCRIPTOR.services_by_name["WebhookService"],
    reconciliation_pb2.DESCRIPTOR.services_by_name["ReconciliationService"],
    monitor_pb2.DESCRIPTOR.services_by_name["MonitorService"],
)

TokenSource: TypeAlias = str | Callable[[], str]
"""A bearer token, or a function that is asked for one at each call."""


class Connection:
    """A channel to one address with the caller's token; a stub for each service.

    The stubs are made at once and cost nothing; use the one whose service listens there.
    """

    def __init__(
        self, address: str, token: TokenSource | None = None, *, tls_ca: Path | None = None
    ) -> None:
        """Connect at the first call; plaintext unless `tls_ca`, a PEM file, is given."""
        self.channel: grpc.aio.Channel = _CallerChannel(channel(address, tls_ca=tls_ca), token)
        self.bookings = booking_pb2_grpc.BookingServiceStub(self.channel)
        self.directory = directory_pb2_grpc.DirectoryServiceStub(self.channel)
        self.tracking = tracking_pb2_grpc.TrackingServiceStub(self.channel)
        self.events = events_pb2_grpc.EventServiceStub(self.channel)
        self.payments = payments_pb2_grpc.PaymentServiceStub(self.channel)
        self.webhooks = webhooks_pb2_grpc.WebhookServiceStub(self.channel)
        self.reconciliation = reconciliation_pb2_grpc.ReconciliationServiceStub(self.channel)
        self.monitor = monitor_pb2_grpc.MonitorServiceStub(self.channel)

    async def close(self) -> None:
        """Cancel the calls under way and close the channel."""
        await self.channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def channel(address: str, *, tls_ca: Path | None = None) -> grpc.aio.Channel:
    """A bare channel: keepalive, limits, and retries of what has no side effects."""
    options = [
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
        ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
        # Left alone, a channel waits up to two minutes before it tries a restarted server again.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 2_000),
        ("grpc.enable_retries", 1),
        ("grpc.service_config", json.dumps(service_config())),
    ]
    if tls_ca is None:
        return grpc.aio.insecure_channel(address, options)
    trusted = grpc.ssl_channel_credentials(tls_ca.read_bytes())
    return grpc.aio.secure_channel(address, trusted, options)


def service_config() -> dict[str, Any]:
    """Retry UNAVAILABLE, on methods without side effects alone.

    Deadlines are set per call: `timeout` in a service config fires too early in Python.
    """
    return {
        "methodConfig": [
            {
                "name": [
                    {"service": service.full_name, "method": method.name}
                    for service in SERVICES
                    for method in _without_side_effects(service)
                ],
                "retryPolicy": {
                    "maxAttempts": 4,
                    "initialBackoff": "0.1s",
                    "maxBackoff": "1s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ]
    }


def _without_side_effects(service: ServiceDescriptor) -> list[MethodDescriptor]:
    return [
        method
        for method in service.methods
        if method.GetOptions().idempotency_level == MethodOptions.NO_SIDE_EFFECTS
    ]


@dataclass(frozen=True, slots=True)
class Refusal:
    """What came back instead of a result."""

    code: grpc.StatusCode
    reason: str
    """UPPER_SNAKE, as in docs/errors.md; empty when no service of ours answered."""
    message: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    fields: tuple[tuple[str, str], ...] = ()
    """(path, what is wrong) of a bad request."""
    retry_after_s: float | None = None
    """Set when the service says that the same call may succeed then."""

    def __str__(self) -> str:
        each = (f"{path}: {what}" for path, what in self.fields)
        wrong = "; ".join(sentence for sentence in each if sentence not in self.message)
        sentence = f"{self.message} ({wrong})" if wrong else self.message
        return f"{self.reason or self.code.name}: {sentence}"


def refusal(error: grpc.aio.AioRpcError) -> Refusal:
    """Read an error's status and its details."""
    info = error_details_pb2.ErrorInfo()
    bad_request = error_details_pb2.BadRequest()
    retry = error_details_pb2.RetryInfo()
    retry_after_s = None
    for detail in _status(error).details:
        detail.Unpack(info)
        detail.Unpack(bad_request)
        if detail.Unpack(retry):
            retry_after_s = retry.retry_delay.ToMilliseconds() / 1000
    return Refusal(
        code=error.code(),
        reason=info.reason,
        message=error.details() or "no details",
        metadata=dict(info.metadata),
        fields=tuple((each.field, each.description) for each in bad_request.field_violations),
        retry_after_s=retry_after_s,
    )


def _status(error: grpc.aio.AioRpcError) -> status_pb2.Status:
    for key, value in error.trailing_metadata() or ():
        if key == DETAILS_KEY and isinstance(value, bytes):
            return status_pb2.Status.FromString(value)
    return status_pb2.Status()


class _CallerChannel(grpc.aio.Channel):
    """A channel whose calls carry a token, and whose unary calls have a deadline.

    The generated stub asks its channel for each method once, so this costs a call next to
    nothing; a client interceptor costs more than the call itself.
    """

    def __init__(self, inner: grpc.aio.Channel, token: TokenSource | None) -> None:
        self._inner = inner
        self._token = token

    def unary_unary(self, *args: Any, **options: Any) -> Any:
        return self._calls(self._inner.unary_unary(*args, **options), UNARY_TIMEOUT_S)

    def unary_stream(self, *args: Any, **options: Any) -> Any:
        return self._calls(self._inner.unary_stream(*args, **options), None)

    def stream_unary(self, *args: Any, **options: Any) -> Any:
        return self._calls(self._inner.stream_unary(*args, **options), None)

    def stream_stream(self, *args: Any, **options: Any) -> Any:
        return self._calls(self._inner.stream_stream(*args, **options), None)

    def _calls(self, method: Callable[..., Any], timeout_s: float | None) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            options["metadata"] = (*self._bearer(), *(options.get("metadata") or ()))
            options.setdefault("timeout", timeout_s)
            return method(*args, **options)

        return call

    def _bearer(self) -> tuple[tuple[str, str], ...]:
        if self._token is None:
            return ()
        token = self._token if isinstance(self._token, str) else self._token()
        return (("authorization", f"Bearer {token}"),)

    async def close(self, grace: float | None = None) -> None:
        await self._inner.close(grace)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        return self._inner.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        await self._inner.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        await self._inner.channel_ready()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        await self.close()
