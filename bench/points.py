"""Drives that the benches make up: the same points as a file for `\\copy` and as gRPC messages."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TextIO

import numpy as np
import numpy.typing as npt
from google.protobuf.timestamp_pb2 import Timestamp

from driveflow.tracking.v1 import tracking_pb2 as pb

Ints = npt.NDArray[np.int64]
BATCH_POINTS = 100


@dataclass(frozen=True)
class Drive:
    """Points of one trip, one a second; arrays of equal length."""

    seconds: Ints
    """Since 1970, UTC."""
    lat_e6: Ints
    lng_e6: Ints
    speed_ckph: Ints

    def part(self, first: int, count: int) -> Drive:
        """`count` points from the `first` on."""
        chosen = slice(first, first + count)
        return Drive(
            self.seconds[chosen],
            self.lat_e6[chosen],
            self.lng_e6[chosen],
            self.speed_ckph[chosen],
        )


@dataclass(frozen=True)
class Totals:
    """Sums over points, by which those that were sent and those that are stored are compared."""

    count: int
    seconds: int
    lat_e6: int
    lng_e6: int
    speed_ckph: int

    @classmethod
    def of(cls, drives: Iterable[Drive]) -> Totals:
        """All points of some drives."""
        columns = [
            (
                len(d.seconds),
                *map(int, (d.seconds.sum(), d.lat_e6.sum(), d.lng_e6.sum())),
                int(d.speed_ckph.sum()),
            )
            for d in drives
        ]
        return cls(*map(sum, zip(*columns, strict=True)))


def drive(number: int, start: int, count: int) -> Drive:
    """The drive of trip `number`: the same one each time, in whichever process."""
    random = np.random.default_rng(number)
    speed_mps = 14 + 10 * np.sin(np.arange(count) / 45) + random.normal(0, 0.5, count)
    heading = np.cumsum(random.normal(0, 0.1, count))
    degrees = np.abs(speed_mps) / 111_195
    lat = 52.5 + np.cumsum(degrees * np.cos(heading))
    lng = 13.4 + np.cumsum(degrees * np.sin(heading) / 0.61)
    return Drive(
        start + np.arange(count, dtype=np.int64),
        np.rint(lat * 1e6).astype(np.int64),
        np.rint(lng * 1e6).astype(np.int64),
        np.rint(np.abs(speed_mps) * 360).astype(np.int64),
    )


def _batches(fleet: Sequence[Drive], batch_points: int) -> Iterator[tuple[int, Drive]]:
    """The drives cut into batches, in the order in which a fleet would send them."""
    length = len(fleet[0].seconds)
    for first in range(0, length, batch_points):
        for number, track in enumerate(fleet):
            yield number, track.part(first, batch_points)


def write_rows(file: TextIO, prefixes: Sequence[str], fleet: Sequence[Drive]) -> None:
    """Rows in COPY's text format; `prefixes` by drive are the columns before the time."""
    for number, part in _batches(fleet, BATCH_POINTS):
        prefix = prefixes[number]
        file.writelines(
            f"{prefix}\t{datetime.fromtimestamp(second, UTC):%Y-%m-%d %H:%M:%S+00}"
            f"\t{lat / 1e6:.6f}\t{lng / 1e6:.6f}\t{speed / 100:.2f}\n"
            for second, lat, lng, speed in zip(
                part.seconds.tolist(),
                part.lat_e6.tolist(),
                part.lng_e6.tolist(),
                part.speed_ckph.tolist(),
                strict=True,
            )
        )


# A TripPoint inside a Track as it stands on the wire: every point of a whole second takes the same
# bytes, so that numpy makes millions of them a second (tags by name, see tracking.proto).
WIRE_POINT = np.dtype(
    [
        ("point", "V2"),
        ("time", "V3"),
        ("seconds", "u1", 5),
        ("lat_tag", "u1"),
        ("lat", "<f8"),
        ("lng_tag", "u1"),
        ("lng", "<f8"),
        ("speed_tag", "u1"),
        ("speed", "<f8"),
    ]
)


def plain_track(trip_id: str, part: Drive) -> bytes:
    """The points as a serialized Track of plain points."""
    rows = np.zeros(len(part.seconds), WIRE_POINT)
    rows["point"] = np.void(bytes([0x12, WIRE_POINT.itemsize - 2]))
    rows["time"] = np.void(bytes([0x0A, 6, 0x08]))
    shifts = np.arange(0, 35, 7)
    rows["seconds"] = (part.seconds[:, None] >> shifts & 0x7F) | [0x80, 0x80, 0x80, 0x80, 0]
    rows["lat_tag"], rows["lat"] = 0x11, part.lat_e6 / 1e6
    rows["lng_tag"], rows["lng"] = 0x19, part.lng_e6 / 1e6
    rows["speed_tag"], rows["speed"] = 0x21, part.speed_ckph / 100
    return pb.Track(trip_id=trip_id).SerializeToString() + rows.tobytes()


def dense_track(trip_id: str, part: Drive) -> bytes:
    """The points as a serialized Track of packed columns."""

    def deltas(values: Ints) -> list[int]:
        return [int(values[0]), *np.diff(values).tolist()]

    return pb.Track(
        trip_id=trip_id,
        dense=pb.DenseTrack(
            time_us=deltas(part.seconds * 1_000_000),
            lat_e6=deltas(part.lat_e6),
            lng_e6=deltas(part.lng_e6),
            speed_ckph=part.speed_ckph.tolist(),
        ),
    ).SerializeToString()


def message(sequence: int, track: bytes) -> bytes:
    """A StreamTripPointsRequest with a batch of one serialized track."""
    batch = b"\x08" + varint(sequence) + b"\x12" + varint(len(track)) + track
    return b"\x12" + varint(len(batch)) + batch


def varint(number: int) -> bytes:
    """A number in protobuf's variable width."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def check_wire() -> None:
    """Raise AssertionError unless the messages made here are what protobuf would make."""
    part = drive(0, 1_760_000_000, 3)
    made = pb.StreamTripPointsRequest.FromString(message(300, plain_track("t" * 36, part)))
    points = [
        pb.TripPoint(
            time=Timestamp(seconds=int(part.seconds[place])),
            lat=part.lat_e6[place] / 1e6,
            lng=part.lng_e6[place] / 1e6,
            speed_kph=part.speed_ckph[place] / 100,
        )
        for place in range(3)
    ]
    track = pb.Track(trip_id="t" * 36, points=points)
    wanted = pb.StreamTripPointsRequest(batch=pb.PointBatch(sequence=300, tracks=[track]))
    assert made == wanted
    assert made.SerializeToString() == message(300, plain_track("t" * 36, part))
