"""Races for slots over crashes: one winner each, whoever dies in between.

    ./dev run python bench/chaos/booking.py
    ./dev run python bench/chaos/booking.py --quick

In each race 24 clients want the same time at two booking processes: they share the instructor, the
vehicle or the student, or any two of them share one of the three. Some hold, some create, some move
a booking there; some are cancelled in the middle; now and then a process or PostgreSQL is killed.
Prints a table and last one line of JSON. Exit code 1: a promise was not kept.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import psycopg

from driveflow.booking.v1 import booking_pb2 as pb
from driveflow.booking.v1 import directory_pb2 as directory
from driveflow.booking.v1.booking_pb2_grpc import BookingServiceStub
from libs import issuer
from libs.client import Connection, refusal
from libs.healthcheck import status
from libs.local.paths import ROOT
from tests import postgres
from tests.booking.stories import SCOPES, at, on
from tests.postgres import Database, free_port

P99_MS = 500.0
LIVE = ("held", "requested", "confirmed", "in_progress")
CLIENTS = 24
MOVERS = 4
PATIENCE_S = 60.0
LESSON = timedelta(minutes=30)
EVERY = timedelta(hours=1)
"""Between races; a lesson takes half an hour and its travel buffer ten minutes."""
PARKED_EVERY = timedelta(minutes=45)
KINDS = ("instructor", "vehicle", "student", "triangle")
DISTURBANCES = ("service killed", "database killed")
# What another try of the same request may cure.
PASSING = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


def main() -> None:
    """Run it and say how it went."""
    options = _options()
    began = time.monotonic()
    with postgres.embedded_server() as server, tempfile.TemporaryDirectory() as folder:
        database = postgres.make_template(server)
        tally = asyncio.run(run(options, database, Path(folder)))
        result = verdict(database, tally)
    result |= {"seed": options.seed, "seconds": round(time.monotonic() - began)}
    _print(tally, result)
    sys.exit(0 if result["ok"] else 1)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    add = parser.add_argument
    add("--races", type=int, default=1_000)
    add("--service-kills", type=int, default=4)
    add("--database-kills", type=int, default=3)
    add("--cancelled", type=float, default=0.1, help="share of the clients")
    add("--quick", action="store_true", help="60 races, one kill of each kind")
    add("--seed", type=int, default=time.time_ns() % 1_000_000)
    options = parser.parse_args()
    if options.quick:
        options.races, options.service_kills, options.database_kills = 60, 1, 1
    return options


# --- what takes part -----------------------------------------------------------------------------


class Process:
    """A booking service at a fixed address, which may be killed and started again."""

    def __init__(self, database: Database, folder: Path, name: str) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        self._log = folder / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._settings = {
            "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'protos'}",
            "DRIVEFLOW_LISTEN": self.address,
            "DRIVEFLOW_DSN": database.dsn("booking"),
            "DRIVEFLOW_JWKS": str(folder / "jwks.json"),
            "DRIVEFLOW_PAGE_TOKEN_KEY": "chaos" * 16,
        }

    async def start(self) -> None:
        """Start it and return once it serves."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: ASYNC220 (returns at once)
                [sys.executable, "-P", "-m", "services.booking"],
                cwd=ROOT,
                env=os.environ | self._settings,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        await self.serving()

    async def serving(self) -> None:
        """Return once it serves."""
        give_up = time.monotonic() + PATIENCE_S
        while await asyncio.to_thread(status, self.address) != "SERVING":
            ended = self._process is None or self._process.poll() is not None
            if ended or time.monotonic() > give_up:
                raise RuntimeError(f"booking does not serve:\n{self._log.read_text()[-4000:]}")
            await asyncio.sleep(0.05)

    async def kill9(self) -> None:
        """Kill it; it gets no chance to say anything."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            await asyncio.to_thread(self._process.wait, PATIENCE_S)
            self._process = None


@dataclass
class School:
    """Those who are booked, by id."""

    token: str
    lesson: str
    instructors: list[str]
    """The last one teaches those who will move."""
    vehicles: list[str]
    students: list[str]


@dataclass(frozen=True)
class Wish:
    """What a client wants; with a `booking`, it is to be moved."""

    instructor: str
    vehicle: str
    student: str
    start: datetime
    booking: str = ""


@dataclass
class Tally:
    """What the clients saw."""

    winners: list[list[pb.Booking]] = field(default_factory=list)
    """Of each race, the acknowledged bookings."""
    starts: list[datetime] = field(default_factory=list)
    endings: Counter[str] = field(default_factory=Counter)
    passing: Counter[str] = field(default_factory=Counter)
    """Answers after which a client tried again."""
    latencies: list[float] = field(default_factory=list)
    """Seconds, of all calls of races in which nothing was killed."""
    unanswered: int = 0
    outages: list[str] = field(default_factory=list)
    deadlocks: int = 0
    """As PostgreSQL's log counts them."""


@asynccontextmanager
async def processes(database: Database, folder: Path) -> AsyncIterator[tuple[list[Process], str]]:
    """Two services on one database, and the key that signs their callers' tokens."""
    key = issuer.new_key()
    (folder / "jwks.json").write_text(issuer.jwks(key))
    made = [Process(database, folder, f"booking-{n}") for n in range(2)]
    try:
        for process in made:
            await process.start()
        yield made, key
    finally:
        for process in made:
            await process.kill9()


async def furnished(address: str, key: str) -> School:
    """A school whose people work day and night."""
    hours = timedelta(hours=4)
    operator = issuer.sign(
        key, subject="operator", scopes=issuer.OPS_SCOPES, org_id=None, ttl=hours
    )
    async with Connection(address, operator) as connection:
        wanted = directory.Organization(
            name="Races", time_zone="Australia/Sydney", hold_minutes=1440, travel_buffer_minutes=10
        )
        org = await connection.directory.CreateOrganization(
            directory.CreateOrganizationRequest(organization=wanted)
        )
    org_id = uuid.UUID(org.id)
    token = issuer.sign(key, subject="racer", scopes=SCOPES, org_id=org_id, ttl=hours)
    async with Connection(address, token) as connection:
        return await _people(connection, token)


async def _people(connection: Connection, token: str) -> School:
    stub = connection.directory
    lesson = await stub.CreateService(
        directory.CreateServiceRequest(
            service=directory.Service(name="Half an hour", duration_minutes=30)
        )
    )
    long_ago = datetime(2020, 1, 1, tzinfo=UTC).date()
    item = directory.RateCardItem(service_id=lesson.id, price_cents=5_000)
    card = directory.RateCard(name="Always", valid_from=on(long_ago), items=[item])
    await stub.CreateRateCard(directory.CreateRateCardRequest(rate_card=card))
    school = School(token, lesson.id, [], [], [])
    always = [
        directory.AvailabilityRule(day_of_week=day, start_minute=0, end_minute=1440)
        for day in range(7)
    ]
    for n in range(CLIENTS + 1):
        instructor = directory.Instructor(display_name=f"Instructor {n}")
        made = await stub.CreateInstructor(directory.CreateInstructorRequest(instructor=instructor))
        await stub.SetWeeklyAvailability(
            directory.SetWeeklyAvailabilityRequest(instructor_id=made.id, rules=always)
        )
        school.instructors.append(made.id)
        vehicle = directory.Vehicle(label=f"Car {n}")
        car = await stub.CreateVehicle(directory.CreateVehicleRequest(vehicle=vehicle))
        school.vehicles.append(car.id)
    for n in range(2 * CLIENTS):
        student = directory.Student(full_name=f"Student {n}")
        learner = await stub.CreateStudent(directory.CreateStudentRequest(student=student))
        school.students.append(learner.id)
    return school


# --- the races -----------------------------------------------------------------------------------


def wishes(school: School, race: int, start: datetime) -> list[Wish]:
    """What the clients of a race want; no two of it can both be had."""
    kind = KINDS[race % len(KINDS)]
    place = race // len(KINDS)
    found = []
    for n in range(CLIENTS):
        own = [(place + n) % CLIENTS, (place + n) % CLIENTS, (race + n) % len(school.students)]
        shared = (place % CLIENTS, place % CLIENTS, race % len(school.students))
        # In a triangle each has two of three things, and so one in common with any other.
        common = {KINDS.index(kind)} if kind != "triangle" else {0, 1, 2} - {n % 3}
        instructor, vehicle, student = (shared[i] if i in common else own[i] for i in range(3))
        found.append(
            Wish(
                school.instructors[instructor],
                school.vehicles[vehicle],
                school.students[student],
                start,
            )
        )
    return found


async def parked(
    stub: BookingServiceStub, school: School, races: Sequence[list[Wish]], first: datetime
) -> list[list[Wish]]:
    """The same wishes; the last few of each race have a booking elsewhere, which is to move."""
    movers = [wish for race in races for wish in race[-MOVERS:]]
    bookings = [
        pb.Booking(
            student_id=wish.student,
            instructor_id=school.instructors[-1],
            service_id=school.lesson,
            start_time=at(first + n * PARKED_EVERY),
        )
        for n, wish in enumerate(movers)
    ]
    ids: list[str] = []
    for begin in range(0, len(bookings), 500):
        request = pb.BatchCreateBookingsRequest(
            bookings=bookings[begin : begin + 500], request_id=str(uuid.uuid4())
        )
        ids += [made.id for made in (await stub.BatchCreateBookings(request, timeout=60)).bookings]
    rest = iter(ids)
    return [
        race[:-MOVERS]
        + [
            Wish(wish.instructor, wish.vehicle, wish.student, wish.start, next(rest))
            for wish in race[-MOVERS:]
        ]
        for race in races
    ]


@dataclass
class Client:
    """One of those who race."""

    stub: BookingServiceStub
    lesson: str
    wish: Wish
    holds: bool
    tally: Tally
    latencies: list[float]
    gives_up_s: float | None
    """Cancels its call so long after it began."""

    def call(self) -> Callable[[], Awaitable[pb.Booking]]:
        """The call; the same request however often it is made."""
        wish = self.wish
        id_ = str(uuid.uuid4())
        common: dict[str, Any] = {"instructor_id": wish.instructor, "vehicle_id": wish.vehicle}
        common["start_time"] = at(wish.start)
        if wish.booking:
            move = pb.RescheduleBookingRequest(booking_id=wish.booking, request_id=id_, **common)
            return lambda: self.stub.RescheduleBooking(move)
        common |= {"student_id": wish.student, "service_id": self.lesson}
        if self.holds:
            hold = pb.HoldSlotRequest(request_id=id_, **common)
            return lambda: self.stub.HoldSlot(hold)
        create = pb.CreateBookingRequest(booking=pb.Booking(**common), request_id=id_)
        return lambda: self.stub.CreateBooking(create)

    async def race(self) -> pb.Booking | None:
        """The booking, if this client got it; tries again what passes."""
        call, give_up = self.call(), time.monotonic() + PATIENCE_S
        while time.monotonic() < give_up:
            began = time.monotonic()
            try:
                booking = await self._once(call())
            except asyncio.CancelledError:
                self.tally.endings["(cancelled by the client)"] += 1
                return None
            except grpc.aio.AioRpcError as error:
                self.latencies.append(time.monotonic() - began)
                if self._is_over(error):
                    return None
                await asyncio.sleep(0.1)
                continue
            self.latencies.append(time.monotonic() - began)
            self.tally.endings["OK"] += 1
            return booking
        self.tally.unanswered += 1
        return None

    async def _once(self, answer: Any) -> pb.Booking:
        if self.gives_up_s is not None:
            asyncio.get_running_loop().call_later(self.gives_up_s, answer.cancel)
        booking: pb.Booking = await answer
        return booking

    def _is_over(self, error: grpc.aio.AioRpcError) -> bool:
        refused = refusal(error)
        reason = refused.reason or error.code().name
        passes = error.code() in PASSING or reason == "CONFLICT"
        (self.tally.passing if passes else self.tally.endings)[reason] += 1
        return not passes


async def run(options: argparse.Namespace, database: Database, folder: Path) -> Tally:
    """All races, disturbed at chance places."""
    rng, tally = random.Random(options.seed), Tally()
    async with processes(database, folder) as (services, key), AsyncExitStack() as open_:
        school = await furnished(services[0].address, key)
        connections = [Connection(each.address, school.token) for each in services * 2]
        for connection in connections:
            open_.push_async_callback(connection.close)
        stubs = [connection.bookings for connection in connections]
        first = _tomorrow()
        tally.starts = [first + race * EVERY for race in range(options.races)]
        races = [wishes(school, race, start) for race, start in enumerate(tally.starts)]
        races = await parked(stubs[0], school, races, tally.starts[-1] + timedelta(days=2))
        disturbed = _disturbed(options, rng)
        for number, wanted in enumerate(races):
            clients = _clients(options, rng, school, stubs, wanted, tally)
            await _race(clients, tally, rng, disturbed.get(number), services, database)
            if number % 100 == 99:
                _say(f"{number + 1}/{len(races)} races")
    tally.deadlocks = _deadlocks(database)
    return tally


def _tomorrow() -> datetime:
    return datetime.now(UTC).replace(minute=0, second=0, microsecond=0) + timedelta(days=1)


def _disturbed(options: argparse.Namespace, rng: random.Random) -> dict[int, str]:
    """In which races what is killed; never in the first."""
    kills = [DISTURBANCES[0]] * options.service_kills + [DISTURBANCES[1]] * options.database_kills
    return dict(zip(rng.sample(range(1, options.races), len(kills)), kills, strict=True))


def _clients(
    options: argparse.Namespace,
    rng: random.Random,
    school: School,
    stubs: Sequence[BookingServiceStub],
    wanted: Sequence[Wish],
    tally: Tally,
) -> list[Client]:
    clients = [
        Client(
            stubs[n % len(stubs)],
            school.lesson,
            wish,
            holds=n % 2 == 0,
            tally=tally,
            latencies=[],
            gives_up_s=rng.uniform(0, 0.1) if rng.random() < options.cancelled else None,
        )
        for n, wish in enumerate(wanted)
    ]
    rng.shuffle(clients)
    return clients


async def _race(
    clients: Sequence[Client],
    tally: Tally,
    rng: random.Random,
    disturbance: str | None,
    services: Sequence[Process],
    database: Database,
) -> None:
    running = asyncio.gather(*(client.race() for client in clients))
    if disturbance is not None:
        await asyncio.sleep(rng.uniform(0, 0.05))
        await _disturb(disturbance, tally, rng, services, database)
    won = await running
    tally.winners.append([booking for booking in won if booking is not None])
    if disturbance is not None:
        for service in services:
            await service.serving()
    else:
        tally.latencies += [seconds for client in clients for seconds in client.latencies]


async def _disturb(
    what: str,
    tally: Tally,
    rng: random.Random,
    services: Sequence[Process],
    database: Database,
) -> None:
    """Kill it and start it again."""
    began = time.monotonic()
    if what == "service killed":
        victim = rng.choice(services)
        await victim.kill9()
        await victim.start()
    else:
        embedded = database.server.embedded
        assert embedded is not None
        await asyncio.to_thread(embedded.kill9)
        await asyncio.to_thread(embedded.start)
    tally.outages.append(what)
    _say(f"{what}, there again after {time.monotonic() - began:.1f} s")


# --- the verdict ---------------------------------------------------------------------------------

IN_SLOTS = """
SELECT "startAt", count(*) FROM booking."Booking"
 WHERE status = ANY (%(live)s) AND "startAt" = ANY (%(starts)s) GROUP BY 1
"""
ACKNOWLEDGED = """
SELECT id::text, "startAt", "instructorId"::text, "vehicleId"::text FROM booking."Booking"
 WHERE status = ANY (%(live)s) AND id = ANY (%(ids)s::uuid[])
"""
OVERLAPS = """
SELECT a.id, b.id FROM booking."Booking" AS a
  JOIN booking."Booking" AS b
    ON b."orgId" = a."orgId" AND a.id < b.id
   AND (a."instructorId" = b."instructorId" AND a.busy && b.busy
        OR a."vehicleId" = b."vehicleId" AND a.busy && b.busy
        OR a."studentId" = b."studentId" AND a."startAt" < b."endAt" AND b."startAt" < a."endAt")
 WHERE a.status = ANY (%(live)s) AND b.status = ANY (%(live)s)
"""


def verdict(database: Database, tally: Tally) -> dict[str, object]:
    """The figures, and whether every promise was kept."""
    ids = [each.id for won in tally.winners for each in won]
    given = {"live": list(LIVE), "starts": tally.starts, "ids": ids}
    with psycopg.connect(database.admin_dsn, autocommit=True) as conn:
        winners: dict[datetime, int] = dict(conn.execute(IN_SLOTS, given).fetchall())
        kept = {row[0]: row[1:] for row in conn.execute(ACKNOWLEDGED, given).fetchall()}
        overlaps = len(conn.execute(OVERLAPS, given).fetchall())
    lost = [
        each.id
        for won in tally.winners
        for each in won
        if kept.get(each.id)
        != (each.start_time.ToDatetime(UTC), each.instructor_id, each.vehicle_id)
    ]
    found = [winners.get(start, 0) for start in tally.starts]
    figures: dict[str, object] = {
        "races": len(found),
        "clients": CLIENTS,
        "one_winner": found.count(1),
        "no_winner": found.count(0),
        "more_winners": sum(count > 1 for count in found),
        "acked": len(ids),
        "acked_twice": sum(len(won) > 1 for won in tally.winners),
        "acked_lost": len(lost),
        "overlaps": overlaps,
        "deadlocks": tally.deadlocks,
        "conflicts_seen": tally.passing["CONFLICT"],
        "unanswered": tally.unanswered,
        "refusals": dict(tally.endings.most_common()),
        "tried_again": dict(tally.passing.most_common()),
        **{kind.replace(" ", "_"): tally.outages.count(kind) for kind in DISTURBANCES},
        "p50_ms": _percentile(tally.latencies, 0.5),
        "p99_ms": _percentile(tally.latencies, 0.99),
    }
    promises = {
        "one winner": figures["one_winner"] == len(found) and figures["acked_twice"] == 0,
        "nothing acknowledged is lost": not lost,
        "no overlap": overlaps == 0,
        "no deadlock": tally.deadlocks == 0,
        "every client is answered": tally.unanswered == 0,
        "only refusals that were meant": set(tally.endings) <= EXPECTED,
        "p99": _percentile(tally.latencies, 0.99) < P99_MS,
    }
    broken = [name for name, well in promises.items() if not well]
    return {"ok": not broken, "broken_promises": broken, **figures}


EXPECTED = {"OK", "SLOT_TAKEN", "(cancelled by the client)", "CANCELLED"}


def _deadlocks(database: Database) -> int:
    embedded = database.server.embedded
    assert embedded is not None
    return embedded.log.read_text(errors="replace").count("deadlock detected")


def _percentile(seconds: Sequence[float], share: float) -> float:
    if not seconds:
        return 0.0
    return round(sorted(seconds)[math.ceil(share * len(seconds)) - 1] * 1_000, 1)


def _print(tally: Tally, result: dict[str, object]) -> None:
    print(f"\n{'answer':<32}{'clients':>9}")
    for reason, times in tally.endings.most_common():
        print(f"{reason:<32}{times:>9,}")
    for reason, times in tally.passing.most_common():
        print(f"{reason + ', tried again':<32}{times:>9,}")
    print(f"\n{'figure':<32}{'':>9}")
    for name, value in result.items():
        if isinstance(value, int | float):
            print(f"{name:<32}{value:>9,}")
    print(json.dumps(result))


def _say(line: str) -> None:
    with suppress(BrokenPipeError):
        print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    # Its channels are many, and what they lead to is killed beside them.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    main()
