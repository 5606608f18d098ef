"""The server itself: when it is healthy, what it takes on, how it stops."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sysconfig
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from grpc import StatusCode
from grpc_health.v1 import health_pb2, health_pb2_grpc

from driveflow.tracking.v1 import tracking_pb2 as pb
from libs import access, server
from libs.access import Verifier
from libs.client import refusal
from libs.server import Server, WrongStart
from tests import walking
from tests.libs.conftest import SERVICE, Serve, bare_settings
from tests.postgres import Database
from tests.serving import SCHOOL, Tracking, serving
from tests.waiting import eventually

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
BIN = Path(sysconfig.get_path("scripts"))
NOTHING = pb.ListTripsRequest()


def health(channel: grpc.aio.Channel) -> Any:
    return health_pb2_grpc.HealthStub(channel)


async def check(channel: grpc.aio.Channel, service: str = "") -> Any:
    request = health_pb2.HealthCheckRequest(service=service)
    return (await health(channel).Check(request, timeout=2)).status


async def until(
    channel: grpc.aio.Channel, status: object, within_s: float, service: str = ""
) -> float:
    """Seconds until health says so."""
    began = time.monotonic()
    await eventually(
        lambda: check(channel, service), lambda seen: seen == status, within_s=within_s
    )
    return time.monotonic() - began


async def nothing(request: Any, context: Any) -> Any:
    """A method of ListTrips that has no trips."""
    return pb.ListTripsResponse()


@asynccontextmanager
async def frozen(database: Database) -> AsyncIterator[None]:
    """Every process of the database's own server stands still."""
    embedded = database.server.embedded
    postmaster = embedded.postmaster() if embedded else None
    assert postmaster is not None
    processes = [postmaster, *postmaster.children(recursive=True)]
    try:
        for process in processes:
            process.send_signal(signal.SIGSTOP)
        yield
    finally:
        for process in processes:
            try:
                process.send_signal(signal.SIGCONT)
            except psutil.NoSuchProcess:
                continue


# --- health ------------------------------------------------------------------------------------


async def test_nothing_is_served_before_the_first_probe_succeeds(serve: Serve) -> None:
    well = asyncio.Event()

    async with (
        serve(nothing, probe=well.wait) as bare,
        walking.channel(bare.address) as channel,
    ):
        for service in ("", SERVICE.full_name):
            assert await check(channel, service) == NOT_SERVING
        well.set()
        for service in ("", SERVICE.full_name):
            await until(channel, SERVING, 3, service)


async def test_a_failing_probe_shows_and_so_does_its_recovery(serve: Serve) -> None:
    ill = False

    async def probe() -> None:
        if ill:
            raise ConnectionError

    async with serve(nothing, probe=probe) as bare, walking.channel(bare.address) as channel:
        await until(channel, SERVING, 3)
        ill = True
        await until(channel, NOT_SERVING, 3)
        ill = False
        await until(channel, SERVING, 3)


async def test_health_of_an_unknown_service_is_not_found(serve: Serve) -> None:
    async with serve(nothing) as bare, walking.channel(bare.address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await check(channel, "driveflow.nothing.v1.NothingService")
    assert caught.value.code() is StatusCode.NOT_FOUND


async def test_a_frozen_database_shows_within_five_seconds_and_its_thaw_within_ten(
    crashable_database: Database, tmp_path: Path
) -> None:
    async with serving(crashable_database, tmp_path) as tracking:
        channel = tracking.connect(None).channel
        stub = tracking.stub()
        async with frozen(crashable_database):
            assert await until(channel, NOT_SERVING, 6) < 5
            began = time.monotonic()
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.ListTrips(NOTHING, timeout=1)
            assert caught.value.code() in (StatusCode.DEADLINE_EXCEEDED, StatusCode.UNAVAILABLE)
            assert time.monotonic() - began < 7.5
        assert await until(channel, SERVING, 12) < 10
        assert not (await stub.ListTrips(NOTHING)).trips


# --- reflection --------------------------------------------------------------------------------


async def listed(*command: str) -> str:
    """What a real tool prints."""
    process = await asyncio.create_subprocess_exec(
        str(BIN / command[0]), *command[1:], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()
    return out.decode()


async def test_grpcurl_lists_and_describes_what_is_served(serve: Serve) -> None:
    if not (BIN / "grpcurl").exists():
        pytest.skip("grpcurl is not installed")
    async with serve(nothing, reflection=True) as bare:
        services = await listed("grpcurl", "-plaintext", bare.address, "list")
        name = SERVICE.full_name
        described = await listed("grpcurl", "-plaintext", bare.address, "describe", name)
    assert {name, "grpc.health.v1.Health"} <= set(services.split())
    assert "StartTripRequest" in described


async def test_buf_lists_the_methods_that_are_served(serve: Serve) -> None:
    async with serve(nothing, reflection=True) as bare:
        plain = ("--protocol", "grpc", "--http2-prior-knowledge")
        url = f"http://{bare.address}"
        methods = await listed("buf", "curl", *plain, "--list-methods", url)
    assert {f"{SERVICE.full_name}/{method.name}" for method in SERVICE.methods} <= set(
        methods.split()
    )


async def test_there_is_no_reflection_unless_it_is_switched_on(serve: Serve) -> None:
    async with serve(nothing) as bare, walking.channel(bare.address) as channel:
        name = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
        kind: Any = channel.stream_stream(name)
        call = kind(iter([b""]))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
    assert caught.value.code() is StatusCode.UNIMPLEMENTED


# --- limits ------------------------------------------------------------------------------------


async def test_a_message_over_a_mebibyte_is_refused(serve: Serve) -> None:
    async with serve(nothing) as bare, bare.connect() as connection:
        large = pb.ListTripsRequest(page_token="x" * server.MESSAGE_BYTES_MAX)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await connection.tracking.ListTrips(large)
        assert caught.value.code() is StatusCode.RESOURCE_EXHAUSTED
        await connection.tracking.ListTrips(NOTHING)


async def test_metadata_over_their_limit_are_refused(serve: Serve) -> None:
    async with serve(nothing) as bare, bare.connect() as connection:
        metadata = (("x-large", "x" * 2 * server.METADATA_BYTES_MAX),)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await connection.tracking.ListTrips(NOTHING, metadata=metadata)
        assert caught.value.code() is StatusCode.RESOURCE_EXHAUSTED
        await connection.tracking.ListTrips(NOTHING)


async def test_bytes_that_are_no_message_are_a_bad_request_of_any_method(serve: Serve) -> None:
    async def read(request: Any, context: Any) -> None:
        await context.read()

    async with serve(read) as bare, walking.channel(bare.address) as channel:
        for method in SERVICE.methods:
            kind: Any = channel.unary_unary(f"/{SERVICE.full_name}/{method.name}")
            token = bare.token(None if access.rule(method).platform else SCHOOL)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await kind(b"\xff" * 50, timeout=5, metadata=walking.bearer(token))
            assert refusal(caught.value).code is StatusCode.INVALID_ARGUMENT, method.name
            assert refusal(caught.value).reason == "INVALID_REQUEST"


async def test_calls_beyond_the_limit_are_refused_at_once_while_health_answers(
    serve: Serve,
) -> None:
    release = asyncio.Event()

    async def slow(request: Any, context: Any) -> Any:
        await release.wait()
        return pb.ListTripsResponse()

    async with (
        serve(slow, calls_max=2) as bare,
        bare.connect() as connection,
        walking.channel(bare.address) as channel,
    ):
        await until(channel, SERVING, 3)
        load = bare.server._chain.load
        taken = [asyncio.ensure_future(ask(connection)) for _ in range(2)]
        await eventually(lambda: load.calls == 2)
        waits = []
        for _ in range(100):
            began = time.monotonic()
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await ask(connection)
            waits.append(time.monotonic() - began)
            answer = refusal(caught.value)
            assert (answer.code, answer.reason) == (StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
            assert answer.retry_after_s == 1
        assert sorted(waits)[98] < 0.25
        assert await check(channel) == SERVING
        release.set()
        await asyncio.gather(*taken)
        await ask(connection)


async def ask(connection: Any) -> Any:
    return await connection.tracking.ListTrips(NOTHING)


async def test_streams_have_a_limit_of_their_own(serve: Serve) -> None:
    async def endless(request: Any, context: Any) -> Any:
        if isinstance(request, pb.ListTripsRequest):
            return pb.ListTripsResponse()
        await context.write(pb.WatchTripResponse())
        return await asyncio.Event().wait()

    request = pb.WatchTripRequest(trip_id="00000000-0000-0000-0000-000000000001")
    async with serve(endless, streams_max=1) as bare, bare.connect() as connection:
        first = connection.tracking.WatchTrip(request)
        await first.read()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await connection.tracking.WatchTrip(request).read()
        assert refusal(caught.value).reason == "OVERLOADED"
        await ask(connection)


async def test_a_second_server_on_the_port_does_not_start(serve: Serve, tmp_path: Path) -> None:
    async with serve(nothing) as bare:
        settings = bare_settings(tmp_path, listen=bare.address)

        async def well() -> None:
            """Never asked."""

        second = Server(settings, Verifier.of(settings), probe=well)
        with pytest.raises(WrongStart, match="another process"):
            await second.start()


# --- drain -------------------------------------------------------------------------------------


async def test_a_call_under_way_finishes_while_the_server_drains(serve: Serve) -> None:
    begun, release = asyncio.Event(), asyncio.Event()

    async def slow(request: Any, context: Any) -> Any:
        begun.set()
        await release.wait()
        return pb.ListTripsResponse(next_page_token="done")

    async with serve(slow) as bare, bare.connect() as connection:
        under_way = asyncio.ensure_future(ask(connection))
        await begun.wait()
        draining = asyncio.ensure_future(bare.server.drain())
        asyncio.get_running_loop().call_later(0.2, release.set)
        assert (await under_way).next_page_token == "done"
        await draining


async def test_streams_are_told_that_the_server_drains_and_their_cleanup_runs(
    serve: Serve,
) -> None:
    cleaned: list[str] = []

    async def endless(request: Any, context: Any) -> Any:
        try:
            await context.write(pb.WatchTripResponse())
            await asyncio.Event().wait()
        finally:
            cleaned.append("cleaned")

    request = pb.WatchTripRequest(trip_id="00000000-0000-0000-0000-000000000001")
    async with serve(endless) as bare, bare.connect() as connection:
        streams = [connection.tracking.WatchTrip(request) for _ in range(20)]
        for stream in streams:
            await stream.read()
        began = time.monotonic()
        await bare.server.drain()
        assert time.monotonic() - began < 3
        for stream in streams:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stream.read()
            answer = refusal(caught.value)
            assert (answer.code, answer.reason) == (StatusCode.UNAVAILABLE, "SERVER_DRAINING")
    assert len(cleaned) == 20


async def test_a_stream_whose_peer_vanished_does_not_hold_up_the_drain(serve: Serve) -> None:
    async def endless(request: Any, context: Any) -> Any:
        await context.write(pb.WatchTripResponse())
        await asyncio.Event().wait()

    request = pb.WatchTripRequest(trip_id="00000000-0000-0000-0000-000000000001")
    async with serve(endless, drain_s=10.0) as bare:
        async with bare.connect() as connection:
            for _ in range(50):
                await connection.tracking.WatchTrip(request).read()
        began = time.monotonic()
        await bare.server.drain()
        assert time.monotonic() - began < 3


async def test_cancelled_streams_leave_nothing_behind(serve: Serve) -> None:
    async def endless(request: Any, context: Any) -> Any:
        await context.write(pb.WatchTripResponse())
        await asyncio.Event().wait()

    request = pb.WatchTripRequest(trip_id="00000000-0000-0000-0000-000000000001")
    async with serve(endless) as bare, bare.connect() as connection:
        for _ in range(300):
            stream = connection.tracking.WatchTrip(request)
            await stream.read()
            stream.cancel()
        chain = bare.server._chain
        await eventually(lambda: (chain.load.streams, len(chain.streams._live)) == (0, 0))


async def test_new_calls_are_turned_away_while_the_service_drains(tracking: Tracking) -> None:
    channel = tracking.connect(None).channel
    assert await check(channel) == SERVING
    watch = health(channel).Watch(health_pb2.HealthCheckRequest())
    assert (await watch.read()).status == SERVING
    await tracking.server.drain()
    assert (await watch.read()).status == NOT_SERVING
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await tracking.stub().ListTrips(NOTHING, timeout=1)
    assert caught.value.code() is StatusCode.UNAVAILABLE
