"""Fixes of a car as the tracks that a batch carries."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from driveflow.tracking.v1 import tracking_pb2 as pb

if TYPE_CHECKING:
    # Imported where it is used: every service and command has this package, few send tracks.
    import numpy as np
    from numpy.typing import ArrayLike

SPEED_KPH_DENSE_MAX = 10_000.0
DEGREES_DENSE_MAX = 1_000.0


class Fix(NamedTuple):
    """Where a car was at a moment, as its receiver says; nothing is checked here."""

    time_us: int | None
    """Microseconds since the epoch; None when the receiver gave no time."""
    lat: float
    lng: float
    speed_kph: float | None = None


def point_count(track: pb.Track) -> int:
    """How many points a track carries, in both forms."""
    return len(track.points) + len(track.dense.time_us)


def track(trip_id: str, fixes: Sequence[Fix]) -> pb.Track:
    """The fixes in their order: dense, or plain where a value has no dense form."""
    if all(map(_has_dense_form, fixes)):
        time_us, lat, lng, speed = zip(*fixes, strict=True) if fixes else ((), (), (), ())
        return dense_track(trip_id, time_us, lat, lng, speed)
    return plain_track(trip_id, fixes)


def _has_dense_form(fix: Fix) -> bool:
    degrees = max(abs(fix.lat), abs(fix.lng)) < DEGREES_DENSE_MAX  # false for NaN as well
    speed = fix.speed_kph is None or 0 <= fix.speed_kph < SPEED_KPH_DENSE_MAX
    return fix.time_us is not None and degrees and speed and math.isfinite(fix.lat + fix.lng)


def plain_track(trip_id: str, fixes: Iterable[Fix]) -> pb.Track:
    """The fixes as messages, whatever their values."""
    return pb.Track(trip_id=trip_id, points=[_point(fix) for fix in fixes])


def _point(fix: Fix) -> pb.TripPoint:
    point = pb.TripPoint(lat=fix.lat, lng=fix.lng, speed_kph=fix.speed_kph)
    if fix.time_us is not None:
        point.time.seconds, micros = divmod(fix.time_us, 1_000_000)
        point.time.nanos = micros * 1_000
    return point


def dense_track(
    trip_id: str,
    time_us: ArrayLike,
    lat: ArrayLike,
    lng: ArrayLike,
    speed_kph: Sequence[float | None] | ArrayLike | None = None,
) -> pb.Track:
    """Columns of equal length, packed: 6 to 8 bytes a point at one fix a second.

    A speed of None or NaN is none.
    """
    import numpy as np  # noqa: PLC0415

    dense = pb.DenseTrack(
        time_us=_steps(np.asarray(time_us, np.int64)),
        lat_e6=_steps(_scaled(lat, 1e6)),
        lng_e6=_steps(_scaled(lng, 1e6)),
        speed_ckph=None if speed_kph is None else _scaled(speed_kph, 100, none=-1).tolist(),
    )
    return pb.Track(trip_id=trip_id, dense=dense)


def _scaled(
    values: Sequence[float | None] | ArrayLike, scale: float, none: int = 0
) -> np.ndarray[Any, np.dtype[np.int64]]:
    import numpy as np  # noqa: PLC0415

    scaled = np.rint(np.asarray(values, np.float64) * scale)
    return np.where(np.isnan(scaled), none, scaled).astype(np.int64)


def _steps(values: np.ndarray[Any, np.dtype[np.int64]]) -> list[int]:
    """The first value, then each one's difference to the one before."""
    import numpy as np  # noqa: PLC0415

    steps: list[int] = np.diff(values, prepend=0).tolist()
    return steps
