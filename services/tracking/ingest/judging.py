"""Which points can be stored, and why the others can't. Column by column, no I/O."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
import numpy.typing as npt

from libs.messages import SECONDS_MAX, SECONDS_MIN
from services.tracking.ingest.decoding import (
    NO_SPEED,
    NO_TIME,
    Batch,
    Floats,
    Ints,
    Segment,
    plain_columns,
)
from services.tracking.model import (
    CLOCK_SLACK,
    EPOCH,
    LATE_POINTS,
    SPEED_KPH_MAX,
    Partition,
)
from services.tracking.store import TripWindow

Bools = npt.NDArray[np.bool_]

# Index = code in a column of verdicts; 0 = can be stored.
REASONS = (
    "",
    "MALFORMED_TRACK",
    "NOT_A_NUMBER",
    "LAT_OUT_OF_RANGE",
    "LNG_OUT_OF_RANGE",
    "SPEED_OUT_OF_RANGE",
    "TIME_INVALID",
    "TRIP_NOT_FOUND",
    "TRIP_CLOSED",
    "BEFORE_TRIP",
    "AFTER_TRIP",
    "NO_PARTITION",
)
CODE = {reason: code for code, reason in enumerate(REASONS)}
ALWAYS = (np.iinfo(np.int64).min, np.iinfo(np.int64).max)


@dataclass(frozen=True, slots=True)
class TripState:
    """How a trip's points are judged now."""

    id: bytes
    code: int
    """0, or the code of TRIP_NOT_FOUND or TRIP_CLOSED: no point can be stored."""
    from_us: int
    to_us: int
    ended: bool


UNKNOWN = TripState(bytes(16), CODE["TRIP_NOT_FOUND"], *ALWAYS, ended=False)


def trip_state(trip: TripWindow, now: datetime) -> TripState:
    """The state of a trip of the school."""
    start = microseconds(trip.started_at - CLOCK_SLACK)
    end = now if trip.ended_at is None else trip.ended_at
    closed = trip.end_recorded_at is not None and trip.end_recorded_at < now - LATE_POINTS
    code = CODE["TRIP_CLOSED"] if closed else 0
    ended = trip.ended_at is not None
    return TripState(trip.id.bytes, code, start, microseconds(end + CLOCK_SLACK), ended)


@dataclass(slots=True)
class Rows:
    """Points of many batches as columns of one length."""

    batch: Ints
    """Index into the batches."""
    index: Ints
    """Place in the batch."""
    trip: Ints
    """Index into the trips."""
    time_us: Ints
    lat: Floats
    lng: Floats
    speed: Floats
    malformed: Bools | None

    def __len__(self) -> int:
        return len(self.time_us)

    def take(self, chosen: Ints | Bools) -> Rows:
        """Some of the rows."""
        return Rows(
            self.batch[chosen],
            self.index[chosen],
            self.trip[chosen],
            self.time_us[chosen],
            self.lat[chosen],
            self.lng[chosen],
            self.speed[chosen],
            None if self.malformed is None else self.malformed[chosen],
        )


@dataclass(slots=True)
class Trips:
    """The trips that some batches speak of, by school and id as sent."""

    keys: dict[tuple[uuid.UUID, str], int]

    @classmethod
    def of(cls, batches: Iterable[Batch]) -> Trips:
        keys: dict[tuple[uuid.UUID, str], int] = {}
        for batch in batches:
            org_id = batch.upload.org_id
            for segment in (*batch.plain, *batch.dense):
                keys.setdefault((org_id, segment.trip_id), len(keys))
        return cls(keys)


def assemble(batches: Sequence[Batch], trips: Trips) -> Rows:
    """The points of the batches, plain ones first, then dense ones."""
    segments: list[tuple[int, int, Segment]] = []
    for place, batch in enumerate(batches):
        org_id = batch.upload.org_id
        segments += [(place, trips.keys[org_id, s.trip_id], s) for s in batch.plain]
    columns = [plain_columns(batches)]
    for place, batch in enumerate(batches):
        org_id = batch.upload.org_id
        segments += [(place, trips.keys[org_id, s.trip_id], s) for s in batch.dense]
        columns += batch.dense_columns
    counts = np.array([segment.count for _, _, segment in segments], np.int64)
    starts = np.cumsum(counts) - counts
    firsts = np.array([segment.first_index for _, _, segment in segments], np.int64)
    malformed = np.array([segment.malformed for _, _, segment in segments], np.bool_)
    return Rows(
        np.repeat(np.array([place for place, _, _ in segments], np.int64), counts),
        np.arange(int(counts.sum())) + np.repeat(firsts - starts, counts),
        np.repeat(np.array([trip for _, trip, _ in segments], np.int64), counts),
        np.concatenate([column[0] for column in columns]),
        np.concatenate([column[1] for column in columns]),
        np.concatenate([column[2] for column in columns]),
        np.concatenate([column[3] for column in columns]),
        np.repeat(malformed, counts) if malformed.any() else None,
    )


class Months:
    """The months that have a partition."""

    def __init__(self, partitions: Sequence[Partition]) -> None:
        self._starts = np.array([microseconds(p.start) for p in partitions], np.int64)
        self._ends = np.array([microseconds(p.end) for p in partitions], np.int64)

    def __contains__(self, moment: datetime) -> bool:
        return bool(self.hold(np.array([microseconds(moment)]))[0])

    def hold(self, times_us: Ints) -> Bools:
        """Which of the times have a partition."""
        if not len(self._starts):
            return np.zeros(len(times_us), np.bool_)
        month = np.searchsorted(self._starts, times_us, side="right") - 1
        held: Bools = (month >= 0) & (times_us < self._ends[month])
        return held


def judge(rows: Rows, states: Sequence[TripState], months: Months) -> npt.NDArray[np.uint8] | None:
    """A code of REASONS for each row; None when all can be stored."""
    codes = np.array([state.code for state in states], np.uint8)[rows.trip]
    from_us = np.array([state.from_us for state in states], np.int64)[rows.trip]
    to_us = np.array([state.to_us for state in states], np.int64)[rows.trip]
    # Each comparison is false for NaN, so NaN passes none of them.
    fine = (
        (np.abs(rows.lat) <= 90)
        & (np.abs(rows.lng) <= 180)
        & ((rows.speed == NO_SPEED) | ((rows.speed >= 0) & (rows.speed <= SPEED_KPH_MAX)))
        & (rows.time_us >= from_us)
        & (rows.time_us <= to_us)
        & (codes == 0)
        & months.hold(rows.time_us)
    )
    if rows.malformed is not None:
        fine &= ~rows.malformed
    if fine.all():
        return None
    verdicts = np.zeros(len(rows), np.uint8)
    bad = np.flatnonzero(~fine)
    verdicts[bad] = _verdicts(rows.take(bad), codes[bad], from_us[bad], to_us[bad])
    return verdicts


def _verdicts(
    rows: Rows, codes: npt.NDArray[np.uint8], from_us: Ints, to_us: Ints
) -> npt.NDArray[np.uint8]:
    """Why each of these rows can't be stored: the first reason that holds."""
    malformed = np.zeros(len(rows), np.bool_) if rows.malformed is None else rows.malformed
    given = rows.speed != NO_SPEED
    finite = np.isfinite(rows.lat) & np.isfinite(rows.lng) & (np.isfinite(rows.speed) | ~given)
    seconds = rows.time_us // 1_000_000
    reasons = (
        (malformed, "MALFORMED_TRACK"),
        (~finite, "NOT_A_NUMBER"),
        (np.abs(rows.lat) > 90, "LAT_OUT_OF_RANGE"),
        (np.abs(rows.lng) > 180, "LNG_OUT_OF_RANGE"),
        (given & ((rows.speed < 0) | (rows.speed > SPEED_KPH_MAX)), "SPEED_OUT_OF_RANGE"),
        (
            (rows.time_us == NO_TIME) | (seconds < SECONDS_MIN) | (seconds > SECONDS_MAX),
            "TIME_INVALID",
        ),
        (codes == CODE["TRIP_NOT_FOUND"], "TRIP_NOT_FOUND"),
        (codes == CODE["TRIP_CLOSED"], "TRIP_CLOSED"),
        (rows.time_us < from_us, "BEFORE_TRIP"),
        (rows.time_us > to_us, "AFTER_TRIP"),
    )
    return np.select(
        [condition for condition, _ in reasons],
        [np.uint8(CODE[reason]) for _, reason in reasons],
        default=np.uint8(CODE["NO_PARTITION"]),
    ).astype(np.uint8)


def microseconds(moment: datetime) -> int:
    """Microseconds since 1970."""
    return (moment - EPOCH) // timedelta(microseconds=1)


def moment(time_us: int) -> datetime:
    """The time of so many microseconds since 1970."""
    return EPOCH.astimezone(UTC) + timedelta(microseconds=int(time_us))
