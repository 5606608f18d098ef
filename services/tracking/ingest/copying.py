"""Rows of "TripPoint" in PostgreSQL's binary COPY format, made by numpy.

Every row has the same width (a numeric of fixed scale can be written at full width: leading zero
digits are allowed), so a flush is one structured array; only rows without a speed are shorter.
Source: PostgreSQL documentation, COPY, "Binary Format", and numeric_recv for numerics.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt

from services.tracking.ingest.decoding import NO_SPEED, Floats, Ints
from services.tracking.ingest.judging import Rows, moment

HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
TRAILER = b"\xff\xff"
FLUSH_BYTES_MAX = 2 * 1024 * 1024
"""More than 10,000 rows take."""
POSTGRES_EPOCH_US = 946_684_800_000_000
NEGATIVE = 0x4000


def _numeric(digits: int) -> list[tuple[str, str]]:
    head = [("count", ">i2"), ("weight", ">i2"), ("sign", ">u2"), ("scale", ">i2")]
    return head + [(f"digit{place}", ">i2") for place in range(digits)]


DEGREES = np.dtype(_numeric(3))  # 180 | 1234 | 5600: digits of base 10,000
SPEED = np.dtype(_numeric(2))
ROW = np.dtype(
    [
        ("fields", ">i2"),
        ("org_length", ">i4"),
        ("org", "V16"),
        ("trip_length", ">i4"),
        ("trip", "V16"),
        ("ts_length", ">i4"),
        ("ts", ">i8"),
        ("lat_length", ">i4"),
        ("lat", DEGREES),
        ("lng_length", ">i4"),
        ("lng", DEGREES),
        ("speed_length", ">i4"),
        ("speed", SPEED),
    ]
)


def _blank() -> bytes:
    row = np.zeros(1, ROW)
    row["fields"] = 6
    for name in ("org", "trip", "ts", "lat", "lng", "speed"):
        row[f"{name}_length"] = ROW[name].itemsize
    for name, scale in (("lat", 6), ("lng", 6), ("speed", 2)):
        row[name]["count"] = len(ROW[name].names or ()) - 4
        row[name]["scale"] = scale
    return row.tobytes()


BLANK = _blank()


def degrees_e6(degrees: Floats) -> Ints:
    """Degrees rounded half-even to millionths, as they are stored."""
    return np.rint(degrees * 1e6).astype(np.int64)


def speed_ckph(speed: Floats) -> Ints:
    """Speeds rounded half-even to hundredths of km/h; -1 = none."""
    return np.where(speed == NO_SPEED, -1, np.rint(speed * 100)).astype(np.int64)


def encode(rows: Rows, org_ids: Sequence[bytes], trip_ids: Sequence[bytes]) -> bytes:
    """A whole COPY stream; `org_ids` by batch and `trip_ids` by trip, 16 bytes each."""
    table = np.frombuffer(bytearray(BLANK * len(rows)), ROW)
    table["org"] = np.frombuffer(b"".join(org_ids), "V16")[rows.batch]
    table["trip"] = np.frombuffer(b"".join(trip_ids), "V16")[rows.trip]
    table["ts"] = rows.time_us - POSTGRES_EPOCH_US
    _put_degrees(table["lat"], degrees_e6(rows.lat))
    _put_degrees(table["lng"], degrees_e6(rows.lng))
    speeds = speed_ckph(rows.speed)
    given = speeds >= 0
    digits = np.where(given, speeds, 0)
    table["speed"]["digit0"] = digits // 100
    table["speed"]["digit1"] = digits % 100 * 100
    return HEADER + _bytes(table, given) + TRAILER


def _put_degrees(field: npt.NDArray[np.void], e6: Ints) -> None:
    magnitude = np.abs(e6)
    rest = magnitude % 1_000_000
    field["sign"] = np.where(e6 < 0, NEGATIVE, 0)
    field["digit0"] = magnitude // 1_000_000
    field["digit1"] = rest // 100
    field["digit2"] = rest % 100 * 100


def _bytes(table: npt.NDArray[np.void], given: npt.NDArray[np.bool_]) -> bytes:
    """The rows' bytes; a row without a speed says -1 for its length and ends there."""
    if given.all():
        return table.tobytes()
    table["speed_length"][~given] = -1
    width = ROW.itemsize
    kept = np.ones((len(table), width), np.bool_)
    kept[~given, width - SPEED.itemsize :] = False
    return table.view(np.uint8).reshape(len(table), width)[kept].tobytes()


def columns(rows: Rows) -> dict[str, list[Any]]:
    """The same values as lists, for the insert of the slow path."""
    speeds = speed_ckph(rows.speed).tolist()
    return {
        "times": [moment(time_us) for time_us in rows.time_us.tolist()],
        "lats": [Decimal(e6).scaleb(-6) for e6 in degrees_e6(rows.lat).tolist()],
        "lngs": [Decimal(e6).scaleb(-6) for e6 in degrees_e6(rows.lng).tolist()],
        "speeds": [None if ckph < 0 else Decimal(ckph).scaleb(-2) for ckph in speeds],
    }
