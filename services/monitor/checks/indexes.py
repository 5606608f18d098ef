"""Questions about indexes."""

from __future__ import annotations

from datetime import timedelta

from services.monitor.checks.asked import Asked
from services.monitor.model import indexes as model
from services.monitor.model.checks import Direction, Measured, Question, Thresholds, grpcurl
from services.monitor.model.sizes import pretty
from services.monitor.servicer.desk import Desk
from services.monitor.store import indexes as store
from services.monitor.store.indexes import Sizes
from services.monitor.usage import usage

ASKED_BLOCKS_MIN = 1_000_000
"""Of fewer index blocks that were asked for, those of a cold start are a large share."""


async def index_health(desk: Desk) -> Measured:
    async with desk.read() as conn:
        broken = [each for each in await store.broken_indexes(conn) if not each.building]
        ledger = await store.ledger(conn)
        covered = model.duplicates(await store.index_shapes(conn), ledger)
        keys = model.wanting(await store.uncovered_foreign_keys(conn))
    # What has a note has its reason.
    needless = [each for each in covered if not each.note]
    lines = (
        *(f"{each.schema}.{each.name} is invalid: drop it and make it again" for each in broken),
        *(f"{key.schema}.{key.name} has no index: {key.remedy}" for key in keys),
        *(
            f"{each.shape.schema}.{each.shape.name} is covered by {each.covered_by.name}"
            for each in needless
        ),
    )
    if not lines:
        return Measured(0, "No index is broken, missing or there twice.")
    return Measured(
        len(lines),
        f"Invalid indexes: {len(broken)}, foreign keys without one: {len(keys)}, indexes that"
        f" another one covers: {len(needless)}.",
        lines,
    )


async def unused_indexes(desk: Desk) -> Measured:
    min_age, now = timedelta(days=model.MIN_AGE_DAYS), desk.clock()
    async with desk.read() as conn:
        since = await store.statistics_since(conn)
        seen = await store.first_seen(conn)
        ledger = await store.ledger(conn)
    early = model.Usage((), since).undecided(now, min_age)
    if early:
        # Nothing is asked of replicas while there is no answer anyway.
        return Measured(None, early)
    found = await usage(desk, Sizes.ESTIMATED)
    undecided = found.undecided(now, min_age)
    if undecided:
        return Measured(None, undecided)
    unused = found.unused(now, min_age, model.MIN_BYTES, seen)
    nobodys = [index for index in unused if index.key not in ledger]
    lines = tuple(
        f"{index.schema}.{index.name}: {pretty(index.bytes)}"
        + (f", needed by {', '.join(ledger[index.key])}" if index.key in ledger else "")
        for index in unused
    )
    return Measured(
        len(nobodys),
        f"Indexes not used for {min_age.days} days: {len(unused)}, of them {len(nobodys)} that are"
        " none of the guide's.",
        lines,
    )


async def index_hit_ratio(desk: Desk) -> Measured:
    async with desk.read() as conn:
        tables = await store.table_reads(conn)
    percent = model.index_hit_percent(tables)
    asked = sum(table.index_blocks for table in tables)
    if percent is None or asked < ASKED_BLOCKS_MIN:
        return Measured(None, "Too little was read by index to tell.")
    lines = tuple(
        f"{table.schema}.{table.table}: {table.index_hit_percent:.2f} % of {table.index_blocks}"
        for table in model.cold(tables)
    )
    return Measured(percent, f"{percent:.2f} % of index blocks were in memory.", lines)


ASKED = (
    Asked(
        Question(
            name="index_health",
            title="Broken, missing and needless indexes",
            unit="count",
            why="An invalid or needless index slows writes; a foreign key without one, deletes.",
            next_step="Drop what is broken or needless, make what is missing: driveflow indexes.",
            command=grpcurl("GetIndexHealth", {"read_mask": "invalid,duplicate,foreignKeys"}),
            thresholds=Thresholds(warning_at=1, for_s=900),
        ),
        index_health,
    ),
    Asked(
        Question(
            name="unused_indexes",
            title="Indexes that nobody uses",
            unit="count",
            why="Each costs time at every write, and memory that others could use.",
            next_step="Look whether an RPC or a report of the year needs it; drop it otherwise.",
            command=grpcurl("ListUnusedIndexes"),
            thresholds=Thresholds(warning_at=50, for_s=86_400),
        ),
        unused_indexes,
    ),
    Asked(
        Question(
            name="index_hit_ratio",
            title="Indexes found in memory",
            unit="percent",
            why="An index that is read from disk makes every statement that uses it slow.",
            next_step="Raise shared_buffers; look which tables' indexes are cold, and why.",
            command=grpcurl("GetIndexHealth", {"read_mask": "indexHitPercent,coldTables"}),
            thresholds=Thresholds(
                direction=Direction.BELOW, warning_at=99, critical_at=90, clear_at=99.5, for_s=900
            ),
        ),
        index_hit_ratio,
    ),
)
