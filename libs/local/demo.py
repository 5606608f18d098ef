"""The demo school: a few lessons' drives, streamed in as a gateway would."""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from driveflow.tracking.v1 import tracking_pb2 as pb
from libs.client import Connection, refusal
from libs.gateway import Fix, Gateway, GatewayStopped, track

CENTRE = (-33.8688, 151.2093)  # Sydney
METERS_PER_DEGREE = 111_195
TRIPS = 3
TRIP_MINUTES = 45
BATCH_POINTS = 300


class DemoRefused(Exception):
    """Tracking refused a part of it; the message says why."""


async def seed(address: str, token: str) -> None:
    """Give the school of `token` three ended trips of today, a point a second."""
    async with Connection(address, token) as connection:
        try:
            for number in range(TRIPS):
                started = datetime.now(UTC) - timedelta(hours=TRIPS - number)
                await _drive(connection, started.replace(microsecond=0), seed=number)
        except grpc.aio.AioRpcError as error:
            raise DemoRefused(str(refusal(error))) from error
        except GatewayStopped as error:
            raise DemoRefused(str(error)) from error


async def _drive(connection: Connection, started: datetime, seed: int) -> None:
    trip = await connection.tracking.StartTrip(
        pb.StartTripRequest(start_time=_timestamp(started), vehicle_id=_vehicle(seed))
    )
    async with Gateway(connection.tracking, gateway=f"demo car {seed + 1}") as gateway:
        fixes = list(_fixes(started, seed))
        for first in range(0, len(fixes), BATCH_POINTS):
            await gateway.send([track(trip.id, fixes[first : first + BATCH_POINTS])])
    ended = started + timedelta(minutes=TRIP_MINUTES)
    await connection.tracking.EndTrip(
        pb.EndTripRequest(trip_id=trip.id, end_time=_timestamp(ended))
    )


def _fixes(started: datetime, seed: int) -> Iterator[Fix]:
    """A drive that winds through the city and stops at every fifth corner."""
    lat, lng = CENTRE
    heading = seed * 2.0
    for second in range(TRIP_MINUTES * 60):
        at_corner = second % 60 < 8
        waits = at_corner and second // 60 % 5 == 0
        speed_mps = 0.0 if waits else 6.0 if at_corner else 13.0 + math.sin(second / 17)
        heading += 0.2 if at_corner and not waits else 0.004 * math.sin(second / 40 + seed)
        lat += speed_mps * math.cos(heading) / METERS_PER_DEGREE
        lng += speed_mps * math.sin(heading) / (METERS_PER_DEGREE * math.cos(math.radians(lat)))
        time_us = int((started + timedelta(seconds=second)).timestamp() * 1_000_000)
        yield Fix(time_us, lat, lng, speed_mps * 3.6)


def _vehicle(seed: int) -> str:
    return str(uuid.UUID(f"0d000000-0000-7000-8000-0000000001{seed:02}"))


def _timestamp(time: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(time)
    return stamp
