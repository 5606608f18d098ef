"""The audit log."""

from __future__ import annotations

from datetime import UTC, datetime

import psycopg
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from driveflow.tracking.v1 import tracking_pb2 as pb
from libs import audit, issuer
from tests.postgres import Database
from tests.serving import SCHOOL, Tracking

ENTRIES = """
SELECT "orgId", "actorUserId", "entityType", "entityId", action, before, after
  FROM tracking."AuditLog" ORDER BY id
"""


def entries(database: Database) -> list[tuple[object, ...]]:
    with psycopg.connect(database.admin_dsn) as admin:
        return admin.execute(ENTRIES).fetchall()


async def test_a_change_is_noted_with_who_did_it_and_from_what_to_what(tracking: Tracking) -> None:
    trip = await tracking.start_trip()
    operator = tracking.stub(tracking.token(SCHOOL, issuer.OPS_SCOPES, "olga"))
    for _ in range(2):
        await operator.SetLegalHold(pb.SetLegalHoldRequest(trip_id=trip.id, hold=True))
    values = ({"legal_hold": False}, {"legal_hold": True})
    assert entries(tracking.database) == [
        (SCHOOL, "olga", "trip", trip.id, "set_legal_hold", *values)
    ]


async def test_an_action_on_the_platform_is_noted_without_a_school(tracking: Tracking) -> None:
    month = Timestamp()
    month.FromDatetime(datetime(2019, 5, 1, tzinfo=UTC))
    operator = tracking.stub(tracking.ops_token)
    asked = pb.EnsurePartitionsRequest(from_month=month, dry_run=True)
    await operator.EnsurePartitions(asked)
    assert entries(tracking.database) == []
    asked.dry_run = False
    await operator.EnsurePartitions(asked)
    ((org_id, actor, *_, action, _, after),) = entries(tracking.database)
    assert (org_id, actor, action) == (audit.PLATFORM, "operator", "ensure_partitions")
    assert isinstance(after, dict)
    assert after["created"][0] == "TripPoint_2019_05"


@pytest.mark.parametrize(
    "statement",
    [
        'DELETE FROM "AuditLog"',
        'UPDATE "AuditLog" SET action = action',
        'UPDATE "AuditLog" SET "actorUserId" = action',
        'TRUNCATE "AuditLog"',
    ],
)
def test_an_entry_stays_as_it_is(database: Database, statement: str) -> None:
    with (
        psycopg.connect(database.dsn("tracking")) as service,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        service.execute(statement.encode())
