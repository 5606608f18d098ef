"""Indexes as messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from driveflow.monitor.v1 import indexes_pb2 as pb
from libs.messages import date_message, stamp
from services.monitor.model.indexes import (
    Broken,
    Duplicate,
    ForeignKey,
    Index,
    IndexDay,
    TableReads,
    Usage,
)
from services.monitor.model.sizes import pretty


def usage(
    of: Index, needed_by: Sequence[str], definition: str, days: Sequence[IndexDay] = ()
) -> pb.IndexUsage:
    """How an index is used."""
    return pb.IndexUsage(
        schema=of.schema,
        table=of.table,
        index=of.name,
        scans=of.scans,
        tuples_read=of.tuples_read,
        tuples_fetched=of.tuples_fetched,
        last_scan_time=stamp(of.last_scan),
        size_bytes=of.bytes,
        constraint=of.keeps_rule,
        partitions=of.partitions,
        needed_by=needed_by,
        definition=definition,
        days=[
            pb.IndexDay(date=date_message(each.day), scans=each.scans, size_bytes=each.bytes)
            for each in days
        ],
    )


def statistics(of: Usage) -> pb.StatisticsAge:
    """Since when use is counted, and by whom."""
    return pb.StatisticsAge(
        since_time=stamp(of.since), replicas=of.replicas, silent_replicas=of.silent
    )


def size(of: Index, tables: Mapping[int, int]) -> pb.IndexSize:
    """An index's size beside its table's."""
    return pb.IndexSize(
        schema=of.schema,
        table=of.table,
        index=of.name,
        size_bytes=of.bytes,
        size=pretty(of.bytes),
        table_bytes=tables.get(of.table_id, 0),
    )


def broken(of: Broken) -> pb.BrokenIndex:
    """An index that can't be used."""
    return pb.BrokenIndex(
        schema=of.schema,
        table=of.table,
        index=of.name,
        building=of.building,
        definition=of.definition,
    )


def duplicate(of: Duplicate, sizes: Mapping[int, int]) -> pb.DuplicateIndex:
    """An index that another one covers."""
    return pb.DuplicateIndex(
        schema=of.shape.schema,
        table=of.shape.table,
        index=of.shape.name,
        covered_by=of.covered_by.name,
        exact=of.exact,
        size_bytes=sizes.get(of.shape.id, 0),
        note=of.note,
    )


def missing(of: ForeignKey) -> pb.MissingIndex:
    """A foreign key without an index."""
    return pb.MissingIndex(
        schema=of.schema,
        table=of.table,
        constraint=of.name,
        columns=of.columns,
        remedy=of.remedy,
    )


def sequential_scans(of: TableReads) -> pb.SequentialScans:
    """A table that is mostly read whole."""
    return pb.SequentialScans(
        schema=of.schema,
        table=of.table,
        rows=of.rows,
        sequential_scans=of.sequential_scans,
        index_scans=of.index_scans,
        index_percent=of.index_percent,
        writes_per_scan=of.writes / of.scans,
    )


def table_hits(of: TableReads) -> pb.TableHits:
    """How often a table's indexes were found in memory."""
    return pb.TableHits(
        schema=of.schema,
        table=of.table,
        index_hit_percent=of.index_hit_percent,
        index_blocks=of.index_blocks,
    )
