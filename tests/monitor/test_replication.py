"""Replicas: one that streams, one that stands still, one that is gone; a slot that nobody reads."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from psycopg.conninfo import conninfo_to_dict

from driveflow.monitor.v1 import health_pb2
from driveflow.monitor.v1 import tables_pb2 as pb
from services.monitor.model.replication import OwnWord, Replica, together
from tests.monitor.replica import following
from tests.monitor.serving import Monitor, serving
from tests.waiting import eventually

shared = pytest.mark.asyncio(loop_scope="session")
ABSENT = "replica-2=postgresql://monitor@127.0.0.1:9/driveflow"


def url(dsn: str) -> str:
    """As the settings take it."""
    known = conninfo_to_dict(dsn)
    return (
        f"postgresql://{known['user']}:{known['password']}"
        f"@{known['host']}:{known['port']}/{known['dbname']}"
    )


async def status(monitor: Monitor, *paths: str) -> pb.ReplicationStatus:
    request = pb.GetReplicationStatusRequest(read_mask=FieldMask(paths=paths))
    return await monitor.stub().GetReplicationStatus(request)


@shared
async def test_without_replicas_nothing_is_missed(watcher: Monitor) -> None:
    check = await watcher.check("replication")
    assert (check.verdict, check.HasField("figure")) == (health_pb2.VERDICT_OK, False)


@shared
async def test_a_replica_streams_stands_still_and_goes(watcher: Monitor, tmp_path: Path) -> None:
    database = watcher.database
    with following(database.server) as replica, watcher.admin() as admin:
        dsns = f"replica-1={url(replica.dsn_of(database, 'monitor'))} {ABSENT}"
        async with serving(database, tmp_path, replica_dsns=dsns) as monitor:
            one, two = (await status(monitor)).replicas
            assert (one.name, one.state, one.sync_state) == ("replica-1", "streaming", "async")
            assert (two.name, two.state, two.HasField("lag_bytes")) == (
                "replica-2",
                "absent",
                False,
            )
            check = await monitor.check("replication")
            assert (check.verdict, [*check.evidence]) == (
                health_pb2.VERDICT_WARNING, ["replica replica-2 is not connected"],
            )  # fmt: skip

            # A replica knows the age only of what it has replayed itself.
            write(admin)
            replica.catch_up()
            with psycopg.connect(replica.dsn(), autocommit=True) as standby:
                standby.execute("SELECT pg_wal_replay_pause()")
                write(admin)
                one = (await status(monitor)).replicas[0]
                assert (one.lag_bytes > 100_000, one.lag_seconds > 0) == (True, True)
                standby.execute("SELECT pg_wal_replay_resume()")

            async def behind() -> float:
                return (await status(monitor)).replicas[0].lag_seconds

            await eventually(behind, lambda seconds: seconds == 0)

            admin.execute("SELECT pg_create_physical_replication_slot('left_behind', true)")
            try:
                (slot,) = (await status(monitor, "slots")).slots
                assert (slot.name, slot.active, slot.wal_status) == (
                    "left_behind", False, "reserved",
                )  # fmt: skip
            finally:
                admin.execute("SELECT pg_drop_replication_slot('left_behind')")

            replica.stop()

            async def state() -> str:
                return (await status(monitor)).replicas[0].state

            await eventually(state, lambda state: state == "absent")
            assert (await monitor.check("replication")).figure == 2


def write(admin: psycopg.Connection) -> None:
    """100 kB of WAL in a transaction that changes nothing."""
    admin.execute("SELECT pg_logical_emit_message(true, 'monitor', repeat('x', 100000))")


def seen(name: str, **more: object) -> Replica:
    return Replica(name=name, state="streaming", **more)  # type: ignore[arg-type]


def test_a_replica_is_known_by_its_name_or_by_what_it_says_itself() -> None:
    connected = [seen("walreceiver", lag_bytes=0), seen("other", lag_bytes=5, lag_s=2.0)]
    words = {"eu": OwnWord("walreceiver", 0, 999.0), "us": OwnWord("gone", 70, 30.0)}
    found = together(connected, ["eu", "us", "mute"], words)
    assert [(each.name, each.state, each.lag_bytes, each.lag_s) for each in found] == [
        ("eu", "streaming", 0, 0.0),
        ("mute", "absent", None, None),
        ("other", "streaming", 5, 2.0),
        ("us", "absent", 70, 30.0),
    ]


def test_lag_that_the_primary_forgot_is_none_only_where_nothing_is_behind() -> None:
    assert together([seen("a", lag_bytes=0)], [], {})[0].lag_s == 0
    assert together([seen("a", lag_bytes=9)], [], {})[0].lag_s is None
    assert together([seen("a")], [], {})[0].lag_s is None
