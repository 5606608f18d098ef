"""Partitions: until when they lie side by side, what is half detached, what stands in the way."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from driveflow.monitor.v1 import health_pb2
from driveflow.monitor.v1 import tables_pb2 as pb
from services.monitor.model.partitions import FIRST, LAST, Partition, runway_ends
from tests import commands
from tests.monitor.serving import Monitor

shared = pytest.mark.asyncio(loop_scope="session")
NOW = datetime.now(UTC).replace(microsecond=0)


def day(number: int) -> datetime:
    return NOW + timedelta(days=number)


@contextmanager
def partitioned(watcher: Monitor, *bounds: tuple[str, str, str]) -> Iterator[psycopg.Connection]:
    """A table by time for one test, with partitions of a name, from and to."""
    with watcher.admin() as admin:
        # Bounds are read as they are meant, whatever the zone of who made them.
        admin.execute("SET timezone = 'America/New_York'")
        admin.execute('CREATE TABLE tracking."Little" (ts timestamptz) PARTITION BY RANGE (ts)')
        try:
            for name, start, end in bounds:
                add(admin, name, start, end)
            yield admin
        finally:
            admin.execute('DROP TABLE tracking."Little"')


def add(admin: psycopg.Connection, name: str, start: str, end: str) -> None:
    admin.execute(
        f'CREATE TABLE tracking."{name}" PARTITION OF tracking."Little"'
        f" FOR VALUES FROM ({start}) TO ({end})".encode()
    )


def bound(number: int) -> str:
    return f"'{day(number).isoformat()}'"


async def runway(watcher: Monitor, *paths: str) -> dict[str, pb.PartitionedTable]:
    request = pb.GetPartitionRunwayRequest(read_mask=FieldMask(paths=paths))
    return {each.table: each for each in (await watcher.stub().GetPartitionRunway(request)).tables}


@shared
async def test_a_runway_ends_at_the_first_gap_and_goes_on_when_it_is_filled(
    watcher: Monitor,
) -> None:
    with partitioned(
        watcher,
        ("Little_old", "MINVALUE", bound(-10)),
        ("Little_now", bound(-10), bound(3)),
        ("Little_far", bound(9), bound(30)),
    ) as admin:
        little = (await runway(watcher))["Little"]
        assert [each.partition for each in little.partitions] == [
            "Little_old", "Little_now", "Little_far",
        ]  # fmt: skip
        assert not little.partitions[0].HasField("start_time")
        assert little.partitions[1].start_time.ToDatetime(UTC) == day(-10)
        assert little.runway_end_time.ToDatetime(UTC) == day(3)
        assert little.runway_days == pytest.approx(3, abs=0.1)
        check = await watcher.check("partitions")
        assert (check.verdict, round(check.figure)) == (health_pb2.VERDICT_CRITICAL, 3)
        assert 'tracking."Little"' in check.summary
        add(admin, "Little_next", bound(3), bound(9))
        assert (await runway(watcher))["Little"].runway_end_time.ToDatetime(UTC) == day(30)
        add(admin, "Little_last", bound(30), "MAXVALUE")
        assert (await runway(watcher))["Little"].runway_days > 365_000
        assert (await watcher.check("partitions")).verdict == health_pb2.VERDICT_OK


@shared
async def test_a_month_of_points_that_nobody_makes_is_missed_two_weeks_before(
    watcher: Monitor,
) -> None:
    points = (await runway(watcher))["TripPoint"]
    assert points.runway_end_time == points.partitions[-1].end_time
    end = points.runway_end_time.ToDatetime(UTC)
    for days, verdict in (
        (15, health_pb2.VERDICT_OK),
        (13, health_pb2.VERDICT_WARNING),
        (6, health_pb2.VERDICT_CRITICAL),
        (-1, health_pb2.VERDICT_CRITICAL),
    ):
        watcher.clock.set(end - timedelta(days=days))
        check = await watcher.check("partitions")
        assert check.verdict == verdict
        assert check.figure == pytest.approx(max(0, days), abs=0.1)


@shared
async def test_what_is_half_detached_is_no_runway_and_a_default_partition_is_named(
    watcher: Monitor,
) -> None:
    with (
        partitioned(watcher, ("Little_now", bound(-10), bound(40))) as admin,
        watcher.admin() as reading,
    ):
        with reading.transaction():
            reading.execute('SELECT FROM tracking."Little"')
            admin.execute("SET lock_timeout = '100ms'")
            with pytest.raises(psycopg.errors.LockNotAvailable):
                admin.execute(
                    'ALTER TABLE tracking."Little" DETACH PARTITION tracking."Little_now"'
                    " CONCURRENTLY"
                )
        little = (await runway(watcher))["Little"]
        assert (little.partitions[0].detaching, little.runway_days) == (True, 0)
        check = await watcher.check("partitions")
        assert check.verdict == health_pb2.VERDICT_CRITICAL
        assert 'tracking."Little_now" is half detached' in check.evidence
        admin.execute(
            'ALTER TABLE tracking."Little" DETACH PARTITION tracking."Little_now" FINALIZE'
        )
        admin.execute('DROP TABLE tracking."Little_now"')
        admin.execute('CREATE TABLE tracking."Little_rest" PARTITION OF tracking."Little" DEFAULT')
        little = (await runway(watcher, "tables.default_partition", "tables.table"))["Little"]
        assert little == pb.PartitionedTable(table="Little", default_partition="Little_rest")


@shared
async def test_the_command_shows_the_runway(watcher: Monitor) -> None:
    environment = {
        "DRIVEFLOW_MONITOR_ADDR": watcher.address,
        "DRIVEFLOW_OPS_TOKEN": watcher.ops_token,
    }
    done = await commands.driveflow(environment, "partitions")
    assert (done.code, done.stderr) == (0, "")
    assert "tracking.TripPoint" in done.stdout
    assert "analyzed" in done.stdout


def test_open_bounds_order_and_touching_ends_are_understood() -> None:
    def part(start: datetime, end: datetime, *, detaching: bool = False) -> Partition:
        return Partition(name="", start=start, end=end, detaching=detaching, total_bytes=0, rows=0)

    assert runway_ends([], NOW) == NOW
    assert runway_ends([part(FIRST, LAST)], NOW) == LAST
    assert runway_ends([part(day(1), day(2)), part(day(0), day(1))], NOW) == day(2)
    assert runway_ends([part(day(-2), day(0))], NOW) == NOW
    assert runway_ends([part(day(0), day(2)), part(day(3), day(4))], NOW) == day(2)
    assert runway_ends([part(day(0), day(2), detaching=True)], NOW) == NOW
