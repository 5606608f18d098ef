"""How many unary calls a service answers a second, beside a bare grpc.aio server.

    ./dev run python bench/rpc.py [--quick] [CASE…]

Every case and an echo with messages of the same sizes take turns, round by round, from clients in
C (h2load; one of our own where each request differs) with 32 calls in flight. The share is that of
the echo's requests a second; all that production has is on: token, school, row-level security,
validation, metrics. Every call must be answered OK, by the count of the service's own metrics.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import subprocess
import sys
import tempfile
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any

import psutil
from google.protobuf.message import Message

from bench import creating, echo, h2load
from bench.stack import Stack, running_stack
from driveflow.tracking.v1 import tracking_pb2 as pb
from libs.client import Connection
from libs.local.paths import ROOT
from tests.postgres import free_port

TRIPS = 500
SERVICE = "driveflow.tracking.v1.TrackingService"
_COUNT = re.compile(
    r'^rpc_server_call_duration_seconds_count\{.*rpc_method="([^"]+)",'
    r'rpc_response_status_code="(\w+)".*\} ([\d.e+]+)$',
    re.MULTILINE,
)


@dataclass(frozen=True)
class Case:
    """A method, what it is asked, and what share of the echo's throughput it should reach."""

    name: str
    method: str
    """driveflow.tracking.v1.TrackingService/GetTrip"""
    bar: float
    request: Message | None
    """The same each time; None: `requests` makes them."""
    answer_bytes: int
    requests: Callable[[int], Sequence[Message]] | None = None
    """So many, each one different from all others."""


@dataclass(frozen=True)
class Round:
    """One turn."""

    rate: float
    service_us: float
    """CPU a call; as is `postgres_us`."""
    postgres_us: float
    p50_ms: float
    p95_ms: float
    p99_ms: float


@dataclass
class Measured:
    """The rounds of a case, and of the echo beside it."""

    own: list[Round] = field(default_factory=list)
    bare: list[Round] = field(default_factory=list)

    def share(self) -> float:
        """Of the echo's requests a second: the median of the rounds' shares."""
        pairs = zip(self.own, self.bare, strict=True)
        return median(own.rate / bare.rate for own, bare in pairs)


def of(rounds: Sequence[Round], figure: str) -> float:
    """The median of a figure."""
    return float(median(getattr(each, figure) for each in rounds))


# --- what is asked -----------------------------------------------------------------------------


async def tracking_cases(stack: Stack) -> list[Case]:
    """Tracking's reads and its create, on a school with trips."""
    async with Connection(stack.address, stack.token()) as connection:
        stub = connection.tracking
        trips = [await stub.StartTrip(_start(number)) for number in range(TRIPS)]
        one = pb.GetTripRequest(trip_id=trips[0].id)
        many = pb.ListTripsRequest(page_size=20)
        light = pb.ListTripsRequest(page_size=20)
        light.read_mask.paths.extend(["id", "start_time", "end_time", "status"])
        sizes = [
            (await stub.GetTrip(one)).ByteSize(),
            (await stub.ListTrips(many)).ByteSize(),
            (await stub.ListTrips(light)).ByteSize(),
        ]
    return [
        Case("GetTrip", f"{SERVICE}/GetTrip", 0.5, one, sizes[0]),
        Case("ListTrips (20)", f"{SERVICE}/ListTrips", 0.4, many, sizes[1]),
        Case("ListTrips (20 light)", f"{SERVICE}/ListTrips", 0.4, light, sizes[2]),
        Case("StartTrip", f"{SERVICE}/StartTrip", 0.2, None, sizes[0], _starts),
    ]


def _start(number: int) -> pb.StartTripRequest:
    request = pb.StartTripRequest(request_id=str(uuid.uuid4()))
    request.start_time.FromDatetime(datetime.now(UTC) - timedelta(seconds=number))
    return request


def _starts(count: int) -> list[pb.StartTripRequest]:
    return [_start(number) for number in range(count)]


# --- rounds ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bench:
    """The servers, and the client that creates."""

    stack: Stack
    echo_address: str
    echo_process: psutil.Process
    client: Path

    def own(self, case: Case, calls: int) -> Round:
        """The service's turn; exits when an answer was not OK."""
        before, cpu = answered(self.stack.metrics, case.method), self.stack.cpu()
        rate, latencies = self._call(case, self.stack.address, f"/{case.method}", calls)
        used = self.stack.cpu() - cpu
        _all_ok(case, before, answered(self.stack.metrics, case.method), calls)
        return Round(rate, used.service / calls * 1e6, used.postgres / calls * 1e6, *latencies)

    def bare(self, case: Case, calls: int) -> Round:
        """The echo's."""
        before = sum(self.echo_process.cpu_times()[:2])
        path = f"{echo.PATH}{case.answer_bytes}"
        rate, latencies = self._call(case, self.echo_address, path, calls)
        used = sum(self.echo_process.cpu_times()[:2]) - before
        return Round(rate, used / calls * 1e6, 0.0, *latencies)

    def _call(
        self, case: Case, address: str, path: str, calls: int
    ) -> tuple[float, tuple[float, float, float]]:
        token = self.stack.token()
        if case.request is None:
            assert case.requests is not None
            messages = [request.SerializeToString() for request in case.requests(calls)]
            made = creating.run(self.client, address, path, messages, token)
            return made.calls / made.seconds, (made.p50_ms, made.p95_ms, made.p99_ms)
        load = h2load.run(address, path, case.request.SerializeToString(), token, calls)
        ordered = sorted(load.latencies_ms)
        p50, p95, p99 = (ordered[calls * percent // 100] for percent in (50, 95, 99))
        return load.calls / load.seconds, (p50, p95, p99)


def answered(metrics: str, method: str) -> dict[str, int]:
    """How many calls of the method the service has answered, by status."""
    with urllib.request.urlopen(f"http://{metrics}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    return {code: int(float(count)) for name, code, count in _COUNT.findall(text) if name == method}


def _all_ok(case: Case, before: Mapping[str, int], after: Mapping[str, int], calls: int) -> None:
    gone = {code: after[code] - before.get(code, 0) for code in after}
    if {code: count for code, count in gone.items() if count} != {"OK": calls}:
        sys.exit(f"{case.name}: {calls} calls, answered {gone}")


def run(bench: Bench, cases: Sequence[Case], rounds: int, calls: int) -> dict[str, Measured]:
    """All cases, all rounds, each beside the echo."""
    results = {case.name: Measured() for case in cases}
    for case in cases:
        bench.bare(case, calls // 4)
        bench.own(case, calls // 2)
    for _ in range(rounds):
        for case in cases:
            results[case.name].bare.append(bench.bare(case, calls))
            results[case.name].own.append(bench.own(case, calls))
    return results


# --- set-up and report -------------------------------------------------------------------------


@contextmanager
def running_bench(stack: Stack) -> Iterator[Bench]:
    """The echo beside the stack, and the client built."""
    address = f"127.0.0.1:{free_port()}"
    with tempfile.TemporaryDirectory(prefix="driveflow-rpc-") as folder:
        client = creating.compiled(Path(folder))
        process = subprocess.Popen(
            [sys.executable, "-m", "bench.echo", address], cwd=ROOT, stdout=subprocess.PIPE
        )
        try:
            assert process.stdout is not None
            if process.stdout.readline() != b"listening\n":
                sys.exit("the echo does not start")
            yield Bench(stack, address, psutil.Process(process.pid), client)
        finally:
            process.kill()
            process.wait()


def report(cases: Sequence[Case], results: Mapping[str, Measured]) -> bool:
    """All figures side by side, and a line of JSON; whether every bar is met."""
    print(
        f"{h2load.CONNECTIONS * h2load.IN_FLIGHT} calls in flight{'':9}{'calls/s':>8}{'echo/s':>8}"
        f"{'share':>7}{'bar':>6}   CPU us/call: {'service':>8}{'echo':>6}{'postgres':>9}"
        f"{'p50 ms':>9}{'p95 ms':>8}{'p99 ms':>8}"
    )
    found: dict[str, Any] = {}
    for case in cases:
        measured = results[case.name]
        own, bare, share = measured.own, measured.bare, measured.share()
        verdict = "met" if share >= case.bar else "MISSED"
        print(
            f"{case.name:27}{of(own, 'rate'):8.0f}{of(bare, 'rate'):8.0f}"
            f"{share:7.2f}{case.bar:6.2f}{of(own, 'service_us'):25.0f}"
            f"{of(bare, 'service_us'):6.0f}{of(own, 'postgres_us'):9.0f}{of(own, 'p50_ms'):9.2f}"
            f"{of(own, 'p95_ms'):8.2f}{of(own, 'p99_ms'):8.2f}   {verdict}"
        )
        found[case.name] = {
            "calls_per_s": round(of(own, "rate")),
            "share": round(share, 3),
            "service_us": round(of(own, "service_us")),
            "echo_us": round(of(bare, "service_us")),
            "postgres_us": round(of(own, "postgres_us")),
            "p99_ms": round(of(own, "p99_ms"), 2),
        }
    print(json.dumps(found))
    return all(results[case.name].share() >= case.bar for case in cases)


def main() -> None:
    """Read the options and run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one short round")
    parser.add_argument("case", nargs="*", help="only cases whose names begin so")
    options = parser.parse_args()
    rounds, calls = (1, 2_000) if options.quick else (5, 4_000)
    h2load.program()
    with running_stack() as stack, running_bench(stack) as bench:
        cases = asyncio.run(tracking_cases(stack))
        wanted = tuple(options.case)
        cases = [case for case in cases if not wanted or case.name.startswith(wanted)]
        met = report(cases, run(bench, cases, rounds, calls))
    sys.exit(not met and not options.quick)


if __name__ == "__main__":
    main()
