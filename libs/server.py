"""The server of a service: what it serves, when it is healthy, how it stops losing no call."""

from __future__ import annotations

import asyncio
import gc
import ipaddress
import logging
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import uvloop
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import ServiceDescriptor
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_reflection.v1alpha._async import ReflectionServicer

from libs import telemetry
from libs.access import UNREADABLE, AccessUndeclared, Verifier
from libs.interceptors import Chain, Load, Method, Methods, Streams, handlers, wrap_handler
from libs.settings import Settings, SettingsError, SettingsT, load

log = logging.getLogger(__name__)

MESSAGE_BYTES_MAX = 1024 * 1024
METADATA_BYTES_MAX = 16 * 1024
PROBE_EVERY_S = 1.0
PROBE_FRESH_S = 4.0
"""A probe that has not succeeded for so long means NOT_SERVING, whether or not it returns."""
GC_THRESHOLDS = (50_000, 20, 20)
NOTICE_S = 0.05
"""Whoever watches health hears of the drain before his stream ends."""
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class WrongStart(Exception):
    """The process must not start like this; the message says what to mend."""


Probe = Callable[[], Awaitable[None]]
"""Raises while the service can't do its work."""


class Server:
    """A gRPC server with health, reflection and the chain of layers around each method."""

    def __init__(
        self,
        settings: Settings,
        verifier: Verifier,
        *,
        probe: Probe,
        message_bytes_max: int = MESSAGE_BYTES_MAX,
    ) -> None:
        """`message_bytes_max`: of a request; a larger one is RESOURCE_EXHAUSTED by the library."""
        self._settings = settings
        self._verifier = verifier
        self._probe = probe
        self._watch: asyncio.Task[None] | None = None
        self._streams = Streams()
        self._chain = Chain(
            verifier=verifier,
            load=Load(settings.calls_max, settings.streams_max),
            streams=self._streams,
            call_timeout_s=settings.call_timeout_s,
            stream_age_max_s=settings.stream_age_max_s,
        )
        self._server = grpc.aio.server(options=options(settings, message_bytes_max))
        self._methods = Methods()
        self._server.add_generic_rpc_handlers((self._methods,))
        self._health = HealthServicer()
        self._services: list[str] = []
        self.port = 0
        """The port it listens on; known once started."""

    def add(
        self,
        descriptor: ServiceDescriptor,
        register: Callable[[Any, Any], None],
        servicer: object,
        *,
        long_calls_s: Mapping[str, float] | None = None,
    ) -> None:
        """Serve `servicer` by the generated function `register` (add_…Servicer_to_server).

        `long_calls_s` names methods that may take longer than others.
        """
        registered = _registered(register, servicer)
        name = descriptor.full_name
        self._register(name, handlers(descriptor, registered, self._chain, long_calls_s or {}))
        self._services.append(name)

    async def serve(self) -> None:
        """Serve until SIGTERM or SIGINT, then drain."""
        stop = _stop_signal()
        await self.start()
        # What lives now lives on; the collector need not look at it again.
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        await stop.wait()
        await self.drain()

    async def start(self) -> None:
        """Listen. Health follows the probe, once a second, from NOT_SERVING on."""
        await self._load_keys()
        # The library begins with "" serving; nothing serves before the first probe.
        await self._publish(False)
        self._add_health()
        if self._settings.reflection:
            self._add_reflection()
        self._bind()
        await self._server.start()
        log.info("listening", extra={"port": self.port})
        self._watch = asyncio.create_task(self._watch_health())

    async def _load_keys(self) -> None:
        try:
            await self._verifier.load()
        except UNREADABLE as error:
            raise WrongStart(
                f"can't read public keys from {self._settings.jwks} ({type(error).__name__}): the"
                " path or URL of a JWKS is wanted (DRIVEFLOW_JWKS)"
            ) from error

    async def drain(self) -> None:
        """Turn new calls away, let those under way end, stop."""
        log.info("draining")
        if self._watch is not None:
            self._watch.cancel()
        await self._health.enter_graceful_shutdown()
        await asyncio.sleep(NOTICE_S)
        await self._streams.drain(self._settings.drain_s)
        await self._server.stop(self._settings.drain_s)
        log.info("stopped")

    async def _watch_health(self) -> None:
        health = _Health(self._probe, self._publish)
        try:
            await health.watch()
        finally:
            health.close()

    async def _publish(self, serving: bool) -> None:
        status = SERVING if serving else NOT_SERVING
        for name in ("", *self._services):
            await self._health.set(name, status)

    def _register(self, service: str, methods: dict[str, grpc.RpcMethodHandler[Any, Any]]) -> None:
        self._methods.add(service, methods)

    def _add_health(self) -> None:
        name = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
        registered = _registered(health_pb2_grpc.add_HealthServicer_to_server, self._health)
        self._register(name, self._open(name, registered, gated=False))

    def _add_reflection(self) -> None:
        """v1alpha (grpcurl), and v1 (buf curl) with the same messages under another name."""
        _add_reflection_v1_descriptor()
        services = [*self._services, "grpc.health.v1.Health"]
        names = ("grpc.reflection.v1alpha.ServerReflection", "grpc.reflection.v1.ServerReflection")
        servicer = _Reflection([*services, *names])
        registered = _registered(
            reflection_pb2_grpc.add_ServerReflectionServicer_to_server, servicer
        )
        for name in names:
            self._register(name, self._open(name, registered, gated=True))

    def _open(
        self, service: str, registered: dict[str, grpc.RpcMethodHandler[Any, Any]], *, gated: bool
    ) -> dict[str, grpc.RpcMethodHandler[Any, Any]]:
        """Methods that need no token, inside the chain."""
        return {
            name: wrap_handler(
                handler,
                Method(
                    f"{service}/{name}",
                    None,
                    handler.request_streaming,
                    handler.response_streaming,
                    gated,
                ),
                self._chain,
            )
            for name, handler in registered.items()
        }

    def _bind(self) -> None:
        address = self._settings.listen
        credentials = _credentials(self._settings)
        try:
            if credentials is not None:
                self.port = self._server.add_secure_port(address, credentials)
            elif self._settings.plaintext or _is_loopback(address):
                self.port = self._server.add_insecure_port(address)
            else:
                raise WrongStart(
                    f"{address} is not a loopback address: set DRIVEFLOW_TLS_CERT and"
                    " DRIVEFLOW_TLS_KEY, or DRIVEFLOW_PLAINTEXT=true if the network is trusted"
                )
        except RuntimeError as error:
            raise WrongStart(
                f"can't listen on {address}: is another process there? (DRIVEFLOW_LISTEN)"
            ) from error


class _Reflection(ReflectionServicer):
    """Also finds methods, which the descriptor pool does not (grpcurl describe)."""

    def _file_containing_symbol(self, request: Any, fully_qualified_name: str) -> Any:
        find: Any = super()._file_containing_symbol  # type: ignore[misc]
        answer = find(request, fully_qualified_name)
        service, _, method = fully_qualified_name.rpartition(".")
        if answer.HasField("error_response") and service:
            with suppress(KeyError):
                found = descriptor_pool.Default().FindServiceByName(service)
                if method in found.methods_by_name:
                    return find(request, service)
        return answer


class _Health:
    """Follows a probe: serving while its last success is fresh."""

    def __init__(
        self,
        probe: Probe,
        publish: Callable[[bool], Awaitable[None]],
    ) -> None:
        self._probe = probe
        self._publish = publish
        self._succeeded_at = float("-inf")
        self._failing = False
        self._serving: bool | None = None
        self._probing = asyncio.create_task(self._probe_forever())

    async def watch(self) -> None:
        """Publish changes; needs no probe to return, so that a frozen database shows."""
        while True:
            fresh = time.monotonic() - self._succeeded_at < PROBE_FRESH_S
            serving = fresh and not self._failing
            if serving != self._serving:
                log.info("health", extra={"serving": serving})
                self._serving = serving
                await self._publish(serving)
            await asyncio.sleep(0.1)

    def close(self) -> None:
        self._probing.cancel()

    async def _probe_forever(self) -> None:
        while True:
            try:
                await self._probe()
                self._succeeded_at = time.monotonic()
                self._failing = False
            except Exception as error:  # noqa: BLE001 (whatever it is, the service is not well)
                if not self._failing:
                    log.warning("unhealthy", extra={"exception": telemetry.describe(error)})
                self._failing = True
            await asyncio.sleep(PROBE_EVERY_S)


def run(
    name: str, kind: type[SettingsT], main: Callable[[SettingsT], Coroutine[Any, Any, None]]
) -> None:
    """The main of a service: settings, then `main` on an event loop. Exits 2 on a wrong start."""
    try:
        settings = load(kind)
        telemetry.configure(name, settings)
        uvloop.run(main(settings))
    except (SettingsError, WrongStart, AccessUndeclared) as error:
        print(f"{name} can't start:\n{error}", file=sys.stderr)
        sys.exit(2)
    finally:
        telemetry.shutdown()


class _Collector:
    """Stands in for a server, to take the handlers that generated code registers."""

    def __init__(self) -> None:
        self.handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}

    def add_generic_rpc_handlers(self, _: object) -> None:
        """The same handlers in another wrapping."""

    def add_registered_method_handlers(
        self, _: str, methods: dict[str, grpc.RpcMethodHandler[Any, Any]]
    ) -> None:
        self.handlers.update(methods)


def _registered(
    register: Callable[[Any, Any], None], servicer: object
) -> dict[str, grpc.RpcMethodHandler[Any, Any]]:
    collector = _Collector()
    register(servicer, collector)
    return collector.handlers


def _stop_signal() -> asyncio.Event:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop


def options(
    settings: Settings, message_bytes_max: int = MESSAGE_BYTES_MAX
) -> list[tuple[str, int]]:
    """What the gRPC library is told; the bench's bare server is told the same."""
    age_ms = int(settings.stream_age_max_s * 1000)
    return [
        # A second process on the port must fail, not take half of the connections.
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", message_bytes_max),
        ("grpc.max_send_message_length", 4 * MESSAGE_BYTES_MAX),
        ("grpc.max_metadata_size", METADATA_BYTES_MAX // 2),
        ("grpc.absolute_max_metadata_size", METADATA_BYTES_MAX),
        ("grpc.max_concurrent_streams", 1_000),
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.keepalive_permit_without_calls", 1),
        # Phones behind NAT ping every 30 s or so; the default would call that too many pings.
        ("grpc.http2.min_ping_interval_without_data_ms", 15_000),
        ("grpc.max_connection_idle_ms", 3_600_000),
        ("grpc.max_connection_age_ms", age_ms),
        # Streams end themselves at their own age, always before the connection is cut.
        ("grpc.max_connection_age_grace_ms", age_ms + 60_000),
    ]


def _credentials(settings: Settings) -> grpc.ServerCredentials | None:
    ca = settings.tls_client_ca
    if settings.tls_cert is None and settings.tls_key is None and ca is None:
        return None
    if settings.tls_cert is None or settings.tls_key is None:
        raise WrongStart("TLS needs both DRIVEFLOW_TLS_CERT and DRIVEFLOW_TLS_KEY")
    try:
        key = Path(settings.tls_key).read_bytes()
        certificate = Path(settings.tls_cert).read_bytes()
        root = None if ca is None else Path(ca).read_bytes()
    except OSError as error:
        raise WrongStart(f"can't read {error.filename} (DRIVEFLOW_TLS_…)") from error
    return grpc.ssl_server_credentials(
        [(key, certificate)], root_certificates=root, require_client_auth=ca is not None
    )


def _is_loopback(address: str) -> bool:
    host = address.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _add_reflection_v1_descriptor() -> None:
    """grpc.reflection.v1 is v1alpha under another package; clients ask for its descriptor."""
    file = descriptor_pb2.FileDescriptorProto()
    reflection_pb2.DESCRIPTOR.CopyToProto(file)
    file.name = "grpc/reflection/v1/reflection.proto"
    file.package = "grpc.reflection.v1"
    for message in file.message_type:
        for field in message.field:
            if field.type_name:
                field.type_name = field.type_name.replace(".v1alpha.", ".v1.")
    for service in file.service:
        for method in service.method:
            method.input_type = method.input_type.replace(".v1alpha.", ".v1.")
            method.output_type = method.output_type.replace(".v1alpha.", ".v1.")
    descriptor_pool.Default().AddSerializedFile(file.SerializeToString())
