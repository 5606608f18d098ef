"""Read masks and update masks."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from hypothesis import given
from hypothesis import strategies as st

from driveflow.booking.v1 import booking_pb2
from driveflow.booking.v1 import directory_pb2 as pb
from libs import masks
from libs.errors import InvalidArgument
from libs.messages import stamp

KNOWN = {"id": 1, "name": 2, "summary.length": 3, "summary.box.north": 4}
DEFAULT = ("id", "name")


@pytest.mark.parametrize(
    ("asked", "got"),
    [
        ([], DEFAULT),
        (["name"], ("name",)),
        (["name", "id", "name"], ("id", "name")),
        (["summary"], ("summary.length", "summary.box.north")),
        (["summary.box", "id"], ("id", "summary.box.north")),
        (["*"], tuple(KNOWN)),
    ],
)
def test_a_mask_names_leaves_in_their_own_order(asked: list[str], got: tuple[str, ...]) -> None:
    assert masks.paths(FieldMask(paths=asked), KNOWN, DEFAULT) == got


@pytest.mark.parametrize("path", ["", "i", "ID", "summary.", ".id", "id.x", "na me", "summary.*"])
def test_an_unknown_path_is_refused_by_name(path: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        masks.paths(FieldMask(paths=["id", path]), KNOWN, DEFAULT)
    assert caught.value.reason == "READ_MASK_INVALID"
    assert [field for field, _ in caught.value.fields] == ["read_mask"]


@given(st.lists(st.text(max_size=300), max_size=5))
def test_any_mask_gives_known_paths_or_a_refusal(paths: list[str]) -> None:
    try:
        got = masks.paths(FieldMask(paths=paths), KNOWN, DEFAULT)
    except InvalidArgument:
        return
    assert set(got) <= set(KNOWN)


def test_a_row_becomes_the_fields_that_it_was_fetched_for() -> None:
    paths = ("student_id", "status", "start_time", "pickup.lat", "student.full_name", "notes")
    student, moment = UUID(int=7), datetime(2026, 3, 4, 5, 6, 7, 8, UTC)
    row = (student, "held", moment, None, "Ada", None, "what the next page goes on by")
    assert masks.reader(booking_pb2.Booking, paths)(row) == booking_pb2.Booking(
        student_id=str(student),
        status=booking_pb2.BOOKING_STATUS_HELD,
        start_time=stamp(moment),
        student=booking_pb2.BookedStudent(full_name="Ada"),
    )
    told = masks.reader(pb.Instructor, ("active", "travel_buffer_minutes", "etag"))
    assert told((False, None, 3)) == pb.Instructor(active=False, etag="3")
    with pytest.raises(KeyError):
        masks.reader(booking_pb2.Booking, ("status",))(("asleep",))


def test_of_a_message_is_kept_what_was_asked_for() -> None:
    policy = pb.CancellationPolicy(full_refund_hours=24, partial_refund_hours=2)
    org = pb.Organization(id="a", name="b", cancellation_policy=policy)
    kept = masks.kept(org, ("name", "cancellation_policy.full_refund_hours"))
    policy.ClearField("partial_refund_hours")
    assert kept == pb.Organization(name="b", cancellation_policy=policy)


# --- what to change ---

MUTABLE = (
    "name",
    "hold_minutes",
    "cancellation_policy.full_refund_hours",
    "cancellation_policy.partial_refund_hours",
)
GIVEN = pb.Organization(
    id="7", hold_minutes=5, cancellation_policy=pb.CancellationPolicy(full_refund_hours=2)
)


@pytest.mark.parametrize(
    ("asked", "got"),
    [
        ([], ("hold_minutes", "cancellation_policy.full_refund_hours")),
        (["name"], ("name",)),
        (["hold_minutes", "name", "name"], ("name", "hold_minutes")),
        (["cancellation_policy"], MUTABLE[2:]),
        (["cancellation_policy.partial_refund_hours"], MUTABLE[3:]),
    ],
)
def test_a_change_is_what_the_mask_names_or_what_is_set(
    asked: list[str], got: tuple[str, ...]
) -> None:
    assert masks.changes(FieldMask(paths=asked), MUTABLE, GIVEN) == got


def test_an_optional_field_that_is_set_to_its_default_is_set() -> None:
    given = pb.Instructor(active=False, travel_buffer_minutes=0, phone="")
    paths = ("phone", "active", "travel_buffer_minutes")
    assert masks.changes(FieldMask(), paths, given) == paths[1:]


@pytest.mark.parametrize("path", ["", "*", "id", "hold_minute", "name.x", "cancellation_policy."])
def test_a_path_that_can_not_be_changed_is_refused_by_name(path: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        masks.changes(FieldMask(paths=["name", path]), MUTABLE, GIVEN)
    assert caught.value.reason == "UPDATE_MASK_INVALID"
    assert [field for field, _ in caught.value.fields] == ["update_mask"]
