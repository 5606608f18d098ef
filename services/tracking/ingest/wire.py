"""Plain points read column by column from their bytes on the wire.

Reading a point's fields through its message object costs over 1 us; thousands of points are read
from their serialized form for a tenth of that. The form is protobuf's own (upb writes fields in the
order of their numbers), as repeated field 2 of Track:

    12 length [0A length [08 seconds] [10 nanos]] [11 lat] [19 lng] [21 speed]

Only points of the common shape are read here: seconds of five bytes (the years 1978 to 3058), and a
latitude and a longitude other than zero. The others are named, and read through their messages.
Source: protobuf documentation, "Encoding".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bytes = npt.NDArray[np.uint8]
Bools = npt.NDArray[np.bool_]

POINT, TIME, SECONDS, NANOS, LAT, LNG, SPEED = 0x12, 0x0A, 0x08, 0x10, 0x11, 0x19, 0x21
POINT_BYTES = 48
"""No point of the common shape is longer: 2 + 2 + 12 + 3 * 9 bytes."""
SECONDS_BYTES = 5
NANOS_BYTES_MAX = 5
MORE = 0x80
"""Set in each byte of a varint but the last."""


def read(
    parts: Sequence[bytes], counts: Sequence[int], no_speed: float
) -> tuple[Ints, Floats, Floats, Floats, Ints]:
    """Times (us), latitudes, longitudes and speeds of points, and the places that were not read.

    Each part begins with so many serialized points; what follows them is passed over. A row that
    was not read holds anything.
    """
    if not parts:
        nothing = np.zeros(0)
        return np.zeros(0, np.int64), nothing, nothing, nothing, np.zeros(0, np.int64)
    data = np.frombuffer(b"".join(parts) + bytes(POINT_BYTES), np.uint8)
    starts = _starts(data, parts, counts)
    rows = np.lib.stride_tricks.sliding_window_view(data, POINT_BYTES)[starts]
    count = len(starts)
    times = np.zeros(count, np.int64)
    degrees = np.zeros((count, 2), np.float64)
    speeds = np.full(count, no_speed)
    fits = np.zeros(count, np.bool_)
    for time_bytes in np.unique(rows[:, 3]).tolist():
        if not _is_common(time_bytes):
            continue
        same = rows[:, 3] == time_bytes
        chosen = slice(None) if same.all() else same
        part = rows[chosen]
        times[chosen], timed = _times(part, time_bytes)
        degrees[chosen], speeds[chosen], placed = _places(part, 4 + time_bytes, no_speed)
        fits[chosen] = timed & placed
    return times, degrees[:, 0], degrees[:, 1], speeds, np.flatnonzero(~fits)


def _starts(data: Bytes, parts: Sequence[bytes], counts: Sequence[int]) -> Ints:
    """Where each point begins. Parts whose points have one length, the rule, are not walked."""
    sizes = np.array([len(part) for part in parts], np.int64)
    strides = np.array([part[1] + 2 for part in parts], np.int64)
    numbers = np.array(counts, np.int64)
    begins = np.cumsum(sizes) - sizes
    if (strides * numbers == sizes).all() and (strides < MORE).all():
        places = np.arange(int(numbers.sum())) - np.repeat(np.cumsum(numbers) - numbers, numbers)
        stride = np.repeat(strides, numbers)
        starts: Ints = np.repeat(begins, numbers) + places * stride
        # Each point says that the next one begins where this says.
        if (data[starts + 1] + 2 == stride).all():
            return starts
    return np.array(
        [
            begin + place
            for begin, part, count in zip(begins.tolist(), parts, counts, strict=True)
            for place in _walk(part, count)
        ],
        np.int64,
    )


def _walk(part: bytes, count: int) -> Iterator[int]:
    place = 0
    for _ in range(count):
        yield place
        length, shift, place = part[place + 1], 7, place + 2
        while length >> shift:  # a length of more than one byte: unknown fields
            length = (length & ~(MORE << (shift - 7))) | part[place] << shift
            shift, place = shift + 7, place + 1
        place += length


def _is_common(time_bytes: int) -> bool:
    """Whether a Timestamp of this length can be seconds of five bytes, and nanos or none."""
    nanos_bytes = time_bytes - 1 - SECONDS_BYTES - 1
    return nanos_bytes == -1 or 1 <= nanos_bytes <= NANOS_BYTES_MAX


def _times(rows: Bytes, time_bytes: int) -> tuple[Ints, Bools]:
    """Times in us, and whether they have the shape."""
    seconds, timed = _varint(rows[:, 5 : 5 + SECONDS_BYTES])
    timed &= (rows[:, 0] == POINT) & (rows[:, 2] == TIME) & (rows[:, 4] == SECONDS)
    times = seconds * 1_000_000
    begin = 5 + SECONDS_BYTES
    end = 4 + time_bytes
    if end > begin:
        nanos, whole = _varint(rows[:, begin + 1 : end])
        timed &= whole & (rows[:, begin] == NANOS) & (nanos <= 999_999_999)
        times += nanos // 1_000
    return times, timed


def _places(rows: Bytes, begin: int, no_speed: float) -> tuple[Floats, Floats, Bools]:
    """Degrees and speeds, and whether they have the shape."""
    end = begin + 18
    given = (rows[:, 1] == end + 9 - 2) & (rows[:, end] == SPEED)
    placed = (
        (rows[:, begin] == LAT) & (rows[:, begin + 9] == LNG) & (given | (rows[:, 1] == end - 2))
    )
    degrees = np.concatenate([_doubles(rows, begin + 1), _doubles(rows, begin + 10)], axis=1)
    speeds = _doubles(rows, end + 1)[:, 0]
    placed &= speeds != no_speed  # given, and absurd: not to be taken for none
    return degrees, np.where(given, speeds, no_speed), placed


def _varint(columns: Bytes) -> tuple[Ints, Bools]:
    """The number in these bytes, and whether it takes all of them."""
    last = columns.shape[1] - 1
    value = columns[:, last].astype(np.int64) << (7 * last)
    whole = columns[:, last] < MORE
    for place in range(last):
        value |= (columns[:, place] & 0x7F).astype(np.int64) << (7 * place)
        whole &= columns[:, place] >= MORE
    return value, whole


def _doubles(rows: Bytes, begin: int) -> Floats:
    return np.ascontiguousarray(rows[:, begin : begin + 8]).view("<f8")
