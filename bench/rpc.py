"""How many unary calls a service answers a second, beside a bare grpc.aio server.

    ./dev run python bench/rpc.py [--quick] [--rounds N] [CASE…]

Every case and an echo with messages of the same sizes take turns, round by round, from clients in
C (h2load; one of our own where each request differs) with 32 calls in flight. The share is that of
the echo's requests a second; all that production has is on: token, school, row-level security,
validation, metrics, traces of one call in a hundred, sent to a collector. Every call must be
answered OK, by the count of the service's own metrics.
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
from typing import LiteralString

import psutil
import psycopg
from google.protobuf.message import Message
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from bench import creating, echo, h2load
from bench.stack import SCHOOL, Stack, running_stack
from driveflow.booking.v1 import booking_pb2 as pb
from libs.client import Connection
from libs.local.paths import ROOT
from tests.booking import plans
from tests.postgres import free_port

SCHOOLS = 200
BOOKINGS = 1_000_000
QUICK_BOOKINGS = 50_000
FILL_TIMEOUT_S = 240
INSTRUCTORS = 64
"""Of the school where bookings are made, day and night: those under way at a time differ."""
SEARCH = "SearchSlots, a week"
CREATE = "CreateBooking"
SERVICE = "driveflow.booking.v1.BookingService"
NAMES = (
    *("id", "start_time", "end_time", "status", "student.id", "student.full_name"),
    *("instructor.id", "instructor.display_name", "service.id", "service.name"),
)
P99_SIMPLE_MS, P99_SEARCH_MS = 100.0, 500.0
PACED_S = 5.0
PAST = 40_000
_COUNT = re.compile(
    r'^rpc_server_call_duration_seconds_count\{.*rpc_method="([^"]+)",'
    r'rpc_response_status_code="(\w+)".*\} ([\d.e+]+)$',
    re.MULTILINE,
)


@dataclass(frozen=True)
class Case:
    """A method, what it is asked, and what share of the echo's throughput it should reach."""

    name: str
    key: str
    """In the line of JSON."""
    method: str
    """driveflow.booking.v1.BookingService/GetBooking"""
    token: str
    bar: float
    request: Message
    """The same each time, unless `requests` makes them."""
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


async def booking_cases(stack: Stack, bookings: int) -> list[Case]:
    """Booking's reads over a million bookings, and its create."""
    plans.fill(stack.database, SCHOOLS, bookings // SCHOOLS, FILL_TIMEOUT_S)
    school = furnished(stack)
    token = stack.token(plans.ORG)
    async with Connection(stack.address, token) as connection:
        stub = connection.bookings
        light = pb.ListBookingsRequest(page_size=20)
        page = await stub.ListBookings(light)
        names = pb.ListBookingsRequest(page_size=20)
        names.read_mask.paths.extend(NAMES)
        one = pb.GetBookingRequest(booking_id=page.bookings[0].id)
        week = pb.SearchSlotsRequest(service_id=str(plans.SERVICE), page_size=20)
        week.start_time.FromDatetime(datetime.now(UTC) + timedelta(days=3))
        week.end_time.FromDatetime(datetime.now(UTC) + timedelta(days=10))
        booking_bytes = (await stub.GetBooking(one)).ByteSize()
        sizes = [
            page.ByteSize(),
            (await stub.ListBookings(names)).ByteSize(),
            (await stub.SearchSlots(week)).ByteSize(),
        ]
    get, create = f"{SERVICE}/GetBooking", f"{SERVICE}/CreateBooking"
    listed = f"{SERVICE}/ListBookings"
    slots, ids = school.slots(), iter(school.past(stack))

    def gets(count: int) -> list[pb.GetBookingRequest]:
        return [pb.GetBookingRequest(booking_id=str(next(ids))) for _ in range(count)]

    def creates(count: int) -> list[pb.CreateBookingRequest]:
        return [next(slots) for _ in range(count)]

    own = stack.token()
    return [
        Case("GetBooking, cached", "get_cached", get, token, 0.75, one, booking_bytes),
        Case("GetBooking", "get", get, own, 0.5, one, booking_bytes, gets),
        Case("ListBookings (20)", "list", listed, token, 0.4, light, sizes[0]),
        Case("ListBookings (20, names)", "list_names", listed, token, 0.3, names, sizes[1]),
        Case(SEARCH, "search", f"{SERVICE}/SearchSlots", token, 0.0, week, sizes[2]),
        Case(CREATE, "create", create, own, 0.2, next(slots), booking_bytes, creates),
    ]


@dataclass(frozen=True)
class School:
    """Where bookings are made: everyone works day and night."""

    service: uuid.UUID
    people: list[tuple[uuid.UUID, uuid.UUID]]
    """An instructor and the only student of his."""

    def slots(self) -> Iterator[pb.CreateBookingRequest]:
        """Each a slot that is free; those in a row are of different people."""
        start = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) + timedelta(days=1)
        while True:
            for instructor, student in self.people:
                request = pb.CreateBookingRequest(request_id=str(uuid.uuid4()))
                request.booking.student_id = str(student)
                request.booking.instructor_id = str(instructor)
                request.booking.service_id = str(self.service)
                request.booking.start_time.FromDatetime(start)
                yield request
            start += timedelta(hours=1)

    def past(self, stack: Stack) -> list[uuid.UUID]:
        """Bookings of last year, to be read once each: none is in the cache."""
        instructor, student = self.people[0]
        with stack.admin() as admin:
            cursor = admin.execute(
                'INSERT INTO booking."Booking" ("orgId", "studentId", "instructorId", "serviceId",'
                ' "startAt", "endAt", "bufferBeforeMin", "bufferAfterMin", status, "priceCents",'
                ' "platformFeeCents", "instructorShareCents", currency)'
                " SELECT %s, %s, %s, %s, at, at + make_interval(hours => 1), 0, 0, 'completed',"
                " 8000, 1200, 6800, 'AUD' FROM generate_series(1, %s) AS n,"
                " LATERAL (SELECT timestamptz '2025-01-01Z' + make_interval(mins => n)) AS t (at)"
                " RETURNING id",
                [SCHOOL, student, instructor, self.service, PAST],
            )
            found = [row[0] for row in cursor]
            # What filling leaves to do is done before anything is measured.
            admin.execute("VACUUM ANALYZE")
            admin.execute("CHECKPOINT")
            return found


def furnished(stack: Stack) -> School:
    """The bench's own school among the others."""
    with stack.admin() as admin:
        admin.execute("SET search_path = booking")
        admin.execute(
            'INSERT INTO "Org" (id, name, "travelBufferMin") VALUES (%s, %s, 0)', [SCHOOL, "Bench"]
        )
        service = _made(admin, 'INTO "Service" ("orgId", name, "durationMin")', "Lesson", 60)
        card = _made(admin, 'INTO "RateCard" ("orgId", name, "validFrom")', "2026", "2026-01-01")
        admin.execute(
            'INSERT INTO "RateCardItem" ("orgId", "rateCardId", "serviceId", "priceCents",'
            ' "validFrom") VALUES (%s, %s, %s, 8000, %s)',
            [SCHOOL, card, service, "2026-01-01"],
        )
        people = []
        for number in range(INSTRUCTORS):
            name = f"Person {number}"
            instructor = _made(admin, 'INTO "Instructor" ("orgId", "displayName", phone)', name, "")
            student = _made(admin, 'INTO "Student" ("orgId", "fullName", phone)', name, "")
            admin.execute(
                'INSERT INTO "InstructorAvailability" ("orgId", "instructorId", "dayOfWeek",'
                ' "startMinute", "endMinute", "effectiveFrom")'
                " SELECT %s, %s, day, 0, 1440, %s FROM generate_series(0, 6) AS day",
                [SCHOOL, instructor, "2026-01-01"],
            )
            people.append((instructor, student))
        admin.execute("ANALYZE")
    return School(service, people)


def _made(admin: psycopg.Connection, into: LiteralString, *values: object) -> uuid.UUID:
    row = admin.execute(
        "INSERT " + into + " VALUES (%s, %s, %s) RETURNING id",  # noqa: S608
        [SCHOOL, *values],
    ).fetchone()
    assert row is not None
    return uuid.UUID(str(row[0]))


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
        if case.requests is not None:
            # The echo is asked the same again and again: new ones are dear.
            echoed = address == self.echo_address
            requests = [case.request] * calls if echoed else case.requests(calls)
            messages = [request.SerializeToString() for request in requests]
            made = creating.run(self.client, address, path, messages, case.token)
            return made.calls / made.seconds, (made.p50_ms, made.p95_ms, made.p99_ms)
        load = h2load.run(address, path, case.request.SerializeToString(), case.token, calls)
        ordered = sorted(load.latencies_ms)
        p50, p95, p99 = (ordered[calls * percent // 100] for percent in (50, 95, 99))
        return load.calls / load.seconds, (p50, p95, p99)


def answered(metrics: str, method: str) -> dict[str, int]:
    """How many calls of the method the service has answered, by status."""
    found = _COUNT.findall(scraped(metrics))
    return {code: int(float(count)) for name, code, count in found if name == method}


def scraped(metrics: str) -> str:
    """All that the service exports."""
    with urllib.request.urlopen(f"http://{metrics}/metrics", timeout=10) as answer:
        text: str = answer.read().decode()
        return text


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
    for case in cases:
        measured = results[case.name]
        own, bare, share = measured.own, measured.bare, measured.share()
        verdict = "" if not case.bar else "met" if share >= case.bar else "MISSED"
        print(
            f"{case.name:27}{of(own, 'rate'):8.0f}{of(bare, 'rate'):8.0f}"
            f"{share:7.2f}{case.bar or '':>6}{of(own, 'service_us'):25.0f}"
            f"{of(bare, 'service_us'):6.0f}{of(own, 'postgres_us'):9.0f}{of(own, 'p50_ms'):9.2f}"
            f"{of(own, 'p95_ms'):8.2f}{of(own, 'p99_ms'):8.2f}   {verdict}"
        )
    return all(results[case.name].share() >= case.bar for case in cases)


def paced(bench: Bench, cases: Sequence[Case], results: Mapping[str, Measured]) -> dict[str, float]:
    """The p99 of each case at half of its peak; milliseconds.

    Where each request is another, at the peak itself: that client has no pace.
    """
    found = {}
    for case in cases:
        if case.requests is not None:
            found[case.name] = of(results[case.name].own, "p99_ms")
            continue
        rate = of(results[case.name].own, "rate") / 2
        calls = max(200, int(rate * PACED_S))
        message = case.request.SerializeToString()
        path = f"/{case.method}"
        load = h2load.run(bench.stack.address, path, message, case.token, calls, per_s=rate)
        found[case.name] = sorted(load.latencies_ms)[calls * 99 // 100]
        print(f"{case.name:27}{rate:8.0f} calls/s{'':40}p99 {found[case.name]:8.2f} ms")
    return found


def traced(stack: Stack) -> None:
    """Say how many calls were traced; exits when it is far from one in a hundred."""
    of_calls = sum(span.kind == Span.SPAN_KIND_SERVER for span in stack.collector.spans)
    metrics = scraped(stack.metrics)
    calls = sum(int(float(count)) for name, _, count in _COUNT.findall(metrics) if SERVICE in name)
    print(f"of {calls} calls {of_calls} came to the collector as traces")
    if not 0.005 < of_calls / calls < 0.02:
        sys.exit("traces were not sampled as by default")


def main() -> None:
    """Read the options and run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one short round")
    parser.add_argument("--rounds", type=int, help="so many, rather than one (--quick) or nine")
    parser.add_argument("case", nargs="*", help="only cases whose names begin so")
    options = parser.parse_args()
    rounds, calls = (1, 2_000) if options.quick else (9, 4_000)
    rounds = options.rounds or rounds
    bookings = QUICK_BOOKINGS if options.quick else BOOKINGS
    h2load.program()
    with running_stack("booking") as stack, running_bench(stack) as bench:
        cases = asyncio.run(booking_cases(stack, bookings))
        wanted = tuple(options.case)
        cases = [case for case in cases if not wanted or case.name.startswith(wanted)]
        results = run(bench, cases, rounds, calls)
        met = report(cases, results)
        p99 = paced(bench, cases, results)
        traced(stack)
    simple = max((ms for name, ms in p99.items() if name != SEARCH), default=0.0)
    search = p99.get(SEARCH, 0.0)
    shares = {case.key: round(results[case.name].share(), 3) for case in cases if case.bar}
    print(
        json.dumps(shares | {"p99_simple_ms": round(simple, 2), "p99_search_ms": round(search, 2)})
    )
    met = met and simple < P99_SIMPLE_MS and search < P99_SEARCH_MS
    sys.exit(not met and not options.quick)


if __name__ == "__main__":
    main()
