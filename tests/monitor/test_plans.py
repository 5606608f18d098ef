"""The ledger of the guide's indexes, and whether plans go by them."""

from __future__ import annotations

import asyncio

import grpc
import psycopg
import pytest

from driveflow.monitor.v1 import health_pb2
from driveflow.monitor.v1 import queries_pb2 as pb
from libs.bootstrap import SERVICES
from libs.client import refusal
from tests import walking
from tests.booking import plans as booking
from tests.monitor import named
from tests.monitor.serving import Monitor
from tests.payments import plans as payments
from tests.postgres import Database

GUIDE = {
    *booking.GUIDE,
    *payments.GUIDE,
    "idx_trip_point_trip_ts",
    "idx_trip_lesson",
    "idx_outbox_topic_processed",
}
SCHOOLS, BOOKINGS = 10, 400
LEDGER = 'SELECT schema, index, "table", query, rpc FROM monitor."IndexLedger"'


# --- the ledger --------------------------------------------------------------------------------


def test_the_ledger_has_the_guides_22_indexes_and_names_what_there_is(template: Database) -> None:
    with psycopg.connect(template.admin_dsn) as admin:
        ledger = admin.execute(LEDGER).fetchall()
        there = set(
            admin.execute("SELECT schemaname, indexname, tablename FROM pg_indexes").fetchall()
        )
    queries = {str(each) for each in named.every()}
    methods = {method.full_name for method in walking.methods()}
    assert {index for _, index, *_ in ledger} == GUIDE
    assert len(GUIDE) == 22
    for schema, index, table, query, rpc in ledger:
        assert schema in SERVICES
        assert (schema, index, table) in there
        assert query in queries | {""}
        assert rpc.startswith("(") or rpc.replace("/", ".") in methods


def test_a_need_of_the_ledger_is_one_that_the_plans_were_measured_for(template: Database) -> None:
    measured = {
        (service, index, f"{service}.{each.name}")
        for service, statements in (
            ("booking", booking.STATEMENTS),
            ("payments", payments.STATEMENTS),
        )
        for each in statements
        for index in each.indexes
    }
    # A day of each status may do as well by another index: only the plan for any value is held.
    with psycopg.connect(template.admin_dsn) as admin:
        ledger = admin.execute(LEDGER).fetchall()
    needs = {
        (schema, index, query)
        for schema, index, _, query, _ in ledger
        if query.partition(".")[0] in ("booking", "payments")
    }
    assert needs <= measured


# --- plans -------------------------------------------------------------------------------------


def prepare(database: Database) -> None:
    """Schools with bookings, and each query of booking's that the ledger names, called once."""
    booking.fill(database, SCHOOLS, BOOKINGS)
    with psycopg.connect(database.admin_dsn, autocommit=True) as admin:
        admin.execute("SET driveflow.org_id = '00000000-0000-0000-0000-000000000000'")
        names = {row[3] for row in admin.execute(LEDGER) if row[0] == "booking"}
        for each in named.every():
            if each.name in names:
                named.run(admin, each)


def change(database: Database, *statements: str) -> None:
    with psycopg.connect(database.admin_dsn, autocommit=True) as admin:
        for statement in statements:
            admin.execute(statement.encode())


async def test_a_query_that_leaves_its_index_is_found_and_what_it_does_instead(
    monitor: Monitor,
) -> None:
    await asyncio.to_thread(prepare, monitor.database)
    stub = monitor.stub()

    async def found(index: str = "") -> dict[str, pb.PlanCheck]:
        answer = await stub.VerifyQueryPlans(pb.VerifyQueryPlansRequest(index=index))
        return {f"{each.index} {each.query}": each for each in answer.plan_checks}

    checks = await found()
    large = {key: each for key, each in checks.items() if each.table == 'booking."Booking"'}
    assert {each.verdict for each in large.values()} == {pb.PLAN_VERDICT_USED}, large
    bad = (pb.PLAN_VERDICT_NOT_USED, pb.PLAN_VERDICT_INDEX_MISSING, pb.PLAN_VERDICT_FAILED)
    assert [each for each in checks.values() if each.verdict in bad] == []
    lookup = checks["idx_payment_stripe_intent payments.get_payment_of_intent"]
    assert lookup.verdict == pb.PLAN_VERDICT_NOT_SEEN
    assert (await monitor.check("query_plans")).figure == 0

    name, query = "idx_booking_student_start", "booking.list_bookings_of_student"
    used = checks[f"{name} {query}"].last_used_time
    drop = f"DROP INDEX booking.{name}"
    await asyncio.to_thread(
        change, monitor.database, drop, f'CREATE INDEX {name} ON booking."Booking" (notes)'
    )
    left = (await found(name))[f"{name} {query}"]
    assert left.verdict == pb.PLAN_VERDICT_NOT_USED
    assert left.detail.startswith("goes by ")
    assert left.last_used_time == used
    check = await monitor.check("query_plans")
    assert (check.figure, check.verdict) == (2, health_pb2.VERDICT_WARNING)
    assert f"booking.{name} for {query}" in str(check.evidence)

    await asyncio.to_thread(change, monitor.database, drop)
    missing = (await found(name))[f"{name} {query}"]
    assert missing.verdict == pb.PLAN_VERDICT_INDEX_MISSING
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await found("idx_nonsense")
    assert refusal(refused.value).reason == "INDEX_NOT_FOUND"
