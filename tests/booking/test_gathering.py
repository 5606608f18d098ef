"""Gathering: who comes while others are under way goes with all who wait, and loses nothing."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from driveflow.booking.v1 import booking_pb2 as pb
from libs import scoped
from libs.consistency import KEY
from services.booking import gathering, locks
from services.booking.gathering import TOGETHER_MAX, Gathering
from tests.booking.stories import School, at, morning, reason_of, request_id
from tests.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")


class Desk:
    """Does what is asked for when it is let, and keeps who went how."""

    def __init__(self) -> None:
        self.began: list[list[str]] = []
        self.gates: list[asyncio.Event] = []
        self.gathering: Gathering[str, str] = Gathering(self.alone, self.together)

    async def alone(self, asked: str) -> str:
        await self._begin([asked])
        return f"{asked} alone"

    async def together(self, asked: Sequence[str]) -> Sequence[str | Exception | None]:
        await self._begin([*asked])
        if "broken" in asked:
            raise ConnectionError("the database went away")
        special = {"taken": None, "refused": ValueError("refused")}
        return [special.get(each, f"{each} together") for each in asked]

    async def _begin(self, asked: list[str]) -> None:
        gate = asyncio.Event()
        self.began.append(asked)
        self.gates.append(gate)
        await gate.wait()

    async def ask(self, *asked: str) -> list[asyncio.Task[str]]:
        """Tasks that have begun, or wait."""
        tasks = [asyncio.create_task(self.gathering.do(each)) for each in asked]
        await turns()
        return tasks

    async def let(self, number: int) -> None:
        """The transaction with this number goes on to its end."""
        self.gates[number].set()
        await turns()


async def turns() -> None:
    """All that can run now has run."""
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.setattr(gathering, "PATIENCE_S", 60.0)
    return Desk()


# --- who goes with whom ------------------------------------------------------------------------


async def test_who_comes_while_one_is_under_way_goes_with_all_who_wait(desk: Desk) -> None:
    tasks = await desk.ask("a", "b", "c")
    assert desk.began == [["a"]]
    await desk.let(0)
    assert desk.began == [["a"], ["b", "c"]]
    await desk.let(1)
    assert [await task for task in tasks] == ["a alone", "b together", "c together"]
    (last,) = await desk.ask("d")
    await desk.let(2)
    assert await last == "d alone"


async def test_who_waits_by_himself_goes_alone_and_keeps_the_lane(desk: Desk) -> None:
    first, second = await desk.ask("a", "b")
    await desk.let(0)
    (third,) = await desk.ask("c")
    assert desk.began == [["a"], ["b"]]
    await desk.let(1)
    await desk.let(2)
    assert [await each for each in (first, second, third)] == ["a alone", "b alone", "c alone"]


async def test_no_more_go_together_than_may(desk: Desk) -> None:
    names = [f"{n}" for n in range(TOGETHER_MAX + 3)]
    tasks = await desk.ask("a", *names)
    for number in range(3):
        await desk.let(number)
    assert desk.began == [["a"], names[:TOGETHER_MAX], names[TOGETHER_MAX:]]
    assert len([await task for task in tasks]) == TOGETHER_MAX + 4


async def test_who_waits_for_too_long_gets_a_lane_of_its_own(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gathering, "PATIENCE_S", 0.01)
    tasks = await desk.ask("stuck", "b", "c")
    await eventually(lambda: _true(desk.began == [["stuck"], ["b", "c"]]))
    await desk.let(1)
    assert [await task for task in tasks[1:]] == ["b together", "c together"]
    assert not tasks[0].done()
    await desk.let(0)
    assert await tasks[0] == "stuck alone"


# --- what becomes of each ----------------------------------------------------------------------


async def test_who_was_in_anothers_way_goes_alone_and_who_is_refused_hears_it(desk: Desk) -> None:
    _, taken, refused, good = await desk.ask("a", "taken", "refused", "good")
    await desk.let(0)
    await desk.let(1)
    assert desk.began[-1] == ["taken"]
    assert await good == "good together"
    with pytest.raises(ValueError, match="refused"):
        await refused
    await desk.let(2)
    assert await taken == "taken alone"


async def test_what_fails_for_all_is_raised_for_all(desk: Desk) -> None:
    _, *tasks = await desk.ask("a", "broken", "b")
    await desk.let(0)
    await desk.let(1)
    for task in tasks:
        with pytest.raises(ConnectionError):
            await task
    (next_one,) = await desk.ask("c")
    await desk.let(2)
    assert await next_one == "c alone"


async def test_who_is_cancelled_while_it_waits_is_never_begun(desk: Desk) -> None:
    _, gone, stays = await desk.ask("a", "gone", "stays")
    gone.cancel()
    await desk.let(0)
    assert desk.began == [["a"], ["stays"]]
    await desk.let(1)
    assert await stays == "stays alone"


async def test_who_is_cancelled_under_way_takes_nobody_with_it(desk: Desk) -> None:
    _, gone, stays = await desk.ask("a", "gone", "stays")
    await desk.let(0)
    gone.cancel()
    await desk.let(1)
    assert await stays == "stays together"
    assert gone.cancelled()


@pytest.mark.parametrize("after", [0, 1, 2, 3])
async def test_a_lane_is_not_lost_with_who_is_cancelled_as_it_gets_it(
    desk: Desk, after: int
) -> None:
    _, gone = await desk.ask("a", "gone")
    desk.gates[0].set()
    for _ in range(after):
        await asyncio.sleep(0)
    gone.cancel()
    await turns()
    (next_one,) = await desk.ask("b")
    assert desk.began[-1] == ["b"]
    await desk.let(len(desk.gates) - 1)
    assert await next_one == "b alone"


async def _true(fact: bool) -> bool:
    return fact


# --- over gRPC ---------------------------------------------------------------------------------


def booking(school: School, hours: int, *, instructor: int = 0, **given: Any) -> pb.Booking:
    fields: dict[str, Any] = {
        "student_id": school.students[instructor].id,
        "instructor_id": school.instructors[instructor].id,
        "service_id": school.lesson.id,
        "start_time": at(morning(school) + timedelta(days=hours // 4, hours=2 * (hours % 4))),
        **given,
    }
    return pb.Booking(**fields)


def request(wanted: pb.Booking, id_: str = "") -> pb.CreateBookingRequest:
    return pb.CreateBookingRequest(booking=wanted, request_id=id_ or request_id())


async def made(school: School, *requests: pb.CreateBookingRequest) -> list[pb.Booking]:
    stub = school.bookings()
    return await asyncio.gather(*(stub.CreateBooking(each) for each in requests))


async def transactions(school: School) -> int:
    """In how many the school's bookings were made."""
    told = 'SELECT DISTINCT "xactId"::text FROM booking."Outbox" WHERE "orgId" = %s AND topic = %s'
    return len(await school.rows(told, school.org_id, "booking"))


async def test_many_at_once_are_made_in_few_transactions_each_with_all_that_is_told(
    school: School,
) -> None:
    subjects = [f"desk-{number}" for number in range(20)]
    answers = await asyncio.gather(
        *(
            school.bookings(subject).CreateBooking(request(booking(school, hour)))
            for hour, subject in enumerate(subjects)
        )
    )
    for answer, subject in zip(answers, subjects, strict=True):
        (entry,) = await school.audit("booking", answer.id)
        assert entry[:2] == (subject, "create")
        get = pb.GetBookingRequest(booking_id=answer.id)
        assert await school.bookings().GetBooking(get) == answer
    told = await school.events("booking")
    assert {event[1] for event in told} == {answer.id for answer in answers}
    assert await transactions(school) < len(answers)


async def test_the_statements_of_those_who_go_together_are_in_the_trace_of_one_of_them(
    spans: InMemorySpanExporter, school: School
) -> None:
    spans.clear()
    await made(school, *(request(booking(school, hour)) for hour in range(8)))
    placed = [span for span in spans.get_finished_spans() if span.name.endswith("/CreateBooking")]
    assert len(placed) == 8
    calls = {span.context.span_id for span in placed if span.context}
    above: dict[str, list[int | None]] = {"booking.judge_starts": [], "COMMIT": []}
    for span in spans.get_finished_spans():
        if span.name in above:
            above[span.name].append(span.parent.span_id if span.parent else None)
    # The first goes alone, the others at least once together.
    assert len(above["booking.judge_starts"]) > 1
    assert calls.issuperset(above["booking.judge_starts"])
    # Sweeps commit as well.
    assert len([call for call in above["COMMIT"] if call in calls]) >= await transactions(school)


async def test_schools_that_go_together_have_each_its_own(school: School) -> None:
    schools = [school, *[await school.neighbour() for _ in range(2)]]
    asked = [(each, request(booking(each, hour))) for hour in range(6) for each in schools]
    foreign = request(booking(school, 7, student_id=schools[1].students[0].id))
    refused = asyncio.create_task(reason_of(school.bookings().CreateBooking(foreign)))
    answers = await asyncio.gather(
        *(each.bookings().CreateBooking(wanted) for each, wanted in asked)
    )
    assert await refused == ("NOT_FOUND", "STUDENT_NOT_FOUND")
    for each in schools:
        own = {answer.id for (of, _), answer in zip(asked, answers, strict=True) if of is each}
        assert {event[1] for event in await each.events("booking")} == own
        listed = await each.bookings().ListBookings(pb.ListBookingsRequest(page_size=50))
        assert {found.id for found in listed.bookings} == own
    shared = 'SELECT "xactId" FROM booking."Outbox" GROUP BY 1 HAVING count(DISTINCT "orgId") > 1'
    assert await school.rows(shared)


async def test_a_booking_that_goes_alone_takes_two_round_trips(
    school: School, monkeypatch: pytest.MonkeyPatch
) -> None:
    trips: list[list[str]] = []
    trip = scoped.Connection._trip

    async def watched(conn: Any, batch: Any, **options: Any) -> Any:
        trips.append([each.statement.observe.name for each in batch])
        return await trip(conn, batch, **options)

    await made(school, request(booking(school, 0)))
    monkeypatch.setattr(scoped.Connection, "_trip", watched)
    await made(school, request(booking(school, 1)))
    first, second = (each for each in trips if set(each) & {"booking.judge_starts", "COMMIT"})
    assert first[2:] == ["booking.take_locks", "libs.find_requests", "booking.judge_starts"]
    assert second[:3] == ["booking.place_bookings", "libs.remember_requests", "COMMIT"]


async def test_each_of_many_gets_the_token_by_which_it_reads_its_own_write(
    school: School,
) -> None:
    stub = school.bookings()

    async def create_and_read(hour: int) -> bool:
        call = stub.CreateBooking(request(booking(school, hour)))
        answer, trailing = await call, await call.trailing_metadata()
        (token,) = (value for key, value in trailing if key == KEY)
        get = pb.GetBookingRequest(booking_id=answer.id)
        return await stub.GetBooking(get, metadata=[(KEY, token)]) == answer

    assert all(await asyncio.gather(*(create_and_read(hour) for hour in range(20))))


async def test_of_many_at_once_each_hears_its_own_reason(school: School) -> None:
    stub = school.bookings()
    end = at(morning(school) + timedelta(hours=2, minutes=59))
    wanted = {
        "STUDENT_NOT_FOUND": booking(school, 0, student_id=str(uuid.uuid4())),
        "OUTSIDE_AVAILABILITY": booking(school, 0, start_time=at(morning(school, hour=3))),
        "DURATION_MISMATCH": booking(school, 1, end_time=end),
    }
    good = [request(booking(school, hour)) for hour in range(4, 10)]
    bad = [reason_of(stub.CreateBooking(request(asked))) for asked in wanted.values()]
    made_meanwhile, *reasons = await asyncio.gather(made(school, *good), *bad)
    assert len(made_meanwhile) == len(good)
    assert [reason for _, reason in reasons] == [*wanted]


async def test_who_gets_nothing_is_in_nobodys_way(school: School) -> None:
    """Judged together the third seems taken by the second, who has not got the slot either."""
    (first,) = await made(school, request(booking(school, 0)))
    student = school.students[1].id
    others = [request(booking(school, hour)) for hour in range(4, 8)]
    again = request(booking(school, 0, student_id=student))
    elsewhere = school.instructors[1].id
    beside = request(booking(school, 0, student_id=student, instructor_id=elsewhere))
    taken = asyncio.create_task(reason_of(school.bookings().CreateBooking(again)))
    third, *_ = await made(school, beside, *others)
    assert await taken == ("ABORTED", "SLOT_TAKEN")
    assert third.start_time == first.start_time


async def test_the_same_request_many_times_at_once_has_one_booking(school: School) -> None:
    asked = request(booking(school, 0))
    others = [request(booking(school, hour)) for hour in range(1, 6)]
    answers = await made(school, others[0], *[asked] * 12, *others[1:])
    assert len({answer.id for answer in answers}) == 1 + len(others)
    assert (await made(school, asked)) == [answers[1]]


async def test_of_two_requests_with_one_id_at_once_one_is_made(school: School) -> None:
    id_ = request_id()
    stub = school.bookings()
    calls = [stub.CreateBooking(request(booking(school, hour), id_)) for hour in range(8)]
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert len([each for each in answers if isinstance(each, pb.Booking)]) == 1
    again = stub.CreateBooking(request(booking(school, 9), id_))
    assert await reason_of(again) == ("ALREADY_EXISTS", "REQUEST_ID_REUSED")


async def test_an_id_whose_day_is_over_may_be_used_again(school: School) -> None:
    asked = request(booking(school, 0))
    (first,) = await made(school, asked)
    await school.bookings().CancelBooking(pb.CancelBookingRequest(booking_id=first.id))
    with psycopg.connect(school.service.database.admin_dsn) as admin:
        admin.execute(
            'UPDATE booking."IdempotencyKey" SET "expiresAt" = now() - make_interval(secs => 1)'
            ' WHERE "orgId" = %s',
            [school.org_id],
        )
    (second,) = await made(school, asked)
    assert second.id != first.id
    assert await made(school, asked) == [second]


@pytest.mark.parametrize("how", ["cancelled", "expired"])
async def test_who_gives_up_while_it_is_judged_with_others_is_not_placed(
    school: School, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    stub, trip, load = school.bookings(), scoped.Connection._trip, school.service.server._chain.load
    asked = request(booking(school, 6))
    judged: list[str] = []

    async def watched(conn: Any, batch: Any, **options: Any) -> Any:
        answer = await trip(conn, batch, **options)
        names = [each.statement.observe.name for each in batch]
        if {"booking.try_locks", "booking.judge_starts"} <= {*names} and not judged:
            # All of the group are judged; what is to be written leaves with the COMMIT.
            judged.extend(names)
            under_way = load.calls
            if how == "cancelled":
                gone.cancel()
            await eventually(lambda: load.calls < under_way)
        return answer

    monkeypatch.setattr(scoped.Connection, "_trip", watched)
    with keeping(school, school.instructors[1].id):
        stuck = stub.CreateBooking(request(booking(school, 5, instructor=1)))
        await eventually(lambda: load.calls)
        stay = [stub.CreateBooking(request(booking(school, hour))) for hour in range(4)]
        gone = stub.CreateBooking(asked, timeout=1.0)
        made_together = await asyncio.gather(*stay)
    expected = {each.id for each in (*made_together, await stuck)}
    assert judged
    assert (await gone.code()).name == {"cancelled": "CANCELLED", "expired": "DEADLINE_EXCEEDED"}[
        how
    ]
    listed = await stub.ListBookings(pb.ListBookingsRequest(page_size=50))
    assert {found.id for found in listed.bookings} == expected
    (again,) = await made(school, asked)
    assert again.start_time == asked.booking.start_time


@contextmanager
def keeping(school: School, instructor_id: str) -> Iterator[None]:
    """Someone else has an instructor's time, and keeps it."""
    key = locks.key(school.org_id, "instructor", uuid.UUID(instructor_id))
    with psycopg.connect(school.service.database.admin_dsn, autocommit=True) as admin:
        admin.execute("SELECT pg_advisory_lock(%s)", [key])
        yield
        admin.execute("SELECT pg_advisory_unlock(%s)", [key])


async def test_a_lock_that_one_waits_for_does_not_keep_the_others(school: School) -> None:
    stub = school.bookings()
    with keeping(school, school.instructors[1].id):
        free = [stub.CreateBooking(request(booking(school, hour))) for hour in range(6)]
        stuck = stub.CreateBooking(request(booking(school, 6, instructor=1)))
        more = [stub.CreateBooking(request(booking(school, hour))) for hour in range(7, 12)]
        assert len({each.id for each in await asyncio.gather(*free, *more)}) == 11
        assert not stuck.done()
    assert (await stuck).instructor_id == school.instructors[1].id
