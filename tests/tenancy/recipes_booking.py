"""A school with one of everything that booking keeps, and what is asked about it."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from functools import partial
from typing import Any
from zoneinfo import ZoneInfo

from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message

from driveflow.booking.v1 import booking_pb2 as pb
from driveflow.booking.v1 import directory_pb2 as dpb
from services.booking.store import directory as store
from tests import walking
from tests.booking import lives
from tests.booking.serving import Booking
from tests.booking.stories import ZONE, School, on, request_id
from tests.tenancy import forgetting, recipes_events
from tests.tenancy.schools import ALL_SCOPES, SECRET, Ids, Kit, Member, Pair, Recipe, Recipes

SERVICES = (
    "driveflow.booking.v1.BookingService",
    "driveflow.booking.v1.DirectoryService",
    recipes_events.SERVICE,
)
BOOKINGS = (
    "held",
    "requested",
    "movable",
    "due",
    "begun",
    "missed",
    "finished",
    "confirmed",
    "cancelled",
    "moved",
)
"""The school's bookings, each named after what it is or what may be done with it."""
PARTIES = ("student", "instructor", "service", "vehicle")
FOREIGN = (*((party,) for party in PARTIES), PARTIES)
"""Which of a booking's parties are another school's."""
NESTED = FieldMask(paths=["id", *PARTIES])
SLOTS = {"slot_to_hold": 80, "slot_to_book": 81, "slot_to_move_to": 82}
"""At which hour the slots are that the school was given tokens for."""
REMEMBERED_HOURS = range(4, 10)
HOURS = itertools.count(10)
"""So that what a school asks of its own calendar can all be had."""


# --- what is booked ----------------------------------------------------------------------------


def parties(ids: Ids, own: Ids, foreign: Sequence[str]) -> dict[str, Any]:
    return {f"{each}_id": (ids if each in foreign else own)[each] for each in PARTIES}


def booking(ids: Ids, own: Ids, hour: int, foreign: Sequence[str] = ()) -> pb.Booking:
    """A booking of the caller's own calendar, but for the foreign parties."""
    return pb.Booking(start_time=ids.at(hour), **parties(ids, own, foreign))


def hold(
    foreign: Sequence[str], hour: int, request: Callable[[Ids], str], ids: Ids, own: Ids
) -> Sequence[Message]:
    fields = parties(ids, own, foreign)
    return [pb.HoldSlotRequest(start_time=ids.at(hour), request_id=request(ids), **fields)]


def create(
    foreign: Sequence[str], hour: int, request: Callable[[Ids], str], ids: Ids, own: Ids
) -> Sequence[Message]:
    wanted = booking(ids, own, hour, foreign)
    return [pb.CreateBookingRequest(booking=wanted, request_id=request(ids))]


def create_two(
    foreign: Sequence[str], hour: int, request: Callable[[Ids], str], ids: Ids, own: Ids
) -> Sequence[Message]:
    wanted = [booking(ids, own, hour), booking(ids, own, hour + 48, foreign)]
    return [pb.BatchCreateBookingsRequest(bookings=wanted, request_id=request(ids))]


def create_series(
    foreign: Sequence[str], hour: int, request: Callable[[Ids], str], ids: Ids, own: Ids
) -> Sequence[Message]:
    first = booking(ids, own, hour, foreign)
    return [pb.CreateBookingSeriesRequest(first=first, weeks=2, request_id=request(ids))]


def skip_series(ids: Ids, own: Ids) -> Sequence[Message]:
    first = booking(ids, own, 90, PARTIES)
    skip = pb.ON_CONFLICT_SKIP
    return [pb.CreateBookingSeriesRequest(first=first, weeks=2, on_conflict=skip)]


def with_foreign(make: Callable[..., Sequence[Message]]) -> list[Recipe]:
    """Each party, and all of them, of another school."""
    return [partial(make, foreign, next(HOURS), lambda _: request_id()) for foreign in FOREIGN]


def remembered(ids: Ids) -> str:
    return ids["request"]


def waiting(ids: Ids, own: Ids, *foreign: str) -> pb.WaitlistEntry:
    """Of a lesson type without a price, which nobody is ever offered."""
    named = {each: (ids if each in foreign else own)[each] for each in ("student", "instructor")}
    return pb.WaitlistEntry(
        student_id=named["student"],
        instructor_id=named["instructor"],
        service_id=(ids if "unpriced" in foreign else own)["unpriced"],
        start_time=own.at(4),
        end_time=own.at(40),
    )


def rate_card(year: int, *services: str) -> dpb.RateCard:
    items = [dpb.RateCardItem(service_id=each, price_cents=1) for each in services]
    return dpb.RateCard(name="Prices", valid_from=on(date(year, 1, 1)), items=items)


def closed(instructor: str, year: int) -> dpb.AvailabilityException:
    return dpb.AvailabilityException(instructor_id=instructor, date=on(date(year, 1, 1)))


def rules(day: int) -> list[dpb.AvailabilityRule]:
    return [dpb.AvailabilityRule(day_of_week=day, start_minute=0, end_minute=60)]


def year(ids: Ids) -> int:
    return 2050 + ids.number


# --- what is asked -----------------------------------------------------------------------------

# A request id that the other school has used, for the very same thing. It did so by these.
REMEMBERED: Mapping[str, Recipe] = {
    "HoldSlot": partial(hold, (), REMEMBERED_HOURS[0], remembered),
    "CreateBooking": partial(create, (), REMEMBERED_HOURS[1], remembered),
    "BatchCreateBookings": partial(create_two, (), REMEMBERED_HOURS[2], remembered),
    "CreateBookingSeries": partial(create_series, (), REMEMBERED_HOURS[3], remembered),
    "ConfirmBooking": lambda ids, _: [
        pb.ConfirmBookingRequest(booking_id=ids["confirmed"], request_id=ids["request"])
    ],
    "RescheduleBooking": lambda ids, _: [
        pb.RescheduleBookingRequest(
            booking_id=ids["moved"],
            start_time=ids.at(REMEMBERED_HOURS[4]),
            request_id=ids["request"],
        )
    ],
    "CancelBooking": lambda ids, _: [
        pb.CancelBookingRequest(booking_id=ids["cancelled"], request_id=ids["request"])
    ],
    "JoinWaitlist": lambda ids, own: [
        pb.JoinWaitlistRequest(waitlist_entry=waiting(ids, own), request_id=ids["request"])
    ],
    "UpdateOrganization": lambda ids, _: [
        dpb.UpdateOrganizationRequest(
            organization=dpb.Organization(name="Renamed"), request_id=ids["request"]
        )
    ],
    "CreateInstructor": lambda ids, _: [
        dpb.CreateInstructorRequest(
            instructor=dpb.Instructor(display_name="Ina"), request_id=ids["request"]
        )
    ],
    "UpdateInstructor": lambda ids, own: [
        dpb.UpdateInstructorRequest(
            instructor=dpb.Instructor(id=own["idle"], phone="2"), request_id=ids["request"]
        )
    ],
    "CreateStudent": lambda ids, _: [
        dpb.CreateStudentRequest(student=dpb.Student(full_name="Sam"), request_id=ids["request"])
    ],
    "UpdateStudent": lambda ids, own: [
        dpb.UpdateStudentRequest(
            student=dpb.Student(id=own["erasable"], phone="2"), request_id=ids["request"]
        )
    ],
    "CreateGuardian": lambda ids, own: [
        dpb.CreateGuardianRequest(
            guardian=dpb.Guardian(student_id=own["student"], full_name="Gus"),
            request_id=ids["request"],
        )
    ],
    "CreateService": lambda ids, _: [
        dpb.CreateServiceRequest(
            service=dpb.Service(name=ids["request"], duration_minutes=60),
            request_id=ids["request"],
        )
    ],
    "UpdateService": lambda ids, own: [
        dpb.UpdateServiceRequest(
            service=dpb.Service(id=own["extra"], duration_minutes=45), request_id=ids["request"]
        )
    ],
    "CreateVehicle": lambda ids, _: [
        dpb.CreateVehicleRequest(
            vehicle=dpb.Vehicle(label=ids["request"]), request_id=ids["request"]
        )
    ],
    "UpdateVehicle": lambda ids, own: [
        dpb.UpdateVehicleRequest(
            vehicle=dpb.Vehicle(id=own["vehicle"], transmission=dpb.TRANSMISSION_MANUAL),
            request_id=ids["request"],
        )
    ],
    "CreateRateCard": lambda ids, own: [
        dpb.CreateRateCardRequest(
            rate_card=rate_card(year(ids), own["extra"]), request_id=ids["request"]
        )
    ],
    "SetWeeklyAvailability": lambda ids, own: [
        dpb.SetWeeklyAvailabilityRequest(
            instructor_id=own["idle"], rules=rules(1), request_id=ids["request"]
        )
    ],
    "CreateAvailabilityException": lambda ids, own: [
        dpb.CreateAvailabilityExceptionRequest(
            exception=closed(own["idle"], year(ids)), request_id=ids["request"]
        )
    ],
    "EraseStudent": lambda ids, _: [
        dpb.EraseStudentRequest(student_id=ids["erased"], request_id=ids["request"])
    ],
}

# Lists, but for the token of their page: the token was given for these very arguments.
PAGES: Mapping[str, tuple[str, Callable[[Ids], Any]]] = {
    "slot_pages": (
        "SearchSlots",
        lambda ids: pb.SearchSlotsRequest(
            service_id=ids["service"], start_time=ids.at(4), end_time=ids.at(60)
        ),
    ),
    "booking_pages": ("ListBookings", lambda _: pb.ListBookingsRequest()),
    "student_booking_pages": (
        "ListBookings",
        lambda ids: pb.ListBookingsRequest(student_id=ids["student"]),
    ),
    "lesson_pages": ("ListLessons", lambda _: pb.ListLessonsRequest()),
    "transition_pages": (
        "ListBookingTransitions",
        lambda ids: pb.ListBookingTransitionsRequest(booking_id=ids["finished"]),
    ),
    "audit_pages": ("ListAuditEntries", lambda _: pb.ListAuditEntriesRequest()),
    "actor_pages": (
        "ListAuditEntries",
        lambda _: pb.ListAuditEntriesRequest(actor_user_id="office"),
    ),
    "stats_pages": ("ListInstructorStats", lambda _: pb.ListInstructorStatsRequest()),
    "wait_pages": ("ListWaitlist", lambda _: pb.ListWaitlistRequest()),
    "instructor_pages": ("ListInstructors", lambda _: dpb.ListInstructorsRequest()),
    "student_pages": ("ListStudents", lambda _: dpb.ListStudentsRequest()),
    "service_pages": ("ListServices", lambda _: dpb.ListServicesRequest()),
    "vehicle_pages": ("ListVehicles", lambda _: dpb.ListVehiclesRequest()),
    "rate_card_pages": ("ListRateCards", lambda _: dpb.ListRateCardsRequest()),
    "exception_pages": (
        "ListAvailabilityExceptions",
        lambda ids: dpb.ListAvailabilityExceptionsRequest(instructor_id=ids["instructor"]),
    ),
}

BOOKING_RECIPES: Recipes = {
    "SearchSlots": [
        lambda ids, own: [
            pb.SearchSlotsRequest(
                service_id=ids["service"], start_time=own.at(4), end_time=own.at(40)
            )
        ],
        lambda ids, own: [
            pb.SearchSlotsRequest(
                service_id=own["service"],
                instructor_id=ids["instructor"],
                start_time=own.at(4),
                end_time=own.at(40),
            )
        ],
    ],
    "ExplainAvailability": [
        lambda ids, own: [
            pb.ExplainAvailabilityRequest(
                instructor_id=ids["instructor"], service_id=own["service"], time=own.at(0)
            )
        ],
        lambda ids, own: [
            pb.ExplainAvailabilityRequest(
                instructor_id=own["instructor"], service_id=ids["service"], time=own.at(0)
            )
        ],
    ],
    "HoldSlot": [
        *with_foreign(hold),
        lambda ids, own: [
            pb.HoldSlotRequest(
                slot_token=ids["slot_to_hold"], student_id=own["student"], request_id=request_id()
            )
        ],
    ],
    "CreateBooking": [
        *with_foreign(create),
        lambda ids, own: [
            pb.CreateBookingRequest(
                booking=pb.Booking(student_id=own["student"]),
                slot_token=ids["slot_to_book"],
                request_id=request_id(),
            )
        ],
        lambda ids, own: [
            pb.CreateBookingRequest(
                booking=booking(ids, own, 100, PARTIES),
                request_id=request_id(),
                validate_only=True,
            )
        ],
    ],
    "BatchCreateBookings": with_foreign(create_two),
    "CreateBookingSeries": [*with_foreign(create_series), skip_series],
    "GetBooking": [
        *(
            partial(lambda name, ids, _: [pb.GetBookingRequest(booking_id=ids[name])], name)
            for name in BOOKINGS
        ),
        lambda ids, _: [pb.GetBookingRequest(booking_id=ids["held"], read_mask=NESTED)],
    ],
    "BatchGetBookings": [
        lambda ids, _: [pb.BatchGetBookingsRequest(booking_ids=[ids[each] for each in BOOKINGS])],
        lambda ids, own: [
            pb.BatchGetBookingsRequest(booking_ids=[own["held"], ids["finished"]], read_mask=NESTED)
        ],
    ],
    "ListBookings": [
        lambda _, __: [pb.ListBookingsRequest(read_mask=NESTED)],
        lambda _, __: [pb.ListBookingsRequest(status=pb.BOOKING_STATUS_HELD)],
        lambda ids, _: [pb.ListBookingsRequest(instructor_id=ids["instructor"])],
        lambda ids, _: [pb.ListBookingsRequest(student_id=ids["student"], read_mask=NESTED)],
        lambda ids, own: [
            pb.ListBookingsRequest(student_id=ids["student"], instructor_id=own["instructor"])
        ],
        lambda ids, own: [
            pb.ListBookingsRequest(
                student_id=own["student"],
                instructor_id=ids["instructor"],
                active_instructors_only=True,
            )
        ],
    ],
    "ListDaySchedule": [
        lambda _, own: [
            pb.ListDayScheduleRequest(date=on(own.epoch.astimezone(ZoneInfo(ZONE)).date()))
        ],
        lambda _, __: [pb.ListDayScheduleRequest()],
    ],
    "ConfirmBooking": [lambda ids, _: [pb.ConfirmBookingRequest(booking_id=ids["held"])]],
    "RescheduleBooking": [
        lambda ids, _: [
            pb.RescheduleBookingRequest(booking_id=ids["movable"], start_time=ids.at(92))
        ],
        lambda ids, own: [
            pb.RescheduleBookingRequest(
                booking_id=own["movable"], start_time=ids.at(93), instructor_id=ids["second"]
            )
        ],
        lambda ids, own: [
            pb.RescheduleBookingRequest(
                booking_id=own["movable"], start_time=ids.at(94), vehicle_id=ids["vehicle"]
            )
        ],
        lambda ids, own: [
            pb.RescheduleBookingRequest(
                booking_id=own["movable"], slot_token=ids["slot_to_move_to"]
            )
        ],
    ],
    "CancelBooking": [
        lambda ids, _: [pb.CancelBookingRequest(booking_id=ids["requested"], reason="rain")]
    ],
    "QuoteCancellation": [lambda ids, _: [pb.QuoteCancellationRequest(booking_id=ids["movable"])]],
    "StartLesson": [lambda ids, _: [pb.StartLessonRequest(booking_id=ids["due"])]],
    "CompleteLesson": [lambda ids, _: [pb.CompleteLessonRequest(booking_id=ids["begun"])]],
    "MarkNoShow": [lambda ids, _: [pb.MarkNoShowRequest(booking_id=ids["missed"])]],
    "GetLesson": [lambda ids, _: [pb.GetLessonRequest(lesson_id=ids["lesson"])]],
    "ListLessons": [
        lambda _, __: [pb.ListLessonsRequest()],
        lambda ids, _: [pb.ListLessonsRequest(booking_id=ids["finished"])],
        lambda ids, _: [pb.ListLessonsRequest(instructor_id=ids["instructor"])],
        lambda ids, _: [pb.ListLessonsRequest(student_id=ids["student"])],
    ],
    "ListBookingTransitions": [
        lambda ids, _: [pb.ListBookingTransitionsRequest(booking_id=ids["finished"])]
    ],
    "ListAuditEntries": [
        lambda _, __: [pb.ListAuditEntriesRequest(page_size=1_000)],
        lambda _, __: [pb.ListAuditEntriesRequest(actor_user_id="office", page_size=1_000)],
        lambda _, __: [pb.ListAuditEntriesRequest(entity_type="booking", page_size=1_000)],
        lambda ids, _: [
            pb.ListAuditEntriesRequest(entity_type="student", entity_id=ids["student"])
        ],
    ],
    "GetInstructorStats": [
        lambda ids, _: [pb.GetInstructorStatsRequest(instructor_id=ids["instructor"])]
    ],
    "ListInstructorStats": [lambda _, __: [pb.ListInstructorStatsRequest()]],
    "JoinWaitlist": [
        partial(
            lambda name, ids, own: [pb.JoinWaitlistRequest(waitlist_entry=waiting(ids, own, name))],
            name,
        )
        for name in ("student", "unpriced", "instructor")
    ],
    "LeaveWaitlist": [lambda ids, _: [pb.LeaveWaitlistRequest(waitlist_entry_id=ids["entry"])]],
    "ListWaitlist": [
        lambda _, __: [pb.ListWaitlistRequest()],
        lambda _, __: [pb.ListWaitlistRequest(status=pb.WAITLIST_STATUS_WAITING)],
    ],
    "WatchBookings": [
        lambda ids, _: [pb.WatchBookingsRequest(resume_token=ids[recipes_events.CURSOR])]
    ],
}

DIRECTORY_RECIPES: Recipes = {
    "SuspendOrganization": [lambda _, __: [dpb.SuspendOrganizationRequest(reason="unpaid")]],
    "ResumeOrganization": [lambda _, __: [dpb.ResumeOrganizationRequest(reason="paid")]],
    "GetOrganization": [lambda _, __: [dpb.GetOrganizationRequest()]],
    "UpdateOrganization": [],
    "CreateInstructor": [],
    "GetInstructor": [
        lambda ids, _: [dpb.GetInstructorRequest(instructor_id=ids["instructor"])],
        lambda ids, _: [
            dpb.GetInstructorRequest(instructor_id=ids["idle"], read_mask=FieldMask(paths=["id"]))
        ],
    ],
    "ListInstructors": [
        lambda _, __: [dpb.ListInstructorsRequest()],
        lambda _, __: [dpb.ListInstructorsRequest(active=True)],
    ],
    "UpdateInstructor": [
        lambda ids, _: [
            dpb.UpdateInstructorRequest(instructor=dpb.Instructor(id=ids["instructor"], phone="1"))
        ]
    ],
    "CreateStudent": [],
    "GetStudent": [lambda ids, _: [dpb.GetStudentRequest(student_id=ids["student"])]],
    "ListStudents": [
        lambda _, __: [dpb.ListStudentsRequest()],
        lambda _, __: [dpb.ListStudentsRequest(name_prefix=SECRET.lower())],
    ],
    "UpdateStudent": [
        lambda ids, _: [dpb.UpdateStudentRequest(student=dpb.Student(id=ids["student"], phone="1"))]
    ],
    "CreateGuardian": [
        lambda ids, _: [
            dpb.CreateGuardianRequest(
                guardian=dpb.Guardian(student_id=ids["student"], full_name="Gus")
            )
        ]
    ],
    "ListGuardians": [lambda ids, _: [dpb.ListGuardiansRequest(student_id=ids["student"])]],
    "DeleteGuardian": [lambda ids, _: [dpb.DeleteGuardianRequest(guardian_id=ids["guardian"])]],
    "CreateService": [],
    "GetService": [lambda ids, _: [dpb.GetServiceRequest(service_id=ids["service"])]],
    "ListServices": [
        lambda _, __: [dpb.ListServicesRequest()],
        lambda _, __: [dpb.ListServicesRequest(active=True)],
    ],
    "UpdateService": [
        lambda ids, _: [
            dpb.UpdateServiceRequest(service=dpb.Service(id=ids["service"], buffer_after_minutes=5))
        ]
    ],
    "CreateVehicle": [],
    "GetVehicle": [lambda ids, _: [dpb.GetVehicleRequest(vehicle_id=ids["vehicle"])]],
    "ListVehicles": [
        lambda _, __: [dpb.ListVehiclesRequest()],
        lambda _, __: [dpb.ListVehiclesRequest(active=True)],
    ],
    "UpdateVehicle": [
        lambda ids, _: [
            dpb.UpdateVehicleRequest(
                vehicle=dpb.Vehicle(id=ids["vehicle"], transmission=dpb.TRANSMISSION_AUTOMATIC)
            )
        ]
    ],
    "CreateRateCard": [
        lambda ids, own: [
            dpb.CreateRateCardRequest(rate_card=rate_card(2060, own["service"], ids["extra"]))
        ],
        lambda ids, _: [dpb.CreateRateCardRequest(rate_card=rate_card(2070, ids["extra"]))],
    ],
    "ListRateCards": [lambda _, __: [dpb.ListRateCardsRequest()]],
    "QuotePrice": [
        lambda ids, own: [dpb.QuotePriceRequest(service_id=ids["service"], start_time=own.at(0))]
    ],
    "SetWeeklyAvailability": [
        lambda ids, _: [dpb.SetWeeklyAvailabilityRequest(instructor_id=ids["idle"], rules=rules(2))]
    ],
    "GetAvailability": [
        lambda ids, _: [dpb.GetAvailabilityRequest(instructor_id=ids["instructor"])],
        lambda ids, _: [
            dpb.GetAvailabilityRequest(instructor_id=ids["instructor"], include_past=True)
        ],
    ],
    "CreateAvailabilityException": [
        lambda ids, _: [dpb.CreateAvailabilityExceptionRequest(exception=closed(ids["idle"], 2060))]
    ],
    "DeleteAvailabilityException": [
        lambda ids, _: [dpb.DeleteAvailabilityExceptionRequest(exception_id=ids["exception"])]
    ],
    "ListAvailabilityExceptions": [
        lambda ids, _: [dpb.ListAvailabilityExceptionsRequest(instructor_id=ids["instructor"])]
    ],
    "ExportStudentData": [lambda ids, _: [dpb.ExportStudentDataRequest(student_id=ids["student"])]],
    "EraseStudent": [lambda ids, _: [dpb.EraseStudentRequest(student_id=ids["erasable"])]],
}


def turned(name: str, make: Callable[[Ids], Any], ids: Ids, _: Ids) -> Sequence[Message]:
    """The next page of a list."""
    request = make(ids)
    request.page_token = ids[name]
    return [request]


def all_recipes() -> Recipes:
    recipes = {**BOOKING_RECIPES, **DIRECTORY_RECIPES, **recipes_events.recipes("booking")}
    found = {method: [*asked] for method, asked in recipes.items()}
    for method, recipe in REMEMBERED.items():
        found[method].append(recipe)
    for name, (method, make) in PAGES.items():
        found[method].append(partial(turned, name, make))
    return found


def of_any_booking() -> Iterator[tuple[str, Recipe]]:
    """What may be done with a booking, of every booking of another, whatever its state."""

    def recipe(kind: Any, name: str, ids: Ids, _: Ids) -> Sequence[Message]:
        return [kind(booking_id=ids[name])]

    kinds: Mapping[str, Any] = {
        "ConfirmBooking": pb.ConfirmBookingRequest,
        "RescheduleBooking": pb.RescheduleBookingRequest,
        "CancelBooking": pb.CancelBookingRequest,
        "QuoteCancellation": pb.QuoteCancellationRequest,
        "StartLesson": pb.StartLessonRequest,
        "CompleteLesson": pb.CompleteLessonRequest,
        "MarkNoShow": pb.MarkNoShowRequest,
        "ListBookingTransitions": pb.ListBookingTransitionsRequest,
    }
    for method, kind in kinds.items():
        for name in BOOKINGS:
            yield (
                method,
                partial(recipe, kind, name),
            )


# --- what there is -----------------------------------------------------------------------------


def kit(service: Booking) -> Kit:
    strange: dict[str, list[Recipe]] = {}
    for method, recipe in of_any_booking():
        strange.setdefault(method, []).append(recipe)
    statement = forgetting.mutated(store.SQL).select("list_instructors", ('"orgId"',))
    return Kit(
        running=service,
        schema="booking",
        services=SERVICES,
        recipes=all_recipes(),
        furnish=partial(furnished, service),
        leaky=(statement, {"before_id": store.UUID_MAX, "limit": 1_000}),
        get="GetBooking",
        write=lambda by: by.directory.CreateVehicle(
            dpb.CreateVehicleRequest(vehicle=dpb.Vehicle(label=request_id()))
        ),
        empty=frozenset({"InstructorEarning", "LessonTrip"}),
        strange=strange,
        makes=MAKES,
        endless={"Subscribe": recipes_events.is_caught_up, "WatchBookings": lambda _: True},
    )


MAKES = frozenset(
    {
        "HoldSlot",
        "CreateBooking",
        "BatchCreateBookings",
        "CreateBookingSeries",
        "JoinWaitlist",
        "CreateInstructor",
        "CreateStudent",
        "CreateGuardian",
        "CreateService",
        "CreateVehicle",
        "CreateRateCard",
        "SetWeeklyAvailability",
        "CreateAvailabilityException",
    }
)


async def furnished(service: Booking) -> Pair:
    """Both with one of everything; the other's events begin before those of this one."""
    today = service.clock().replace(minute=0, second=0, microsecond=0, tzinfo=UTC)
    base = today + timedelta(hours=4)
    theirs, mine = await Furnishing.begun(service, SECRET), await Furnishing.begun(service, "Ours")
    for each in (theirs, mine):
        await each.book_lessons(base)
    service.clock.set(base + timedelta(hours=2, minutes=30))
    epoch = base + timedelta(days=15)
    # What the one asks for in the name of the other must be free in its own calendar.
    for each, number in ((theirs, 0), (mine, -14)):
        await each.teach()
        await each.book_ahead(epoch, number)
    operator = service.bookings(service.ops_token)
    await operator.RefreshInstructorStats(pb.RefreshInstructorStatsRequest())
    return Pair(mine=await mine.member(), theirs=await theirs.member())


class Furnishing:
    """A school while it gets one of everything."""

    def __init__(self, school: School, name: str) -> None:
        self.school = school
        self.name = name
        self.ids = {"request": str(uuid.uuid4())}
        self.own = Ids(self.ids)

    @classmethod
    async def begun(cls, service: Booking, name: str) -> Furnishing:
        """Its directory; the travel buffer of its instructors is 15 minutes."""
        school = await School.founded(service, hold_minutes=1_440)
        furnishing = cls(school, name)
        await furnishing._add_things()
        await furnishing._add_people()
        await furnishing._add_exceptions()
        return furnishing

    async def _add_things(self) -> None:
        school, name, ids = self.school, self.name, self.ids
        school.lesson = await school.add_lesson(f"{name} lesson", 30)
        extra = await school.add_lesson(f"{name} extra", 30)
        ids["service"], ids["extra"] = school.lesson.id, extra.id
        ids["unpriced"] = (await school.add_lesson(f"{name} unpriced", 30)).id
        for lesson in (school.lesson, extra):
            await school.set_price(lesson, 8_000)
        ids["vehicle"] = (await school.add_vehicle(f"{name} car")).id
        await school.add_vehicle(f"{name} second car")

    async def _add_people(self) -> None:
        school, name, ids = self.school, self.name, self.ids
        for each in ("instructor", "second", "idle"):
            instructor = await school.add_instructor(f"{name} {each}", license_id=name)
            await school.set_hours(instructor, 0, 1_440)
            school.instructors.append(instructor)
            ids[each] = instructor.id
        for each in ("student", "erasable", "erased"):
            student = await school.add_student(f"{name} {each}", notes=name)
            school.students.append(student)
            ids[each] = student.id
        guardian = await school.add_guardian(school.students[0], f"{name} guardian")
        ids["guardian"] = guardian.id

    async def _add_exceptions(self) -> None:
        for years in (2, 3):
            exception = closed(self.ids["instructor"], 2030 + years)
            exception.note = self.name
            request = dpb.CreateAvailabilityExceptionRequest(exception=exception)
            made = await self.school.directory().CreateAvailabilityException(request)
            self.ids["exception"] = made.id

    async def book_lessons(self, base: datetime) -> None:
        """An hour apart, of the first instructor with the first student."""
        place = pb.Place(address=self.name, lat=1, lng=1)
        for hours, each in enumerate(("finished", "begun", "missed", "due")):
            start = base + timedelta(hours=hours)
            made = await lives.requested(self.school, start, notes=self.name, pickup=place)
            self.ids[each] = made.id
            await self.school.bookings().ConfirmBooking(
                pb.ConfirmBookingRequest(booking_id=made.id)
            )

    async def teach(self) -> None:
        stub = self.school.bookings()
        for each in ("finished", "begun"):
            request = pb.StartLessonRequest(booking_id=self.ids[each])
            self.ids["lesson"] = (await stub.StartLesson(request)).id
        finished = pb.CompleteLessonRequest(booking_id=self.ids["finished"], notes=self.name)
        self.ids["lesson"] = (await stub.CompleteLesson(finished)).id

    async def book_ahead(self, epoch: datetime, number: int) -> None:
        """Bookings that wait for what may be done with them, and students who wait."""
        school, ids = self.school, self.ids
        own = self.own = Ids(ids, epoch=epoch, number=number)
        for place, each in enumerate(("held", "confirmed", "moved", "movable")):
            ids[each] = (await lives.held(school, lives.moment(own.at(place * 0.75)))).id
        for place, each in enumerate(("requested", "cancelled")):
            made = await lives.held(
                school,
                lives.moment(own.at(place * 0.75)),
                instructor=school.instructors[1],
                student=school.students[1],
            )
            ids[each] = made.id
        confirm = pb.ConfirmBookingRequest(booking_id=ids["movable"])
        await school.bookings().ConfirmBooking(confirm)
        for _ in range(2):
            request = pb.JoinWaitlistRequest(waitlist_entry=waiting(own, own))
            ids["entry"] = (await school.bookings().JoinWaitlist(request)).id
        await self._remember(own)

    async def _remember(self, own: Ids) -> None:
        """Use the request id, as the one who will ask again does."""
        channel = self._connection.channel
        for method in walking.methods(*SERVICES):
            if method.name in REMEMBERED:
                requests = REMEMBERED[method.name](own, own)
                answer = await walking.call(channel, method, requests)
                assert answer.refusal is None, (method.name, answer.refusal)

    @property
    def _connection(self) -> Any:
        token = self.school.token("gateway-1", ALL_SCOPES)
        return self.school.service.connect(token)

    async def member(self) -> Member:
        """The school with all that it may name, once there is all to name."""
        connection, own = self._connection, self.own
        tokens = await recipes_events.tokens(connection.events)
        for name, (method, make) in PAGES.items():
            request = make(own)
            request.page_size = 1
            stub = connection.bookings if hasattr(connection.bookings, method) else None
            page = await getattr(stub or connection.directory, method)(request)
            tokens[name] = page.next_page_token
            assert tokens[name], f"{name}: {method} has one page"
        tokens |= {name: await self._slot(own, hour) for name, hour in SLOTS.items()}
        nobodys = {recipes_events.CURSOR: recipes_events.first_cursor("booking")}
        return Member(self.school.org_id, replace(own, tokens=tokens, nobodys=nobodys))

    async def _slot(self, own: Ids, hour: float) -> str:
        request = pb.SearchSlotsRequest(
            service_id=own["service"],
            instructor_id=own["instructor"],
            start_time=own.at(hour),
            end_time=own.at(hour + 0.5),
        )
        page = await self.school.bookings().SearchSlots(request)
        return str(page.slots[0].slot_token)
