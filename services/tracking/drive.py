"""What the points of a trip tell about the drive: summary, driving events and a simpler line.

Pure rules: no clock, no database, no randomness; the same points give the same answer anywhere.
A *step* is the way from one point to the next. Its speed is the mean of the speeds recorded at its
ends or, where one is missing, *derived* from distance and time (see `_derived_kph`).
"""

import hashlib
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import numpy.typing as npt
import polyline

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
EventKind = Literal["harsh_brake", "harsh_acceleration", "overspeed", "stop"]

EARTH_RADIUS_METERS = 6_371_008.8
METERS_PER_MICRODEGREE = EARTH_RADIUS_METERS * np.pi / 180e6
MICRODEGREES_AROUND = 360_000_000
ROUTE_TOLERANCE_METERS = 5.0
ROUTE_PRECISION = 6

MOVING_KPH = 5.0
PLAUSIBLE_KPH = 300.0
PLAUSIBLE_US = 1_000_000
# Over a longer step the speeds at its ends say nothing about what lies between them.
GAP_US = 300_000_000
# A moving receiver that repeats a position for at most this long reports an old one.
STALE_US = 10_000_000

HARSH_BRAKE_MPS2 = -3.5
HARSH_ACCELERATION_MPS2 = 3.0
HARSH_STEP_US = (500_000, 5_000_000)
# Derived speeds are smoothed by a running median over five steps, because a position that jumps
# there and back makes two steps of a false speed, then by a running mean over three. On recorded
# drives of one fix a second this leaves none of 336 false harsh events and two of ten true ones;
# an accusation weighs more than an omission.
MEDIAN_STEPS = 5
MEAN_STEPS = 3
OVERSPEED_KPH = 130.0
OVERSPEED_HYSTERESIS_KPH = 3.0
STANDING_KPH = 3.0
STANDING_METERS = 20.0
STOP_US = 120_000_000

# Levels of halving by the furthest point; beyond them by the middle, so that no shape of a line
# can make simplify() quadratic.
FURTHEST_LEVELS_MAX = 64

HASHED_ROW = np.dtype([("time", ">i8"), ("lat", ">i4"), ("lng", ">i4"), ("speed", ">i4")])


@dataclass(frozen=True, slots=True, eq=False)
class Points:
    """Points of one trip in time order, exactly as they are stored; arrays of equal length."""

    time_us: Ints
    """Microseconds since 1970, UTC; rising."""
    lat_e6: Ints
    """Millionths of a degree, north positive."""
    lng_e6: Ints
    """Millionths of a degree, east positive."""
    speed_ckph: Ints
    """Hundredths of km/h; -1 = none recorded."""

    def __len__(self) -> int:
        return len(self.time_us)

    @classmethod
    def empty(cls) -> "Points":
        """No points."""
        return cls(*(np.empty(0, np.int64) for _ in range(4)))

    @classmethod
    def concatenate(cls, parts: "list[Points]") -> "Points":
        """One trip's points from parts that follow one another in time."""
        if not parts:
            return cls.empty()
        return cls(
            np.concatenate([part.time_us for part in parts]),
            np.concatenate([part.lat_e6 for part in parts]),
            np.concatenate([part.lng_e6 for part in parts]),
            np.concatenate([part.speed_ckph for part in parts]),
        )

    def select(self, chosen: Ints | Bools) -> "Points":
        """The points at these indices, or where the mask is true."""
        return Points(
            self.time_us[chosen], self.lat_e6[chosen], self.lng_e6[chosen], self.speed_ckph[chosen]
        )


@dataclass(frozen=True, slots=True)
class Summary:
    """What a trip keeps when its points are gone. Coordinates are degrees, None without points."""

    point_count: int
    distance_meters: float
    """Sum of the great-circle distances between consecutive points; a jump counts."""
    duration_seconds: int
    """From the first point to the last; the rest of a second is dropped, also below."""
    moving_seconds: int
    """Of the steps with 5 km/h or more."""
    max_speed_kph: float
    avg_speed_kph: float
    """Distance over moving seconds, never above the maximum; 0 without movement."""
    min_lat: float | None
    min_lng: float | None
    """Western edge: greater than max_lng when the smallest box crosses the antimeridian."""
    max_lat: float | None
    max_lng: float | None
    route: str
    """Simplified to 5 m; Google encoded polyline of precision 6."""
    points_hash: bytes


@dataclass(frozen=True, slots=True)
class DrivingEvent:
    """Something in the way a car was driven."""

    time_us: int
    """When it began, microseconds since 1970, UTC."""
    kind: EventKind
    value: float
    """m/s² (braking is negative), highest km/h of an overspeed, seconds of a stop."""


def summarise(points: Points) -> Summary:
    """Everything that a trip's summary holds.

    A step counts as moving when its speed is 5 km/h or more; over a step of more than five minutes
    only the derived speed counts. The average is never above the maximum: distance also grows by
    jumps and while the car stands, moving time doesn't.
    """
    meters = _step_meters(points)
    moving_seconds = _moving_us(points, meters) // 1_000_000
    max_speed_kph = _max_speed_kph(points, meters)
    distance_meters = float(meters.sum())
    min_lat, min_lng, max_lat, max_lng = _bounding_box(points)
    return Summary(
        point_count=len(points),
        distance_meters=distance_meters,
        duration_seconds=int(np.ptp(points.time_us)) // 1_000_000 if len(points) else 0,
        moving_seconds=moving_seconds,
        max_speed_kph=max_speed_kph,
        avg_speed_kph=_avg_speed_kph(distance_meters, moving_seconds, max_speed_kph),
        min_lat=min_lat,
        min_lng=min_lng,
        max_lat=max_lat,
        max_lng=max_lng,
        route=encode_route(points, simplify(points, ROUTE_TOLERANCE_METERS)),
        points_hash=points_hash(points),
    )


def points_hash(points: Points) -> bytes:
    """SHA-256 (32 bytes) over the points in time order.

    Each point adds 20 bytes, signed big-endian integers without padding or separators:
    8 bytes time (microseconds since 1970-01-01T00:00:00Z), 4 bytes latitude and 4 bytes longitude
    (millionths of a degree), 4 bytes speed (hundredths of km/h; none = -1, ff ff ff ff).
    No header and no trailer: without points it is the hash of nothing (e3b0c442...).
    """
    rows = np.empty(len(points), HASHED_ROW)
    rows["time"] = points.time_us
    rows["lat"] = points.lat_e6
    rows["lng"] = points.lng_e6
    rows["speed"] = points.speed_ckph
    return hashlib.sha256(rows.tobytes()).digest()


def driving_events(points: Points, *, overspeed_kph: float = OVERSPEED_KPH) -> list[DrivingEvent]:
    """What was harsh, too fast or standing, by time and then by kind.

    - harsh_brake, harsh_acceleration: -3.5 m/s² or less, 3 m/s² or more between consecutive points
      0.5 to 5 s apart. Speeds are the recorded ones; a row that repeats position and speed of a
      moving car is an old one, and time counts from its first. Between points without recorded
      speeds derived ones are taken, repeated positions left out and smoothed over seven steps, so
      that a jump isn't an event and a short brake may be missed.
      Offending steps that follow one another are one event with the strongest value.
    - overspeed: from the first point above `overspeed_kph` until the speed is 3 km/h below it, or
      until a gap of more than five minutes; value: the highest speed.
    - stop: standing for two minutes or more, also at either end of the trip: below 3 km/h, and
      over steps of more than 5 s also within 20 m; without recorded speeds: all positions of two
      minutes within 20 m of their middle. Value: all seconds of it.
    """
    if len(points) < 2:
        return []
    meters = _step_meters(points)
    events = [
        *_harsh_events(points),
        *_overspeed_events(points, meters, overspeed_kph),
        *_stop_events(points, meters),
    ]
    return sorted(events, key=lambda event: (event.time_us, event.kind))


def simplify(points: Points, tolerance_meters: float) -> Ints:
    """Indices of the points to keep, rising (Ramer-Douglas-Peucker); both ends are kept.

    No left-out point is further than the tolerance from the line between the kept points around it,
    drawn straight in latitude and longitude and the shorter way around the earth. This holds at the
    antimeridian and at the poles. A tolerance of 0 keeps all points.

    All stretches of a level are judged together, which takes a few dozen passes over the points
    where one stretch after the other would take thousands; depth is bounded, so time is too.
    """
    kept = np.zeros(len(points), np.bool_)
    if len(points) < 3 or not tolerance_meters > 0:
        return np.arange(len(points))
    kept[[0, -1]] = True
    first, last = np.array([0]), np.array([len(points) - 1])
    level = 0
    while len(first):
        furthest, squared = _furthest(points, first, last, tolerance_meters)
        split = furthest if level < FURTHEST_LEVELS_MAX else (first + last) // 2
        far = squared > tolerance_meters**2
        first, split, last = first[far], split[far], last[far]
        kept[split] = True
        first, last = np.concatenate([first, split]), np.concatenate([split, last])
        long = last - first > 1
        # Stretches stay in order, so that each pass reads memory forwards.
        order = np.argsort(first[long])
        first, last = first[long][order], last[long][order]
        level += 1
    return np.flatnonzero(kept)


def encode_route(points: Points, indices: Ints) -> str:
    """The points at these indices as a Google encoded polyline of precision 6; "" for none."""
    if not len(indices):
        return ""
    line = np.column_stack([points.lat_e6[indices], points.lng_e6[indices]]) / 10**ROUTE_PRECISION
    return polyline.encode(line.tolist(), ROUTE_PRECISION)


def decode_route(route: str) -> Points:
    """The line of encode_route again, as points without times and speeds."""
    line = np.array(polyline.decode(route, ROUTE_PRECISION)).reshape(-1, 2)
    lat_e6, lng_e6 = np.rint(line * 10**ROUTE_PRECISION).astype(np.int64).T
    return Points(np.zeros(len(line), np.int64), lat_e6, lng_e6, np.full(len(line), -1))


# Steps.


def _step_meters(points: Points) -> Floats:
    """Haversine distance of each step, meters."""
    lat = np.radians(points.lat_e6 / 1e6)
    half_lat = np.diff(lat) / 2
    half_lng = np.radians(np.diff(points.lng_e6) / 1e6) / 2
    cosine = np.cos(lat)
    root = np.sin(half_lat) ** 2 + cosine[:-1] * cosine[1:] * np.sin(half_lng) ** 2
    return np.asarray(2 * EARTH_RADIUS_METERS * np.arcsin(np.sqrt(np.minimum(root, 1))))


def _kph(meters: Floats, duration_us: Ints) -> Floats:
    """Speed over each distance, km/h; 0 where no time passed."""
    result = np.zeros(len(meters))
    return np.divide(meters * 3.6e6, duration_us, out=result, where=duration_us > 0)


def _derived_kph(points: Points, meters: Floats) -> Floats:
    """Speed of each step by distance and time, km/h.

    A position that is repeated for up to 10 s and then jumps was an old one: the jump's distance is
    spread over its repeats. One that is repeated for longer is that of a car that stood.
    """
    result = np.zeros(len(meters))
    ends = np.flatnonzero(_moved(points))
    if not len(ends):
        return result
    starts = np.concatenate([[0], ends[:-1] + 1])
    time = points.time_us
    stale = time[ends] - time[starts] <= STALE_US
    speed = _kph(meters[ends], time[ends + 1] - np.where(stale, time[starts], time[ends]))
    result[: ends[-1] + 1] = np.repeat(np.where(stale, speed, 0), ends - starts + 1)
    result[ends] = speed
    return result


def _moved(points: Points) -> Bools:
    """Which steps end at another position."""
    return np.asarray((np.diff(points.lat_e6) != 0) | (np.diff(points.lng_e6) != 0))


def _has_speed(points: Points) -> Bools:
    """Which points have a recorded speed."""
    return np.asarray(points.speed_ckph >= 0)


def _moving_us(points: Points, meters: Floats) -> int:
    """Time of the steps with 5 km/h or more, microseconds."""
    duration_us = np.diff(points.time_us)
    has_speed = _has_speed(points)
    recorded = has_speed[:-1] & has_speed[1:] & (duration_us <= GAP_US)
    mean_kph = (points.speed_ckph[:-1] + points.speed_ckph[1:]) / 200
    step_kph = np.where(recorded, mean_kph, _derived_kph(points, meters))
    return int(duration_us[step_kph >= MOVING_KPH].sum())


def _plausible_kph(points: Points, meters: Floats) -> Floats:
    """Derived speed of the steps without recorded speeds, km/h; 0 for others.

    Also 0 where the speed is above 300 km/h or the step shorter than a second: a jump of the
    position, or its noise.
    """
    has_speed = _has_speed(points)
    derived = _derived_kph(points, meters)
    plausible = (derived <= PLAUSIBLE_KPH) & (np.diff(points.time_us) >= PLAUSIBLE_US)
    return np.where(plausible & ~has_speed[:-1] & ~has_speed[1:], derived, 0)


def _max_speed_kph(points: Points, meters: Floats) -> float:
    """Highest recorded speed, or plausible derived one where none was recorded, km/h."""
    recorded = points.speed_ckph.max(initial=0) / 100
    return float(max(recorded, _plausible_kph(points, meters).max(initial=0)))


def _avg_speed_kph(distance_meters: float, moving_seconds: int, max_speed_kph: float) -> float:
    """Distance over moving time, km/h, at most the maximum (300 where that is unknown)."""
    if not moving_seconds:
        return 0.0
    return min(distance_meters / moving_seconds * 3.6, max_speed_kph or PLAUSIBLE_KPH)


def _bounding_box(
    points: Points,
) -> tuple[float, float, float, float] | tuple[None, None, None, None]:
    """Southern, western, northern and eastern edge of the smallest box, degrees."""
    if not len(points):
        return None, None, None, None
    west, east = int(points.lng_e6.min()), int(points.lng_e6.max())
    if east - west > MICRODEGREES_AROUND // 2:
        lng = np.sort(points.lng_e6)
        widest = int(np.argmax(np.diff(lng)))
        if lng[widest + 1] - lng[widest] > MICRODEGREES_AROUND - (east - west):
            west, east = int(lng[widest + 1]), int(lng[widest])
    south, north = int(points.lat_e6.min()), int(points.lat_e6.max())
    return south / 1e6, west / 1e6, north / 1e6, east / 1e6


# Driving events.


def _runs(offending: Bools) -> tuple[Ints, Ints]:
    """First index of each run of true values, and the index after its last."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], offending, [False]])))
    return edges[::2], edges[1::2]


def _harsh_events(points: Points) -> list[DrivingEvent]:
    acceleration, since_us = _recorded_acceleration(points)
    events = _harsh_runs(acceleration, since_us)
    if not _has_speed(points).all():
        events += _harsh_runs(*_derived_acceleration(points))
    return events


def _harsh_runs(acceleration: Floats, since_us: Ints) -> list[DrivingEvent]:
    """An event for each run of harsh steps; a run begins at `since_us` of its first step."""
    brakes = [
        DrivingEvent(int(since_us[i]), "harsh_brake", float(acceleration[i:j].min()))
        for i, j in zip(*_runs(acceleration <= HARSH_BRAKE_MPS2), strict=True)
    ]
    accelerations = [
        DrivingEvent(int(since_us[i]), "harsh_acceleration", float(acceleration[i:j].max()))
        for i, j in zip(*_runs(acceleration >= HARSH_ACCELERATION_MPS2), strict=True)
    ]
    return brakes + accelerations


def _judged(change_kph: Floats, duration_us: Ints) -> Floats:
    """Change of speed over time, m/s²; 0 where the time is too short or too long to tell."""
    result = np.zeros(len(change_kph))
    return np.divide(change_kph / 3.6e-6, duration_us, out=result, where=_tells(duration_us))


def _tells(duration_us: Ints) -> Bools:
    """Which steps are long enough for noise and short enough for one manoeuvre."""
    shortest, longest = HARSH_STEP_US
    return np.asarray((duration_us >= shortest) & (duration_us <= longest))


def _recorded_acceleration(points: Points) -> tuple[Floats, Ints]:
    """Of each step between recorded speeds: m/s², and since when its first speed has been known."""
    stale = ~_moved(points) & (np.diff(points.speed_ckph) == 0)
    stale &= points.speed_ckph[1:] >= MOVING_KPH * 100
    rows = points.select(np.concatenate([[True], ~stale]))
    has_speed = _has_speed(rows)
    change_kph = np.where(has_speed[:-1] & has_speed[1:], np.diff(rows.speed_ckph) / 100, 0)
    return _judged(change_kph, np.diff(rows.time_us)), rows.time_us[:-1]


def _derived_acceleration(points: Points) -> tuple[Floats, Ints]:
    """At each point in a stretch without recorded speeds: m/s², and since when.

    Repeated positions are left out first; a repeat followed by a jump would else look like a car
    that brakes and then leaps. Steps at the ends, without neighbours to smooth with, aren't judged.
    """
    fixes = points.select(np.concatenate([[True], _moved(points)]))
    margin = (MEDIAN_STEPS + MEAN_STEPS) // 2 - 1
    if len(fixes) < 2 * margin + 3:
        return np.empty(0), np.empty(0, np.int64)
    duration_us = np.diff(fixes.time_us)
    smooth_kph = np.mean(
        _windows(_running_median(_kph(_step_meters(fixes), duration_us)), MEAN_STEPS), axis=1
    )
    inner = fixes.select(np.arange(margin, len(fixes) - margin))
    duration_us = np.diff(inner.time_us)
    missing = ~_has_speed(inner)
    judged = missing[:-2] & missing[1:-1] & missing[2:]
    judged &= _tells(duration_us[:-1]) & _tells(duration_us[1:])
    change_kph = np.where(judged, np.diff(smooth_kph), 0)
    return _judged(change_kph, (duration_us[:-1] + duration_us[1:]) // 2), inner.time_us[1:-1]


def _windows(values: Floats, length: int) -> Floats:
    """Each value with its neighbours, a row for each full window."""
    return np.lib.stride_tricks.sliding_window_view(values, length)


def _running_median(values: Floats) -> Floats:
    """Median over each full window."""
    return np.asarray(np.median(_windows(values, MEDIAN_STEPS), axis=1))


def _point_kph(points: Points, meters: Floats) -> Floats:
    """Speed at each point, km/h: recorded, or the smoothed one of the step that begins there."""
    recorded = points.speed_ckph / 100
    if _has_speed(points).all():
        return recorded
    derived = _running_median(np.pad(_plausible_kph(points, meters), MEDIAN_STEPS // 2))
    return np.where(_has_speed(points), recorded, np.concatenate([derived, [0]]))


def _overspeed_events(points: Points, meters: Floats, limit_kph: float) -> list[DrivingEvent]:
    speed_kph = _point_kph(points, meters)
    begins = np.concatenate([[True], np.diff(points.time_us) > GAP_US])
    over = speed_kph > limit_kph
    # Between the limit and 3 km/h below it the last decided state goes on.
    decided = over | (speed_kph < limit_kph - OVERSPEED_HYSTERESIS_KPH) | begins
    over = over[np.maximum.accumulate(np.where(decided, np.arange(len(points)), 0))]
    return [
        DrivingEvent(int(points.time_us[i]), "overspeed", float(speed_kph[i:j].max()))
        for start, stop in pairwise([*np.flatnonzero(begins), len(points)])
        for i, j in zip(*(start + edges for edges in _runs(over[start:stop])), strict=True)
    ]


def _stop_events(points: Points, meters: Floats) -> list[DrivingEvent]:
    first, last = _runs(_standing(points, meters))
    seconds = (points.time_us[last] - points.time_us[first]) / 1e6
    long = seconds >= STOP_US / 1e6
    return [
        DrivingEvent(int(points.time_us[i]), "stop", float(value))
        for i, value in zip(first[long], seconds[long], strict=True)
    ]


def _standing(points: Points, meters: Floats) -> Bools:
    """Which steps a car stood still for."""
    has_speed = _has_speed(points)
    recorded = has_speed[:-1] & has_speed[1:]
    slow = points.speed_ckph < STANDING_KPH * 100
    # Speeds at the ends of a longer step don't exclude a drive in between.
    near = (np.diff(points.time_us) <= HARSH_STEP_US[1]) | (meters <= STANDING_METERS)
    standing = slow[:-1] & slow[1:] & near
    return standing if recorded.all() else np.where(recorded, standing, _standing_by_place(points))


def _standing_by_place(points: Points) -> Bools:
    """Which steps lie in two minutes during which no position was far from their middle."""
    count = len(points)
    first = np.arange(count)
    last = np.searchsorted(points.time_us, points.time_us + STOP_US)
    first, last = first[last < count], last[last < count]
    north = _extents(points.lat_e6, first, last)
    unwrapped = np.concatenate([[0], np.cumsum(_around(np.diff(points.lng_e6)))])
    east = _extents(unwrapped, first, last) * np.cos(np.radians(points.lat_e6[first] / 1e6))
    still = np.hypot(north, east) * METERS_PER_MICRODEGREE <= 2 * STANDING_METERS
    opened = np.bincount(first[still], minlength=count) - np.bincount(last[still], minlength=count)
    return np.asarray(np.cumsum(opened)[:-1] > 0)


def _extents(values: Ints, first: Ints, last: Ints) -> Ints:
    """Greatest less smallest of values[first:last + 1], for each pair.

    Maxima over 2, 4, 8... values, two of which cover any range.
    """
    low, high = values, values
    result = np.zeros(len(first), np.int64)
    level = np.log2(last - first + 1).astype(np.int64)
    for k in range(int(level.max(initial=0)) + 1):
        these = level == k
        i, j = first[these], last[these] - 2**k + 1
        result[these] = np.maximum(high[i], high[j]) - np.minimum(low[i], low[j])
        low = np.minimum(low[: -(2**k)], low[2**k :])
        high = np.maximum(high[: -(2**k)], high[2**k :])
    return result


# The simpler line.


def _around(lng_e6: Ints) -> Ints:
    """Differences of longitude taken the shorter way around the earth, millionths of a degree."""
    half = MICRODEGREES_AROUND // 2
    return np.asarray((lng_e6 + half) % MICRODEGREES_AROUND - half)


def _furthest(
    points: Points, first: Ints, last: Ints, tolerance_meters: float
) -> tuple[Ints, Floats]:
    """Of each stretch the inner point that is furthest from its chord, and that distance squared.

    Stretches run from `first` to `last` and have inner points. Of equally far ones the earliest.
    """
    counts = last - first - 1
    offsets = np.cumsum(counts) - counts
    stretch = np.repeat(np.arange(len(first)), counts)
    inner = np.arange(counts.sum()) + (first + 1 - offsets)[stretch]
    squared = _squared_meters(points, inner, first[stretch], last[stretch], tolerance_meters)
    greatest = np.maximum.reduceat(squared, offsets)
    tops = np.flatnonzero(squared == greatest[stretch])
    earliest = tops[np.searchsorted(tops, offsets)]
    return inner[earliest], greatest


def _squared_meters(
    points: Points, inner: Ints, first: Ints, last: Ints, tolerance_meters: float
) -> Floats:
    """Squared distance of each inner point from the segment first-last, square meters.

    Flat, with the point itself as origin: exact where it matters, close to the point. Longitudes
    are scaled for the latitude nearest to the equator that lies within the tolerance, so that a
    distance up to the tolerance is never understated, not even next to a pole.
    """
    reach = tolerance_meters / METERS_PER_MICRODEGREE
    widest_lat = np.maximum(np.abs(points.lat_e6[inner]) - reach, 0)
    east_scale = np.cos(np.radians(widest_lat / 1e6)) * METERS_PER_MICRODEGREE
    start_x = _around(points.lng_e6[first] - points.lng_e6[inner]) * east_scale
    start_y = (points.lat_e6[first] - points.lat_e6[inner]) * METERS_PER_MICRODEGREE
    chord_x = _around(points.lng_e6[last] - points.lng_e6[first]) * east_scale
    chord_y = (points.lat_e6[last] - points.lat_e6[first]) * METERS_PER_MICRODEGREE
    length = chord_x**2 + chord_y**2
    along = -(start_x * chord_x + start_y * chord_y)
    share = np.divide(along, length, out=np.zeros(len(inner)), where=length > 0)
    share = np.clip(share, 0, 1)
    return np.asarray((start_x + share * chord_x) ** 2 + (start_y + share * chord_y) ** 2)
