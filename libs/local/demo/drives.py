"""A few drives of the demo school, streamed in as a gateway would."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from driveflow.booking.v1 import booking_pb2
from driveflow.tracking.v1 import tracking_pb2 as pb
from libs.client import Connection
from libs.gateway import Fix, Gateway, track
from libs.local.demo.lessons import stamp
from libs.local.demo.school import School

CENTRE = (-33.8688, 151.2093)  # Sydney
METERS_PER_DEGREE = 111_195
TRIPS = 3
TRIP_MINUTES = 45
LESSON_SECONDS = 100
"""Tracking takes what lies up to two minutes ahead: the lesson's drive may end at once."""
BATCH_POINTS = 300


async def drive(
    connection: Connection, school: School, lesson: booking_pb2.Lesson, now: datetime
) -> None:
    """Three ended trips of today, a point a second, and the first minutes of the lesson."""
    for number in range(TRIPS):
        started = (now - timedelta(hours=TRIPS - number)).replace(microsecond=0)
        await _drive(
            connection,
            number,
            started,
            TRIP_MINUTES * 60,
            instructor_id=school.instructors[number].id,
            vehicle_id=school.vehicles[number % len(school.vehicles)].id,
        )
    begun = lesson.start_time.ToDatetime(UTC)
    whose = {"lesson_id": lesson.id, "instructor_id": lesson.instructor_id}
    await _drive(connection, TRIPS, begun, LESSON_SECONDS, **whose)


async def _drive(
    connection: Connection, seed: int, started: datetime, seconds: int, **whose: str
) -> None:
    trip = await connection.tracking.StartTrip(
        pb.StartTripRequest(start_time=stamp(started), **whose)
    )
    async with Gateway(connection.tracking, gateway=f"demo car {seed + 1}") as gateway:
        fixes = list(_fixes(started, seed, seconds))
        for first in range(0, len(fixes), BATCH_POINTS):
            await gateway.send([track(trip.id, fixes[first : first + BATCH_POINTS])])
    ended = started + timedelta(seconds=seconds)
    await connection.tracking.EndTrip(pb.EndTripRequest(trip_id=trip.id, end_time=stamp(ended)))


def _fixes(started: datetime, seed: int, seconds: int) -> Iterator[Fix]:
    """A drive that winds through the city and stops at every fifth corner."""
    lat, lng = CENTRE
    heading = seed * 2.0
    for second in range(seconds):
        at_corner = second % 60 < 8
        waits = at_corner and second // 60 % 5 == 0
        speed_mps = 0.0 if waits else 6.0 if at_corner else 13.0 + math.sin(second / 17)
        heading += 0.2 if at_corner and not waits else 0.004 * math.sin(second / 40 + seed)
        lat += speed_mps * math.cos(heading) / METERS_PER_DEGREE
        lng += speed_mps * math.sin(heading) / (METERS_PER_DEGREE * math.cos(math.radians(lat)))
        time_us = int((started + timedelta(seconds=second)).timestamp() * 1_000_000)
        yield Fix(time_us, lat, lng, speed_mps * 3.6)
