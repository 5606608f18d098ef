"""Plans are made of every statement that the services send, and nothing is run for them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress

import grpc
import psycopg
import pytest

from driveflow.monitor.v1 import queries_pb2 as pb
from libs.client import refusal
from tests import postgres
from tests.monitor import named
from tests.monitor.serving import Monitor
from tests.postgres import Database

NIL = "00000000-0000-0000-0000-000000000000"
NAME = re.compile(r"\w+ /\* (\w+\.\w+) \*/")
NOT_EXPLAINABLE = {
    "payments.add_payment": "its ON CONFLICT names a partial index by a condition with values",
}
NOT_RUN = {"monitor.explain_query": "it asks for the plan of a statement that is there"}
COUNTED_AS = {"booking.replace_answer": "libs.answer_request"}
"""The same statement under two names is counted under one of them."""
# A run of a statement is to reach its end whatever its values.
NO_RULES = """
DO $$ DECLARE rule record; BEGIN
  FOR rule IN SELECT conrelid::regclass AS tab, conname FROM pg_constraint
               WHERE contype IN ('c', 'x') AND coninhcount = 0
                 AND connamespace <> 'pg_catalog'::regnamespace AND conrelid <> 0
  LOOP EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', rule.tab, rule.conname); END LOOP;
END $$;
SET session_replication_role = replica;
SET driveflow.org_id = '00000000-0000-0000-0000-000000000000'
"""
FUNCTIONS = """
CREATE TABLE booking.ran (at timestamptz);
GRANT INSERT ON booking.ran TO booking, booking_owner;
CREATE FUNCTION booking.leave_a_trace() RETURNS int VOLATILE LANGUAGE sql
  AS 'INSERT INTO booking.ran VALUES (now()); SELECT 1'
"""


# --- all of them -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def counted(template: Database) -> Iterator[Database]:
    """A database in which every named statement was run once."""
    with postgres.copied(template) as database:
        with psycopg.connect(database.admin_dsn, autocommit=True) as admin:
            admin.execute(NO_RULES)
            for each in named.every():
                if each.is_counted and each.name not in NOT_RUN:
                    named.run(admin, each)
        yield database


def kept(database: Database) -> dict[str, list[tuple[int, str]]]:
    """Numbers and roles by name."""
    found: dict[str, list[tuple[int, str]]] = {}
    with psycopg.connect(database.admin_dsn) as admin:
        for query_id, text, role in admin.execute(
            "SELECT queryid, query, userid::regrole::text FROM pg_stat_statements"
            " WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database())"
        ):
            name = NAME.match(text)
            found.setdefault(name[1] if name else "", []).append((query_id, role))
    return found


def test_every_named_statement_can_be_explained_from_what_postgresql_keeps_of_it(
    counted: Database,
) -> None:
    numbers = kept(counted)
    failed: dict[str, str] = {}
    with psycopg.connect(counted.dsn("monitor"), autocommit=True) as monitor:
        for each in named.every():
            if not each.is_counted or each.name in NOT_RUN:
                continue
            for query_id, role in numbers[COUNTED_AS.get(each.name, each.name)]:
                schema = role.partition("_")[0]
                for as_json in (False, True):
                    try:
                        plan = monitor.execute(
                            f"SELECT {schema}.explain(%s, %s, true)".encode(), (query_id, as_json)
                        )
                        assert plan.fetchall(), each.name
                    except psycopg.Error as error:
                        failed[each.name] = str(error)
    assert failed.keys() == NOT_EXPLAINABLE.keys(), failed


# --- who may be asked about what ---------------------------------------------------------------


@pytest.mark.asyncio(loop_scope="session")
async def test_a_plan_names_its_indexes_and_holds_the_schools_row_security(
    watcher: Monitor,
) -> None:
    with psycopg.connect(watcher.database.dsn("booking")) as booking:
        booking.execute(
            'SELECT /* booking.find_svensson */ notes FROM "Booking"'
            f" WHERE \"orgId\" = '{NIL}' AND id = '{NIL}' AND notes <> 'Svensson 4711'"
        )
    plan = await watcher.stub().ExplainQuery(
        pb.ExplainQueryRequest(query_id=number(watcher, "booking.find_svensson"))
    )
    assert plan.name == "booking.find_svensson"
    (index,) = plan.indexes
    assert f"using {index} on " in plan.plan
    # What the setting driveflow.org_id names: of another school there is no row.
    assert "One-Time Filter: ((InitPlan 1).col1 = $1)" in plan.plan
    assert "Svensson" not in str(plan)
    assert "4711" not in str(plan)


@pytest.mark.asyncio(loop_scope="session")
async def test_only_a_services_own_statements_are_explained(watcher: Monitor) -> None:
    with psycopg.connect(watcher.database.dsn("ops")) as ops:
        ops.execute("SELECT /* booking.not_ours */ count(*) FROM pg_class")
    for query_id, reason in (
        (number(watcher, "booking.not_ours"), "QUERY_NOT_EXPLAINABLE"),
        (1, "QUERY_NOT_FOUND"),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await watcher.stub().ExplainQuery(pb.ExplainQueryRequest(query_id=query_id))
        assert refusal(refused.value).reason == reason
    with psycopg.connect(watcher.database.dsn("payments")) as payments:
        payments.execute("SELECT /* payments.theirs */ 1, 2, 3, 4")
    with (
        psycopg.connect(watcher.database.dsn("monitor")) as monitor,
        pytest.raises(psycopg.errors.NoDataFound),
    ):
        monitor.execute(
            "SELECT booking.explain(%s, false, true)", [number(watcher, "payments.theirs")]
        )


def number(watcher: Monitor, name: str) -> int:
    ((query_id, _),) = kept(watcher.database)[name]
    return query_id


@pytest.mark.parametrize(
    "text",
    [
        "SELECT booking.leave_a_trace()",
        "ANALYZE SELECT booking.leave_a_trace()",
        "(ANALYZE) SELECT booking.leave_a_trace()",
        "SELECT 1; SELECT booking.leave_a_trace()",
        "SELECT 1) SELECT booking.leave_a_trace(",
        "CREATE TABLE booking.t AS SELECT booking.leave_a_trace()",
        "INSERT INTO booking.ran SELECT now() FROM booking.leave_a_trace()",
        "DO 'BEGIN PERFORM booking.leave_a_trace(); END'",
        "SELECT 1 WHERE booking.leave_a_trace() = $1",
    ],
)
def test_whatever_a_text_says_it_is_not_run(texts: Database, text: str) -> None:
    with psycopg.connect(texts.admin_dsn, autocommit=True) as admin:
        admin.execute("TRUNCATE pg_stat_statements")
        admin.execute(
            "INSERT INTO pg_stat_statements SELECT 7, %s, 'booking'::regrole, oid FROM pg_database"
            " WHERE datname = current_database()",
            [text],
        )
        with (
            psycopg.connect(texts.dsn("monitor"), autocommit=True) as monitor,
            suppress(psycopg.ProgrammingError),
        ):
            monitor.execute("SELECT booking.explain(7, false, true)")
        assert admin.execute("SELECT count(*) FROM booking.ran").fetchone() == (0,)
        assert admin.execute("SELECT to_regclass('booking.t')").fetchone() == (None,)


@pytest.fixture(scope="module")
def texts(template: Database) -> Iterator[Database]:
    """A database in which pg_stat_statements has texts that PostgreSQL would never keep."""
    with postgres.copied(template) as database:
        with psycopg.connect(database.admin_dsn, autocommit=True) as admin:
            admin.execute("DROP EXTENSION pg_stat_statements")
            admin.execute(
                "CREATE TABLE public.pg_stat_statements"
                " (queryid bigint, query text, userid oid, dbid oid);"
                "GRANT SELECT ON public.pg_stat_statements TO PUBLIC;" + FUNCTIONS
            )
        yield database
