"""Synthetic driving lessons: the same for the same seed.

A car drives along the streets of a made-up grid town: round corners, limits that differ by
street, red lights, two minutes at the kerb to talk, and one emergency stop, as lessons have them.
First the way is laid, then the highest speed at each metre of it that the limits, the corners and
the car's acceleration allow, then the clock runs along it and is read once a second.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from libs.cli.tracking.fleet import Fleet, fleet

Floats: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]

CITY = (47.3769, 8.5417)  # latitude, longitude of the middle
GRID_TURN = math.radians(28)  # the town does not lie square to north
BLOCKS = 12  # streets each way
BLOCK_M = 130.0
CORNER_M = 9.0  # radius of a turn
STEP_M = 1.0
LIMITS_KPH = (30.0, 30.0, 50.0, 50.0, 60.0)
CORNER_KPH = 16.0
ACCELERATION = 1.6  # m/s²
BRAKING = 1.9
EMERGENCY_BRAKING = 6.0
RED_LIGHT = 0.3  # of the crossings that are driven straight over
RED_LIGHT_S = (6.0, 35.0)
TALK_S = 150.0
DRIFT_M = 1.2  # of the receiver, standard deviation; it wanders slowly
METERS_PER_DEGREE = 111_194.93


@dataclass(frozen=True, slots=True)
class Way:
    """A way through the grid, metre by metre."""

    x_m: Floats
    y_m: Floats
    limit_mps: Floats
    crossings: tuple[int, ...]
    """Rows where a light may be red."""


@dataclass(frozen=True, slots=True)
class Stops:
    """Where a car stands, and for how long."""

    seconds: dict[int, float]
    """By row of the way."""
    emergency: int
    """The row that is reached by braking as hard as the car can."""


def school_day(cars: int, minutes: float, seed: int) -> Fleet:
    """A lesson of `minutes` for each car, begun within ten minutes of each other, from time 0."""
    lessons = []
    for car in range(cars):
        rng = np.random.default_rng((seed, car))
        start_us = 0 if car == 0 else int(rng.integers(0, 600)) * 1_000_000
        lessons.append((car, start_us, lesson(rng, minutes * 60)))
    columns = [
        np.column_stack((np.full(len(fixes), car), fixes[:, 0] + start_us, fixes[:, 1:]))
        for car, start_us, fixes in lessons
    ]
    car, time_us, lat, lng, speed = np.concatenate(columns).T
    names = tuple(f"car-{number + 1}" for number in range(cars))
    return fleet(names, car.astype(np.int64), time_us.astype(np.int64), lat, lng, speed)


def lesson(rng: np.random.Generator, seconds: float) -> Floats:
    """Rows of time_us, lat, lng, speed_kph: one a second from 0 to `seconds`."""
    way = lay_way(rng, meters=seconds * max(LIMITS_KPH) / 3.6 / 2 + 10 * BLOCK_M)
    plan = plan_stops(rng, way)
    speed = speeds(way, plan)
    at = np.arange(0.0, seconds + 1)
    place = np.interp(at, *_clock(speed, plan))
    rows = np.arange(len(speed), dtype=np.float64)
    x, y = np.interp(place, rows, way.x_m), np.interp(place, rows, way.y_m)
    speed_kph = np.round(np.interp(place, rows, speed) * 3.6, 2)
    return np.column_stack((at * 1e6, *_degrees(rng, x, y), speed_kph))


def lay_way(rng: np.random.Generator, meters: float) -> Way:
    """Wander over the grid for at least `meters`, without ever turning back."""
    cell, heading = rng.integers(2, BLOCKS - 1, 2), int(rng.integers(4))
    east, north = cell * BLOCK_M + _direction(heading) * CORNER_M
    x, y = [float(east)], [float(north)]
    limits = [CORNER_KPH]
    crossings = []
    while len(x) * STEP_M < meters:
        turn = _turn(rng, cell, heading)
        _extend(x, y, limits, heading, BLOCK_M - 2 * CORNER_M, _limit(cell, heading))
        if turn:
            _corner(x, y, limits, heading, turn)
        else:
            crossings.append(len(x) - 1)
            _extend(x, y, limits, heading, 2 * CORNER_M, _limit(cell, heading))
        cell = cell + _direction(heading)
        heading = (heading + turn) % 4
    columns = (np.array(x), np.array(y), np.array(limits) / 3.6)
    return Way(*columns, crossings=tuple(crossings))


def _direction(heading: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.array([(1, 0), (0, 1), (-1, 0), (0, -1)][heading])


def _turn(rng: np.random.Generator, cell: Any, heading: int) -> int:
    """0 straight on, 1 left, -1 right at the next crossing: whatever stays in town."""
    ahead = cell + _direction(heading)
    choices = [t for t in (0, 0, 1, -1) if _in_town(ahead + _direction((heading + t) % 4))]
    return int(choices[rng.integers(len(choices))])


def _in_town(cell: Any) -> bool:
    return bool((cell >= 0).all() and (cell <= BLOCKS).all())


def _limit(cell: Any, heading: int) -> float:
    """A street has one limit, whoever drives on it."""
    across = int(cell[1] if heading % 2 == 0 else cell[0])
    return LIMITS_KPH[(across * 7 + heading % 2 * 3) % len(LIMITS_KPH)]


def _extend(
    x: list[float], y: list[float], limits: list[float], heading: int, meters: float, kph: float
) -> None:
    east, north = _direction(heading)
    x0, y0 = x[-1], y[-1]
    for step in np.arange(STEP_M, meters + STEP_M / 2, STEP_M):
        x.append(x0 + float(east * step))
        y.append(y0 + float(north * step))
        limits.append(kph)


def _corner(x: list[float], y: list[float], limits: list[float], heading: int, turn: int) -> None:
    """A quarter of a circle."""
    east, north = _direction(heading)
    x0, y0 = x[-1], y[-1]
    angles = np.linspace(0, math.pi / 2, max(2, round(CORNER_M * math.pi / 2 / STEP_M)) + 1)[1:]
    for ahead, aside in zip(np.sin(angles), 1 - np.cos(angles), strict=True):
        x.append(x0 + CORNER_M * float(east * ahead - turn * north * aside))
        y.append(y0 + CORNER_M * float(north * ahead + turn * east * aside))
        limits.append(CORNER_KPH)


def plan_stops(rng: np.random.Generator, way: Way) -> Stops:
    """Red lights by chance, a talk at the kerb, and an emergency stop where the car is fast."""
    lights = [row for row in way.crossings if rng.random() < RED_LIGHT]
    seconds = {row: float(rng.uniform(*RED_LIGHT_S)) for row in lights}
    length = len(way.x_m)
    seconds[length // 6] = TALK_S
    driven = speeds(way, Stops(seconds, emergency=0))
    emergency = length // 5 + int(np.argmax(driven[length // 5 : length // 3]))
    return Stops({**seconds, emergency: 4.0}, emergency)


def speeds(way: Way, stops: Stops) -> Floats:
    """Metres a second at each metre: never above the limit, reached and left at a car's pace."""
    fastest = way.limit_mps.copy()
    fastest[[0, -1, *stops.seconds]] = 0.0
    braking = np.full(len(fastest), BRAKING)
    braking[max(0, stops.emergency - 40) : stops.emergency] = EMERGENCY_BRAKING
    for row in range(1, len(fastest)):
        fastest[row] = min(fastest[row], _after_a_step(fastest[row - 1], ACCELERATION))
    for row in range(len(fastest) - 2, -1, -1):
        fastest[row] = min(fastest[row], _after_a_step(fastest[row + 1], braking[row]))
    return fastest


def _after_a_step(mps: float, acceleration: float) -> float:
    return math.sqrt(mps**2 + 2 * acceleration * STEP_M)


def _clock(speed: Floats, stops: Stops) -> tuple[Floats, Floats]:
    """Seconds and rows: where the car is when; a row with a stop is there twice."""
    arrival = np.concatenate(([0.0], np.cumsum(2 * STEP_M / (speed[1:] + speed[:-1]))))
    standing = sorted(stops.seconds)
    rows = np.sort(np.concatenate((np.arange(len(speed)), standing))).astype(np.int64)
    waited = np.zeros(len(rows))
    for number, row in enumerate(standing):
        waited[row + number + 1] = stops.seconds[row]
    return arrival[rows] + np.cumsum(waited), rows.astype(np.float64)


def _degrees(rng: np.random.Generator, x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Latitudes and longitudes as a receiver gives them: turned, centred, a little adrift."""
    x = x - BLOCKS * BLOCK_M / 2 + _drift(rng, len(x))
    y = y - BLOCKS * BLOCK_M / 2 + _drift(rng, len(y))
    east = x * math.cos(GRID_TURN) - y * math.sin(GRID_TURN)
    north = x * math.sin(GRID_TURN) + y * math.cos(GRID_TURN)
    lat, lng = CITY
    narrow = METERS_PER_DEGREE * math.cos(math.radians(lat))
    return np.round(lat + north / METERS_PER_DEGREE, 6), np.round(lng + east / narrow, 6)


def _drift(rng: np.random.Generator, count: int) -> Floats:
    keep = 0.99
    drift = rng.normal(0, DRIFT_M, count)
    drift[1:] *= math.sqrt(1 - keep**2)
    for second in range(1, count):
        drift[second] += keep * drift[second - 1]
    return drift
