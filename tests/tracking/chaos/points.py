"""Points as devices make them, good and bad, and as they go over the wire."""

from __future__ import annotations

import itertools
import random
import uuid
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from driveflow.tracking.v1 import tracking_pb2 as pb

NO_SPEED = -1


class Point(NamedTuple):
    """A point in whole numbers, so that it can be compared exactly."""

    trip_id: str
    time_us: int
    lat_e6: int
    lng_e6: int
    speed_ckph: int


class Bad(NamedTuple):
    """A point that must be refused, and why."""

    point: Point
    reason: str


def good(trip_id: str, start_us: int, place: int, rng: random.Random) -> Point:
    """The point number `place` of a trip; no two have the same time."""
    time_us = start_us + place * 1_000_000 + rng.randrange(900_000)
    speed = rng.choice((NO_SPEED, rng.randrange(13_000)))
    lat, lng = 52_000_000 + place * 7, 13_000_000 + rng.randrange(1_000_000)
    return Point(trip_id, time_us, lat, lng, speed)


def bad(like: Point, rng: random.Random) -> Bad:
    """A point like another that can't be stored."""
    match rng.randrange(3):
        case 0:
            return Bad(like._replace(lat_e6=91_000_000), "LAT_OUT_OF_RANGE")
        case 1:
            return Bad(
                like._replace(trip_id=str(uuid.UUID(int=rng.getrandbits(128)))), "TRIP_NOT_FOUND"
            )
        case _:
            return Bad(like._replace(time_us=like.time_us - 10**13), "BEFORE_TRIP")


def poison(like: Point) -> Point:
    """A point that could be stored, but which no living stream sends."""
    return like._replace(time_us=like.time_us // 1_000_000 * 1_000_000 + 950_001)


def batch(sequence: int, points: Sequence[Point], *, dense: bool) -> pb.PointBatch:
    """The message that carries the points in their order."""
    make = _dense if dense else _plain
    by_trip = itertools.groupby(points, key=lambda point: point.trip_id)
    tracks = [make(trip_id, list(its)) for trip_id, its in by_trip]
    return pb.PointBatch(sequence=sequence, tracks=tracks)


def _plain(trip_id: str, points: Iterable[Point]) -> pb.Track:
    track = pb.Track(trip_id=trip_id)
    for point in points:
        added = track.points.add(lat=point.lat_e6 / 1e6, lng=point.lng_e6 / 1e6)
        added.time.FromMicroseconds(point.time_us)
        if point.speed_ckph != NO_SPEED:
            added.speed_kph = point.speed_ckph / 100
    return track


def _dense(trip_id: str, points: Sequence[Point]) -> pb.Track:
    return pb.Track(
        trip_id=trip_id,
        dense=pb.DenseTrack(
            time_us=_differences([point.time_us for point in points]),
            lat_e6=_differences([point.lat_e6 for point in points]),
            lng_e6=_differences([point.lng_e6 for point in points]),
            speed_ckph=[point.speed_ckph for point in points],
        ),
    )


def _differences(values: Sequence[int]) -> list[int]:
    return [value - before for before, value in itertools.pairwise((0, *values))]
