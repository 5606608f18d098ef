"""Batches as they come from the wire become columns; nothing is judged here."""

from __future__ import annotations

import uuid
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from driveflow.tracking.v1 import tracking_pb2 as pb
from services.tracking.model import NANOS_MAX, SECONDS_MAX, SECONDS_MIN, RejectedPoint

if TYPE_CHECKING:
    from services.tracking.ingest.writer import OpenedUpload

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Original = tuple[int | None, int | None, float, float, float | None]
"""Seconds, nanos, latitude, longitude, speed of a point as it was received."""
DenseColumns = tuple[Ints, Floats, Floats, Floats]
"""Times, latitudes, longitudes, speeds."""

NO_SPEED = -1e300
"""Stands for "none given" in a column of speeds; NaN would be a speed that was given."""
NO_TIME = np.iinfo(np.int64).min
"""Stands for a time that is missing or no time."""


@dataclass(slots=True)
class Segment:
    """Points of one trip that stand together in a batch."""

    trip_id: str
    first_index: int
    """Place of its first point in the batch."""
    count: int
    malformed: bool = False


@dataclass(slots=True)
class Batch:
    """A batch of one stream, decoded."""

    upload: OpenedUpload
    sequence: int
    message: pb.PointBatch
    count: int = 0
    plain: list[Segment] = field(default_factory=list)
    times: list[int] = field(default_factory=list)
    lats: list[float] = field(default_factory=list)
    lngs: list[float] = field(default_factory=list)
    speeds: list[float] = field(default_factory=list)
    dense: list[Segment] = field(default_factory=list)
    dense_columns: list[DenseColumns] = field(default_factory=list)


def count_points(message: pb.PointBatch) -> int:
    """How many points a batch has, in both forms."""
    return sum(len(track.points) + dense_length(track.dense) for track in message.tracks)


def dense_length(dense: pb.DenseTrack) -> int:
    """Points of a dense track: its longest column."""
    return max(len(dense.time_us), len(dense.lat_e6), len(dense.lng_e6), len(dense.speed_ckph))


def decode(upload: OpenedUpload, message: pb.PointBatch) -> Batch:
    """The columns of a batch."""
    batch = Batch(upload, message.sequence, message)
    for track in message.tracks:
        points = track.points
        if points:
            batch.plain.append(Segment(track.trip_id, batch.count, len(points)))
            batch.count += len(points)
            _decode_plain(batch, points)
        if track.HasField("dense"):
            _decode_dense(batch, track.trip_id, track.dense)
    return batch


def _decode_plain(batch: Batch, points: object) -> None:
    times, lats, lngs, speeds = batch.times, batch.lats, batch.lngs, batch.speeds
    for point in points:  # type: ignore[attr-defined]
        time = point.time
        seconds, nanos = time.seconds, time.nanos
        if not 0 <= nanos <= NANOS_MAX or not SECONDS_MIN <= seconds <= SECONDS_MAX:
            times.append(NO_TIME)
        elif seconds or nanos or point.HasField("time"):
            times.append(seconds * 1_000_000 + nanos // 1_000)
        else:
            times.append(NO_TIME)
        lats.append(point.lat)
        lngs.append(point.lng)
        speed = point.speed_kph
        speeds.append(speed if speed or point.HasField("speed_kph") else NO_SPEED)


def _decode_dense(batch: Batch, trip_id: str, dense: pb.DenseTrack) -> None:
    length = dense_length(dense)
    if not length:
        return
    lengths = {len(dense.time_us), len(dense.lat_e6), len(dense.lng_e6)}
    if lengths != {length} or len(dense.speed_ckph) not in (0, length):
        batch.dense.append(Segment(trip_id, batch.count, length, malformed=True))
        nothing = np.full(length, np.nan)
        batch.dense_columns.append((np.full(length, NO_TIME), nothing, nothing, nothing))
    else:
        batch.dense.append(Segment(trip_id, batch.count, length))
        batch.dense_columns.append(_dense_columns(dense, length))
    batch.count += length


def _dense_columns(dense: pb.DenseTrack, length: int) -> DenseColumns:
    # Sums of hostile deltas may wrap around; what they give is judged like any other value.
    times = np.cumsum(np.array(dense.time_us, np.int64))
    lats = np.cumsum(np.array(dense.lat_e6, np.int64)) / 1e6
    lngs = np.cumsum(np.array(dense.lng_e6, np.int64)) / 1e6
    if not dense.speed_ckph:
        return times, lats, lngs, np.full(length, NO_SPEED)
    speeds = np.array(dense.speed_ckph, np.int64)
    return times, lats, lngs, np.where(speeds == -1, NO_SPEED, speeds / 100)


def rejected_points(batch: Batch, reasons: Mapping[int, str]) -> list[RejectedPoint]:
    """The records of points that can't be stored, given why by their places in the batch."""
    places = sorted(reasons)
    return [
        RejectedPoint(
            id=uuid.UUID(int=0),
            sequence=batch.sequence,
            index=index,
            reason=reasons[index],
            # The column takes text; what is not text or endless is no trip id anyway.
            trip_id=trip_id.replace("\0", "\N{REPLACEMENT CHARACTER}")[:100],
            time_seconds=seconds,
            time_nanos=nanos,
            lat=lat,
            lng=lng,
            speed_kph=speed,
        )
        for index, (trip_id, (seconds, nanos, lat, lng, speed)) in zip(
            places, _originals(batch.message, places), strict=True
        )
    ]


def _originals(message: pb.PointBatch, places: Sequence[int]) -> Iterator[tuple[str, Original]]:
    """Points as they were received, at rising places: one walk, however many they are."""
    left = deque(places)
    first = 0
    for track in message.tracks:
        end = first + len(track.points)
        while left and left[0] < end:
            yield track.trip_id, _original_plain(track.points[left.popleft() - first])
        first, end = end, end + dense_length(track.dense)
        if left and left[0] < end:
            dense = _Absolute(track.dense)
            while left and left[0] < end:
                yield track.trip_id, dense.original(left.popleft() - first)
        first = end


def _original_plain(point: pb.TripPoint) -> Original:
    has_time = point.HasField("time")
    return (
        point.time.seconds if has_time else None,
        point.time.nanos if has_time else None,
        point.lat,
        point.lng,
        point.speed_kph if point.HasField("speed_kph") else None,
    )


class _Absolute:
    """A dense track with its differences added up."""

    def __init__(self, dense: pb.DenseTrack) -> None:
        self._times = list(accumulate(dense.time_us))
        self._lats = list(accumulate(dense.lat_e6))
        self._lngs = list(accumulate(dense.lng_e6))
        self._speeds = list(dense.speed_ckph)

    def original(self, index: int) -> Original:
        """A point; what its shorter columns do not have is no number or not given."""
        time = _at(self._times, index)
        lat, lng = _at(self._lats, index), _at(self._lngs, index)
        speed = _at(self._speeds, index)
        return (
            None if time is None else max(-(2**63), min(time // 1_000_000, 2**63 - 1)),
            None if time is None else time % 1_000_000 * 1_000,
            float("nan") if lat is None else lat / 1e6,
            float("nan") if lng is None else lng / 1e6,
            None if speed in (None, -1) else speed / 100,
        )


def _at(column: Sequence[int], index: int) -> int | None:
    return column[index] if index < len(column) else None
