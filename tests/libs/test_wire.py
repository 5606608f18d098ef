"""Messages written from rows are what the messages themselves would write."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from driveflow.booking.v1 import booking_pb2 as pb
from libs import wire
from services.booking.messages import bookings as messages
from services.booking.store import bookings as store

YEARS_US = (-62_135_596_800_000_000, 253_402_300_799_999_999)
"""0001-01-01 to the end of 9999, as Timestamps have them."""
IDS = st.uuids().map(str)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=300)
NUMBERS = st.integers(-(2**31), 2**31 - 1)


def column(path: str) -> st.SearchStrategy[Any]:
    """What PostgreSQL may return for a path of a booking."""
    name = path.rpartition(".")[2]
    if path == "status":
        return st.sampled_from([*messages.STATUSES])
    if name.endswith("_time"):
        return st.none() | st.integers(*YEARS_US)
    if name == "id" or name.endswith("_id"):
        return IDS if path in {"id", "student_id"} else st.none() | IDS
    if name.endswith(("_minutes", "_count", "_cents")):
        return NUMBERS | st.just(0)
    if name in {"lat", "lng"}:
        return st.none() | st.floats(-180, 180)
    return TEXTS if name in {"address", "etag"} else st.none() | TEXTS


@st.composite
def rows(draw: st.DrawFn) -> tuple[tuple[str, ...], tuple[Any, ...]]:
    """A mask, and a row with its columns."""
    chosen = draw(st.sets(st.sampled_from([*store.FIELDS]), min_size=1))
    paths = draw(st.sampled_from([store.DAY_PATHS, tuple(chosen)]))
    return paths, tuple(draw(column(path)) for path in paths)


@given(rows())
def test_a_row_is_written_as_its_message_would_be(
    drawn: tuple[tuple[str, ...], tuple[Any, ...]],
) -> None:
    paths, row = drawn
    written = messages.writer(paths)(row).encode("latin-1")
    assert written == _message(paths, row).SerializeToString(deterministic=True)


def _message(paths: tuple[str, ...], row: tuple[Any, ...]) -> pb.Booking:
    """The booking of a row, field by field."""
    booking = pb.Booking()
    for path, value in zip(paths, row, strict=True):
        above, _, name = path.rpartition(".")
        if value is None or (name == "address" and not value):
            continue
        within = getattr(booking, above) if above else booking
        if above:
            within.SetInParent()
        if name == "status":
            within.status = messages.STATUSES[value]
        elif name.endswith("_time"):
            seconds, us = divmod(value, 1_000_000)
            getattr(within, name).CopyFrom(Timestamp(seconds=seconds, nanos=us * 1_000))
        else:
            setattr(within, name, value)
    return booking


@given(st.lists(TEXTS, max_size=3), TEXTS)
def test_a_response_is_its_parts(notes: list[str], token: str) -> None:
    kind, paths = pb.ListBookingsResponse, ("id", "notes")
    rows = [(str(uuid.UUID(int=no)), text) for no, text in enumerate(notes)]
    shown = messages.listed(kind.DESCRIPTOR, paths, rows)
    last = wire.field(kind.DESCRIPTOR, "next_page_token") + wire.string(token)
    expected = kind(bookings=[pb.Booking(id=id_, notes=text) for id_, text in rows])
    expected.next_page_token = token
    response: object = wire.response(kind, shown, last)
    assert isinstance(response, bytes)
    assert kind.FromString(response) == expected


@pytest.mark.parametrize("path", ["start_tim", "student.name", "student", "start_time.seconds.x"])
def test_what_could_not_be_written_is_refused_beforehand(path: str) -> None:
    with pytest.raises(ValueError, match="not written here"):
        wire.writer(pb.Booking.DESCRIPTOR, (path,), {"status": messages.STATUSES})
