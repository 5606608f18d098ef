"""Batches as they come from the wire become columns; nothing is judged here."""

from __future__ import annotations

import uuid
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import numpy as np
import numpy.typing as npt

from driveflow.tracking.v1 import tracking_pb2 as pb
from libs.messages import NANOS_MAX, SECONDS_MAX, SECONDS_MIN
from services.tracking.ingest import wire
from services.tracking.ingest.uploads import OpenedUpload
from services.tracking.model import RejectedPoint

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Original = tuple[int | None, int | None, float, float, float | None]
"""Seconds, nanos, latitude, longitude, speed of a point as it was received."""
Columns = tuple[Ints, Floats, Floats, Floats]
"""Times, latitudes, longitudes, speeds."""

NO_SPEED = -1e300
"""Stands for "none given" in a column of speeds; NaN would be a speed that was given."""
NO_TIME = int(np.iinfo(np.int64).min)
"""Stands for a time that is missing or no time."""


@dataclass(slots=True)
class Segment:
    """Points of one trip that stand together in a batch."""

    trip_id: str
    first_index: int
    """Place of its first point in the batch."""
    count: int
    wire: bytes = b""
    """Plain points, serialized; empty for a dense track."""
    malformed: bool = False


@dataclass(slots=True)
class Batch:
    """A batch of one stream, decoded."""

    upload: OpenedUpload
    sequence: int
    message: pb.PointBatch
    count: int = 0
    plain: list[Segment] = field(default_factory=list)
    dense: list[Segment] = field(default_factory=list)
    dense_columns: list[Columns] = field(default_factory=list)


def count_points(message: pb.PointBatch) -> int:
    """How many points a batch has, in both forms."""
    return sum(len(track.points) + dense_length(track.dense) for track in message.tracks)


def dense_length(dense: pb.DenseTrack) -> int:
    """Points of a dense track: its longest column."""
    return max(len(dense.time_us), len(dense.lat_e6), len(dense.lng_e6), len(dense.speed_ckph))


def decode(upload: OpenedUpload, message: pb.PointBatch) -> Batch:
    """Where a batch's points are; dense ones are read, plain ones by `plain_columns`."""
    batch = Batch(upload, message.sequence, message)
    for track in message.tracks:
        count = len(track.points)
        if count:
            serialized = track.SerializeToString()[_header_bytes(track.trip_id) :]
            batch.plain.append(Segment(track.trip_id, batch.count, count, serialized))
            batch.count += count
        if track.HasField("dense"):
            _decode_dense(batch, track.trip_id, track.dense)
    return batch


def plain_columns(batches: Sequence[Batch]) -> Columns:
    """The columns of all plain points of the batches, in their order."""
    owners = [(batch, segment) for batch in batches for segment in batch.plain]
    counts = [segment.count for _, segment in owners]
    parts = [segment.wire for _, segment in owners]
    times, lats, lngs, speeds, unread = wire.read(parts, counts, NO_SPEED)
    if len(unread):
        ends = np.cumsum(counts)
        for row in unread.tolist():
            place = int(np.searchsorted(ends, row, side="right"))
            batch, segment = owners[place]
            index = segment.first_index + row - (int(ends[place]) - segment.count)
            ((_, original),) = _originals(batch.message, [index])
            times[row], lats[row], lngs[row], speeds[row] = _values(original)
    return times, lats, lngs, speeds


def _values(original: Original) -> tuple[int, float, float, float]:
    """A point of an uncommon shape as columns have it."""
    seconds, nanos, lat, lng, speed = original
    if speed == NO_SPEED:
        speed = -1.0  # as absurd, and not taken for none
    return time_us(seconds, nanos), lat, lng, NO_SPEED if speed is None else speed


def time_us(seconds: int | None, nanos: int | None) -> int:
    """A Timestamp as microseconds, cut; NO_TIME when it is missing or none of the years 1-9999."""
    if seconds is None or not SECONDS_MIN <= seconds <= SECONDS_MAX:
        return NO_TIME
    if nanos is None or not 0 <= nanos <= NANOS_MAX:
        return NO_TIME
    return seconds * 1_000_000 + nanos // 1_000


def _header_bytes(trip_id: str) -> int:
    """Bytes of a serialized track before its points: the trip's id."""
    length = len(trip_id.encode())
    return 1 + (length.bit_length() + 6) // 7 + length if length else 0


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


def _dense_columns(dense: pb.DenseTrack, length: int) -> Columns:
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
