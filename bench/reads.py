"""How long reads take and what they cost, beside a bare health check.

    ./dev run python bench/reads.py [--quick]

A few callers at a time ask a service that holds one long trip; methods take turns, round by round.
Latencies are the caller's, CPU is that of the service and PostgreSQL, a call.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from statistics import median
from typing import Any

import uvloop
from google.protobuf.timestamp_pb2 import Timestamp
from grpc_health.v1 import health_pb2, health_pb2_grpc

from bench import points
from bench.client import Gateway, Load
from bench.stack import Stack, running_stack
from driveflow.tracking.v1 import tracking_pb2 as pb
from libs.client import Connection

CALLERS = 8
TRIP_POINTS = 20_000
BATCH_POINTS = 1_000
PAGE_SIZE = 100
BASE = "health Check"

Ask = Callable[[], Awaitable[Any]]


@dataclass
class Measured:
    """What the calls of one method took, over all rounds."""

    latencies_ms: list[float] = field(default_factory=list)
    service_us: list[float] = field(default_factory=list)
    """CPU a call, one figure a round; as is `postgres_us`."""
    postgres_us: list[float] = field(default_factory=list)

    def percentile_ms(self, percent: int) -> float:
        """The latency that so many of a hundred calls do not exceed."""
        ordered = sorted(self.latencies_ms)
        return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]

    @property
    def cpu_us(self) -> float:
        """CPU a call, of service and PostgreSQL."""
        return median(self.service_us) + median(self.postgres_us)


async def store_trip(stack: Stack, connection: Connection) -> str:
    """A trip with points; its id."""
    start = Timestamp()
    start.FromDatetime(datetime.now(UTC) - timedelta(hours=12))
    start.nanos = 0
    trip = await connection.tracking.StartTrip(pb.StartTripRequest(start_time=start))
    gateway = Gateway(
        Load(stack.address, stack.token(), [trip.id], start.seconds, [TRIP_POINTS], BATCH_POINTS)
    )
    drive = points.drive(0, start.seconds, TRIP_POINTS)
    parts = [drive.part(first, BATCH_POINTS) for first in range(0, TRIP_POINTS, BATCH_POINTS)]
    await gateway.open()
    await gateway.send(
        [
            points.message(number, points.plain_track(trip.id, part))
            for number, part in enumerate(parts, 1)
        ]
    )
    await gateway.end()
    return trip.id


def methods(connection: Connection, trip_id: str) -> dict[str, Ask]:
    """What is asked, by its name."""
    stub = connection.tracking
    check = health_pb2_grpc.HealthStub(connection.channel).Check  # type: ignore[attr-defined]
    trip = pb.GetTripRequest(trip_id=trip_id)
    page = pb.ListTripPointsRequest(trip_id=trip_id, page_size=PAGE_SIZE)
    latest = pb.GetLatestPositionRequest(trip_id=trip_id)
    return {
        BASE: lambda: check(health_pb2.HealthCheckRequest()),
        "GetTrip": lambda: stub.GetTrip(trip),
        f"ListTripPoints ({PAGE_SIZE})": lambda: stub.ListTripPoints(page),
        "GetLatestPosition": lambda: stub.GetLatestPosition(latest),
    }


async def call(stack: Stack, ask: Ask, calls: int, measured: Measured) -> None:
    """So many calls by all callers together."""
    left = iter(range(calls))

    async def caller() -> None:
        for _ in left:
            started = time.perf_counter()
            await ask()
            measured.latencies_ms.append((time.perf_counter() - started) * 1e3)

    before = stack.cpu()
    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    used = stack.cpu() - before
    measured.service_us.append(used.service / calls * 1e6)
    measured.postgres_us.append(used.postgres / calls * 1e6)


async def run(stack: Stack, rounds: int, calls: int) -> dict[str, Measured]:
    """All methods, all rounds."""
    async with Connection(stack.address, stack.token()) as connection:
        trip_id = await store_trip(stack, connection)
        asked = methods(connection, trip_id)
        for ask in asked.values():
            await call(stack, ask, calls // 4, Measured())
        results = {name: Measured() for name in asked}
        for _ in range(rounds):
            for name, ask in asked.items():
                await call(stack, ask, calls, results[name])
    return results


def report(results: Mapping[str, Measured]) -> None:
    """All figures side by side, and a line of JSON."""
    base = results[BASE].cpu_us
    print(
        f"{CALLERS} callers{'':17}{'p50 ms':>8}{'p95 ms':>8}{'p99 ms':>8}"
        f"  CPU us/call: {'service':>8}{'postgres':>9}{'sum':>7}{'ratio':>7}"
    )
    found = {}
    for name, measured in results.items():
        p50, p95, p99 = (measured.percentile_ms(percent) for percent in (50, 95, 99))
        ratio = measured.cpu_us / base
        print(
            f"{name:26}{p50:8.2f}{p95:8.2f}{p99:8.2f}{median(measured.service_us):23.0f}"
            f"{median(measured.postgres_us):9.0f}{measured.cpu_us:7.0f}{ratio:7.2f}"
        )
        found[name] = {
            "p50_ms": round(p50, 2),
            "p95_ms": round(p95, 2),
            "p99_ms": round(p99, 2),
            "cpu_us_per_call": round(measured.cpu_us),
            "cpu_ratio": round(ratio, 2),
        }
    print(json.dumps(found))


def main() -> None:
    """Read the options and run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one short round")
    rounds, calls = (1, 1_000) if parser.parse_args().quick else (5, 4_000)
    with running_stack() as stack:
        report(uvloop.run(run(stack, rounds, calls)))


if __name__ == "__main__":
    main()
