"""Between slots and their messages."""

from __future__ import annotations

import uuid
from typing import Any

from driveflow.booking.v1 import booking_pb2 as pb
from libs.errors import InvalidArgument
from libs.messages import optional_id, required_id, stamp, text, time
from services.booking.explaining import Explanation
from services.booking.model.bookings import Place
from services.booking.model.slots import Quote, Slot, Wanted

SIX_DECIMALS = 6
VERDICTS = {
    True: pb.STEP_VERDICT_ALLOWS,
    False: pb.STEP_VERDICT_DENIES,
    None: pb.STEP_VERDICT_NEUTRAL,
}


def slot(row: Slot, token: str) -> pb.Slot:
    return pb.Slot(
        start_time=stamp(row.start_at),
        end_time=stamp(row.end_at),
        instructor_id=str(row.instructor_id),
        price_cents=row.price_cents,
        currency=row.currency,
        slot_token=token,
    )


def explanation(found: Explanation) -> pb.AvailabilityExplanation:
    return pb.AvailabilityExplanation(
        available=not found.reason,
        reason=found.reason,
        local_time=found.local_time,
        steps=[
            pb.AvailabilityStep(
                rule=step.rule, id=text(step.id), verdict=VERDICTS[step.allows], detail=step.detail
            )
            for step in found.steps
        ],
    )


def wanted(booking: pb.Booking, quote: Quote | None, where: str = "booking.") -> Wanted:
    """The booking that a request describes; what its slot token says stands in for what is unset.

    Raises InvalidArgument for what is missing, or differs from the token.
    """
    return Wanted(
        student_id=required_id(booking.student_id, f"{where}student_id"),
        instructor_id=_quoted_id(booking.instructor_id, quote, "instructor_id", where),
        service_id=_quoted_id(booking.service_id, quote, "service_id", where),
        vehicle_id=optional_id(booking.vehicle_id),
        start_at=_quoted_start(booking, quote, where),
        end_at=time(booking, "end_time"),
        pickup=_place(booking, "pickup", where),
        dropoff=_place(booking, "dropoff", where),
        notes=booking.notes,
        quote=quote,
    )


def _quoted_id(given: str, quote: Quote | None, name: str, where: str) -> uuid.UUID:
    if quote is None:
        return required_id(given, f"{where}{name}")
    quoted: uuid.UUID = getattr(quote, name)
    if given and uuid.UUID(given) != quoted:
        raise _not_the_tokens(f"{where}{name}")
    return quoted


def _quoted_start(message: Any, quote: Quote | None, where: str) -> Any:
    start_at = time(message, "start_time")
    if quote is not None and start_at not in (None, quote.start_at):
        raise _not_the_tokens(f"{where}start_time")
    found = start_at if quote is None else quote.start_at
    if found is None:
        raise InvalidArgument(
            "INVALID_REQUEST",
            f"{where}start_time: is missing",
            fields=[(f"{where}start_time", "is missing")],
        )
    return found


def _place(booking: pb.Booking, name: str, where: str) -> Place:
    place: pb.Place = getattr(booking, name)
    if place.HasField("lat") != place.HasField("lng"):
        raise InvalidArgument(
            "INVALID_REQUEST",
            f"{where}{name}: lat and lng come together",
            fields=[(f"{where}{name}", "lat and lng come together")],
        )
    if not place.HasField("lat"):
        return Place(place.address)
    return Place(place.address, round(place.lat, SIX_DECIMALS), round(place.lng, SIX_DECIMALS))


def _not_the_tokens(field: str) -> InvalidArgument:
    return InvalidArgument(
        "SLOT_TOKEN_INVALID",
        f"{field}: is not what the slot token says.",
        fields=[(field, "is not what the slot token says")],
    )
