"""Telemetry: logs, spans and metrics, by the OpenTelemetry SDK with its stable names.

Logs are always on: one JSON object a line, with request id and trace id, without coordinates and
tokens. Spans and metrics cost nothing until `configure` is given an exporter.
"""

from __future__ import annotations

import logging
import random
import sys
import threading
import time
import traceback
from bisect import bisect_left
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import lru_cache, partial
from itertools import accumulate
from typing import Any, Protocol

import grpc
import prometheus_client
import psycopg
from opentelemetry import metrics, propagate, trace
from opentelemetry.context import attach
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import AlwaysOffExemplarFilter, MeterProvider
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricReader,
    MetricsData,
    PeriodicExportingMetricReader,
    ScopeMetrics,
)
from opentelemetry.sdk.metrics.view import ExplicitBucketHistogramAggregation, View
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from prometheus_client import start_http_server
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString
from psycopg import AsyncCursor
from psycopg.rows import TupleRow
from pythonjsonlogger.json import JsonFormatter

from libs import calls
from libs.settings import Settings, SettingsError

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
METRICS_EVERY_MS = 15_000
SLOW_S = 1.0
"""A call that took longer has a line in the log, also when all went well."""
STATEMENTS_MAX = 2_000
_TRACE_KEYS = ("traceparent", "tracestate")
CODE_NAMES = {code.value[0]: code.name for code in grpc.StatusCode}
log = logging.getLogger("driveflow.rpc")


Observe = Callable[[float], None]
Figure = tuple[float, Mapping[str, str]]
"""A value with its attributes."""
Read = Callable[[], Iterable[Figure]]


class _Series:
    """How often which durations were seen; told by the event loop's thread alone."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(SECONDS) + 1)
        self.total = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(SECONDS, seconds)] += 1
        self.total += seconds


class _Durations(Collector):
    """A histogram of seconds, for Prometheus and OTLP: the SDK's takes 10 us a value."""

    def __init__(self, name: str, unit: str, description: str, keys: Sequence[str]) -> None:
        self._name = name
        self._unit = unit
        self._description = description
        self._keys = keys
        self._began = time.time_ns()
        self._series: dict[tuple[str, ...], _Series] = {}

    def series(self, *values: str) -> Observe:
        """What takes the durations of one set of attributes."""
        return self._series.setdefault(values, _Series()).observe

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """As Prometheus reads it."""
        name = f"{self._name.replace('.', '_')}_seconds"
        labels = [key.replace(".", "_") for key in self._keys]
        family = HistogramMetricFamily(name, self._description, labels=labels)
        bounds = (*map(floatToGoString, SECONDS), "+Inf")
        for values, series in [*self._series.items()]:
            buckets = [*zip(bounds, accumulate([*series.counts]), strict=True)]
            family.add_metric(values, buckets, series.total)
        yield family

    def metric(self) -> Metric:
        """As OTLP sends it."""
        now = time.time_ns()
        points = [
            self._point(values, [*series.counts], series.total, now)
            for values, series in [*self._series.items()]
        ]
        data = Histogram(points, AggregationTemporality.CUMULATIVE)
        return Metric(self._name, self._description, self._unit, data)

    def _point(
        self, values: tuple[str, ...], counts: list[int], total: float, now: int
    ) -> HistogramDataPoint:
        return HistogramDataPoint(
            attributes=dict(zip(self._keys, values, strict=True)),
            start_time_unix_nano=self._began,
            time_unix_nano=now,
            count=sum(counts),
            sum=total,
            bucket_counts=counts,
            explicit_bounds=SECONDS,
            # Of all time, so they would say little; the protocol lets them be left out.
            min=None,  # type: ignore[arg-type]
            max=None,  # type: ignore[arg-type]
        )


class _Watched(Protocol):
    """A pool of connections, psycopg's or another that counts alike."""

    name: str

    def get_stats(self) -> dict[str, int]:
        """Its figures, by psycopg_pool's names."""


@dataclass
class _State:
    """What `configure` switched on; one per process."""

    tracer: trace.Tracer | None = None
    trace_ratio: float = 1.0
    """Of calls that come without a decision of their caller's."""
    meter: metrics.Meter | None = None
    rpc_duration: _Durations | None = None
    query_duration: _Durations | None = None
    pools: list[_Watched] = field(default_factory=list)
    shutdowns: list[Any] = field(default_factory=list)


_state = _State()


def configure(service: str, settings: Settings) -> None:
    """Set up logs, and the exporters that the settings name. Once, before pools and servers."""
    _configure_logs(service, settings.log_level)
    if settings.otlp_endpoint is None and settings.metrics_listen is None:
        return

    resource = Resource.create({"service.name": service, "service.namespace": "driveflow"})
    readers: list[MetricReader] = []
    durations = _make_durations()
    if settings.otlp_endpoint is not None:
        endpoint = str(settings.otlp_endpoint).rstrip("/")
        readers.append(_otlp_metrics(endpoint, durations))
        _configure_traces(resource, endpoint)
        _state.trace_ratio = settings.trace_ratio
    if settings.metrics_listen is not None:
        readers.append(_prometheus(settings.metrics_listen, durations))
    provider = MeterProvider(
        readers,
        resource,
        exemplar_filter=AlwaysOffExemplarFilter(),
        views=[
            View(
                instrument_name="*.duration",
                aggregation=ExplicitBucketHistogramAggregation(SECONDS),
            )
        ],
    )
    _state.meter = provider.get_meter("driveflow")
    _state.shutdowns.append(provider.shutdown)
    _watch_pools(_state.meter)


def shutdown() -> None:
    """Send what has not been sent yet."""
    while _state.shutdowns:
        _state.shutdowns.pop()()


def counter(name: str, unit: str, description: str) -> Any:
    """A counter with `.add(amount, attributes)`; does nothing while metrics are off."""
    meter = _state.meter or metrics.NoOpMeter("off")
    return meter.create_counter(name, unit, description)


def histogram(name: str, unit: str, description: str) -> Any:
    """A histogram with `.record(value, attributes)`; does nothing while metrics are off."""
    meter = _state.meter or metrics.NoOpMeter("off")
    return meter.create_histogram(name, unit, description)


def gauge(name: str, unit: str, description: str) -> Any:
    """A gauge with `.set(value, attributes)`; does nothing while metrics are off."""
    meter = _state.meter or metrics.NoOpMeter("off")
    return meter.create_gauge(name, unit, description)


def observed_gauge(name: str, unit: str, description: str, read: Read) -> None:
    """A gauge that is read when it is exported, in the exporter's thread."""
    if _state.meter is not None:
        _state.meter.create_observable_gauge(name, [_observations(read)], unit, description)


def observed_counter(name: str, unit: str, description: str, read: Read) -> None:
    """A counter that counts elsewhere: `read` gives how far it has come, as observed_gauge's."""
    if _state.meter is not None:
        _state.meter.create_observable_counter(name, [_observations(read)], unit, description)


def _observations(read: Read) -> Callable[[CallbackOptions], Iterator[Observation]]:
    return lambda _: (Observation(value, attributes) for value, attributes in read())


def span(name: str, **attributes: str | int) -> AbstractContextManager[Any]:
    """A span of work that is neither an RPC nor a query; below the span that is under way.

    In background work without one it begins a trace of its own, if it is sampled.
    """
    if _state.tracer is None:
        return _NO_SPAN
    call, above = calls.current(), None
    if call is not None and call.span is None:
        return _NO_SPAN
    if not trace.get_current_span().is_recording():
        if call is not None and call.span is not None:
            # Work for several calls, in a task that is none's.
            above = trace.set_span_in_context(call.span)
        elif not _sampled():
            return _NO_SPAN
    return _state.tracer.start_as_current_span(name, above, attributes=attributes)


_NO_SPAN: AbstractContextManager[Any] = nullcontext()


def _sampled() -> bool:
    return random.random() < _state.trace_ratio  # noqa: S311 (nothing depends on it)


class rpc:  # noqa: N801 (reads as a function where it is used)
    """Observes the calls of one method."""

    def __init__(self, method: str) -> None:
        self._method = method
        self._attributes = {"rpc.system.name": "grpc", "rpc.method": method}
        self._durations: _Durations | None = None
        self._by_status: dict[str, Observe] = {}
        self._quiet = method.startswith("grpc.")
        self._all = log.isEnabledFor(logging.DEBUG)
        """Whether every call has a line in the log."""

    def begin(self, call: calls.Call, headers: Mapping[str, str | bytes]) -> None:
        """Begin the call's span, child of the caller's `traceparent`, if it is traced.

        It is the current one until the task of the call ends, and is ended by `finished`.
        """
        if _state.tracer is None or self._quiet:
            return
        caller, wanted = None, None
        if "traceparent" in headers:
            caller = propagate.extract({key: headers[key] for key in _TRACE_KEYS if key in headers})
            parent = trace.get_current_span(caller).get_span_context()
            wanted = parent.trace_flags.sampled if parent.is_valid else None
        if not (_sampled() if wanted is None else wanted):
            return
        call.span = _state.tracer.start_span(
            self._method, caller, trace.SpanKind.SERVER, self._attributes
        )
        attach(trace.set_span_in_context(call.span))

    def finished(self, code: Any, call: calls.Call) -> None:
        """Record how a call ended."""
        seconds = time.monotonic() - call.began
        well = not code and call.error_reason is None and sys.exc_info()[1] is None
        status = "OK" if well else _status(code, call)
        durations = _state.rpc_duration
        if durations is not None:
            observe = self._by_status.get(status) if durations is self._durations else None
            (observe or self._observe(status, durations))(seconds)
        if self._quiet:
            return
        if call.span is not None or status != "OK" or seconds > SLOW_S or call.stream or self._all:
            _log_call(self._method, status, seconds, call)
        if call.span is not None:
            _end(call.span, status)

    def _observe(self, status: str, durations: _Durations) -> Observe:
        """What takes the durations of calls that end so; remembered while metrics are the same."""
        if durations is not self._durations:
            self._durations, self._by_status = durations, {}
        found = self._by_status[status] = durations.series(*self._attributes.values(), status)
        return found


def _end(span: trace.Span, status: str) -> None:
    span.set_attribute("rpc.response.status_code", status)
    if status in ("INTERNAL", "UNKNOWN", "UNAVAILABLE", "DEADLINE_EXCEEDED"):
        span.set_status(trace.StatusCode.ERROR)
    span.end()


def _status(code: Any, call: calls.Call) -> str:
    name = getattr(code, "name", None)
    if name is None:
        name = CODE_NAMES.get(code or 0, "OK")
    if name == "OK" and call.error_reason is None and sys.exc_info()[1] is not None:
        return "CANCELLED"
    return str(name)


def _log_call(method: str, status: str, seconds: float, call: calls.Call) -> None:
    level = logging.WARNING if status in ("INTERNAL", "UNKNOWN") else logging.INFO
    if not log.isEnabledFor(level):
        return
    extra: dict[str, Any] = {
        "rpc.method": method,
        "rpc.response.status_code": status,
        "duration_ms": round(seconds * 1000, 1),
    }
    if call.error_reason is not None:
        extra["reason"] = call.error_reason
    if call.caller is not None:
        extra["subject"] = call.caller.subject
        if call.caller.org_id is not None:
            extra["org_id"] = str(call.caller.org_id)
    log.log(level, "rpc", extra=extra)


# --- queries -----------------------------------------------------------------------------------


class ObservedCursor(AsyncCursor[TupleRow]):
    """A cursor with a span and a duration per statement, named as in queries.sql."""

    async def execute(self, query: Any, *args: Any, **kwargs: Any) -> Any:
        with _observed(query):
            return await super().execute(query, *args, **kwargs)

    @asynccontextmanager
    async def copy(self, statement: Any, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        with _observed(statement):
            async with super().copy(statement, *args, **kwargs) as copy:
                yield copy


@contextmanager
def _observed(query: Any) -> Iterator[None]:
    observe = _named(query_name(query))
    started = time.perf_counter()
    with observe.span():
        try:
            yield
        finally:
            observe.finished(time.perf_counter() - started)


@lru_cache(STATEMENTS_MAX)
def _named(name: str) -> statement:
    return statement(name)


def _unobserved(_: float) -> None:
    """Metrics are off."""


class statement:  # noqa: N801 (reads as a function where it is used)
    """Observes the executions of one statement, as ObservedCursor does."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._attributes = {"db.system.name": "postgresql", "db.query.summary": name}
        self._durations: _Durations | None = None
        self._observe: Observe = _unobserved

    def span(self) -> AbstractContextManager[Any]:
        """A span, if the call under way has one."""
        return span(self.name, **self._attributes)

    def finished(self, seconds: float) -> None:
        """Record how long it took."""
        durations = _state.query_duration
        if durations is not self._durations:
            self._durations = durations
            self._observe = (
                _unobserved if durations is None else durations.series(*self._attributes.values())
            )
        self._observe(seconds)


def cursor_factory() -> type[AsyncCursor[TupleRow]] | None:
    """The observing cursor, or None while telemetry is off."""
    return None if _state.tracer is None and _state.meter is None else ObservedCursor


def query_name(query: Any) -> str:
    """The name behind a statement's first keyword: `tracking.get_trip`; its keyword without one."""
    text = query[:120].decode(errors="replace") if isinstance(query, bytes) else str(query)[:120]
    _, marker, rest = text.partition("/* ")
    return rest.partition(" */")[0] if marker else text.split(None, 1)[0].upper() if text else ""


def watch_pool(pool: _Watched) -> None:
    """Export a pool's figures."""
    _state.pools.append(pool)


# --- set-up ------------------------------------------------------------------------------------


def _make_durations() -> list[_Durations]:
    _state.rpc_duration = rpc = _Durations(
        "rpc.server.call.duration", "s", "Duration of RPCs by method and status", _RPC
    )
    _state.query_duration = query = _Durations(
        "db.client.operation.duration", "s", "Duration of statements by their name", _QUERY
    )
    return [rpc, query]


def _watch_pools(meter: metrics.Meter) -> None:
    for name, unit, description, key in _POOL_FIGURES:
        meter.create_observable_gauge(name, [_pool_reader(key)], unit, description)


_RPC = ("rpc.system.name", "rpc.method", "rpc.response.status_code")
_QUERY = ("db.system.name", "db.query.summary")
_POOL_FIGURES = (
    ("db.client.connection.count", "{connection}", "Connections of the pool", "pool_size"),
    ("db.client.connection.max", "{connection}", "Most connections of the pool", "pool_max"),
    ("db.client.connection.idle", "{connection}", "Connections not in use", "pool_available"),
    (
        "db.client.connection.pending_requests",
        "{request}",
        "Calls that wait for a connection",
        "requests_waiting",
    ),
    (
        "db.client.connection.errors",
        "{request}",
        "Calls that got no connection since the start",
        "requests_errors",
    ),
)


def _pool_reader(key: str) -> Any:
    def read(_: CallbackOptions) -> Iterator[Observation]:
        for pool in _state.pools:
            stats: Mapping[str, int] = pool.get_stats()
            yield Observation(stats.get(key, 0), {"db.client.connection.pool.name": pool.name})

    return read


# Exporters are imported by those who use them: they take a tenth of a service's start.


def _otlp_metrics(endpoint: str, durations: Sequence[_Durations]) -> MetricReader:
    from opentelemetry.exporter.otlp.proto.http import metric_exporter  # noqa: PLC0415

    class Exporter(metric_exporter.OTLPMetricExporter):
        """Sends durations beside what the SDK has counted."""

        def export(self, metrics_data: MetricsData, *args: Any, **options: Any) -> Any:
            own = [each.metric() for each in durations]
            # The exporter wants each resource once, and each scope of it.
            scope = ScopeMetrics(InstrumentationScope("driveflow.durations"), own, "")
            (sdk,) = metrics_data.resource_metrics
            sent = replace(sdk, scope_metrics=[*sdk.scope_metrics, scope])
            return super().export(MetricsData([sent]), *args, **options)

    return PeriodicExportingMetricReader(Exporter(f"{endpoint}/v1/metrics"), METRICS_EVERY_MS)


def _configure_traces(resource: Any, endpoint: str) -> None:
    from opentelemetry.exporter.otlp.proto.http import trace_exporter  # noqa: PLC0415

    # What is sampled is decided where a trace begins here, before any span is made.
    provider = TracerProvider(sampler=ALWAYS_ON, resource=resource)
    exporter = trace_exporter.OTLPSpanExporter(f"{endpoint}/v1/traces")
    provider.add_span_processor(BatchSpanProcessor(exporter))
    _state.tracer = provider.get_tracer("driveflow")
    _state.shutdowns.append(provider.shutdown)


def _prometheus(listen: str, durations: Sequence[_Durations]) -> MetricReader:
    host, _, port = listen.rpartition(":")
    try:
        server, thread = start_http_server(int(port), host.strip("[]"))
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"DRIVEFLOW_METRICS_LISTEN: can't listen on {listen}: a free host:port is wanted"
        ) from error

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join(timeout=5)

    _state.shutdowns.insert(0, stop)
    for each in durations:
        prometheus_client.REGISTRY.register(each)
        _state.shutdowns.append(partial(prometheus_client.REGISTRY.unregister, each))
    return PrometheusMetricReader()


# --- logs --------------------------------------------------------------------------------------


class _JsonLines(JsonFormatter):
    """One JSON object a line, with what is known of the call under way."""

    def __init__(self, service: str) -> None:
        super().__init__(
            "{message}{levelname}{name}",
            style="{",
            static_fields={"service": service},
            rename_fields={"levelname": "level", "name": "logger", "exc_info": "exception"},
        )

    def add_fields(
        self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]
    ) -> None:
        log_data["time"] = datetime.fromtimestamp(record.created, UTC).isoformat(
            "T", "milliseconds"
        )
        super().add_fields(log_data, record, message_dict)
        call = calls.current()
        if call is not None:
            log_data["request_id"] = call.request_id
        trace_id = trace.get_current_span().get_span_context().trace_id
        if trace_id:
            log_data["trace_id"] = f"{trace_id:032x}"

    def formatException(self, ei: Any) -> Any:  # noqa: N802 (the base class names it)
        return describe(ei[1])


def _configure_logs(service: str, level: str) -> None:
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(_JsonLines(service))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # The pool's own warnings repeat the driver's words, which may hold values.
    logging.getLogger("psycopg").setLevel(logging.ERROR)
    sys.excepthook = _log_uncaught
    threading.excepthook = lambda args: _log_uncaught(args.exc_type, args.exc_value, None)


def _log_uncaught(_: Any, error: BaseException | None, __: Any) -> None:
    if isinstance(error, KeyboardInterrupt) or error is None:
        return
    log_fault(logging.getLogger("driveflow"), "uncaught", error)


def log_fault(logger: logging.Logger, message: str, error: BaseException, **extra: Any) -> None:
    """Log a fault of ours: where it happened, without a driver's words, which hold values."""
    logger.error(message, extra={**extra, "exception": describe(error)})


def describe(error: BaseException) -> dict[str, Any]:
    """What may be logged of an exception."""
    described: dict[str, Any] = {
        "type": type(error).__qualname__,
        "at": [
            f"{frame.filename}:{frame.lineno} {frame.name}"
            for frame in traceback.extract_tb(error.__traceback__)[-12:]
        ],
    }
    if isinstance(error, psycopg.Error):
        described["sqlstate"] = error.sqlstate
        described["constraint"] = error.diag.constraint_name
    else:
        described["message"] = str(error)
    return described
