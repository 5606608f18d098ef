"""The short way to see that a request breaks no rule agrees with protovalidate."""

from __future__ import annotations

from typing import Any

import protovalidate
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from driveflow.booking.v1 import booking_pb2 as pb
from driveflow.booking.v1 import directory_pb2
from driveflow.tracking.v1 import tracking_pb2
from libs import client, validation
from libs.errors import InvalidArgument

IDS = st.one_of(
    st.uuids().map(str),
    st.uuids().map(lambda each: str(each).upper()),
    st.sampled_from(["", "{0a000000-0000-7000-8000-000000000001}", "0" * 32, "\n", "é"]),
    st.uuids().map(lambda each: f"{each}\n"),
    st.text(max_size=40),
)
NUMBERS = st.one_of(st.integers(-3, 3), st.sampled_from([-(2**31), 2**31 - 1, 1_000, 1_001]))
DEGREES = st.one_of(
    st.none(), st.floats(), st.sampled_from([-90.0, 90.0, -180.0, 180.0, 0.0, -90.1, 180.1])
)
PLACES = st.one_of(st.none(), st.builds(pb.Place, lat=DEGREES, lng=DEGREES, address=st.text()))
BOOKINGS = st.builds(
    pb.Booking, student_id=IDS, vehicle_id=st.just("") | IDS, pickup=PLACES, notes=st.text()
)
REQUESTS = st.one_of(
    st.builds(pb.CreateBookingRequest, request_id=IDS, booking=st.none() | BOOKINGS),
    st.builds(
        pb.CreateBookingRequest,
        request_id=st.uuids().map(str),
        booking=st.builds(pb.Booking, student_id=st.uuids().map(str), dropoff=PLACES),
    ),
    st.builds(pb.GetBookingRequest, booking_id=IDS),
    st.builds(
        pb.ListBookingsRequest,
        student_id=IDS,
        instructor_id=IDS,
        page_size=NUMBERS,
        status=st.integers(0, 12),
        page_token=st.text(max_size=5),
    ),
    st.builds(tracking_pb2.GetTripRequest, trip_id=IDS),
    st.builds(
        directory_pb2.ListStudentsRequest, page_size=NUMBERS, name_prefix=st.text(max_size=120)
    ),
)


def breaks_no_rule(message: Any) -> bool:
    try:
        protovalidate.validate(message)
    except protovalidate.ValidationError:
        return False
    return True


@given(REQUESTS)
@settings(max_examples=600, deadline=None)
def test_what_is_let_through_breaks_no_rule(request: Any) -> None:
    assert validation.check(request.DESCRIPTOR)(request) == breaks_no_rule(request)


@pytest.mark.parametrize("service", client.SERVICES, ids=lambda each: str(each.name))
def test_an_empty_request_is_let_through_only_if_it_breaks_no_rule(service: Any) -> None:
    for method in service.methods:
        if not method.client_streaming:
            empty = method.input_type._concrete_class()
            assert not validation.check(method.input_type)(empty) or breaks_no_rule(empty)


def test_rules_of_other_kinds_are_left_to_protovalidate() -> None:
    request = pb.BatchCreateBookingsRequest()
    assert not validation.check(request.DESCRIPTOR)(request)
    with pytest.raises(InvalidArgument) as raised:
        validation.validate(request)
    assert raised.value.reason == "INVALID_REQUEST"


def test_a_broken_rule_has_protovalidates_words() -> None:
    with pytest.raises(InvalidArgument, match="booking_id: must be a valid UUID"):
        validation.validate(pb.GetBookingRequest(booking_id="x"))
