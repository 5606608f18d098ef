"""The directory: schools, people, lesson types, cars."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import date
from typing import Any
from uuid import UUID, uuid4

import grpc
import psycopg
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from google.type.date_pb2 import Date

from driveflow.booking.v1 import directory_pb2 as pb
from libs import audit, issuer
from libs.consistency import KEY
from services.booking.store import directory as store
from tests.booking.serving import Booking
from tests.booking.stories import School, on, reason_of, refused, request_id
from tests.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")

ABSENT = str(uuid4())


def mask(*paths: str) -> FieldMask:
    return FieldMask(paths=paths)


async def change_org(school: School, *paths: str, **given: Any) -> pb.Organization:
    request = pb.UpdateOrganizationRequest(
        organization=pb.Organization(**given), update_mask=mask(*paths)
    )
    return await school.directory().UpdateOrganization(request)


async def change_student(school: School, *paths: str, **given: Any) -> pb.Student:
    request = pb.UpdateStudentRequest(student=pb.Student(**given), update_mask=mask(*paths))
    return await school.directory().UpdateStudent(request)


async def change_instructor(school: School, *paths: str, **given: Any) -> pb.Instructor:
    request = pb.UpdateInstructorRequest(
        instructor=pb.Instructor(**given), update_mask=mask(*paths)
    )
    return await school.directory().UpdateInstructor(request)


# --- the school ---


async def test_a_school_is_made_with_the_defaults_of_the_field(booking_service: Booking) -> None:
    school = await School.founded(booking_service, zone="")
    org = school.org
    assert UUID(org.id).version == 7
    assert (org.name, org.time_zone, org.currency) == ("Gear Up", "Australia/Sydney", "AUD")
    assert (org.platform_fee_bps, org.hold_minutes, org.notice_minutes) == (1_500, 30, 120)
    assert (org.travel_buffer_minutes, org.no_show_grace_minutes) == (15, 15)
    policy = org.cancellation_policy
    assert (policy.full_refund_hours, policy.partial_refund_hours) == (24, 2)
    assert policy.partial_refund_percent == 50
    assert not org.HasField("suspend_time")
    assert await school.directory().GetOrganization(pb.GetOrganizationRequest()) == org


async def test_a_new_school_is_told_of_noted_twice_and_among_the_tenants(
    bare_school: School,
) -> None:
    org_id = bare_school.org.id
    assert await bare_school.events("org") == [("org.created", org_id, 1, {"org_id": org_id})]
    ((actor, action, before, after),) = await bare_school.audit("org", org_id)
    assert (actor, action, before, after["time_zone"]) == (
        "operator",
        "create",
        None,
        "Australia/Sydney",
    )
    platform = await bare_school.rows(
        'SELECT after FROM booking."AuditLog" WHERE "orgId" = %s AND "entityId" = %s',
        audit.PLATFORM,
        org_id,
    )
    assert platform == [(after,)]
    tenants = 'SELECT active FROM booking."Tenant" WHERE "orgId" = %s'
    assert await bare_school.rows(tenants, org_id) == [(True,)]


async def test_the_same_request_makes_one_school(booking_service: Booking) -> None:
    operator = booking_service.directory(booking_service.ops_token)
    wanted = pb.Organization(name="Once")
    request = pb.CreateOrganizationRequest(organization=wanted, request_id=request_id())
    answers = await asyncio.gather(*(operator.CreateOrganization(request) for _ in range(4)))
    assert {answer.id for answer in answers} == {answers[0].id}
    request.organization.name = "Twice"
    reason = await reason_of(operator.CreateOrganization(request))
    assert reason == ("ALREADY_EXISTS", "REQUEST_ID_REUSED")


@pytest.mark.parametrize(
    "zone",
    [
        "Mars/Olympus",
        "EST",
        "CET",
        "posix/Europe/Berlin",
        "right/Europe/Berlin",
        "localtime",
        "Factory",
        "europe/berlin",
        "+02:00",
        "../../etc/passwd",
        "Europe",
        "Europe/",
        "UTC+3",
    ],
)
async def test_a_zone_is_known_by_its_iana_name_alone(bare_school: School, zone: str) -> None:
    service = bare_school.service
    wanted = pb.Organization(name="Lost", time_zone=zone)
    operator = service.directory(service.ops_token)
    made = operator.CreateOrganization(pb.CreateOrganizationRequest(organization=wanted))
    assert await reason_of(made) == ("INVALID_ARGUMENT", "TIME_ZONE_UNKNOWN")
    changed = change_org(bare_school, "time_zone", time_zone=zone)
    assert await reason_of(changed) == ("INVALID_ARGUMENT", "TIME_ZONE_UNKNOWN")


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "America/Argentina/Ushuaia", "Etc/GMT-8"])
async def test_zones_of_all_the_world_are_known(bare_school: School, zone: str) -> None:
    assert (await change_org(bare_school, time_zone=zone)).time_zone == zone


@pytest.mark.parametrize("currency", ["aud", "A", "€", "AU1"])
async def test_a_currency_is_three_capital_letters(booking_service: Booking, currency: str) -> None:
    founded = School.founded(booking_service, currency=currency)
    assert await reason_of(founded) == ("INVALID_ARGUMENT", "CURRENCY_INVALID")


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"name": ""}, "organization.name"),
        ({"name": "x" * 201}, "organization.name"),
        ({"name": "A", "platform_fee_bps": 10_001}, "organization.platform_fee_bps"),
        ({"name": "A", "hold_minutes": 1_441}, "organization.hold_minutes"),
        (
            {"name": "A", "cancellation_policy": pb.CancellationPolicy(partial_refund_hours=25)},
            "organization.cancellation_policy.partial_refund_hours",
        ),
    ],
)
async def test_a_school_that_can_not_be_is_refused_by_its_field(
    booking_service: Booking, given: dict[str, Any], field: str
) -> None:
    operator = booking_service.directory(booking_service.ops_token)
    wanted = pb.CreateOrganizationRequest(organization=pb.Organization(**given))
    refusal = await refused(operator.CreateOrganization(wanted))
    assert refusal.reason == "INVALID_REQUEST"
    assert [path for path, _ in refusal.fields] == [field]


async def test_settings_change_by_mask_and_may_be_zero(bare_school: School) -> None:
    changed = await change_org(
        bare_school, "notice_minutes", "cancellation_policy.partial_refund_percent", name="Ignored"
    )
    assert (changed.notice_minutes, changed.name) == (0, "Gear Up")
    assert changed.cancellation_policy.partial_refund_percent == 0
    assert changed.cancellation_policy.full_refund_hours == 24
    (_, entry) = await bare_school.audit("org", bare_school.org.id)
    assert entry == (
        "office",
        "update",
        {"notice_minutes": 120, "partial_refund_percent": 50},
        {"notice_minutes": 0, "partial_refund_percent": 0},
    )


async def test_without_a_mask_what_is_set_is_changed(bare_school: School) -> None:
    policy = pb.CancellationPolicy(full_refund_hours=48)
    changed = await change_org(bare_school, hold_minutes=5, cancellation_policy=policy)
    assert (changed.hold_minutes, changed.notice_minutes) == (5, 120)
    assert changed.cancellation_policy.full_refund_hours == 48
    assert changed.cancellation_policy.partial_refund_hours == 2
    assert await bare_school.directory().GetOrganization(pb.GetOrganizationRequest()) == changed


@pytest.mark.parametrize(
    "path", ["id", "etag", "currency", "create_time", "suspend_time", "*", "", "nonsense", "name.x"]
)
async def test_what_is_not_a_callers_to_change_is_no_path(bare_school: School, path: str) -> None:
    refusal = await refused(change_org(bare_school, path, name="B", currency="EUR"))
    assert (refusal.code, refusal.reason) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "UPDATE_MASK_INVALID",
    )


async def test_another_currency_is_refused_and_the_same_one_passes(bare_school: School) -> None:
    org = bare_school.org
    org.name = "Renamed"
    request = pb.UpdateOrganizationRequest(organization=org)
    assert (await bare_school.directory().UpdateOrganization(request)).name == "Renamed"
    refusal = await refused(change_org(bare_school, currency="EUR"))
    assert [path for path, _ in refusal.fields] == ["organization.currency"]


@pytest.mark.parametrize("path", ["name", "hold_minutes"])
async def test_what_must_have_a_value_is_not_cleared(bare_school: School, path: str) -> None:
    refusal = await refused(change_org(bare_school, path))
    assert [field for field, _ in refusal.fields] == [f"organization.{path}"]


async def test_of_two_who_change_the_school_the_slower_is_refused(bare_school: School) -> None:
    etag, again = bare_school.org.etag, request_id()
    wanted = pb.Organization(name="First", etag=etag)
    request = pb.UpdateOrganizationRequest(organization=wanted, request_id=again)
    first = await bare_school.directory().UpdateOrganization(request)
    assert (first.name, first.etag) == ("First", "2")
    late = change_org(bare_school, name="Late", etag=etag)
    assert await reason_of(late) == ("ABORTED", "ETAG_MISMATCH")
    assert (await change_org(bare_school, name="Last")).etag == "3"
    assert await bare_school.directory().UpdateOrganization(request) == first


async def test_who_brings_the_token_of_a_change_sees_the_school_changed(
    bare_school: School,
) -> None:
    stub: Any = bare_school.directory()
    for minutes in range(1, 6):
        wanted = pb.Organization(hold_minutes=minutes)
        call = stub.UpdateOrganization(pb.UpdateOrganizationRequest(organization=wanted))
        await call
        token = dict(await call.trailing_metadata())[KEY]
        found = await stub.GetOrganization(pb.GetOrganizationRequest(), metadata=((KEY, token),))
        assert found.hold_minutes == minutes


async def test_a_suspended_school_is_read_but_not_changed(school: School) -> None:
    suspended = await school.suspend()
    assert suspended.HasField("suspend_time")
    directory = school.directory()
    assert await directory.GetOrganization(pb.GetOrganizationRequest()) == suspended
    for change in (
        school.add_student(),
        school.add_guardian(school.students[0]),
        change_org(school, name="B"),
        change_student(school, id=school.students[0].id, phone="1"),
        school.set_hours(school.instructors[0]),
        school.set_price(school.lesson, 1, date(2030, 1, 1)),
    ):
        assert await reason_of(change) == ("FAILED_PRECONDITION", "ORG_SUSPENDED")
    resumed = await directory.ResumeOrganization(pb.ResumeOrganizationRequest())
    assert not resumed.HasField("suspend_time")
    assert (await school.add_student("Later")).full_name == "Later"


async def test_suspending_and_resuming_is_told_once_each(bare_school: School) -> None:
    operator = bare_school.directory("operator")
    for _ in range(2):
        await bare_school.suspend()
    for _ in range(2):
        await operator.ResumeOrganization(pb.ResumeOrganizationRequest(reason="paid"))
    org_id, payload = bare_school.org.id, {"org_id": bare_school.org.id}
    assert await bare_school.events("org") == [
        ("org.created", org_id, 1, payload),
        ("org.suspended", org_id, 2, payload),
        ("org.resumed", org_id, 3, payload),
    ]
    noted = [entry[1:] for entry in await bare_school.audit("org", org_id)][1:]
    assert noted == [
        ("suspend", None, {"reason": "unpaid"}),
        ("resume", None, {"reason": "paid"}),
    ]


async def test_the_sweeps_know_a_suspended_school(bare_school: School) -> None:
    tenants = 'SELECT active FROM booking."Tenant" WHERE "orgId" = %s'
    await bare_school.suspend()
    assert await bare_school.rows(tenants, bare_school.org.id) == [(False,)]
    await bare_school.directory().ResumeOrganization(pb.ResumeOrganizationRequest())
    assert await bare_school.rows(tenants, bare_school.org.id) == [(True,)]


async def test_a_school_that_was_never_made_has_nothing(bare_school: School) -> None:
    service = bare_school.service
    directory = service.directory(service.token(uuid4(), (*issuer.TENANT_SCOPES, "ops:write")))
    for call in (
        directory.GetOrganization(pb.GetOrganizationRequest()),
        directory.SuspendOrganization(pb.SuspendOrganizationRequest()),
        directory.CreateStudent(pb.CreateStudentRequest(student=pb.Student(full_name="A"))),
        directory.UpdateOrganization(
            pb.UpdateOrganizationRequest(organization=pb.Organization(name="A"))
        ),
    ):
        assert await reason_of(call) == ("NOT_FOUND", "ORG_NOT_FOUND")


# --- what all kinds share ---


async def add_instructor(school: School, **options: Any) -> Any:
    wanted = pb.Instructor(display_name="Ann")
    request = pb.CreateInstructorRequest(instructor=wanted, **options)
    return await school.directory().CreateInstructor(request)


async def add_student(school: School, **options: Any) -> Any:
    request = pb.CreateStudentRequest(student=pb.Student(full_name="Ann"), **options)
    return await school.directory().CreateStudent(request)


async def add_service(school: School, **options: Any) -> Any:
    wanted = pb.Service(name="Ann", duration_minutes=30)
    request = pb.CreateServiceRequest(service=wanted, **options)
    return await school.directory().CreateService(request)


async def add_vehicle(school: School, **options: Any) -> Any:
    request = pb.CreateVehicleRequest(vehicle=pb.Vehicle(label="Ann"), **options)
    return await school.directory().CreateVehicle(request)


# kind -> how one is added, its name's field
KINDS: dict[str, tuple[Callable[..., Awaitable[Any]], str]] = {
    "instructor": (add_instructor, "display_name"),
    "student": (add_student, "full_name"),
    "service": (add_service, "name"),
    "vehicle": (add_vehicle, "label"),
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def message(kind: str, **given: Any) -> Message:
    made: Message = getattr(pb, kind.capitalize())(**given)
    return made


async def get(school: School, kind: str, id: str, **options: Any) -> Any:  # noqa: A002
    request = getattr(pb, f"Get{kind.capitalize()}Request")(**{f"{kind}_id": id}, **options)
    return await getattr(school.directory(), f"Get{kind.capitalize()}")(request)


async def update(school: School, kind: str, given: Message, *paths: str, **options: Any) -> Any:
    request = getattr(pb, f"Update{kind.capitalize()}Request")(
        **{kind: given}, update_mask=mask(*paths), **options
    )
    return await getattr(school.directory(), f"Update{kind.capitalize()}")(request)


async def list_page(school: School, kind: str, **options: Any) -> Any:
    request = getattr(pb, f"List{kind.capitalize()}sRequest")(**options)
    return await getattr(school.directory(), f"List{kind.capitalize()}s")(request)


@every_kind
async def test_what_was_added_is_read_back_and_noted(bare_school: School, kind: str) -> None:
    add, name = KINDS[kind]
    made = await add(bare_school)
    assert UUID(made.id).version == 7
    assert made.etag == "1"
    assert made.create_time == made.update_time
    assert await get(bare_school, kind, made.id) == made
    ((actor, action, before, after),) = await bare_school.audit(kind, made.id)
    assert (actor, action, before, after[name]) == ("office", "create", None, "Ann")


@every_kind
async def test_the_same_request_adds_one(bare_school: School, kind: str) -> None:
    add, _ = KINDS[kind]
    wanted = request_id()
    calls = (add(bare_school, request_id=wanted) for _ in range(4))
    answers = await asyncio.gather(*calls)
    assert all(answer == answers[0] for answer in answers)
    assert len(await bare_school.audit(kind, answers[0].id)) == 1


@every_kind
async def test_a_name_is_wanted(bare_school: School, kind: str) -> None:
    _, name = KINDS[kind]
    request = getattr(pb, f"Create{kind.capitalize()}Request")(**{kind: message(kind)})
    call = getattr(bare_school.directory(), f"Create{kind.capitalize()}")(request)
    refusal = await refused(call)
    assert refusal.reason == "INVALID_REQUEST"
    assert f"{kind}.{name}" in [path for path, _ in refusal.fields]


@every_kind
async def test_only_the_fields_of_the_mask_are_read(bare_school: School, kind: str) -> None:
    add, name = KINDS[kind]
    made = await add(bare_school)
    for _ in range(2):
        found = await get(bare_school, kind, made.id, read_mask=mask(name))
        assert found == message(kind, **{name: "Ann"})
    refusal = await refused(get(bare_school, kind, made.id, read_mask=mask("secret")))
    assert refusal.reason == "READ_MASK_INVALID"
    page = await list_page(bare_school, kind, read_mask=mask("etag"))
    assert list(getattr(page, f"{kind}s")) == [message(kind, etag="1")]


@every_kind
async def test_a_new_name_has_a_new_etag_and_leaves_the_rest(
    bare_school: School, kind: str
) -> None:
    add, name = KINDS[kind]
    made = await add(bare_school)
    assert await get(bare_school, kind, made.id) == made
    changed = await update(bare_school, kind, message(kind, id=made.id, **{name: "Bea"}))
    assert (getattr(changed, name), changed.etag) == ("Bea", "2")
    assert changed.update_time.ToNanoseconds() > made.update_time.ToNanoseconds()
    entry = (await bare_school.audit(kind, made.id))[1]
    assert entry == ("office", "update", {name: "Ann"}, {name: "Bea"})
    for field in ("etag", "update_time", name):
        changed.ClearField(field)
        made.ClearField(field)
    assert changed == made


@every_kind
async def test_a_change_that_changes_nothing_leaves_no_trace(
    bare_school: School, kind: str
) -> None:
    add, name = KINDS[kind]
    made = await add(bare_school)
    assert await update(bare_school, kind, message(kind, id=made.id, **{name: "Ann"})) == made
    assert await update(bare_school, kind, message(kind, id=made.id)) == made
    assert len(await bare_school.audit(kind, made.id)) == 1


@every_kind
async def test_of_two_editors_the_slower_is_refused(bare_school: School, kind: str) -> None:
    add, name = KINDS[kind]
    made = await add(bare_school)
    edits = [
        update(bare_school, kind, message(kind, id=made.id, etag=made.etag, **{name: text}))
        for text in ("First", "Second", "Third")
    ]
    answers = await asyncio.gather(*edits, return_exceptions=True)
    won = [answer for answer in answers if not isinstance(answer, BaseException)]
    assert [answer.etag for answer in won] == ["2"]
    late = update(bare_school, kind, message(kind, id=made.id, etag="1", **{name: "Late"}))
    assert await reason_of(late) == ("ABORTED", "ETAG_MISMATCH")
    assert await get(bare_school, kind, made.id) == won[0]


@every_kind
async def test_the_same_change_twice_is_one_change(bare_school: School, kind: str) -> None:
    add, name = KINDS[kind]
    made = await add(bare_school)
    given = message(kind, id=made.id, etag="1", **{name: "Bea"})
    again = request_id()
    first = await update(bare_school, kind, given, request_id=again)
    assert await update(bare_school, kind, given, request_id=again) == first
    assert len(await bare_school.audit(kind, made.id)) == 2


@every_kind
@pytest.mark.parametrize("path", ["id", "etag", "create_time", "update_time", "*", "org_id"])
async def test_a_path_that_can_not_be_changed_is_refused(
    school: School, kind: str, path: str
) -> None:
    refusal = await refused(update(school, kind, message(kind, id=ABSENT), path))
    assert refusal.reason == "UPDATE_MASK_INVALID"


@every_kind
async def test_what_the_school_has_not_is_not_found(school: School, kind: str) -> None:
    _, name = KINDS[kind]
    theirs = await KINDS[kind][0](await School.founded(school.service))
    wanted = ("NOT_FOUND", f"{kind.upper()}_NOT_FOUND")
    for id_ in (ABSENT, theirs.id):
        assert await reason_of(get(school, kind, id_)) == wanted
        assert await reason_of(update(school, kind, message(kind, id=id_, **{name: "X"}))) == wanted
    refusal = await refused(update(school, kind, message(kind, id="7")))
    assert [path for path, _ in refusal.fields] == [f"{kind}.id"]


@every_kind
async def test_a_reader_who_brings_the_token_of_a_change_sees_it(
    bare_school: School, kind: str
) -> None:
    add, name = KINDS[kind]
    made = await add(bare_school)
    stub: Any = bare_school.directory()
    for number in range(5):
        given = message(kind, id=made.id, **{name: f"Name {number}"})
        request = getattr(pb, f"Update{kind.capitalize()}Request")(**{kind: given})
        call = getattr(stub, f"Update{kind.capitalize()}")(request)
        await call
        token = dict(await call.trailing_metadata())[KEY]
        getting = getattr(pb, f"Get{kind.capitalize()}Request")(**{f"{kind}_id": made.id})
        found = await getattr(stub, f"Get{kind.capitalize()}")(getting, metadata=((KEY, token),))
        assert getattr(found, name) == f"Name {number}"


@pytest.mark.parametrize(
    ("kind", "column"),
    [("Instructor", '"displayName"'), ("Service", "name"), ("Vehicle", "label")],
)
async def test_what_rarely_changes_is_read_from_the_cache(
    bare_school: School, kind: str, column: str
) -> None:
    """Until a change through the service: one past it is not heard of."""
    add, name = KINDS[kind.lower()]
    made = await add(bare_school)

    async def kept() -> bool:
        before = await get(bare_school, kind.lower(), made.id)
        await bare_school.rows(
            f"UPDATE booking.\"{kind}\" SET {column} = {column} || '+' WHERE id = %s", made.id
        )
        return bool(await get(bare_school, kind.lower(), made.id) == before)

    await eventually(kept)
    changed = await update(
        bare_school, kind.lower(), message(kind.lower(), id=made.id, active=False)
    )

    async def heard() -> bool:
        return bool(await get(bare_school, kind.lower(), made.id) == changed)

    await eventually(heard)
    assert getattr(changed, name).startswith("Ann+")


@pytest.mark.parametrize("kind", ["instructor", "service", "vehicle"])
async def test_pages_go_from_the_newest_to_the_oldest(bare_school: School, kind: str) -> None:
    names = {"instructor": "display_name", "service": "name", "vehicle": "label"}
    rest: dict[str, Any] = {"duration_minutes": 30} if kind == "service" else {}
    stub: Any = bare_school.directory()
    create = getattr(stub, f"Create{kind.capitalize()}")
    request_type = getattr(pb, f"Create{kind.capitalize()}Request")
    made = []
    for number in range(5):
        given = message(kind, active=number != 2, **{names[kind]: f"N{number}"}, **rest)
        made.append((await create(request_type(**{kind: given}))).id)
    assert await walk(bare_school, kind, page_size=2) == made[::-1]
    active = [id_ for id_ in made[::-1] if id_ != made[2]]
    assert await walk(bare_school, kind, page_size=2, active=True) == active
    assert await walk(bare_school, kind, page_size=2, active=False) == [made[2]]


async def walk(school: School, kind: str, **options: Any) -> list[str]:
    """The ids of all pages."""
    found: list[str] = []
    token = ""
    for _ in range(100):
        page = await list_page(school, kind, page_token=token, **options)
        found += [each.id for each in getattr(page, f"{kind}s")]
        token = page.next_page_token
        if not token:
            return found
    raise AssertionError("the pages do not end")


@every_kind
async def test_a_page_token_is_good_for_its_own_list_alone(school: School, kind: str) -> None:
    for _ in range(2):
        if kind in ("instructor", "student"):
            await KINDS[kind][0](school)
    if kind == "vehicle":
        await school.add_vehicle("Second")
    if kind == "service":
        await school.add_lesson("Second", 30)
    token = (await list_page(school, kind, page_size=1)).next_page_token
    assert token
    neighbour = await School.founded(school.service)
    for page in (
        list_page(neighbour, kind, page_token=token),
        list_page(school, kind, page_token=token[:-4]),
        list_page(school, kind, page_token=token, read_mask=mask("id")),
    ):
        assert await reason_of(page) == ("INVALID_ARGUMENT", "PAGE_TOKEN_INVALID")


# --- instructors, lesson types, cars ---


async def test_an_optional_value_is_set_to_zero_cleared_and_left(bare_school: School) -> None:
    made = await bare_school.add_instructor(travel_buffer_minutes=0)
    assert made.HasField("travel_buffer_minutes")
    renamed = await change_instructor(bare_school, id=made.id, display_name="B")
    assert renamed.HasField("travel_buffer_minutes")
    cleared = await change_instructor(bare_school, "travel_buffer_minutes", id=made.id)
    assert not cleared.HasField("travel_buffer_minutes")
    set_again = await change_instructor(bare_school, id=made.id, travel_buffer_minutes=240)
    assert set_again.travel_buffer_minutes == 240


async def test_an_instructor_is_active_until_told_otherwise(bare_school: School) -> None:
    made = await bare_school.add_instructor(license_id="L-7", phone="1", stripe_account_id="acct")
    assert made.active
    left = await change_instructor(bare_school, id=made.id, active=False)
    assert (left.active, left.license_id, left.stripe_account_id) == (False, "L-7", "acct")
    refusal = await refused(change_instructor(bare_school, "active", id=made.id))
    assert [path for path, _ in refusal.fields] == ["active"]


async def test_a_name_can_not_be_cleared_but_a_phone_can(bare_school: School) -> None:
    made = await bare_school.add_instructor(phone="1")
    cleared = await change_instructor(bare_school, "phone", id=made.id, display_name="Ignored")
    assert (cleared.phone, cleared.display_name) == ("", "Ina")
    refusal = await refused(change_instructor(bare_school, "display_name", id=made.id))
    assert [path for path, _ in refusal.fields] == ["instructor.display_name"]


async def test_lesson_types_and_cars_have_names_of_their_own(school: School) -> None:
    added = school.add_lesson("Lesson 60", 30)
    assert await reason_of(added) == ("ALREADY_EXISTS", "SERVICE_NAME_UNIQUE")
    second = await school.add_lesson("Lesson 30", 30)
    renamed = update(school, "service", pb.Service(id=second.id, name="Lesson 60"))
    assert await reason_of(renamed) == ("ALREADY_EXISTS", "SERVICE_NAME_UNIQUE")
    assert await reason_of(school.add_vehicle("Yaris")) == (
        "ALREADY_EXISTS",
        "VEHICLE_LABEL_UNIQUE",
    )
    assert (await (await school.neighbour()).add_vehicle("Twin")).label == "Twin"


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"duration_minutes": 4}, "service.duration_minutes"),
        ({"duration_minutes": 721}, "service.duration_minutes"),
        ({"duration_minutes": 60, "buffer_after_minutes": 241}, "service.buffer_after_minutes"),
        ({"duration_minutes": 60, "slot_step_minutes": 7}, "service.slot_step_minutes"),
    ],
)
async def test_a_lesson_that_can_not_be_is_refused(
    bare_school: School, given: dict[str, Any], field: str
) -> None:
    wanted = pb.CreateServiceRequest(service=pb.Service(name="Odd", **given))
    refusal = await refused(bare_school.directory().CreateService(wanted))
    assert refusal.reason == "INVALID_REQUEST"
    assert [path for path, _ in refusal.fields] == [field]


async def test_a_lesson_starts_every_quarter_of_an_hour_unless_told(bare_school: School) -> None:
    made = await bare_school.add_lesson("Lesson", 45, buffer_before_minutes=5)
    assert (made.slot_step_minutes, made.buffer_before_minutes, made.active) == (15, 5, True)
    hourly = await update(bare_school, "service", pb.Service(id=made.id, slot_step_minutes=60))
    assert (hourly.slot_step_minutes, hourly.duration_minutes) == (60, 45)
    refusal = await refused(update(bare_school, "service", made, "slot_step_minutes", "name"))
    assert refusal.reason == "ETAG_MISMATCH"
    cleared = update(bare_school, "service", pb.Service(id=made.id), "duration_minutes")
    assert await reason_of(cleared) == ("INVALID_ARGUMENT", "INVALID_REQUEST")


async def test_how_a_car_shifts_is_known_or_not(bare_school: School) -> None:
    made = await bare_school.add_vehicle("Golf", transmission=pb.TRANSMISSION_MANUAL)
    assert made.transmission == pb.TRANSMISSION_MANUAL
    given = pb.Vehicle(id=made.id, transmission=pb.TRANSMISSION_AUTOMATIC)
    assert (await update(bare_school, "vehicle", given)).transmission == given.transmission
    unknown = await update(bare_school, "vehicle", pb.Vehicle(id=made.id), "transmission")
    assert unknown.transmission == pb.TRANSMISSION_UNSPECIFIED
    odd: Any = 7
    refusal = await refused(bare_school.add_vehicle("Odd", transmission=odd))
    assert [path for path, _ in refusal.fields] == ["vehicle.transmission"]


# --- students ---


async def names(school: School, prefix: str = "", **options: Any) -> list[str]:
    page = await school.directory().ListStudents(
        pb.ListStudentsRequest(name_prefix=prefix, **options)
    )
    return [student.full_name for student in page.students]


async def test_a_students_birthday_is_a_day_of_the_calendar(bare_school: School) -> None:
    born = await bare_school.add_student(birth_date=on(date(2008, 2, 29)))
    assert born.birth_date == Date(year=2008, month=2, day=29)
    cleared = await change_student(bare_school, "birth_date", id=born.id)
    assert not cleared.HasField("birth_date")
    for wrong in (Date(year=2009, month=2, day=29), Date(year=2009), Date(month=1, day=1)):
        added = bare_school.add_student(birth_date=wrong)
        assert await reason_of(added) == ("INVALID_ARGUMENT", "DATE_INVALID")


async def test_students_are_listed_by_name_with_few_fields(bare_school: School) -> None:
    for name in ("Cy", "Abe", "Bo"):
        await bare_school.add_student(name, phone="1", email="a@b", notes="shy")
    page = await bare_school.directory().ListStudents(pb.ListStudentsRequest())
    assert [student.full_name for student in page.students] == ["Abe", "Bo", "Cy"]
    set_fields = {field.name for field, _ in page.students[0].ListFields()}
    assert set_fields == {"id", "full_name", "phone", "email", "create_time"}


@pytest.mark.parametrize("prefix", ["", "s", "SA"])
async def test_students_of_one_name_are_all_on_some_page(bare_school: School, prefix: str) -> None:
    made = [(await bare_school.add_student("Sam")).id for _ in range(7)]
    made.append((await bare_school.add_student("Samantha")).id)
    found = await walk(bare_school, "student", page_size=3, name_prefix=prefix)
    assert found[:7] == sorted(made[:7])
    assert found[7:] == made[7:]


@pytest.mark.parametrize(
    ("prefix", "wanted"),
    [
        ("str", ["Straße", "STRASSE Mann", "Strom"]),
        ("STRASS", ["Straße", "STRASSE Mann"]),
        ("straß", ["Straße", "STRASSE Mann"]),
        ("émile", ["Émile"]),
        ("e\u0301mi", ["Émile"]),
        ("ΟΔΥΣΣΕΎΣ", ["Οδυσσεύς"]),
        ("\uff45", ["Eva"]),
        ("100%", ["100% Bo"]),
        ("%", []),
        ("_", []),
        ("zz", []),
        ("\U00010400", ["\U00010428da"]),
    ],
)
async def test_names_are_found_by_how_they_begin_whatever_the_case(
    bare_school: School, prefix: str, wanted: list[str]
) -> None:
    for name in ("Strom", "STRASSE Mann", "Straße", "Émile", "Οδυσσεύς", "Eva", "100% Bo"):
        await bare_school.add_student(name)
    await bare_school.add_student("\U00010428da")
    assert sorted(await names(bare_school, prefix)) == sorted(wanted)


@pytest.mark.parametrize("prefix", ["A\0", "A\U0010ffff"])
async def test_a_prefix_that_no_name_has_is_refused(bare_school: School, prefix: str) -> None:
    refusal = await refused(names(bare_school, prefix))
    assert (refusal.reason, [path for path, _ in refusal.fields]) == (
        "INVALID_REQUEST",
        ["name_prefix"],
    )


async def test_a_name_with_a_nul_is_refused(bare_school: School) -> None:
    assert await reason_of(bare_school.add_student("A\0B")) == ("INVALID_ARGUMENT", "INVALID_VALUE")


@pytest.mark.parametrize(
    ("query", "index"),
    [
        ("list_students", "idx_student_org_name"),
        ("list_students_by_prefix", "idx_student_org_name_key"),
        ("list_instructors_by_active", "idx_instructor_org_active"),
    ],
)
async def test_a_list_is_read_from_its_index(bare_school: School, query: str, index: str) -> None:
    """As the service's role, under row-level security: only leakproof conditions get there."""
    await bare_school.rows(
        'INSERT INTO booking."Instructor" ("orgId", "displayName", active)'
        " SELECT %s, 'I', n %% 100 = 0 FROM generate_series(1, 2000) AS n",
        bare_school.org_id,
    )
    await bare_school.rows('ANALYZE booking."Instructor"')
    parameters = {
        "org_id": bare_school.org_id,
        "prefix": "Sa",
        "after_name": "",
        "after_id": UUID(int=0),
        "before_id": store.UUID_MAX,
        "active": True,
        "limit": 20,
    }
    statement = b"EXPLAIN " + store.SQL.select(query, ("id",))
    dsn = bare_school.service.database.dsn("booking")
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        await connection.execute(
            "SELECT set_config('driveflow.org_id', %s, true)", [str(bare_school.org_id)]
        )
        await connection.execute("SET LOCAL enable_seqscan = off")
        await connection.execute("SET LOCAL enable_bitmapscan = off")
        await connection.execute("SET LOCAL enable_sort = off")
        found = await (await connection.execute(statement, parameters)).fetchall()
    plan = "\n".join(row[0] for row in found)
    condition = {"list_students": "ROW", "list_students_by_prefix": '"nameKey" >='}
    assert f"using {index} on" in plan
    (bound,) = (line for line in plan.splitlines() if "Index Cond" in line)
    assert condition.get(query, "active = true") in bound


# --- guardians ---


async def guardians(school: School, student: pb.Student) -> list[pb.Guardian]:
    request = pb.ListGuardiansRequest(student_id=student.id)
    return list((await school.directory().ListGuardians(request)).guardians)


async def test_a_guardian_is_added_listed_and_removed(school: School) -> None:
    student = school.students[0]
    first = await school.add_guardian(student, "Gus", phone="1", relationship="father")
    second = await school.add_guardian(student, "Gia", email="g@x")
    assert (first.student_id, first.relationship) == (student.id, "father")
    assert await guardians(school, student) == [first, second]
    request = pb.DeleteGuardianRequest(guardian_id=first.id)
    assert await school.directory().DeleteGuardian(request) == first
    assert await guardians(school, student) == [second]
    again = school.directory().DeleteGuardian(request)
    assert await reason_of(again) == ("NOT_FOUND", "GUARDIAN_NOT_FOUND")
    created, deleted = await school.audit("guardian", first.id)
    assert (created[1], created[3]["student_id"]) == ("create", student.id)
    assert (deleted[1], deleted[2], deleted[3]) == ("delete", created[3], None)


async def test_a_guardian_is_removed_once_by_one_request_and_its_answer_is_the_same(
    school: School,
) -> None:
    guardian = await school.add_guardian(school.students[0], "Gus")
    request = pb.DeleteGuardianRequest(guardian_id=guardian.id, request_id=request_id())
    stub = school.directory()
    assert [await stub.DeleteGuardian(request) for _ in range(2)] == [guardian] * 2


async def test_a_school_is_suspended_and_resumed_once_by_one_request(school: School) -> None:
    stub, id_ = school.directory("operator"), request_id()
    suspend = pb.SuspendOrganizationRequest(reason="unpaid", request_id=id_)
    suspended = await stub.SuspendOrganization(suspend)
    resume = pb.ResumeOrganizationRequest(reason="paid", request_id=id_)
    resumed = await stub.ResumeOrganization(resume)
    # Late and repeated, it must not suspend the school again.
    assert await stub.SuspendOrganization(suspend) == suspended
    assert await stub.GetOrganization(pb.GetOrganizationRequest()) == resumed
    assert await stub.ResumeOrganization(resume) == resumed
    other = pb.SuspendOrganizationRequest(reason="other", request_id=id_)
    assert await reason_of(stub.SuspendOrganization(other)) == (
        "ALREADY_EXISTS",
        "REQUEST_ID_REUSED",
    )


async def test_the_same_request_adds_one_guardian(school: School) -> None:
    wanted = pb.Guardian(student_id=school.students[0].id, full_name="Gus")
    request = pb.CreateGuardianRequest(guardian=wanted, request_id=request_id())
    stub = school.directory()
    answers = await asyncio.gather(*(stub.CreateGuardian(request) for _ in range(3)))
    assert await guardians(school, school.students[0]) == [answers[0]]


async def test_a_student_has_twenty_guardians_at_most(school: School) -> None:
    student = school.students[0]
    for number in range(18):
        await school.add_guardian(student, f"G{number}")
    calls = (school.add_guardian(student, f"Late {number}") for number in range(4))
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert sum(isinstance(answer, pb.Guardian) for answer in answers) == 2
    assert len(await guardians(school, student)) == 20
    one_more = school.add_guardian(student)
    assert await reason_of(one_more) == ("FAILED_PRECONDITION", "TOO_MANY_GUARDIANS")


async def test_a_guardian_needs_a_student_of_the_school(school: School) -> None:
    neighbour = await school.neighbour()
    theirs = await neighbour.add_guardian(neighbour.students[0])
    for id_ in (ABSENT, neighbour.students[0].id):
        student = pb.Student(id=id_)
        assert await reason_of(school.add_guardian(student)) == ("NOT_FOUND", "STUDENT_NOT_FOUND")
        assert await reason_of(guardians(school, student)) == ("NOT_FOUND", "STUDENT_NOT_FOUND")
    for id_ in (ABSENT, theirs.id):
        request = pb.DeleteGuardianRequest(guardian_id=id_)
        removed = school.directory().DeleteGuardian(request)
        assert await reason_of(removed) == ("NOT_FOUND", "GUARDIAN_NOT_FOUND")
    refusal = await refused(school.add_guardian(pb.Student()))
    assert [path for path, _ in refusal.fields] == ["guardian.student_id"]
