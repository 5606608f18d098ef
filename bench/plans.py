"""What each index of the guide does for its RPC over a million bookings, as many payments and a
tenth of trips, and the guide's GOOD and BAD column orders side by side.

    ./dev run python bench/plans.py [--quick] [--write]

Two hundred schools are made within PostgreSQL; --quick makes a tenth of them. Statements
are those that the services send, as their login role under row security, prepared and run often
enough for the server to have settled on a plan. --write puts the report into docs/query-plans.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import psycopg

from bench.stack import CORES
from libs.local.paths import ROOT
from tests.booking import plans
from tests.booking.plans import NOW, ORG, Statement
from tests.explaining import prepared, reads
from tests.payments import plans as payments_plans
from tests.postgres import Database, embedded_server, make_template
from tests.tracking import plans as tracking_plans

REPORT = ROOT / "docs" / "query-plans.md"
SCHOOLS = 200
SETTLING = 6
"""So many runs of a statement later the server no longer changes how it plans it."""
RUNS = 7
FILL_TIMEOUT_S = 240
TIMEOUT_S = 900
"""After which it gives up, whatever it is at."""

GOOD, BAD = "idx_booking_status_org_date", "idx_booking_org_status_date"
ORDERS = {GOOD: 'status, "orgId", "startAt"', BAD: '"orgId", status, "startAt"'}
# What is asked of each order; %s is the school, the time, or both.
ASKED = {
    "status within a school": """
        SELECT id FROM bench.bookings
         WHERE "orgId" = %(org)s AND status = 'confirmed' AND "startAt" > %(now)s
         ORDER BY "startAt" LIMIT 50""",
    "a day of a school": """
        SELECT id FROM bench.bookings
         WHERE "orgId" = %(org)s AND "startAt" >= %(now)s
           AND "startAt" < %(now)s + make_interval(days => 1)
         ORDER BY "startAt" LIMIT 50""",
    "all of a school": """
        SELECT count(*) FROM bench.bookings WHERE "orgId" = %(org)s""",
    "status over all schools": """
        SELECT id FROM bench.bookings
         WHERE status = 'held' AND "startAt" > %(now)s
         ORDER BY "startAt" LIMIT 50""",
}
OVER_ALL = "status over all schools"


@dataclass(frozen=True)
class Measured:
    """A statement: medians of its runs."""

    plan: str
    """custom or generic: what the server settled on."""
    index_rows: int
    """Read by way of the index that is looked at."""
    buffers: int
    ms: float


@dataclass(frozen=True)
class Order:
    """An index alone on a copy of the bookings."""

    build_s: float
    mb: float
    asked: dict[str, Measured]


@contextmanager
def database() -> Iterator[Database]:
    """PostgreSQL with the configuration as shipped, migrated, on two cores."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    signal.signal(signal.SIGALRM, lambda *_: sys.exit(f"not done after {TIMEOUT_S} s"))
    signal.alarm(TIMEOUT_S)
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    with embedded_server() as server:
        yield make_template(server)


# --- the guide's indexes and their RPCs --------------------------------------------------------


def uses(guide: Sequence[str], statements: Sequence[Statement]) -> Iterator[tuple[str, Statement]]:
    """Each index of the guide with the statements that it is there for, each once."""
    for index in guide:
        seen = set()
        for statement in statements:
            if index in statement.indexes and str(statement) not in seen:
                seen.add(str(statement))
                yield index, statement


def measure(conn: psycopg.Connection, statement: Statement, index: str) -> Measured:
    """A statement as the service runs it again and again."""
    with prepared(conn, statement.sent) as explained:
        for _ in range(SETTLING):
            explained("")
        runs = [explained(", ANALYZE, BUFFERS, TIMING OFF") for _ in range(RUNS)]
        ((generic,),) = conn.execute(
            "SELECT generic_plans > 0 FROM pg_prepared_statements WHERE name = 'asked'"
        ).fetchall()
    return _measured("generic" if generic else "custom", index, runs)


def _measured(plan: str, index: str, runs: Sequence[Mapping[str, Any]]) -> Measured:
    top = runs[-1]["Plan"]
    return Measured(
        plan,
        sum(step.rows for step in reads(top) if step.index == index),
        top["Shared Hit Blocks"] + top["Shared Read Blocks"],
        round(median(run["Execution Time"] for run in runs), 3),
    )


# --- the two orders ----------------------------------------------------------------------------


def orders(db: Database) -> dict[str, Order]:
    """The guide's GOOD and BAD index, each alone on the same copy of the bookings."""
    with psycopg.connect(db.admin_dsn, autocommit=True) as admin:
        admin.execute(
            """
            CREATE SCHEMA bench;
            GRANT USAGE ON SCHEMA bench TO booking;
            CREATE TABLE bench.bookings AS SELECT * FROM booking."Booking" ORDER BY id;
            ALTER TABLE bench.bookings ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
            CREATE POLICY org_only ON bench.bookings USING (
              "orgId" = (SELECT NULLIF(current_setting('driveflow.org_id', true), '')::uuid));
            GRANT SELECT ON bench.bookings TO booking;
            """
        )
        # Else the first index would be built over rows that nobody has looked at yet.
        admin.execute("VACUUM ANALYZE bench.bookings")
        return {name: order(db, admin, name) for name in ORDERS}


def order(db: Database, admin: psycopg.Connection, name: str) -> Order:
    """One of the two; it is gone afterwards."""
    started = time.perf_counter()
    admin.execute(f"CREATE INDEX {name} ON bench.bookings ({ORDERS[name]})".encode())
    built_s = time.perf_counter() - started
    admin.execute("VACUUM ANALYZE bench.bookings")
    ((size,),) = admin.execute(f"SELECT pg_relation_size('bench.{name}')".encode()).fetchall()
    with plans.login(db) as service:
        asked = {
            what: ask(admin if what == OVER_ALL else service, name, text)
            for what, text in ASKED.items()
        }
    admin.execute(f"DROP INDEX bench.{name}".encode())
    return Order(round(built_s, 2), round(size / 1e6, 1), asked)


def ask(conn: psycopg.Connection, index: str, text: str) -> Measured:
    """A question, planned for its very values; over all schools only a superuser sees enough."""
    with psycopg.ClientCursor(conn) as cursor:
        runs = [
            cursor.execute(
                f"EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON) {text}".encode(),
                {"org": ORG, "now": NOW},
            ).fetchall()[0][0][0]
            for _ in range(RUNS)
        ]
    return _measured("custom", index, runs)


# --- the report --------------------------------------------------------------------------------


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table of Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def plans_table(found: Sequence[tuple[str, Statement, Measured]]) -> str:
    """One row for each index and statement."""
    rows = [
        (f"`{index}`", s.rpc, f"`{s.name}`", m.plan, m.index_rows, m.buffers, f"{m.ms:.2f}")
        for index, s, m in found
    ]
    head = ("index", "RPC", "statement", "plan", "rows by the index", "buffers", "ms")
    return table(head, rows)


def orders_table(found: Mapping[str, Order]) -> str:
    """The two orders side by side."""
    good, bad = found[GOOD], found[BAD]
    rows: list[tuple[object, ...]] = [
        (what, *_cells(good.asked[what]), *_cells(bad.asked[what])) for what in ASKED
    ]
    head = ("asked", "GOOD: rows", "buffers", "ms", "BAD: rows", "buffers", "ms")
    sizes = table(
        ("index alone", "columns", "built in", "size"),
        [(f"`{n}`", ORDERS[n], f"{o.build_s} s", f"{o.mb} MB") for n, o in found.items()],
    )
    return f"{sizes}\n\n{table(head, rows)}"


def _cells(measured: Measured) -> tuple[object, ...]:
    return measured.index_rows, measured.buffers, f"{measured.ms:.2f}"


def verdict(found: Mapping[str, Order]) -> str:
    """What the figures say, in words that they choose."""
    lines = []
    for what in ASKED:
        good, bad = found[GOOD].asked[what], found[BAD].asked[what]
        ratio = good.buffers / max(1, bad.buffers)
        if 0.8 <= ratio <= 1.25:
            said = f"no difference ({good.buffers} and {bad.buffers} buffers)"
        else:
            better, by = ("BAD", ratio) if ratio > 1 else ("GOOD", 1 / ratio)
            said = f"{better} is better: {max(good.buffers, bad.buffers)} buffers become "
            said += f"{min(good.buffers, bad.buffers)}, a factor of {by:.1f}"
        lines.append(f"- {what}: {said}.")
    return "\n".join(lines)


def machine(db: Database) -> str:
    """Where this was measured."""
    info = Path("/proc/cpuinfo")
    models = [
        line.partition(":")[2].strip()
        for line in (info.read_text().splitlines() if info.exists() else [])
        if line.startswith("model name")
    ]
    with psycopg.connect(db.admin_dsn) as admin:
        ((version,),) = admin.execute("SHOW server_version").fetchall()
    memory_gb = psutil.virtual_memory().total / 1e9
    load = os.getloadavg()[0]
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, PostgreSQL {version.split()[0]}, {CORES} cores of"
        f" {models[0] if models else platform.machine()}, {memory_gb:.0f} GB, load {load:.1f}"
    )


TEXT = """# Query plans

Written by `./dev run python bench/plans.py --write` over {bookings:,} bookings, as many
payments and {trips:,} trips of {schools} schools (made in {filled_s:.0f} s). {machine}.

Statements are those that the services send, as their roles under row security; what is in brackets
instead of an RPC is work of the service itself. Each is prepared and run {settling} times, then
{runs} times with EXPLAIN (ANALYZE, BUFFERS): medians. "generic" is a plan that the server made once
for any values, "custom" one that it makes each time; it settles on the cheaper.
`tests/booking/test_plans.py` and `tests/payments/test_guide_plans.py` hold both kinds to the same
indexes, `tests/tracking/test_plans.py` the custom ones. A buffer is a page of 8 kB; they are the
whole statement's. `{points_index}` is what `idx_trip_point_trip_ts` is called in its month.

## Indexes of the guide

{plans}

## The order of columns

The guide calls `{good}` GOOD and `{bad}` BAD.
Each was built alone on a copy of the bookings, so that no other index could help.

{orders}

{verdict}

With an equality on both columns, both orders come to the same range of the index: which one is
first does not matter, nor how selective each column is. Order matters where one of the two is not
given. The school always is: by the token, in every statement, and by row security; a status over
all schools is nobody's question here, as sweeps walk school by school. For a school without a
status there is `idx_booking_org_start`. So the guide's GOOD index stays, for it costs the same, and
the BAD one is not built: where one index alone had to serve a school with and without a status, it
would be the one to have.

    {line}
"""


def main() -> None:
    """Read the options, run, and print the report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of all")
    parser.add_argument("--write", action="store_true", help=f"write {REPORT.relative_to(ROOT)}")
    options = parser.parse_args()
    each = 500 if options.quick else 5_000
    with database() as db:
        where = machine(db)
        started = time.perf_counter()
        for service, rows in ((plans, each), (payments_plans, each), (tracking_plans, each // 10)):
            service.fill(db, SCHOOLS, rows, timeout_s=FILL_TIMEOUT_S)
        filled_s = time.perf_counter() - started
        found = []
        for service in (plans, payments_plans, tracking_plans):
            with service.login(db) as conn:
                asked = uses(service.GUIDE, service.STATEMENTS)
                found += [(index, s, measure(conn, s, index)) for index, s in asked]
        compared = orders(db)
    line = json.dumps(
        {
            "bookings": each * SCHOOLS,
            "plans": [
                {"index": i, "rpc": s.rpc, "statement": s.name} | asdict(m) for i, s, m in found
            ],
            "orders": {name: asdict(each) for name, each in compared.items()},
        }
    )
    report = TEXT.format(
        bookings=each * SCHOOLS,
        trips=each // 10 * SCHOOLS,
        points_index=tracking_plans.POINTS_INDEX,
        schools=SCHOOLS,
        filled_s=filled_s,
        machine=where,
        settling=SETTLING,
        runs=RUNS,
        plans=plans_table(found),
        good=GOOD,
        bad=BAD,
        orders=orders_table(compared),
        verdict=verdict(compared),
        line=line,
    )
    print(report, end="")
    if options.write:
        REPORT.write_text(report)


if __name__ == "__main__":
    main()
