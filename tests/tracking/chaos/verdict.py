"""The tables held against what the devices remember."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field

import psycopg
from psycopg.rows import TupleRow

from tests.tracking.chaos.device import Device
from tests.tracking.chaos.points import NO_SPEED, Bad, Point

# What stands in "TripPoint", in whole numbers.
_STORED = """
SELECT "tripId"::text, (extract(epoch FROM ts) * 1000000)::bigint, (lat * 1000000)::int,
       (lng * 1000000)::int, coalesce("speedKph" * 100, %(no_speed)s)::int
  FROM tracking."TripPoint"
"""
# The rejected points, in whole numbers.
_REJECTED = """
SELECT "tripId", "timeSeconds" * 1000000 + "timeNanos" / 1000, round(lat * 1000000)::int,
       round(lng * 1000000)::int, coalesce(round("speedKph" * 100), %(no_speed)s)::int, reason
  FROM tracking."RejectedPoint"
"""
_MARKS = """SELECT "uploadId"::text, "durableThrough" FROM tracking."GpsUpload" """
# Trips whose summary does not speak of the points that are there.
SUMMARIES_WRONG = """
SELECT count(*)
  FROM tracking."Trip" AS t
 WHERE t."pointCount" IS DISTINCT FROM
       (SELECT count(*) FROM tracking."TripPoint" AS p WHERE p."tripId" = t.id)
"""
# Trips whose versions after the end were not told exactly once each. The first version is the
# start, the second the end, each further one a summary.
_OUTBOX_WRONG = """
SELECT count(*)
  FROM tracking."Trip" AS t
 WHERE ARRAY(SELECT generate_series(3, t.version)) IS DISTINCT FROM
       ARRAY(SELECT o."aggregateVersion" FROM tracking."Outbox" AS o
              WHERE o."aggregateId" = t.id AND o.type = 'trip.completed'
              ORDER BY o."aggregateVersion")
"""
_TRIPS = """SELECT id::text FROM tracking."Trip" """


@dataclass
class Verdict:
    """What was found; everything but the first three must be 0."""

    points: int = 0
    acknowledged: int = 0
    rejected: int = 0
    acked_missing: int = 0
    duplicates: int = 0
    missing: int = 0
    """Points that the devices take for stored at the end, and that are not there."""
    unknown: int = 0
    """Stored, but never sent, or with other values, or by a stream that had lost its upload."""
    rejected_missing: int = 0
    rejected_twice: int = 0
    rejected_unknown: int = 0
    marks_wrong: int = 0
    trips_wrong: int = 0
    summaries_wrong: int = 0
    outbox_wrong: int = 0
    violations: list[str] = field(default_factory=list)
    """What devices heard that the contract does not allow."""

    @property
    def faults(self) -> dict[str, object]:
        """What is not as it must be; empty when all is well."""
        told = ("points", "acknowledged", "rejected")
        return {name: value for name, value in asdict(self).items() if value and name not in told}


def judge(admin_dsn: str, devices: Sequence[Device]) -> Verdict:
    """Read everything, as the superuser whom no row is hidden from."""
    verdict = Verdict(violations=[line for device in devices for line in device.violations])
    with psycopg.connect(admin_dsn) as conn:
        _judge_points(verdict, conn, devices)
        _judge_rejected(verdict, conn, [bad for device in devices for bad in device.refused])
        marks: dict[str, int] = dict(conn.execute(_MARKS).fetchall())
        verdict.marks_wrong = sum(marks.get(d.upload_id) != d.through for d in devices)
        trips = {trip_id for (trip_id,) in conn.execute(_TRIPS)}
        verdict.trips_wrong = len(trips ^ {trip for device in devices for trip in device.trips})
        verdict.summaries_wrong = _count(conn, SUMMARIES_WRONG)
        verdict.outbox_wrong = _count(conn, _OUTBOX_WRONG)
    return verdict


def _judge_points(
    verdict: Verdict, conn: psycopg.Connection[TupleRow], devices: Iterable[Device]
) -> None:
    with conn.cursor("points") as cursor:
        cursor.itersize = 20_000
        cursor.execute(_STORED, {"no_speed": NO_SPEED})
        rows = [Point(*row) for row in cursor]
    stored = set(rows)
    verdict.points = len(rows)
    verdict.duplicates = len(rows) - len({(point.trip_id, point.time_us) for point in rows})
    for device in devices:
        sent = set(device.sent)
        verdict.acknowledged += len(device.acknowledged)
        verdict.acked_missing += len(device.acknowledged - stored)
        verdict.missing += len(sent - stored)
        stored -= sent
    verdict.unknown = len(stored)


def _judge_rejected(
    verdict: Verdict, conn: psycopg.Connection[TupleRow], refused: Iterable[Bad]
) -> None:
    listed = Counter(
        Bad(Point(*row), reason) for *row, reason in conn.execute(_REJECTED, {"no_speed": NO_SPEED})
    )
    wanted = set(refused)
    verdict.rejected = listed.total()
    verdict.rejected_missing = len(wanted - listed.keys())
    verdict.rejected_unknown = len(listed.keys() - wanted)
    verdict.rejected_twice = sum(count > 1 for count in listed.values())


def _count(conn: psycopg.Connection[TupleRow], query: str) -> int:
    rows = conn.execute(query.encode()).fetchall()
    return int(rows[0][0])
