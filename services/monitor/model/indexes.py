"""Indexes: which of them nobody uses, which of them another one covers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from typing import TypeAlias

from services.monitor.model.sizes import age

MIN_AGE_DAYS = 14
MIN_BYTES = 32_768
ROWS_MIN = 10_000
"""Smaller tables are rightly read whole."""
INDEX_PERCENT_MIN = 95.0
READS_MIN = 1_000
"""Of fewer blocks that were asked for, the share found in memory says nothing."""
HIT_PERCENT_MIN = 99.0
COLD_TABLES_MAX = 20
UNCOVERED = {
    ("payments", "ledger_entry_of_account"): "accounts are never deleted: nobody has the right to",
}
"""Foreign keys that need no index, and why."""

Ledger: TypeAlias = Mapping[tuple[str, str], Sequence[str]]
"""By schema and index: what it was made for."""


@dataclass(frozen=True, slots=True)
class IndexDay:
    """An index at the first snapshot of a day (UTC)."""

    day: date
    scans: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Index:
    """How an index is used; of a partitioned one all its parts."""

    id: int
    schema: str
    table: str
    name: str
    scans: int
    tuples_read: int
    tuples_fetched: int
    last_scan: datetime | None
    bytes: int
    partitions: int
    keeps_rule: bool
    valid: bool
    table_id: int

    @property
    def key(self) -> tuple[str, str]:
        """Its name, the same on all servers."""
        return self.schema, self.name


@dataclass(frozen=True, slots=True)
class Usage:
    """All indexes, and what their figures stand on."""

    indexes: Sequence[Index]
    since: datetime
    """When the last of the servers that were asked began to count."""
    replicas: Sequence[str] = ()
    silent: Sequence[str] = ()

    def undecided(self, now: datetime, min_age: timedelta) -> str:
        """Why nothing can be called unused; empty when it can."""
        if self.silent:
            return f"No answer from {', '.join(self.silent)}: what looks unused may be used there."
        counted = now - self.since
        if counted < min_age:
            return (
                f"Use has been counted for {age(counted.total_seconds())}: ask again when that is"
                f" {min_age.days} days."
            )
        return ""

    def unused(
        self, now: datetime, min_age: timedelta, min_bytes: int, seen: Mapping[int, datetime]
    ) -> list[Index]:
        """Those that nobody has used for so long, largest first; none that is younger (by when it
        was first `seen`), too small or keeps a rule."""
        before = now - min_age
        found = [
            index
            for index in self.indexes
            if index.valid
            and not index.keeps_rule
            and index.bytes >= min_bytes
            and (index.scans == 0 if index.last_scan is None else bool(min_age) and
                 index.last_scan < before)
            and (not min_age or seen.get(index.id, now) <= before)
        ]  # fmt: skip
        return sorted(found, key=lambda index: (-index.bytes, index.key))


def summed(primary: Sequence[Index], replicas: Iterable[Sequence[Index]]) -> list[Index]:
    """The primary's indexes with the scans of all servers."""
    found = {index.key: index for index in primary}
    for replica in replicas:
        for other in replica:
            if (index := found.get(other.key)) is not None:
                scanned = [at for at in (index.last_scan, other.last_scan) if at is not None]
                found[index.key] = replace(
                    index,
                    scans=index.scans + other.scans,
                    tuples_read=index.tuples_read + other.tuples_read,
                    tuples_fetched=index.tuples_fetched + other.tuples_fetched,
                    last_scan=max(scanned, default=None),
                )
    return list(found.values())


# --- what covers what --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Shape:
    """What an index is made of."""

    id: int
    table_id: int
    schema: str
    table: str
    name: str
    method: str
    keys: Sequence[int]
    """Numbers of columns; 0 is an expression."""
    included: Sequence[int]
    classes: Sequence[int]
    collations: Sequence[int]
    options: Sequence[int]
    predicate: str
    """Empty: of all rows."""
    expressions: str
    keeps_rule: bool

    def covers(self, other: Shape) -> bool:
        """Whether whatever the other one of its table finds, this one finds as well."""
        places = len(other.keys)
        same = (
            self.method == other.method
            and self.predicate == other.predicate
            and self.expressions == other.expressions
            and all(
                tuple(mine[:places]) == tuple(others[:places])
                for mine, others in (
                    (self.keys, other.keys),
                    (self.classes, other.classes),
                    (self.collations, other.collations),
                    (self.options, other.options),
                )
            )
            and set(other.included) <= {*self.keys, *self.included}
        )
        # Only a B-tree is as good by its first columns as one that has no more.
        whole = len(self.keys) == places
        return same and (whole or (self.method == "btree" and not self.expressions))

    def is_exactly(self, other: Shape) -> bool:
        """Whether both have the same columns, where one covers the other."""
        return len(self.keys) == len(other.keys)


@dataclass(frozen=True, slots=True)
class Duplicate:
    """An index that could go, and the one that covers it."""

    shape: Shape
    covered_by: Shape
    exact: bool
    note: str
    """Why it may be there all the same; empty when there is no reason."""


def duplicates(shapes: Sequence[Shape], ledger: Ledger) -> list[Duplicate]:
    """Each index that another one covers, once; never one that keeps a rule.

    Of two that are the same the older one stays, or the one that the ledger names.
    """
    of_table: dict[int, list[Shape]] = {}
    for shape in shapes:
        of_table.setdefault(shape.table_id, []).append(shape)
    found = []
    for shape in shapes:
        if shape.keeps_rule:
            continue
        covering = [
            other
            for other in of_table[shape.table_id]
            if other.id != shape.id
            and other.covers(shape)
            and not (_as_good(shape, other) and _stays(shape, other, ledger))
        ]
        if covering:
            best = min(covering, key=lambda other: (not other.is_exactly(shape), other.id))
            found.append(Duplicate(shape, best, best.is_exactly(shape), _note(shape, ledger)))
    return found


def _as_good(shape: Shape, other: Shape) -> bool:
    return shape.covers(other) and not other.keeps_rule


def _stays(shape: Shape, other: Shape, ledger: Ledger) -> bool:
    """Of two that cover each other, whether this one is to stay."""
    rank = ((shape.schema, shape.name) not in ledger, shape.id)
    return rank < ((other.schema, other.name) not in ledger, other.id)


def _note(shape: Shape, ledger: Ledger) -> str:
    needed_by = ledger.get((shape.schema, shape.name))
    return f"one of the guide's, for {', '.join(needed_by)}" if needed_by else ""


# --- what else is wrong ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Broken:
    """An index that can't be used."""

    schema: str
    table: str
    name: str
    building: bool
    definition: str


@dataclass(frozen=True, slots=True)
class ForeignKey:
    """A foreign key whose columns no index begins with."""

    schema: str
    table: str
    name: str
    columns: Sequence[str]
    partitioned: bool
    """Whether its table is."""

    @property
    def remedy(self) -> str:
        """The index that would help, made without stopping anybody."""
        columns = ", ".join(quoted(column) for column in self.columns)
        on = f"{quoted(self.schema)}.{quoted(self.table)}"
        name = quoted(f"idx_{self.name}"[:63])
        if self.partitioned:
            # CONCURRENTLY is refused there.
            return (
                f"CREATE INDEX {name} ON ONLY {on} ({columns}); then CREATE INDEX CONCURRENTLY on"
                f" each partition, and ALTER INDEX {quoted(self.schema)}.{name} ATTACH PARTITION"
            )
        return f"CREATE INDEX CONCURRENTLY {name} ON {on} ({columns})"


def quoted(name: str) -> str:
    """A name as SQL wants it."""
    plain = name.isascii() and name.isidentifier() and name == name.lower()
    return name if plain else '"' + name.replace('"', '""') + '"'


@dataclass(frozen=True, slots=True)
class TableReads:
    """How a table is read and written since the statistics began."""

    schema: str
    table: str
    rows: int
    sequential_scans: int
    index_scans: int
    writes: int
    table_blocks: int
    table_hits: int
    index_blocks: int
    index_hits: int

    @property
    def scans(self) -> int:
        """Of either kind."""
        return self.sequential_scans + self.index_scans

    @property
    def index_percent(self) -> float:
        """Share of scans that used an index."""
        return 100.0 * self.index_scans / self.scans if self.scans else 100.0

    @property
    def is_read_whole(self) -> bool:
        """Whether it is large and mostly read without an index."""
        return self.rows >= ROWS_MIN and self.index_percent < INDEX_PERCENT_MIN

    @property
    def index_hit_percent(self) -> float:
        """Share of index blocks that were in memory."""
        return 100.0 * self.index_hits / self.index_blocks if self.index_blocks else 100.0

    @property
    def is_cold(self) -> bool:
        """Whether it has many index reads, and too many of them from disk."""
        return self.index_blocks >= READS_MIN and self.index_hit_percent < HIT_PERCENT_MIN


def index_hit_percent(tables: Iterable[TableReads]) -> float | None:
    """Of all tables with enough index reads; None without any."""
    return _percent((t.index_hits, t.index_blocks) for t in tables)


def table_hit_percent(tables: Iterable[TableReads]) -> float | None:
    """The same of the tables' own blocks."""
    return _percent((t.table_hits, t.table_blocks) for t in tables)


def _percent(figures: Iterable[tuple[int, int]]) -> float | None:
    counted = [(hits, blocks) for hits, blocks in figures if blocks >= READS_MIN]
    blocks = sum(blocks for _, blocks in counted)
    return 100.0 * sum(hits for hits, _ in counted) / blocks if blocks else None


def cold(tables: Iterable[TableReads]) -> list[TableReads]:
    """Tables whose indexes are too often read from disk, worst first."""
    found = sorted((table for table in tables if table.is_cold), key=lambda t: t.index_hit_percent)
    return found[:COLD_TABLES_MAX]


def read_whole(tables: Iterable[TableReads]) -> list[TableReads]:
    """Large tables that are mostly read without an index, most such reads first."""
    found = (table for table in tables if table.is_read_whole)
    return sorted(found, key=lambda table: -table.sequential_scans)


def wanting(keys: Iterable[ForeignKey]) -> list[ForeignKey]:
    """Those of foreign keys without an index that should have one."""
    return [key for key in keys if (key.schema, key.name) not in UNCOVERED]
