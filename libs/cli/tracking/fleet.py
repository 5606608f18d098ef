"""A fleet's fixes as columns, and playing them to the service as a gateway would."""

from __future__ import annotations

import asyncio
import csv
import gzip
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from driveflow.tracking.v1 import tracking_pb2 as pb
from libs.cli import session
from libs.cli.tracking.trips import Trips
from libs.client import Connection
from libs.gateway import Gateway, dense_track

Ints: TypeAlias = np.ndarray[Any, np.dtype[np.int64]]
Floats: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]

COLUMNS = ("vehicle_id", "time", "lon", "lat", "speed_kmh")
VEHICLES = uuid.UUID("b6f6f3a8-50a5-5c51-8f0e-6a5a2f9b8d11")
TICK_S = 0.5  # a live gateway sends what it heard in this time as one batch
BATCH_POINTS = 1_000


class FleetRefused(session.CommandFailed):
    """The file is no fleet recording; the message says where and why."""


@dataclass(frozen=True, slots=True)
class Fleet:
    """Fixes of many vehicles in the order of their times."""

    names: tuple[str, ...]
    vehicle: Ints
    """Index into `names`."""
    time_us: Ints
    lat: Floats
    lng: Floats
    speed_kph: Floats
    """NaN where there is none."""

    def __len__(self) -> int:
        return len(self.time_us)

    def shifted(self, by_us: int) -> Fleet:
        """The same drives at another time."""
        return Fleet(
            self.names, self.vehicle, self.time_us + by_us, self.lat, self.lng, self.speed_kph
        )

    def of_first(self, vehicles: int) -> Fleet:
        """Only the vehicles that are heard first."""
        rows = self.vehicle < vehicles
        return Fleet(
            self.names[:vehicles],
            self.vehicle[rows],
            self.time_us[rows],
            self.lat[rows],
            self.lng[rows],
            self.speed_kph[rows],
        )

    def duration_us(self) -> int:
        """From the first fix to the last."""
        return int(self.time_us[-1] - self.time_us[0])

    def tracks(self, first: int, last: int, trip_ids: dict[int, str]) -> Iterator[pb.Track]:
        """The fixes from `first` up to `last`, a track for each vehicle."""
        rows = np.arange(first, last)
        for vehicle in np.unique(self.vehicle[first:last]).tolist():
            of = rows[self.vehicle[first:last] == vehicle]
            yield dense_track(
                trip_ids[vehicle], self.time_us[of], self.lat[of], self.lng[of], self.speed_kph[of]
            )


def read_fleet(path: Path) -> Fleet:
    """Read columns vehicle_id,time,lon,lat,speed_kmh, gzipped or not; raises FleetRefused."""
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as file:
            return _columns(path, csv.DictReader(file))
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise FleetRefused(f"{path}: it can't be read: {error}") from error


def _columns(path: Path, rows: csv.DictReader[str]) -> Fleet:
    missing = set(COLUMNS) - set(rows.fieldnames or ())
    if missing:
        raise FleetRefused(f"{path}: it lacks the columns {', '.join(sorted(missing))}")
    names: dict[str, int] = {}
    values: list[tuple[int, int, float, float, float]] = []
    for row in rows:
        try:
            vehicle = names.setdefault(row["vehicle_id"], len(names))
            values.append((vehicle, *_fix(row)))
        except (ValueError, TypeError) as error:
            raise FleetRefused(f"{path}, line {rows.line_num}: {error}") from error
    if not values:
        raise FleetRefused(f"{path}: there are no fixes in it")
    return fleet(tuple(names), *map(np.array, zip(*values, strict=True)))


def _fix(row: dict[str, str]) -> tuple[int, float, float, float]:
    time_us = np.datetime64(row["time"].removesuffix("Z"), "us").astype(np.int64)
    speed_kph = float(row["speed_kmh"]) if row["speed_kmh"] else float("nan")
    return int(time_us), float(row["lat"]), float(row["lon"]), speed_kph


def fleet(
    names: tuple[str, ...], vehicle: Ints, time_us: Ints, lat: Floats, lng: Floats, speed: Floats
) -> Fleet:
    """Put the fixes into the order of their times."""
    order = np.argsort(time_us, kind="stable")
    return Fleet(names, vehicle[order], time_us[order], lat[order], lng[order], speed[order])


def live_shift_us(fleet: Fleet, speed: float, now_us: int) -> int:
    """By how much to shift the fixes so that none is ahead of the clock when it is sent.

    At speed 1 the first is now; faster, the last is when it is played; 0 is without any waiting,
    and the last is now.
    """
    duration_us = fleet.duration_us()
    played_us = min(duration_us, int(duration_us / speed)) if speed else 0
    return now_us + played_us - int(fleet.time_us[-1])


class Playback:
    """Plays a fleet into one stream: starts each vehicle's trip with its first fix and ends it
    with its last."""

    def __init__(self, fleet: Fleet, connection: Connection, trips: Trips) -> None:
        self.fleet = fleet
        self.trips: dict[int, pb.Trip] = {}
        """By vehicle: as it was started, and once it has ended with its summary."""
        self.sent = 0
        self._last = {int(v): row for row, v in enumerate(fleet.vehicle.tolist())}
        self._trips = trips
        self.gateway = Gateway(connection.tracking, gateway="replay")

    def under_way(self) -> int:
        """How many vehicles are driving."""
        return sum(trip.status == pb.TRIP_STATUS_OPEN for trip in self.trips.values())

    async def play(self, speed: float) -> None:
        """Send everything, `speed` times as fast as it was driven; 0 = without any waiting."""
        start_s = time.monotonic()
        try:
            async with self.gateway:
                while self.sent < len(self.fleet):
                    due = self._due(speed, time.monotonic() - start_s)
                    if due == self.sent:
                        await asyncio.sleep(TICK_S)
                    else:
                        await self._send(min(due, self.sent + self._batch_points()))
        except asyncio.CancelledError:
            await self._end(list(self.trips))
            raise

    def _due(self, speed: float, elapsed_s: float) -> int:
        """Up to which row the fixes have been driven by now."""
        if not speed:
            return len(self.fleet)
        played_us = int(self.fleet.time_us[0]) + int(elapsed_s * speed * 1_000_000)
        return int(np.searchsorted(self.fleet.time_us, played_us, side="right"))

    def _batch_points(self) -> int:
        return min(self.gateway.batch_points, BATCH_POINTS)

    async def _send(self, until: int) -> None:
        rows = range(self.sent, until)
        for row in rows:
            await self._start(row)
        trip_ids = {vehicle: trip.id for vehicle, trip in self.trips.items()}
        await self.gateway.send(self.fleet.tracks(self.sent, until, trip_ids))
        self.sent = until
        arrived = [v for v, last in self._last.items() if last in rows]
        if arrived:
            await self.gateway.flush()
            await self._end(arrived)

    async def _start(self, row: int) -> None:
        vehicle = int(self.fleet.vehicle[row])
        if vehicle not in self.trips:
            self.trips[vehicle] = await self._trips.start(
                int(self.fleet.time_us[row]),
                vehicle_id=str(uuid.uuid5(VEHICLES, self.fleet.names[vehicle])),
            )

    async def _end(self, vehicles: list[int]) -> None:
        for vehicle in vehicles:
            trip = self.trips[vehicle]
            if trip.status == pb.TRIP_STATUS_OPEN:
                rows = np.flatnonzero(self.fleet.vehicle[: self.sent] == vehicle)
                end_us = int(self.fleet.time_us[rows[-1]]) if len(rows) else 0
                end_us = end_us or trip.start_time.ToMicroseconds()
                self.trips[vehicle] = await self._trips.end(trip.id, end_us)
