"""The audit log: who changed what in the school."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from driveflow.booking.v1 import booking_pb2 as pb
from libs import issuer
from tests.booking import lives
from tests.booking.stories import School, morning, reason_of, refused

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def listed(school: School, **given: Any) -> pb.ListAuditEntriesResponse:
    return await school.bookings().ListAuditEntries(pb.ListAuditEntriesRequest(**given))


async def test_an_entry_says_who_changed_what_from_what_to_what(school: School) -> None:
    booking = await lives.held(school)
    boss = school.bookings("boss")
    await boss.ConfirmBooking(pb.ConfirmBookingRequest(booking_id=booking.id))
    entry = (await listed(school)).audit_entries[0]
    assert (entry.actor_user_id, entry.action) == ("boss", "confirm")
    assert (entry.entity_type, entry.entity_id) == ("booking", booking.id)
    assert dict(entry.before) == {"status": "held", "version": 1}
    assert dict(entry.after) == {"status": "confirmed", "version": 2}
    made = (await listed(school)).audit_entries[1]
    assert (made.action, made.HasField("before")) == ("create", False)
    assert made.after["price_cents"] == 8_000


async def test_every_combination_of_filters_finds_what_it_says(school: School) -> None:
    boss = school.bookings("boss")
    await lives.confirmed(school, morning(school, 4))
    booking = await lives.confirmed(school)
    await boss.CancelBooking(pb.CancelBookingRequest(booking_id=booking.id))
    everything = list((await listed(school, page_size=1_000)).audit_entries)
    assert [each.id for each in everything] == sorted((x.id for x in everything), reverse=True)
    for given in (
        {"entity_type": "booking"},
        {"entity_type": "booking", "entity_id": booking.id},
        {"entity_type": "student", "entity_id": booking.id},
        {"actor_user_id": "boss"},
        {"actor_user_id": "boss", "entity_type": "booking", "entity_id": booking.id},
        {"actor_user_id": "nobody"},
    ):
        wanted = [x for x in everything if all(getattr(x, k) == v for k, v in given.items())]
        found = await listed(school, page_size=1_000, **given)
        assert list(found.audit_entries) == wanted


async def test_a_things_id_needs_its_kind(school: School) -> None:
    refusal = await refused(listed(school, entity_id=str(uuid4())))
    assert (refusal.code.name, refusal.reason) == ("INVALID_ARGUMENT", "INVALID_REQUEST")


@pytest.mark.parametrize(
    "given",
    [{"entity_type": "x" * 101}, {"actor_user_id": "x" * 201}, {"page_size": -1}],
    ids=lambda given: next(iter(given)),
)
async def test_arguments_have_limits(school: School, given: dict[str, Any]) -> None:
    assert await reason_of(listed(school, **given)) == ("INVALID_ARGUMENT", "INVALID_REQUEST")


async def test_entries_come_in_pages(school: School) -> None:
    everything = [each.id for each in (await listed(school, page_size=1_000)).audit_entries]
    seen, token = [], ""
    for _ in range(1_000):
        page = await listed(school, page_size=3, page_token=token)
        seen += [each.id for each in page.audit_entries]
        token = page.next_page_token
        if not token:
            break
    assert seen == everything
    assert len(seen) > 10
    wrong = listed(school, page_token="x" * 24, entity_type="booking")
    assert await reason_of(wrong) == ("INVALID_ARGUMENT", "PAGE_TOKEN_INVALID")


async def test_a_schools_log_is_its_own(school: School) -> None:
    neighbour = await school.neighbour()
    theirs = {each.id for each in (await listed(neighbour, page_size=1_000)).audit_entries}
    mine = {each.id for each in (await listed(school, page_size=1_000)).audit_entries}
    assert theirs
    assert mine
    assert not theirs & mine


async def test_the_log_is_for_administrators(school: School) -> None:
    scopes = tuple(set(issuer.TENANT_SCOPES) - {"booking:admin"})
    call = school.bookings("office", scopes).ListAuditEntries(pb.ListAuditEntriesRequest())
    assert await reason_of(call) == ("PERMISSION_DENIED", "SCOPE_MISSING")
