"""Whether a process may start, and whether its database answers."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import psycopg_pool

from libs.pooling import Pool, connection
from libs.server import WrongStart

ANSWER_TIMEOUT_S = 3.0
POSTGRES_VERSION_MIN = 180_000
# Tables with a column orgId that carry no row-level security, and why; see architecture, tenancy.
NOT_TENANT_TABLES = ("Outbox", "Tenant", "WebhookEvent")

_SETTINGS = b"""
SELECT /* libs.check_settings */ current_setting('server_version_num')::int,
       current_setting('fsync'), current_setting('full_page_writes'),
       current_setting('synchronous_commit'), r.rolsuper, r.rolbypassrls
  FROM pg_roles AS r WHERE r.rolname = current_user
"""
_UNPROTECTED = b"""
SELECT /* libs.check_row_security */ c.relname
  FROM pg_class AS c
  JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attname = 'orgId' AND NOT a.attisdropped
 WHERE c.relnamespace = %(schema)s::regnamespace AND c.relkind IN ('r', 'p')
   AND NOT (c.relrowsecurity AND c.relforcerowsecurity) AND c.relname <> ALL (%(exempt)s::text[])
 ORDER BY c.relname
"""
_MIGRATED = b"""
SELECT /* libs.check_migrated */ to_regclass(%(schema)s || '."Tenant"') IS NOT NULL
"""


async def open_pools(stack: AsyncExitStack, timeout_s: float, *pools: Pool) -> None:
    """Open the pools and wait for their connections; the stack closes them."""
    for pool in pools:
        await stack.enter_async_context(pool)
    try:
        for pool in pools:
            await pool.wait(timeout_s)
    except psycopg_pool.PoolTimeout:
        raise WrongStart(
            f"no connection as {pool.name} within {timeout_s:g} s: is PostgreSQL up, and"
            " are the connection strings (DRIVEFLOW_DSN and others) right?"
        ) from None


async def refuse_wrong_start(pool: Pool, schema: str) -> None:
    """Raise WrongStart unless the database keeps data safe and schools apart."""
    async with connection(pool) as conn:
        row = await (await conn.execute(_SETTINGS)).fetchone()
        migrated = await (await conn.execute(_MIGRATED, {"schema": schema})).fetchone()
        if not migrated or not migrated[0]:
            raise WrongStart(f"the schema {schema} has no tables: run `driveflow migrate`")
        exempt = list(NOT_TENANT_TABLES)
        cursor = await conn.execute(_UNPROTECTED, {"schema": schema, "exempt": exempt})
        unprotected = [name for (name,) in await cursor.fetchall()]
    if row is None:
        raise WrongStart("the role is not in pg_roles")
    wrong = _wrong_settings(*row)
    if unprotected:
        wrong.append("no forced row-level security on " + ", ".join(unprotected))
    if wrong:
        raise WrongStart("\n".join(wrong))


def _wrong_settings(
    version: int, fsync: str, full_page_writes: str, commit: str, superuser: bool, bypass: bool
) -> list[str]:
    wrong = []
    if version < POSTGRES_VERSION_MIN:
        wrong.append(f"PostgreSQL {version // 10_000} is too old: 18 or later")
    if fsync != "on":
        wrong.append("fsync is off: a power cut would lose acknowledged data")
    if full_page_writes != "on":
        wrong.append("full_page_writes is off: a power cut could corrupt tables")
    if commit == "off":
        wrong.append("synchronous_commit is off: a crash would lose acknowledged data")
    if superuser or bypass:
        wrong.append(
            "DRIVEFLOW_DSN names a superuser or a role with BYPASSRLS: schools would not be kept"
            " apart; use the service's login role"
        )
    return wrong


async def answer(pool: Pool) -> None:
    """Raise unless the database answers in time."""
    async with asyncio.timeout(ANSWER_TIMEOUT_S), connection(pool) as conn:
        await conn.execute(b"SELECT /* libs.answer */ 1")
