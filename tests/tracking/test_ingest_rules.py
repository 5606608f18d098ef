"""How points are decoded, judged and written, for all values that can come over the wire."""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from driveflow.tracking.v1 import tracking_pb2 as pb
from services.tracking.ingest import copying, decoding, judging
from services.tracking.ingest.decoding import Batch, decode
from services.tracking.ingest.judging import Months, Rows, TripState, trip_state
from services.tracking.ingest.uploads import OpenedUpload
from services.tracking.model import Partition
from services.tracking.store import TripWindow
from tests.postgres import Database
from tests.tracking.stories import dense

ORG, TRIP = uuid.UUID(int=1), uuid.UUID(int=2)
START = datetime(2026, 3, 10, 12, tzinfo=UTC)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
US = timedelta(microseconds=1)
TRIED = settings(max_examples=60, deadline=None)


def point(time_us: int, lat: float, lng: float, speed_kph: float | None) -> pb.TripPoint:
    return raw_point(time_us // 1_000_000, time_us % 1_000_000 * 1_000, lat, lng, speed_kph)


def raw_point(
    seconds: int | None, nanos: int, lat: float, lng: float, speed_kph: float | None
) -> pb.TripPoint:
    made = pb.TripPoint(lat=lat, lng=lng, speed_kph=speed_kph)
    if seconds is not None:
        made.time.SetInParent()
        made.time.seconds, made.time.nanos = seconds, nanos
    return made


any_double = some.floats(width=64)
us_of_years = some.integers(-62_135_596_800_000_000, 253_402_300_799_999_999)
us_of_postgres = some.integers(0, 4_102_444_800_000_000)
# Whole numbers as they are stored, and what a plain point says for them.
stored_points = some.builds(
    lambda us, lat, lng, speed: point(us, lat / 1e6, lng / 1e6, None if speed < 0 else speed / 100),
    us_of_years,
    some.integers(-90_000_000, 90_000_000),
    some.integers(-180_000_000, 180_000_000),
    some.integers(-1, 50_000),
)
wire_points = some.builds(
    raw_point,
    some.none() | some.integers(-(2**63), 2**63 - 1) | some.integers(0, 2**33),
    some.integers(-(2**31), 2**31 - 1) | some.integers(0, 999_999_999),
    any_double | some.floats(-91, 91),
    any_double | some.floats(-181, 181),
    some.none() | any_double.filter(lambda speed: speed != decoding.NO_SPEED),
)
wire_columns = some.builds(
    pb.DenseTrack,
    time_us=some.lists(some.integers(-(2**63), 2**63 - 1), max_size=4),
    lat_e6=some.lists(some.integers(-(2**31), 2**31 - 1), max_size=4),
    lng_e6=some.lists(some.integers(-(2**31), 2**31 - 1), max_size=4),
    speed_ckph=some.lists(some.integers(-(2**31), 2**31 - 1), max_size=4),
)
wire_tracks = some.builds(
    pb.Track,
    trip_id=some.sampled_from([str(TRIP), "", "elsewhere"]),
    points=some.lists(wire_points, max_size=4),
    dense=some.none() | wire_columns,
)


def decoded(*tracks: pb.Track) -> Batch:
    upload = OpenedUpload(ORG, "gateway", uuid.UUID(int=3), 1, 0, 0)
    return decode(upload, pb.PointBatch(sequence=7, tracks=tracks))


def assembled(*tracks: pb.Track) -> Rows:
    batches = [decoded(*tracks)]
    return judging.assemble(batches, judging.Trips.of(batches))


# --- decoding ---


@TRIED
@given(some.lists(stored_points, min_size=1, max_size=20))
def test_dense_tracks_equal_plain_ones_bit_for_bit(points: list[pb.TripPoint]) -> None:
    plain = assembled(pb.Track(trip_id=str(TRIP), points=points))
    packed = assembled(dense(str(TRIP), points))
    assert plain.time_us.tobytes() == packed.time_us.tobytes()
    in_range = (plain.time_us >= 0) & (plain.time_us < 2**52)
    plain, packed = plain.take(in_range), packed.take(in_range)
    ids = [ORG.bytes], [TRIP.bytes]
    assert copying.encode(plain, *ids) == copying.encode(packed, *ids)


@TRIED
@given(some.lists(wire_tracks, max_size=4))
def test_every_point_of_a_batch_has_its_place_whatever_it_says(tracks: list[pb.Track]) -> None:
    message = pb.PointBatch(tracks=tracks)
    rows = assembled(*tracks)
    assert len(rows) == decoding.count_points(message) == decoded(*tracks).count
    assert sorted(rows.index.tolist()) == list(range(len(rows)))


@TRIED
@given(some.lists(wire_tracks, max_size=4))
def test_a_rejected_point_is_recorded_as_it_was_received(tracks: list[pb.Track]) -> None:
    batch = decoded(*tracks)
    reasons = dict.fromkeys(range(batch.count), "TRIP_CLOSED")
    recorded = decoding.rejected_points(batch, reasons)
    assert [each.index for each in recorded] == list(range(batch.count))
    sent = list(places(tracks))
    assert [each.trip_id for each in recorded] == [trip_id for trip_id, _ in sent]
    for record, (_, plain) in zip(recorded, sent, strict=True):
        assert (record.sequence, record.reason) == (7, "TRIP_CLOSED")
        if plain is not None:
            seconds = plain.time.seconds if plain.HasField("time") else None
            speed = plain.speed_kph if plain.HasField("speed_kph") else None
            told = (record.time_seconds, record.lat, record.lng, record.speed_kph)
            assert repr(told) == repr((seconds, plain.lat, plain.lng, speed))


def places(tracks: list[pb.Track]) -> Iterator[tuple[str, pb.TripPoint | None]]:
    """Each point's trip, and the point if it was sent plain."""
    for track in tracks:
        yield from ((track.trip_id, each) for each in track.points)
        columns = (track.dense.time_us, track.dense.lat_e6, track.dense.lng_e6)
        length = max(len(column) for column in (*columns, track.dense.speed_ckph))
        yield from ((track.trip_id, None) for _ in range(length))


def test_ten_thousand_rejected_points_are_recorded_in_no_time() -> None:
    """The server waits while they are."""
    one = [point(n * 1_000_000, 91, 0, None) for n in range(5_000)]
    batch = decoded(*(pb.Track(points=[each]) for each in one), dense("", one))
    started = time.perf_counter()
    recorded = decoding.rejected_points(batch, dict.fromkeys(range(10_000), "LAT_OUT_OF_RANGE"))
    assert time.perf_counter() - started < 1
    assert [each.time_seconds for each in recorded] == [*range(5_000)] * 2


# --- judging ---

OPEN = TripWindow(TRIP, START, None, None)
NOW = START + timedelta(hours=1)
APRIL = datetime(2026, 4, 1, tzinfo=UTC)
MONTHS = Months(
    [
        Partition("TripPoint_2026_03", APRIL - timedelta(days=31), APRIL, 0, 0, detaching=False),
        Partition(
            "TripPoint_2026_05",
            APRIL + timedelta(days=30),
            APRIL + timedelta(days=61),
            0,
            0,
            detaching=False,
        ),
    ]
)


def judged(rows: Rows, *states: TripState) -> list[str]:
    verdicts = judging.judge(rows, states, MONTHS)
    if verdicts is None:
        return [""] * len(rows)
    return [judging.REASONS[code] for code in verdicts.tolist()]


def reason(each: pb.TripPoint) -> str:
    """The rules once more, one point at a time."""
    numbers = [each.lat, each.lng, *([each.speed_kph] if each.HasField("speed_kph") else [])]
    if not all(math.isfinite(number) for number in numbers):
        return "NOT_A_NUMBER"
    if not -90 <= each.lat <= 90:
        return "LAT_OUT_OF_RANGE"
    if not -180 <= each.lng <= 180:
        return "LNG_OUT_OF_RANGE"
    if not 0 <= each.speed_kph <= 500:
        return "SPEED_OUT_OF_RANGE"
    seconds, nanos = each.time.seconds, each.time.nanos
    known = -62_135_596_800 <= seconds <= 253_402_300_799 and 0 <= nanos <= 999_999_999
    if not each.HasField("time") or not known:
        return "TIME_INVALID"
    when = EPOCH + timedelta(seconds=seconds, microseconds=nanos // 1_000)
    if when < START - timedelta(minutes=2):
        return "BEFORE_TRIP"
    return "AFTER_TRIP" if when > NOW + timedelta(minutes=2) else ""


@TRIED
@given(some.lists(wire_points, min_size=1, max_size=20))
def test_points_are_judged_all_at_once_as_they_would_be_one_by_one(
    points: list[pb.TripPoint],
) -> None:
    rows = assembled(pb.Track(trip_id=str(TRIP), points=points))
    assert judged(rows, trip_state(OPEN, NOW)) == [reason(each) for each in points]


@TRIED
@given(wire_columns)
def test_no_dense_track_is_too_strange_to_be_judged(columns: pb.DenseTrack) -> None:
    rows = assembled(pb.Track(trip_id=str(TRIP), dense=columns))
    lengths = {len(columns.time_us), len(columns.lat_e6), len(columns.lng_e6)}
    whole = len(lengths) == 1 and len(columns.speed_ckph) in (0, *lengths)
    verdicts = judged(rows, trip_state(OPEN, NOW))
    assert all((verdict == "MALFORMED_TRACK") != whole for verdict in verdicts)


def moments(*times: datetime) -> Rows:
    points = [pb.TripPoint(lat=1, lng=1) for _ in times]
    for each, when in zip(points, times, strict=True):
        each.time.FromDatetime(when)
    return assembled(pb.Track(trip_id=str(TRIP), points=points))


def test_a_point_of_a_month_that_is_not_there_has_no_partition() -> None:
    long = TripWindow(TRIP, START, None, None)
    in_june = trip_state(long, APRIL + timedelta(days=70))
    rows = moments(APRIL - US, APRIL, APRIL + timedelta(days=30) - US, APRIL + timedelta(days=30))
    assert judged(rows, in_june) == ["", "NO_PARTITION", "NO_PARTITION", ""]
    assert judged(moments(APRIL + timedelta(days=61)), in_june) == ["NO_PARTITION"]


def test_without_any_month_no_point_has_a_partition() -> None:
    verdicts = judging.judge(moments(START), [trip_state(OPEN, NOW)], Months([]))
    assert verdicts is not None
    assert [judging.REASONS[code] for code in verdicts] == ["NO_PARTITION"]


@pytest.mark.parametrize(
    ("recorded_ago", "expected"),
    [(timedelta(days=30), ""), (timedelta(days=30) + US, "TRIP_CLOSED")],
)
def test_a_trip_closes_thirty_days_after_its_end_was_recorded(
    recorded_ago: timedelta, expected: str
) -> None:
    ended = TripWindow(TRIP, START, NOW, NOW)
    rows = moments(START)
    assert judged(rows, trip_state(ended, NOW + recorded_ago)) == [expected]


def test_an_ended_trip_takes_points_up_to_two_minutes_after_its_end() -> None:
    ended = TripWindow(TRIP, START, NOW, NOW)
    edge = NOW + timedelta(minutes=2)
    assert judged(moments(edge, edge + US), trip_state(ended, NOW + timedelta(days=1))) == [
        "",
        "AFTER_TRIP",
    ]


# --- what PostgreSQL makes of the bytes ---


@pytest.fixture(scope="module")
def table(shared_database: Database) -> Iterator[psycopg.Connection[Any]]:
    """A connection with a table like that of the points, without its checks."""
    with psycopg.connect(shared_database.admin_dsn) as connection:
        connection.execute(
            'CREATE TEMP TABLE points (place serial, "orgId" uuid, "tripId" uuid, ts timestamptz,'
            ' lat numeric(9,6), lng numeric(9,6), "speedKph" numeric(6,2))'
        )
        yield connection


COLUMNS = '"orgId", "tripId", ts, lat, lng, "speedKph"'


def copied(table: psycopg.Connection[Any], rows: Rows) -> list[tuple[Any, ...]]:
    """The rows as they come back after a COPY."""
    table.execute("TRUNCATE points")
    with table.cursor().copy(f"COPY points ({COLUMNS}) FROM STDIN (FORMAT BINARY)") as copy:
        copy.write(copying.encode(rows, [ORG.bytes], [TRIP.bytes]))
    return table.execute(f"SELECT {COLUMNS} FROM points ORDER BY place").fetchall()


sevenths = some.builds(
    lambda us, lat, lng, speed: (us, lat, lng, speed),
    us_of_postgres,
    some.integers(-900_000_000, 900_000_000),
    some.integers(-1_800_000_000, 1_800_000_000),
    some.none() | some.integers(0, 500_000),
)


@TRIED
@given(fixes=some.lists(sevenths, min_size=1, max_size=30))
def test_degrees_and_speeds_are_stored_rounded_half_even(
    table: psycopg.Connection[Any], fixes: list[tuple[int, int, int, int | None]]
) -> None:
    """One digit more than is kept, so that halves occur; the product of doubles is what counts."""
    points = [
        point(us, lat / 1e7, lng / 1e7, None if speed is None else speed / 1_000)
        for us, lat, lng, speed in fixes
    ]
    expected = [
        (
            ORG,
            TRIP,
            EPOCH + timedelta(microseconds=us),
            Decimal(round(lat / 1e7 * 1e6)).scaleb(-6),
            Decimal(round(lng / 1e7 * 1e6)).scaleb(-6),
            None if speed is None else Decimal(round(speed / 1_000 * 100)).scaleb(-2),
        )
        for us, lat, lng, speed in fixes
    ]
    assert copied(table, assembled(pb.Track(trip_id=str(TRIP), points=points))) == expected


@TRIED
@given(
    fixes=some.lists(
        some.tuples(
            us_of_postgres,
            some.integers(0, 999),
            some.floats(-90, 90),
            some.floats(-180, 180),
            some.none() | some.floats(0, 500),
        ),
        min_size=1,
        max_size=30,
    )
)
def test_the_fast_and_the_slow_path_store_the_same(
    table: psycopg.Connection[Any], fixes: list[tuple[int, int, float, float, float | None]]
) -> None:
    points = [point(us, lat, lng, speed) for us, _, lat, lng, speed in fixes]
    for made, (_, nanos, *_) in zip(points, fixes, strict=True):
        made.time.nanos += nanos
    rows = assembled(pb.Track(trip_id=str(TRIP), points=points))
    fast = [row[2:] for row in copied(table, rows)]
    values = copying.columns(rows)
    assert fast == list(
        zip(values["times"], values["lats"], values["lngs"], values["speeds"], strict=True)
    )
    for stored, (us, _, lat, lng, speed) in zip(fast, fixes, strict=True):
        assert stored[0] == EPOCH + timedelta(microseconds=us)
        assert abs(float(stored[1]) - lat) <= 0.500001e-6
        assert abs(float(stored[2]) - lng) <= 0.500001e-6
        assert (stored[3] is None) == (speed is None)
        assert speed is None or abs(float(stored[3]) - speed) <= 0.00500001


def test_a_flush_of_no_rows_is_a_copy_of_nothing(table: psycopg.Connection[Any]) -> None:
    nothing = assembled(pb.Track(trip_id=str(TRIP), points=[point(0, 0, 0, 0)]))
    assert copied(table, nothing.take(np.array([], np.int64))) == []
