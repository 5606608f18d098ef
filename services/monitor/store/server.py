"""Statements about the server itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from libs import queries
from libs.orgs import Reader

SQL = queries.load("monitor", Path(__file__).parents[1] / "queries" / "server.sql")


@dataclass(frozen=True, slots=True)
class DangerousSetting:
    """A setting that endangers data."""

    name: str
    value: str
    consequence: str


@dataclass(frozen=True, slots=True)
class Storage:
    """Reads of blocks from disk since the statistics began."""

    reads: int
    read_ms: float
    timed: bool
    random_page_cost: float
    effective_io_concurrency: int


@dataclass(frozen=True, slots=True)
class Memory:
    """Blocks of this database asked for since the statistics began."""

    hits: int
    reads: int
    shared_buffers_bytes: int
    database_bytes: int


async def dangerous_settings(conn: Reader) -> list[DangerousSetting]:
    cursor = await conn.execute(SQL.dangerous_settings)
    return [DangerousSetting(*row) for row in await cursor.fetchall()]


async def storage(conn: Reader) -> Storage:
    row = await (await conn.execute(SQL.storage)).fetchone()
    reads, read_ms, *settings = row or (0, 0.0, False, 0.0, 0)
    return Storage(reads or 0, read_ms or 0.0, *settings)


async def memory(conn: Reader) -> Memory:
    row = await (await conn.execute(SQL.memory)).fetchone()
    return Memory(*(row or (0, 0, 0, 0)))


async def active_backends(conn: Reader) -> int:
    row = await (await conn.execute(SQL.active_backends)).fetchone()
    return 0 if row is None else int(row[0])


async def round_trip(conn: Reader) -> None:
    await (await conn.execute(SQL.round_trip)).fetchone()
