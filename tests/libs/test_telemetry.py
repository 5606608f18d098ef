"""Spans, metrics and logs of a real service."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from psycopg import AsyncCursor

from driveflow.tracking.v1 import tracking_pb2 as pb
from libs import pooling, telemetry
from libs.queries import Queries
from tests.collector import collecting
from tests.libs.conftest import bare_settings
from tests.postgres import Database, free_port
from tests.serving import Tracking, points, serving, settings
from tests.waiting import eventually

SERVICE = "driveflow.tracking.v1.TrackingService"
TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """The log as a service writes it."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(telemetry._JsonLines("tracking"))
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    yield stream
    root.removeHandler(handler)
    root.setLevel(level)


async def upload(tracking: Tracking) -> pb.Trip:
    """A trip with three points, one of which can't be stored."""
    trip = await tracking.start_trip()
    sent = points(trip.start_time.ToDatetime(), 3)
    sent[0].lat = 91.123456
    tracks = [pb.Track(trip_id=trip.id, points=sent)]
    request = pb.UploadTripPointsRequest(upload_id=str(uuid4()), batches=[])
    request.batches.add(sequence=1, tracks=tracks)
    await tracking.stub().UploadTripPoints(request)
    return trip


# --- spans -------------------------------------------------------------------------------------


async def test_a_call_is_a_span_and_each_of_its_statements_a_span_below(
    spans: InMemorySpanExporter, tracking: Tracking
) -> None:
    trip = await tracking.start_trip()
    spans.clear()
    parent = (("traceparent", f"00-{TRACE}-b7ad6b7169203331-01"),)
    await tracking.stub().GetTrip(pb.GetTripRequest(trip_id=trip.id), metadata=parent)
    finished = {span.name: span for span in spans.get_finished_spans()}
    call = finished[f"{SERVICE}/GetTrip"]
    assert call.kind is SpanKind.SERVER
    assert call.context is not None
    assert f"{call.context.trace_id:032x}" == TRACE
    assert dict(call.attributes or {}) == {
        "rpc.system.name": "grpc",
        "rpc.method": f"{SERVICE}/GetTrip",
        "rpc.response.status_code": "OK",
    }
    statement = finished["tracking.get_trip"]
    assert statement.parent is not None
    assert statement.parent.span_id == call.context.span_id
    assert dict(statement.attributes or {}) == {
        "db.system.name": "postgresql",
        "db.query.summary": "tracking.get_trip",
    }


async def test_a_refused_call_has_its_status_and_only_our_faults_are_errors(
    spans: InMemorySpanExporter, tracking: Tracking
) -> None:
    spans.clear()
    with pytest.raises(grpc.aio.AioRpcError):
        await tracking.stub().GetTrip(pb.GetTripRequest(trip_id=str(uuid4())))
    (call,) = await eventually(lambda: named(spans, "GetTrip"))
    assert (call.attributes or {})["rpc.response.status_code"] == "NOT_FOUND"
    assert call.status.status_code is not StatusCode.ERROR
    assert call.events == ()


def named(spans: InMemorySpanExporter, method: str) -> list[ReadableSpan]:
    """The spans of a method's calls; a refused call's ends after its caller has the status."""
    return [span for span in spans.get_finished_spans() if span.name == f"{SERVICE}/{method}"]


async def test_a_call_is_traced_as_its_caller_decided_and_else_by_the_ratio(
    spans: InMemorySpanExporter, tracking: Tracking
) -> None:
    trip = await tracking.start_trip()
    telemetry._state.trace_ratio = 0.0
    spans.clear()
    seen = []
    for parent in ((), (("traceparent", f"00-{TRACE}-b7ad6b7169203331-00"),)):
        await tracking.stub().GetTrip(pb.GetTripRequest(trip_id=trip.id), metadata=parent)
        seen.append([span.name for span in spans.get_finished_spans()])
    assert seen == [[], []]
    parent = (("traceparent", f"00-{TRACE}-b7ad6b7169203331-01"),)
    await tracking.stub().GetTrip(pb.GetTripRequest(trip_id=trip.id), metadata=parent)
    names = {span.name for span in spans.get_finished_spans()}
    assert {f"{SERVICE}/GetTrip", "tracking.get_trip"} <= names


async def test_the_copy_of_points_is_a_span(
    spans: InMemorySpanExporter, tracking: Tracking
) -> None:
    await upload(tracking)
    names = {span.name for span in spans.get_finished_spans()}
    assert {"tracking.copy_points", "tracking.lock_uploads", "tracking.move_marks"} <= names


async def test_spans_hold_no_values_of_the_request(
    spans: InMemorySpanExporter, tracking: Tracking
) -> None:
    trip = await upload(tracking)
    told = " ".join(span.to_json() for span in spans.get_finished_spans())
    assert "91.123456" not in told
    assert trip.id not in told


# --- metrics -----------------------------------------------------------------------------------


async def test_prometheus_reads_calls_statements_and_pools(
    monkeypatch: pytest.MonkeyPatch, database: Database, tmp_path: Path
) -> None:
    monkeypatch.setattr(telemetry, "_state", telemetry._State())
    monkeypatch.setattr(telemetry, "_configure_logs", lambda *_: None)
    listen = f"127.0.0.1:{free_port()}"
    telemetry.configure("tracking", settings(database, tmp_path, metrics_listen=listen))
    try:
        async with serving(database, tmp_path) as tracking:
            await upload(tracking)
            text = await asyncio.to_thread(scrape, listen)
    finally:
        telemetry.shutdown()
    for name in (
        "rpc_server_call_duration_seconds_bucket",
        "db_client_operation_duration_seconds_bucket",
        "db_client_connection_count",
        "db_client_connection_max",
        "db_client_connection_idle",
        "db_client_connection_pending_requests",
        "db_client_connection_errors",
        "driveflow_ingest_points",
    ):
        assert f"\n{name}" in text, name
    assert f'rpc_method="{SERVICE}/StartTrip"' in text
    assert 'db_query_summary="tracking.start_trip"' in text
    assert 'db_query_summary="COMMIT"' in text
    assert 'db_client_connection_pool_name="tracking_ingest"' in text


def scrape(listen: str) -> str:
    with urllib.request.urlopen(f"http://{listen}/metrics", timeout=5) as answer:
        text: str = answer.read().decode()
        return text


async def test_a_collector_is_sent_spans_and_metrics(
    monkeypatch: pytest.MonkeyPatch, database: Database, tmp_path: Path
) -> None:
    monkeypatch.setattr(telemetry, "_state", telemetry._State())
    monkeypatch.setattr(telemetry, "_configure_logs", lambda *_: None)
    with collecting() as collector:
        told = {"otlp_endpoint": collector.endpoint, "trace_ratio": 1.0}
        telemetry.configure("tracking", settings(database, tmp_path, **told))
        async with serving(database, tmp_path) as tracking:
            await upload(tracking)
        await asyncio.to_thread(telemetry.shutdown)
    spans = {span.name: span for span in collector.spans}
    call, statement = spans[f"{SERVICE}/StartTrip"], spans["tracking.start_trip"]
    assert statement.parent_span_id == call.span_id
    durations = collector.metrics["rpc.server.call.duration"].histogram.data_points
    started = [point for point in durations if f"{SERVICE}/StartTrip" in str(point.attributes)]
    assert [(point.count, sum(point.bucket_counts)) for point in started] == [(1, 1)]
    assert {"db.client.operation.duration", "driveflow.ingest.points"} <= {*collector.metrics}


# --- off ---------------------------------------------------------------------------------------


async def test_off_there_is_no_tracer_and_no_cursor_of_ours(
    database: Database, tmp_path: Path
) -> None:
    assert telemetry._state.tracer is None
    pool = pooling.create("test", database.dsn("tracking"), bare_settings(tmp_path), min_size=1)
    async with pool, pooling.connection(pool) as conn:
        assert conn.cursor_factory is AsyncCursor
    telemetry.counter("test", "1", "Does nothing.").add(1)
    with telemetry.span("test"):
        pass


# --- logs --------------------------------------------------------------------------------------


async def test_the_log_is_json_with_the_request_and_the_trace(
    lines: io.StringIO, spans: InMemorySpanExporter, tracking: Tracking
) -> None:
    parent = (("traceparent", f"00-{TRACE}-b7ad6b7169203331-01"),)
    call = tracking.stub().StartTrip(pb.StartTripRequest(), metadata=parent)
    await call
    request_id = dict(await call.trailing_metadata())["driveflow-request-id"]
    (line,) = (each for each in parsed(lines) if each.get("request_id") == request_id)
    assert line["rpc.method"] == f"{SERVICE}/StartTrip"
    assert line["rpc.response.status_code"] == "OK"
    assert (line["service"], line["level"], line["subject"]) == ("tracking", "INFO", "gateway-1")
    assert line["trace_id"] == TRACE
    assert line["time"].endswith("+00:00")


def parsed(lines: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines.getvalue().splitlines()]


def of_calls(lines: io.StringIO) -> list[dict[str, Any]]:
    """The lines of calls; a refused call's is written after its caller has the status."""
    return [line for line in parsed(lines) if line["message"] == "rpc"]


async def test_a_call_that_went_well_has_a_line_only_when_it_is_traced_or_slow(
    lines: io.StringIO, tracking: Tracking, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = pb.GetTripRequest(trip_id=(await tracking.start_trip()).id)
    await tracking.stub().GetTrip(request)
    assert of_calls(lines) == []
    with pytest.raises(grpc.aio.AioRpcError):
        await tracking.stub().GetTrip(pb.GetTripRequest(trip_id=str(uuid4())))
    await eventually(lambda: of_calls(lines))
    monkeypatch.setattr(telemetry, "SLOW_S", 0.0)
    await tracking.stub().GetTrip(request)
    assert [line["rpc.response.status_code"] for line in of_calls(lines)] == ["NOT_FOUND", "OK"]


async def test_the_log_has_no_tokens_and_no_coordinates(
    lines: io.StringIO, tracking: Tracking, monkeypatch: pytest.MonkeyPatch
) -> None:
    await upload(tracking)
    broken = Queries("tracking", {"get_trip": "SELECT {columns}, 'secret'::int FROM \"Trip\""})
    from services.tracking import store  # noqa: PLC0415

    monkeypatch.setattr(store.SQL, "select", broken.select)
    with pytest.raises(grpc.aio.AioRpcError):
        await tracking.stub().GetTrip(pb.GetTripRequest(trip_id=str(uuid4())))
    await eventually(lambda: of_calls(lines))
    text = lines.getvalue()
    for secret in ("91.123", "52.5", "13.4", "eyJ", "Bearer", tracking.key[40:60], "secret"):
        assert secret not in text, secret


def test_of_a_drivers_error_only_its_kind_is_told() -> None:
    from psycopg import errors as pg  # noqa: PLC0415

    told = telemetry.describe(pg.UniqueViolation("Key (phone)=(0412) already exists"))
    assert told["sqlstate"] == "23505"
    assert "0412" not in str(told)


@pytest.mark.parametrize(
    ("query", "name"),
    [
        (b"SELECT /* tracking.get_trip */ 1", "tracking.get_trip"),
        ("BEGIN", "BEGIN"),
        (b"", ""),
        (b"\xff\xfe", "��"),
    ],
)
def test_a_statement_is_known_by_its_name(query: Any, name: str) -> None:
    assert telemetry.query_name(query) == name
