"""What a store function sends, and how PostgreSQL answers it: as a login role, by row security."""

from __future__ import annotations

import asyncio
import re
import uuid
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, cast

import psycopg
from psycopg import sql

from libs import scoped
from libs.pooling import SESSION, Connection
from libs.scoped import Params, Rows, Sent
from tests.postgres import Database

Ask = Callable[[Connection], Awaitable[object]]


@dataclass(frozen=True)
class Read:
    """A step of a plan that reads a table or an index."""

    kind: str
    table: str
    index: str
    condition: str
    """By what the index is entered; what is merely filtered is not in it."""
    rows: int
    """Read in all; 0 when the statement was not run."""

    def enters_by(self, columns: Collection[str]) -> bool:
        """Whether the index is entered by all of these."""
        return all(
            re.search(rf'(?<![\w.])"?{column}"?(?!\w)', self.condition) for column in columns
        )

    def is_whole(self, tables: Collection[str]) -> bool:
        """Whether all of one of these tables is read: in place, or through an index of all rows."""
        if self.table not in tables:
            return False
        return self.kind == "Seq Scan" or (bool(self.index) and not self.condition)


@dataclass
class Recorder:
    """Stands in for a connection: keeps what a store function sends, and answers with no rows."""

    sent: list[Sent] = field(default_factory=list)

    async def execute(self, query: bytes, params: Params = None) -> Rows:
        """Keep the statement."""
        self.sent.append(scoped.statement(query, params))
        return Rows([], 0)

    send = execute


def sent(ask: Ask) -> Sent:
    """What a store function sends; those asked here send one statement."""
    recorder = Recorder()
    asyncio.run(_asked(ask, recorder))
    (sent,) = recorder.sent
    return sent


async def _asked(ask: Ask, recorder: Recorder) -> None:
    # Who is sure of a row finds none.
    with suppress(ValueError, LookupError):
        await ask(cast("Connection", recorder))


def login(database: Database, role: str, org_id: uuid.UUID) -> psycopg.Connection:
    """A connection as a service's pool makes them, on behalf of one school."""
    settings = SESSION | {"plan_cache_mode": "auto", "driveflow.org_id": org_id}
    options = " ".join(f"-c {name}={value}" for name, value in settings.items())
    return psycopg.connect(database.dsn(role), autocommit=True, options=options)


@contextmanager
def prepared(conn: psycopg.Connection, sent: Sent) -> Iterator[Callable[[str], dict[str, Any]]]:
    """A prepared statement; each call runs EXPLAIN of it with more options, and undoes it."""
    values = sql.SQL(", ").join(map(sql.Literal, sent.values)).as_string(conn)

    def explained(options: str = "") -> dict[str, Any]:
        with conn.transaction(force_rollback=True), psycopg.ClientCursor(conn) as cursor:
            text = f"EXPLAIN (FORMAT JSON{options}) EXECUTE asked ({values})"
            ((answer,),) = cursor.execute(text.encode()).fetchall()
        return cast("dict[str, Any]", answer[0])

    conn.execute(b"PREPARE asked AS " + sent.statement.text)
    try:
        yield explained
    finally:
        conn.execute("DEALLOCATE asked")


def explain(conn: psycopg.Connection, sent: Sent, *, generic: bool) -> dict[str, Any]:
    """The plan for these values or for any: the server takes the one that it thinks cheaper."""
    mode = "force_generic_plan" if generic else "force_custom_plan"
    conn.execute(f"SET plan_cache_mode = {mode}")
    with prepared(conn, sent) as explained:
        return cast("dict[str, Any]", explained("")["Plan"])


def reads(node: dict[str, Any], table: str = "") -> Iterator[Read]:
    """The steps at a node of a plan and below it that read a table or an index."""
    # The index of a bitmap does not say whose it is; the step above does.
    table = node.get("Relation Name", table)
    if "Relation Name" in node or "Index Name" in node:
        index, condition = node.get("Index Name", ""), node.get("Index Cond", "")
        rows = node.get("Actual Rows", 0) + node.get("Rows Removed by Filter", 0)
        read = round(rows * node.get("Actual Loops", 0))
        yield Read(node["Node Type"], table, index, condition, read)
    for child in node.get("Plans", ()):
        yield from reads(child, table)
