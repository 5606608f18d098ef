"""A booking's life: every step that may follow another, and none that may not."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from driveflow.booking.v1 import booking_pb2 as pb
from driveflow.booking.v1 import directory_pb2
from libs import consistency
from services.booking.model.bookings import CancellationPolicy
from tests.booking import lives
from tests.booking.lives import moment
from tests.booking.stories import School, morning, reason_of, refused, request_id

pytestmark = pytest.mark.asyncio(loop_scope="session")

Made = Callable[[School], Awaitable[pb.Booking]]
STATES: dict[str, Made] = {
    "held": lives.held,
    "requested": lives.requested,
    "confirmed": lives.confirmed,
    "in_progress": lives.started,
    "completed": lives.completed,
    "cancelled": lives.cancelled,
    "expired": lives.expired,
    "no_show": lives.missed,
}
MAY: dict[str, set[str]] = {
    "ConfirmBooking": {"held", "requested"},
    "CancelBooking": {"held", "requested", "confirmed"},
    "QuoteCancellation": {"held", "requested", "confirmed"},
    "StartLesson": {"confirmed"},
    "CompleteLesson": {"in_progress"},
    "MarkNoShow": {"confirmed"},
}
CHANGES = [name for name in MAY if name != "QuoteCancellation"]


async def step(school: School, name: str, booking_id: str, **given: Any) -> Any:
    """One of the calls that move a booking on."""
    request = getattr(pb, f"{name}Request")(booking_id=booking_id, **given)
    return await getattr(school.bookings(), name)(request)


async def steps(school: School, booking: pb.Booking) -> list[pb.BookingTransition]:
    request = pb.ListBookingTransitionsRequest(booking_id=booking.id)
    return list((await school.bookings().ListBookingTransitions(request)).transitions)


# --- which step may follow which ---


@pytest.mark.parametrize("name", MAY)
@pytest.mark.parametrize("state", STATES)
async def test_a_step_is_taken_where_it_may_and_refused_elsewhere(
    school: School, state: str, name: str
) -> None:
    before = await STATES[state](school)
    after_start = name in ("StartLesson", "MarkNoShow") and state == "confirmed"
    if after_start:
        school.service.clock.set(moment(before.start_time) + timedelta(minutes=30))
    if state in MAY[name]:
        await step(school, name, before.id)
        changed = await lives.read(school, before)
        assert (changed != before) == (name in CHANGES)
        return
    refusal = await refused(step(school, name, before.id))
    reason = "HOLD_EXPIRED" if (state, name) == ("expired", "ConfirmBooking") else WRONG
    assert (refusal.code.name, refusal.reason) == ("FAILED_PRECONDITION", reason)
    assert await lives.read(school, before) == before


WRONG = "INVALID_TRANSITION"


@pytest.mark.parametrize("name", MAY)
async def test_anothers_booking_is_not_there(school: School, name: str) -> None:
    theirs = await lives.confirmed(await school.neighbour())
    for booking_id in (theirs.id, str(uuid4())):
        found = await reason_of(step(school, name, booking_id))
        assert found == ("NOT_FOUND", "BOOKING_NOT_FOUND")
    bad = await reason_of(step(school, name, "7"))
    assert bad == ("INVALID_ARGUMENT", "INVALID_REQUEST")


@pytest.mark.parametrize("name", CHANGES)
async def test_who_has_seen_another_version_is_refused(school: School, name: str) -> None:
    booking = await (lives.started if name == "CompleteLesson" else lives.confirmed)(school)
    assert await reason_of(step(school, name, booking.id, etag="1")) == (
        "ABORTED",
        "ETAG_MISMATCH",
    )
    assert await lives.read(school, booking) == booking


@pytest.mark.parametrize("name", CHANGES)
async def test_the_same_request_takes_a_step_once(school: School, name: str) -> None:
    made: dict[str, Made] = {"ConfirmBooking": lives.held, "CompleteLesson": lives.started}
    make: Made = made.get(name, lives.confirmed)
    booking = await make(school)
    if name in ("StartLesson", "MarkNoShow"):
        school.service.clock.set(moment(booking.start_time) + timedelta(minutes=20))
    given = {"etag": booking.etag, "request_id": request_id()}
    answers = await asyncio.gather(*(step(school, name, booking.id, **given) for _ in range(4)))
    assert all(answer == answers[0] for answer in answers)
    assert len(await steps(school, booking)) == int(booking.etag) + 1
    other = await reason_of(step(school, name, booking.id, request_id=given["request_id"]))
    assert other == ("ALREADY_EXISTS", "REQUEST_ID_REUSED")


async def test_of_many_who_cancel_at_once_one_does(school: School) -> None:
    booking = await lives.confirmed(school)
    calls = [reason_of(step(school, "CancelBooking", booking.id)) for _ in range(8)]
    done = await asyncio.gather(*calls, return_exceptions=True)
    refusals = [each for each in done if isinstance(each, tuple)]
    assert refusals == [("FAILED_PRECONDITION", WRONG)] * 7
    assert len(await steps(school, booking)) == 3


async def test_confirmed_or_cancelled_not_both(school: School) -> None:
    for hour in (9, 11, 13, 15):
        booking = await lives.held(school, morning(school, 3, hour))
        names = ("ConfirmBooking", "CancelBooking") * 3
        await asyncio.gather(
            *(step(school, name, booking.id, etag="1") for name in names), return_exceptions=True
        )
        assert len(await steps(school, booking)) == 2


# --- what is told of a step ---


async def test_every_step_is_in_the_history_the_audit_log_and_the_events(school: School) -> None:
    booking = await lives.completed(school)
    states = ["held", "confirmed", "in_progress", "completed"]
    history = await steps(school, booking)
    assert [name_of(each.to_status) for each in history] == states
    assert [name_of(each.from_status) for each in history] == ["unspecified", *states[:-1]]
    assert {each.actor for each in history} == {"office"}
    audit = await school.audit("booking", booking.id)
    assert [entry[1] for entry in audit] == ["create", "confirm", "start", "complete"]
    assert audit[1][2:] == (
        {"status": "held", "version": 1},
        {"status": "confirmed", "version": 2},
    )
    told = [(kind, version) for kind, _, version, _ in await school.events("booking")]
    kinds = ("held", "confirmed", "started", "completed")
    assert told == [(f"booking.{kind}", place) for place, kind in enumerate(kinds, 1)]


def name_of(status: pb.BookingStatus.ValueType) -> str:
    return pb.BookingStatus.Name(status).removeprefix("BOOKING_STATUS_").lower()


async def test_an_event_has_ids_and_figures_of_the_booking(school: School) -> None:
    booking = await lives.confirmed(school)
    (_, id_, version, payload) = (await school.events("booking"))[-1]
    assert (id_, version) == (booking.id, int(booking.etag))
    assert payload == {
        "booking_id": booking.id,
        "student_id": booking.student_id,
        "instructor_id": booking.instructor_id,
        "service_id": booking.service_id,
        "status": "confirmed",
        "start_time": moment(booking.start_time).isoformat(),
        "end_time": moment(booking.end_time).isoformat(),
        "price_cents": 8_000,
        "currency": "AUD",
    }


async def test_a_refused_step_tells_nothing(school: School) -> None:
    booking = await lives.confirmed(school)
    before = (await school.events("booking"), await school.audit("booking", booking.id))
    for name in ("ConfirmBooking", "CompleteLesson", "StartLesson", "MarkNoShow"):
        await refused(step(school, name, booking.id))
    assert (await school.events("booking"), await school.audit("booking", booking.id)) == before
    assert len(await steps(school, booking)) == 2


async def test_a_step_answers_with_a_consistency_token(school: School) -> None:
    booking = await lives.held(school)
    call = school.bookings().ConfirmBooking(pb.ConfirmBookingRequest(booking_id=booking.id))
    await call
    assert consistency.KEY in dict(await call.trailing_metadata())


# --- the history ---


async def test_a_history_comes_in_pages(school: School) -> None:
    booking = await lives.completed(school)
    request = pb.ListBookingTransitionsRequest(booking_id=booking.id, page_size=3)
    first = await school.bookings().ListBookingTransitions(request)
    request.page_token = first.next_page_token
    second = await school.bookings().ListBookingTransitions(request)
    assert (len(first.transitions), len(second.transitions)) == (3, 1)
    assert second.next_page_token == ""
    assert [*first.transitions, *second.transitions] == await steps(school, booking)
    request.booking_id = (await lives.held(school, morning(school, 9))).id
    call = school.bookings().ListBookingTransitions(request)
    assert await reason_of(call) == ("INVALID_ARGUMENT", "PAGE_TOKEN_INVALID")


async def test_the_history_of_what_is_not_there_is_not_found(school: School) -> None:
    theirs = await lives.held(await school.neighbour())
    for booking_id in (theirs.id, str(uuid4())):
        found = await reason_of(steps(school, pb.Booking(id=booking_id)))
        assert found == ("NOT_FOUND", "BOOKING_NOT_FOUND")


async def test_a_reason_is_kept_with_its_step(school: School) -> None:
    booking = await lives.confirmed(school)
    cancelled = await step(school, "CancelBooking", booking.id, reason="Flu")
    assert cancelled.cancel_reason == "Flu"
    assert (await steps(school, booking))[-1].reason == "Flu"
    too_long = step(school, "CancelBooking", booking.id, reason="x" * 501)
    assert await reason_of(too_long) == ("INVALID_ARGUMENT", "INVALID_REQUEST")


# --- confirming ---


async def test_a_confirmed_booking_keeps_its_slot_for_good(school: School) -> None:
    held = await lives.held(school)
    assert held.HasField("hold_expire_time")
    confirmed = await step(school, "ConfirmBooking", held.id, etag=held.etag)
    assert not confirmed.HasField("hold_expire_time")
    assert (confirmed.status, confirmed.etag) == (pb.BOOKING_STATUS_CONFIRMED, "2")


@pytest.mark.parametrize("made", [lives.held, lives.requested])
async def test_an_overdue_booking_is_not_confirmed_though_nobody_swept(
    school: School, made: Made
) -> None:
    booking = await made(school)
    school.service.clock.set(moment(booking.hold_expire_time))
    refusal = await reason_of(step(school, "ConfirmBooking", booking.id))
    assert refusal == ("FAILED_PRECONDITION", "HOLD_EXPIRED")
    school.service.clock.set(moment(booking.hold_expire_time) - timedelta(seconds=30))
    await step(school, "ConfirmBooking", booking.id)


async def test_confirming_what_was_offered_takes_the_student_off_the_waitlist(
    school: School,
) -> None:
    booking = await lives.held(school)
    entry = (
        await school.rows(OFFER, school.org_id, booking.student_id, booking.service_id, booking.id)
    )[0][0]
    await step(school, "ConfirmBooking", booking.id)
    assert await school.rows(ENTRY, entry) == [("accepted", 2)]
    (_, action, before, after) = (await school.audit("waitlist_entry", entry))[0]
    assert (action, before, after) == ("accept", {"status": "offered"}, {"status": "accepted"})


OFFER = """
INSERT INTO booking."WaitlistEntry" ("orgId", "studentId", "serviceId", "startAt", "endAt", status,
                                     "bookingId")
VALUES (%s, %s, %s, now(), now() + make_interval(days => 7), 'offered', %s) RETURNING id::text
"""
ENTRY = 'SELECT status, version FROM booking."WaitlistEntry" WHERE id = %s'


# --- cancelling ---


@pytest.mark.parametrize(
    ("ahead", "percent"),
    [
        (timedelta(hours=24, seconds=30), 100),
        (timedelta(hours=23, minutes=59), 50),
        (timedelta(hours=2, seconds=30), 50),
        (timedelta(hours=1, minutes=59), 0),
        (timedelta(minutes=-30), 0),
    ],
    ids=["a day ahead", "less", "two hours ahead", "less than two", "after the start"],
)
async def test_a_cancellation_gives_back_what_the_policy_says_and_the_quote_said(
    school: School, ahead: timedelta, percent: int
) -> None:
    booking = await lives.confirmed(school)
    school.service.clock.set(moment(booking.start_time) - ahead)
    quote = await step(school, "QuoteCancellation", booking.id)
    assert (quote.refund_percent, quote.currency) == (percent, "AUD")
    assert quote.refund_cents == 80 * percent
    cancelled = await step(school, "CancelBooking", booking.id)
    assert (cancelled.status, cancelled.refund_cents) == (
        pb.BOOKING_STATUS_CANCELLED,
        quote.refund_cents,
    )
    payload = (await school.events("booking"))[-1][3]
    assert (payload["refund_cents"], payload["currency"]) == (quote.refund_cents, "AUD")
    assert abs(moment(cancelled.cancel_time) - school.service.clock()) < timedelta(seconds=20)


async def test_a_quote_says_until_when_it_holds(school: School) -> None:
    booking = await lives.confirmed(school)
    start = moment(booking.start_time)
    for now, until in (
        (start - timedelta(hours=60), start - timedelta(hours=24)),
        (start - timedelta(hours=20), start - timedelta(hours=2)),
        (start - timedelta(hours=1), None),
    ):
        school.service.clock.set(now)
        quote = await step(school, "QuoteCancellation", booking.id)
        assert (moment(quote.valid_until) if quote.HasField("valid_until") else None) == until


async def test_a_school_may_have_a_policy_of_its_own(school: School) -> None:
    policy = directory_pb2.CancellationPolicy(
        full_refund_hours=48, partial_refund_hours=48, partial_refund_percent=33
    )
    await school.directory().UpdateOrganization(
        directory_pb2.UpdateOrganizationRequest(
            organization=directory_pb2.Organization(cancellation_policy=policy)
        )
    )
    booking = await lives.confirmed(school)
    school.service.clock.set(moment(booking.start_time) - timedelta(hours=47))
    assert (await step(school, "CancelBooking", booking.id)).refund_cents == 0


@pytest.mark.parametrize("made", [lives.held, lives.requested])
async def test_what_was_never_confirmed_gives_nothing_back(school: School, made: Made) -> None:
    booking = await made(school)
    quote = await step(school, "QuoteCancellation", booking.id)
    assert quote == pb.CancellationQuote(currency="AUD")
    assert (await step(school, "CancelBooking", booking.id)).refund_cents == 0


async def test_a_cancelled_booking_leaves_its_slot_to_others(school: School) -> None:
    booking = await lives.confirmed(school)
    assert (await reason_of(lives.held(school, student=school.students[1])))[1] == "SLOT_TAKEN"
    await step(school, "CancelBooking", booking.id)
    again = await lives.held(school, student=school.students[1])
    assert again.start_time == booking.start_time


async def test_no_refund_is_more_than_the_quote_of_a_moment_before() -> None:
    """The policy falls in steps, and `less_from` is where."""
    start = datetime(2026, 6, 1, tzinfo=UTC)
    tick = timedelta(microseconds=1)
    for full, partial, percent in ((24, 2, 50), (24, 24, 50), (24, 0, 50), (0, 0, 50), (5, 2, 0)):
        policy = CancellationPolicy(full, partial, percent)
        for hours in (48, 24, 23, 5, 3, 2, 1, 0, -1):
            now = start - timedelta(hours=hours)
            current, until = policy.refund_percent(start - now), policy.less_from(start, now)
            if until is None:
                assert policy.refund_percent(timedelta(hours=-100)) == current
            else:
                assert policy.refund_percent(start - until) == current
                assert policy.refund_percent(start - until - tick) < current


# --- lessons ---


async def test_a_lesson_begins_at_most_an_hour_early(school: School) -> None:
    booking = await lives.confirmed(school)
    start = moment(booking.start_time)
    school.service.clock.set(start - timedelta(hours=1, minutes=1))
    early = await reason_of(step(school, "StartLesson", booking.id))
    assert early == ("FAILED_PRECONDITION", "LESSON_TOO_EARLY")
    school.service.clock.set(start - timedelta(minutes=59))
    lesson = await step(school, "StartLesson", booking.id)
    assert lesson.booking_status == pb.BOOKING_STATUS_IN_PROGRESS
    assert start - timedelta(minutes=59) <= moment(lesson.start_time) < start
    assert (lesson.student_id, lesson.instructor_id) == (booking.student_id, booking.instructor_id)
    assert not lesson.HasField("end_time")


async def test_a_lesson_ends_with_a_rating_and_notes(school: School) -> None:
    booking = await lives.started(school)
    school.service.clock.set(moment(booking.end_time))
    lesson = await step(school, "CompleteLesson", booking.id, rating=5, notes="Roundabouts")
    assert (lesson.rating, lesson.notes) == (5, "Roundabouts")
    assert lesson.booking_status == pb.BOOKING_STATUS_COMPLETED
    assert abs(moment(lesson.end_time) - moment(booking.end_time)) < timedelta(seconds=20)
    read = await school.bookings().GetLesson(pb.GetLessonRequest(lesson_id=lesson.id))
    assert read == lesson


async def test_a_lesson_does_not_end_before_it_began(school: School) -> None:
    booking = await lives.started(school)
    school.service.clock.set(moment(booking.start_time) - timedelta(hours=5))
    lesson = await step(school, "CompleteLesson", booking.id)
    assert lesson.end_time == lesson.start_time
    assert lesson.rating == 0


@pytest.mark.parametrize("given", [{"rating": 6}, {"rating": -1}, {"notes": "x" * 4_001}], ids=str)
async def test_a_rating_is_of_five_and_notes_have_an_end(
    school: School, given: dict[str, Any]
) -> None:
    booking = await lives.started(school)
    wrong = await reason_of(step(school, "CompleteLesson", booking.id, **given))
    assert wrong == ("INVALID_ARGUMENT", "INVALID_REQUEST")


async def test_what_is_due_to_the_instructor_is_told_with_the_lesson(school: School) -> None:
    booking = await lives.completed(school)
    told = await school.events("lesson")
    assert [each[0] for each in told] == ["lesson.started", "lesson.completed"]
    _, lesson_id, version, payload = told[-1]
    assert version == int(booking.etag)
    assert payload == {
        "lesson_id": lesson_id,
        "booking_id": booking.id,
        "instructor_id": booking.instructor_id,
        "instructor_share_cents": booking.instructor_share_cents,
        "currency": "AUD",
    }


async def test_a_student_is_waited_for_before_he_is_missed(school: School) -> None:
    booking = await lives.confirmed(school)
    start = moment(booking.start_time)
    school.service.clock.set(start + timedelta(minutes=14))
    refusal = await reason_of(step(school, "MarkNoShow", booking.id))
    assert refusal == ("FAILED_PRECONDITION", "GRACE_NOT_OVER")
    school.service.clock.set(start + timedelta(minutes=15))
    missed = await step(school, "MarkNoShow", booking.id)
    assert missed.status == pb.BOOKING_STATUS_NO_SHOW


# --- suspended schools ---


async def test_a_suspended_school_ends_what_is_under_way_and_begins_nothing(
    school: School,
) -> None:
    under_way = await lives.started(school, morning(school, 3, 9))
    clock = school.service.clock()
    school.service.clock.ahead = timedelta(0)
    waiting = await lives.held(school, morning(school, 5))
    called_off = await lives.confirmed(school, morning(school, 6))
    missed = await lives.confirmed(school, morning(school, 3, 11))
    await school.suspend()
    for name, booking in (("ConfirmBooking", waiting), ("StartLesson", missed)):
        refusal = await reason_of(step(school, name, booking.id))
        assert refusal == ("FAILED_PRECONDITION", "ORG_SUSPENDED")
    school.service.clock.set(clock + timedelta(hours=3))
    await step(school, "CompleteLesson", under_way.id)
    await step(school, "CancelBooking", called_off.id)
    await step(school, "CancelBooking", waiting.id)
    await step(school, "MarkNoShow", missed.id)
