"""Calls end on time, whether their deadline was near when they began or far."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import grpc
import pytest

from driveflow.tracking.v1 import tracking_pb2 as pb
from libs import interceptors
from tests.libs.conftest import Serve

LATE_MAX_S = 0.6
"""How late an end may be where many tests share the machine."""


async def forever(_: Any, __: Any) -> Any:
    await asyncio.Event().wait()


@pytest.mark.parametrize("limit_s", [0.2, 0.7, 1.2])
async def test_a_call_ends_on_time(serve: Serve, limit_s: float) -> None:
    assert interceptors.NEAR_S > interceptors.LOOK_EVERY_S
    async with serve(forever, call_timeout_s=limit_s) as bare, bare.connect() as connection:
        started = time.monotonic()
        calls = [connection.tracking.GetTrip(trip_request()) for _ in range(5)]
        assert await asyncio.gather(*map(code, calls)) == [grpc.StatusCode.DEADLINE_EXCEEDED] * 5
        assert limit_s <= time.monotonic() - started < limit_s + LATE_MAX_S


async def test_a_call_that_ends_before_leaves_nothing_to_look_at(serve: Serve) -> None:
    async def well(_: Any, __: Any) -> Any:
        await asyncio.sleep(0)
        return pb.Trip()

    async with serve(well) as bare, bare.connect() as connection:
        calls = [connection.tracking.GetTrip(trip_request()) for _ in range(50)]
        assert await asyncio.gather(*calls) == [pb.Trip()] * 50
        deadlines = bare.server._chain.deadlines
        assert deadlines._far == set()


def trip_request() -> pb.GetTripRequest:
    return pb.GetTripRequest(trip_id="0a000000-0000-7000-8000-000000000001")


async def code(call: Any) -> grpc.StatusCode:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    found: grpc.StatusCode = caught.value.code()
    return found
