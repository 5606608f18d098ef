"""What it costs to look: CheckHealth under the load of bench/ingest.py, and a scheduled run.

    ./dev run python bench/monitor.py [--quick]

Tracking and the monitor are real processes on one PostgreSQL with 1,000 relations more and 2,000
statements in its statistics; 50 gateways stream while an operator calls CheckHealth again and
again. Then the monitor runs its schedule every two seconds, without load, and what PostgreSQL used
is compared with as much time without a schedule. Fails when a report lacks a check.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import psycopg
from psycopg import sql

from bench import ingest, points
from bench.stack import Stack, running_service, running_stack
from driveflow.monitor.v1 import health_pb2 as pb
from driveflow.monitor.v1 import queries_pb2
from libs import issuer
from libs.client import Connection
from services.monitor.checks import ALL

TABLES = 500
"""Each with its index: a thousand relations."""
FORMS = 4
INTERVAL_S = 300.0
TIGHT_S = 2.0
"""Between two runs of the schedule, where its cost is measured."""
NEVER_S = 1e9
P99_BAR_MS, CPU_BAR_PERCENT = 500.0, 0.2
SNAPSHOTS_AN_HOUR = 12
LOAD_MAX_S = 600.0


@dataclass(frozen=True)
class Plan:
    """How much is done."""

    calls: int
    seconds: float
    """Of the schedule, and of the time without it."""


FULL = Plan(calls=300, seconds=90.0)
QUICK = Plan(calls=30, seconds=20.0)


class Wrong(Exception):
    """A report is not whole."""


@dataclass(frozen=True)
class Called:
    """Calls of CheckHealth, sorted by how long they took."""

    ms: list[float]
    slowest: dict[str, float]
    """By check: the longest that it took, ms."""

    def percentile(self, share: float) -> float:
        """So many of the calls took at most this long."""
        return self.ms[min(len(self.ms) - 1, int(share * len(self.ms)))]


def crowd(admin: psycopg.Connection) -> None:
    """A thousand relations, and statements of many forms in the statistics."""
    for number in range(TABLES):
        name = sql.Identifier(f"Crowd{number:03}")
        admin.execute(
            sql.SQL(
                "CREATE TABLE tracking.{} (id bigint PRIMARY KEY, a int, b int);"
                " ALTER TABLE tracking.{} OWNER TO tracking_owner;"
                " INSERT INTO tracking.{} SELECT g, g, g FROM generate_series(1, 100) AS g"
            ).format(name, name, name)
        )
        for columns in range(1, FORMS + 1):
            listed = sql.SQL(", ").join([sql.SQL("a + b")] * columns)
            admin.execute(sql.SQL("SELECT {} FROM tracking.{} LIMIT 1").format(listed, name))
    admin.execute("ANALYZE")
    admin.execute("CHECKPOINT")


async def call(address: str, token: str, calls: int) -> Called:
    """One operator, one call after the other."""
    took, slowest = [], {each.question.name: 0.0 for each in ALL}
    async with Connection(address, token) as connection:
        for _ in range(calls):
            started = time.perf_counter()
            report = await connection.monitor.CheckHealth(pb.CheckHealthRequest())
            took.append((time.perf_counter() - started) * 1000)
            if {check.name for check in report.checks} != slowest.keys():
                raise Wrong("a report lacks a check")
            for check in report.checks:
                slowest[check.name] = max(slowest[check.name], check.duration_ms)
    return Called(sorted(took), slowest)


@contextmanager
def loaded(stack: Stack) -> Iterator[list[float]]:
    """50 gateways stream in batches of 100, round after round; the rates of the rounds."""
    rates: list[float] = []
    done = threading.Event()
    failures: list[Exception] = []
    with tempfile.TemporaryDirectory() as folder:
        bench = ingest.Bench(stack, ingest.FULL, Path(folder))
        bench.prepare()

        def stream() -> None:
            give_up = time.monotonic() + LOAD_MAX_S
            try:
                while not done.is_set() and time.monotonic() < give_up:
                    rates.append(bench.stream(ingest.GATEWAYS, 100).rate)
            except Exception as error:  # noqa: BLE001 (told below, in the main thread)
                failures.append(error)

        thread = threading.Thread(target=stream)
        thread.start()
        try:
            yield rates
        finally:
            done.set()
            thread.join()
    if failures:
        raise failures[0]


@contextmanager
def monitor(stack: Stack, schedule_s: float) -> Iterator[str]:
    """The monitor's address; it watches tracking and itself."""
    key = stack.folder / "monitor_key.pem"
    key.write_text(stack.key)
    more = {
        "DRIVEFLOW_SERVICE_KEY": str(key),
        "DRIVEFLOW_SERVICES": f"tracking={stack.address}",
        "DRIVEFLOW_METRICS_SOURCES": f"tracking={stack.metrics}",
        "DRIVEFLOW_SCHEDULE_S": str(schedule_s),
    }
    with running_service("monitor", stack.database, stack.folder, more) as (address, _, _):
        yield address


def postgres_s(stack: Stack, seconds: float) -> float:
    """CPU that PostgreSQL uses in so many seconds."""
    before = stack.cpu()
    time.sleep(seconds)
    return (stack.cpu() - before).postgres


def scheduled_runs(admin: psycopg.Connection) -> int:
    row = admin.execute('SELECT count(*) FROM monitor."HealthReport"').fetchone()
    assert row is not None
    return int(row[0])


def schedule_cost(stack: Stack, admin: psycopg.Connection, seconds: float) -> tuple[float, int]:
    """PostgreSQL's CPU for one scheduled run, seconds, and how many runs were measured."""
    with monitor(stack, NEVER_S):
        time.sleep(TIGHT_S)
        idle = postgres_s(stack, seconds)
    with monitor(stack, TIGHT_S):
        time.sleep(TIGHT_S)
        before = scheduled_runs(admin)
        busy = postgres_s(stack, seconds)
        runs = scheduled_runs(admin) - before
    return max(0.0, busy - idle) / max(runs, 1), runs


def snapshot_cost(stack: Stack, ops: str) -> float:
    """PostgreSQL's CPU for a whole snapshot, with the tables and indexes that are due hourly."""
    count = 10

    async def capture(address: str) -> None:
        async with Connection(address, ops) as connection:
            for _ in range(count):
                await connection.monitor.CaptureSnapshot(queries_pb2.CaptureSnapshotRequest())

    with monitor(stack, NEVER_S) as address:
        before = stack.cpu()
        asyncio.run(capture(address))
        return (stack.cpu() - before).postgres / count


def run(plan: Plan) -> dict[str, float]:
    """Everything; prints the tables."""
    with running_stack() as stack, stack.admin() as admin:
        ops = issuer.sign(
            stack.key, subject="bench", scopes=issuer.OPS_SCOPES, ttl=timedelta(hours=2)
        )
        say("making 1,000 relations")
        crowd(admin)
        with monitor(stack, INTERVAL_S) as address:
            quiet = asyncio.run(call(address, ops, plan.calls // 3))
            say("streaming")
            with loaded(stack) as rates:
                loud = asyncio.run(call(address, ops, plan.calls))
        say("running the schedule")
        run_s, runs = schedule_cost(stack, admin, plan.seconds)
        snapshot_s = snapshot_cost(stack, ops)
    print(f"\n{'CheckHealth':34}{'calls':>6}{'p50 ms':>9}{'p95 ms':>9}{'p99 ms':>9}{'worst':>9}")
    for label, called in (("at rest", quiet), ("50 gateways streaming", loud)):
        print(
            f"{label:34}{len(called.ms):6}{called.percentile(0.5):9.1f}"
            f"{called.percentile(0.95):9.1f}{called.percentile(0.99):9.1f}{called.ms[-1]:9.1f}"
        )
    worst = sorted(loud.slowest.items(), key=lambda each: -each[1])[:5]
    print("slowest checks under load: " + ", ".join(f"{name} {ms:.0f} ms" for name, ms in worst))
    print(f"points stored a second meanwhile: {sum(rates) / max(len(rates), 1):,.0f}")
    percent = 100 * (run_s + snapshot_s / SNAPSHOTS_AN_HOUR) / INTERVAL_S
    print(
        f"\nPostgreSQL's CPU: {run_s * 1000:.0f} ms a scheduled run (of {runs}),"
        f" {snapshot_s * 1000:.0f} ms a whole snapshot once an hour"
    )
    return {
        "p99_ms": round(loud.percentile(0.99), 1),
        "schedule_cpu_percent": round(percent, 4),
    }


def say(line: str) -> None:
    """Progress; not part of the result."""
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    """Read the options and run. Exit code 1: a report was not whole."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="about a minute")
    options = parser.parse_args()
    points.check_wire()
    try:
        found = run(QUICK if options.quick else FULL)
    except (Wrong, ingest.Wrong) as error:
        sys.exit(f"the bench failed: {error}")
    for name, bar in (("p99_ms", P99_BAR_MS), ("schedule_cpu_percent", CPU_BAR_PERCENT)):
        print(
            f"{name:24}{found[name]:9.3f}   bar: under {bar:g}   "
            f"{'met' if found[name] < bar else 'MISSED'}"
        )
    print(json.dumps(found))


if __name__ == "__main__":
    main()
