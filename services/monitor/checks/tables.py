"""Questions about tables and what they stand on."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from services.monitor import tables
from services.monitor.checks.asked import Asked
from services.monitor.model.backups import NONE_RECORDED
from services.monitor.model.capacity import TRANSACTION_IDS
from services.monitor.model.checks import (
    Direction,
    Measured,
    Question,
    Thresholds,
    Unmeasurable,
    grpcurl,
)
from services.monitor.model.replication import ABSENT, Replication
from services.monitor.model.sizes import age, pretty
from services.monitor.servicer.desk import Desk
from services.monitor.store import capacity, partitions
from services.monitor.store import tables as store

LISTED_MAX = 100
DEAD_ROWS = 10_000
DEAD_SHARE = 0.2
OVERDUE_AFTER_S = 3_600.0
"""Autovacuum looks every quarter of a minute: what is due for so long was not seen to."""
PARENTS_STALE_AFTER_S = 86_400.0
"""Tracking analyzes the parent of its partitions once an hour."""
OLDEST = 3
FORECAST_WINDOW = timedelta(days=30)
FORECAST_SPAN_MIN = timedelta(days=1)
"""A shorter line says nothing of the days to come."""
REPLICA_LAG_S = 60.0
SLOT_BYTES = 1024**3
"""A slot that nobody reads may hold so much WAL."""
MULTIXACTS = 2.0**32


async def dead_rows(desk: Desk) -> Measured:
    async with desk.read() as conn:
        found = await store.bloated_tables(conn, DEAD_ROWS, DEAD_SHARE, LISTED_MAX)
    if not found:
        return Measured(0, "No table has many dead rows.")
    lines = tuple(
        f'{each.schema}."{each.table}": {each.dead_rows:,} of'
        f" {each.dead_rows + each.live_rows:,} rows are dead,"
        f" {_seen_to('vacuumed', each.vacuumed_s)}"
        for each in found
    )
    return Measured(len(found), f"{_tables(len(found))} many dead rows.", lines)


async def vacuum(desk: Desk) -> Measured:
    async with desk.read() as conn:
        found = await store.overdue_vacuums(conn, OVERDUE_AFTER_S, LISTED_MAX)
    if not found:
        return Measured(0, "Every table that is due was vacuumed within an hour.")
    lines = tuple(
        f'{each.schema}."{each.table}": {each.dead_rows:,} dead rows, due at'
        f" {each.due_at_rows:,.0f}, {_seen_to('vacuumed', each.vacuumed_s)}"
        f"{'' if each.autovacuum else '; autovacuum is off for it'}"
        for each in found
    )
    return Measured(len(found), f"{_tables(len(found))} waited over an hour for VACUUM.", lines)


async def statistics(desk: Desk) -> Measured:
    async with desk.read() as conn:
        found = await store.stale_statistics(
            conn, OVERDUE_AFTER_S, PARENTS_STALE_AFTER_S, LISTED_MAX
        )
    if not found:
        return Measured(0, "The planner's statistics are current.")
    lines = tuple(
        f'{each.schema}."{each.table}":'
        f" {'parent of partitions' if each.is_parent else f'{each.changed_rows:,} rows changed'},"
        f" {_seen_to('analyzed', each.analyzed_s)}"
        f"{'' if each.autovacuum or each.is_parent else '; autovacuum is off for it'}"
        for each in found
    )
    return Measured(len(found), f"{_tables(len(found))} old statistics.", lines)


async def wraparound(desk: Desk) -> Measured:
    async with desk.read() as conn:
        oldest = await capacity.oldest_databases(conn)
        found = await store.oldest_tables(conn, OLDEST)
    worst = max(
        oldest,
        key=lambda each: max(each.xid_age / TRANSACTION_IDS, each.multixact_age / MULTIXACTS),
    )
    of_ids = 100 * worst.xid_age / TRANSACTION_IDS
    of_multixacts = 100 * worst.multixact_age / MULTIXACTS
    lines = (
        f"autovacuum freezes at {worst.freeze_max_age:,} transactions, whatever else it does",
        *(f'{each.schema}."{each.table}": {each.xid_age:,} transactions' for each in found),
    )
    return Measured(
        max(of_ids, of_multixacts),
        f"{of_ids:.1f} % of transaction ids and {of_multixacts:.1f} % of multixact ids are used"
        f" (database {worst.name}).",
        lines,
    )


async def sequences(desk: Desk) -> Measured:
    async with desk.read() as conn:
        found = await capacity.list_sequences(conn)
    if not found:
        return Measured(None, "There is no sequence.")
    fullest = found[0]
    lines = tuple(f"{each.name}: {each.used:,} of {each.most:,.0f}" for each in found if each.used)
    return Measured(
        100 * fullest.used / fullest.most,
        f"The fullest sequence, {fullest.name}, is used to"
        f" {100 * fullest.used / fullest.most:.1f} %.",
        lines,
    )


async def disk_growth(desk: Desk) -> Measured:
    async with desk.read() as conn:
        found, snapshots = await tables.forecasts(
            conn, desk.clock() - FORECAST_WINDOW, desk.disk_bytes_max
        )
    disk = next(each for each in found if each.resource == "disk")
    used = f"The database has {pretty(disk.used)}"
    if disk.limit is not None:
        used += f" of {pretty(disk.limit)}"
        if disk.used >= disk.limit:
            return Measured(0, f"{used}.")
    spans_s = (snapshots[-1].at - snapshots[0].at).total_seconds() if snapshots else 0.0
    if disk.line is None or spans_s < FORECAST_SPAN_MIN.total_seconds():
        return Measured(None, f"{used}; how fast it grows is known after a day.")
    wal_a_day = (snapshots[-1].wal_bytes - snapshots[0].wal_bytes) / spans_s * 86_400
    lines = (
        f"fitted to {disk.snapshots} snapshots, r² {disk.line.r_squared:.2f}",
        f"{pretty(wal_a_day)} of WAL are written a day",
    )
    grows = f"{used} and grows by {pretty(disk.line.per_day)} a day"
    if disk.limit is None:
        limit = "DRIVEFLOW_DISK_BYTES_MAX would say how long that goes well"
        return Measured(None, f"{grows}; {limit}.", lines)
    if disk.days_left is None:
        return Measured(None, f"{used} and does not grow.", lines)
    return Measured(disk.days_left, f"{grows}: enough for {disk.days_left:.0f} days.", lines)


async def partition_runway(desk: Desk) -> Measured:
    now = desk.clock()
    async with desk.read() as conn:
        found = await partitions.list_partitions(conn, sizes=False)
    if not found:
        return Measured(None, "No table is partitioned by time.")
    first = min(found, key=lambda each: each.runway_ends(now))
    lines = [
        f'{each.schema}."{each.table}" has partitions until {each.runway_ends(now):%Y-%m-%d %H:%M}'
        for each in found
    ]
    for each in found:
        if each.default:
            lines.append(
                f'{each.schema}."{each.table}" has a default partition, "{each.default}": what'
                " it holds stands in the way of new partitions"
            )
        lines += [
            f'{each.schema}."{part.name}" is half detached'
            for part in each.partitions
            if part.detaching
        ]
    days = first.runway_days(now)
    summary = f'The partitions of {first.schema}."{first.table}" last for {days:.0f} days.'
    return Measured(days, summary, tuple(lines))


async def replication(desk: Desk) -> Measured:
    status = await tables.replication_status(desk)
    if not (status.replicas or status.slots or status.synchronous_standby_names):
        return Measured(None, "No replica is configured, and none is connected.")
    wrong = _wrong(status)
    if not wrong:
        return Measured(0, f"{len(status.replicas)} replicas follow.")
    return Measured(len(wrong), f"{wrong[0][0].upper()}{wrong[0][1:]}.", wrong)


def _wrong(status: Replication) -> tuple[str, ...]:
    """A line for each thing that is not as it should be."""
    lines = []
    for replica in status.replicas:
        behind = "" if replica.lag_s is None else f", {age(replica.lag_s)} behind"
        if replica.state == ABSENT:
            lines.append(f"replica {replica.name} is not connected{behind}")
        elif replica.lag_s is not None and replica.lag_s >= REPLICA_LAG_S:
            lines.append(f"replica {replica.name} is {age(replica.lag_s)} behind")
    if status.synchronous_standby_names and not any(
        replica.sync_state in ("sync", "quorum") for replica in status.replicas
    ):
        lines.append(f"commits wait for a standby: {status.synchronous_standby_names}")
    for slot in status.slots:
        if slot.wal_status == "lost":
            lines.append(f"slot {slot.name} has lost WAL that its reader needs")
        elif not slot.active and slot.retained_bytes >= SLOT_BYTES:
            kept = pretty(slot.retained_bytes)
            lines.append(f"slot {slot.name} holds {kept} of WAL back, and nobody reads it")
    return tuple(lines)


async def backups(desk: Desk) -> Measured:
    now = desk.clock()
    async with desk.read() as conn:
        status = await tables.backup_status(conn)
    old_s = status.age_s(now)
    if old_s is None and status.last is not None:
        raise Unmeasurable(f"{NONE_RECORDED} that ended well: see why the first one did not")
    if old_s is None:
        # Whoever makes none has chosen so: said in each report, but no alarm without an end.
        return Measured(None, f"{_capital(NONE_RECORDED)}: a lost disk would be a lost database.")
    lines = []
    if status.last_done is not None:
        lines.append(f"{pretty(status.last_done.size_bytes)} at {status.last_done.location}")
    if status.last is not None and status.last.error:
        lines.append(f"the last attempt: {status.last.error}")
    return Measured(old_s / 86_400, f"{_capital(status.summary(now))}.", tuple(lines))


async def archive(desk: Desk) -> Measured:
    now = desk.clock()
    async with desk.read() as conn:
        status = (await tables.backup_status(conn)).archive
    failing_s = status.failing_s(now)
    if failing_s is None:
        return Measured(None, "archive_mode is off: no WAL is archived.")
    lines = (f"{status.archived:,} files archived, {status.failures:,} attempts failed",)
    if failing_s:
        return Measured(
            failing_s, f"Archiving WAL fails; the newest file is {age(failing_s)} old.", lines
        )
    return Measured(0, "WAL is archived.", lines)


def _tables(count: int) -> str:
    return "A table has" if count == 1 else f"{count} tables have"


def _seen_to(how: str, ago_s: float | None) -> str:
    return f"never {how}" if ago_s is None else f"{how} {age(ago_s)} ago"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _stats(fields: Sequence[str]) -> str:
    return grpcurl("ListTableStats", {"read_mask": {"paths": list(fields)}})


ASKED: tuple[Asked, ...] = (
    Asked(
        Question(
            name="dead_rows",
            title="Dead rows",
            unit="count",
            why="Dead rows are read over again and again, and make tables grow.",
            next_step="Look for a long transaction that holds VACUUM back; then VACUUM the table.",
            command=_stats(("schema", "table", "dead_rows", "dead_percent", "last_vacuum_time")),
            thresholds=Thresholds(warning_at=1, critical_at=10, for_s=1_800),
        ),
        dead_rows,
    ),
    Asked(
        Question(
            name="vacuum",
            title="Tables that wait for VACUUM",
            unit="count",
            why="Without VACUUM tables grow, and transaction ids run out.",
            next_step="See whether autovacuum is on, and whether its workers keep up.",
            command=_stats(("schema", "table", "dead_rows", "last_vacuum_time")),
            thresholds=Thresholds(warning_at=1, critical_at=10, for_s=1_800),
        ),
        vacuum,
    ),
    Asked(
        Question(
            name="statistics",
            title="The planner's statistics",
            unit="count",
            why="By old statistics the planner takes the wrong index.",
            next_step="ANALYZE the table; of a partitioned one the parent.",
            command=_stats(("schema", "table", "changed_since_analyze", "last_analyze_time")),
            thresholds=Thresholds(warning_at=1, critical_at=10, for_s=1_800),
        ),
        statistics,
    ),
    Asked(
        Question(
            name="wraparound",
            title="Transaction ids",
            unit="percent",
            why="Before they run out, PostgreSQL takes no more writes.",
            next_step="End old transactions, drop slots nobody reads, VACUUM the oldest tables.",
            command=_stats(("schema", "table", "frozen_xid_age", "last_vacuum_time")),
            thresholds=Thresholds(warning_at=25, critical_at=50, clear_at=20, for_s=600),
        ),
        wraparound,
    ),
    Asked(
        Question(
            name="sequences",
            title="Sequences",
            unit="percent",
            why="When a sequence, or its column, has no more values, every insert fails.",
            next_step="Give the column the type bigint in time; it rewrites the table.",
            command=grpcurl("GetCapacityForecast"),
            thresholds=Thresholds(warning_at=75, critical_at=90, for_s=300),
        ),
        sequences,
    ),
    Asked(
        Question(
            name="disk_growth",
            title="Days until the disk is full",
            unit="days",
            why="With a full disk nothing can be written.",
            next_step="See which tables grow; drop old months of GPS points, or add disk.",
            command=_stats(("schema", "table", "total_bytes", "growth_bytes_per_day")),
            thresholds=Thresholds(
                direction=Direction.BELOW, warning_at=30, critical_at=7, clear_at=35, for_s=3_600
            ),
        ),
        disk_growth,
    ),
    Asked(
        Question(
            name="partitions",
            title="Days until partitions run out",
            unit="days",
            why="A GPS point without a partition can't be stored.",
            next_step="See why tracking's maintenance makes none: its log; driveflow partitions.",
            command=grpcurl("GetPartitionRunway"),
            thresholds=Thresholds(
                direction=Direction.BELOW, warning_at=14, critical_at=7, for_s=600
            ),
        ),
        partition_runway,
    ),
    Asked(
        Question(
            name="replication",
            title="Replicas",
            unit="count",
            why="A replica that lags serves old rows; one that is gone is no second copy.",
            next_step="Start the replica; drop the slot of one that does not come back.",
            command=grpcurl("GetReplicationStatus"),
            thresholds=Thresholds(warning_at=1, for_s=300),
        ),
        replication,
    ),
    Asked(
        Question(
            name="backups",
            title="Age of the last base backup",
            unit="days",
            why="What is not backed up is lost with the disk.",
            next_step="See why the job that takes backups did not run, or failed.",
            command=grpcurl("GetBackupStatus"),
            thresholds=Thresholds(warning_at=2, critical_at=7, for_s=600),
        ),
        backups,
    ),
    Asked(
        Question(
            name="archive",
            title="Archive of WAL",
            unit="seconds",
            why="What was written since the last archived file is lost with the disk.",
            next_step="Look into PostgreSQL's log for what archive_command says.",
            command=grpcurl("GetBackupStatus"),
            thresholds=Thresholds(warning_at=300, critical_at=3_600, for_s=60),
        ),
        archive,
    ),
)
