"""Answers kept for request ids, without the student that they name."""

from __future__ import annotations

from datetime import datetime
from functools import cache
from typing import Any

from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from driveflow.booking.v1 import booking_pb2, directory_pb2
from libs.messages import stamp
from services.booking.model.directory import ERASED_NAME

# Message -> (field with the student's id, fields that name him).
_PERSONAL: dict[str, tuple[str, tuple[str, ...]]] = {
    "Student": ("id", ("full_name", "phone", "email", "birth_date", "notes")),
    "Guardian": ("student_id", ("full_name", "phone", "email", "relationship")),
    "Booking": ("student_id", ("pickup", "dropoff", "notes", "cancel_reason", "student")),
    "Lesson": ("student_id", ("notes",)),
}


def erased_answer(method: str, answer: bytes, student_id: str, erased_at: datetime) -> bytes:
    """The answer to a request (by its message's full name) as it may be kept."""
    message = _answers()[method].FromString(answer)
    _erase(message, student_id, erased_at)
    return bytes(message.SerializeToString())


def _erase(message: Any, student_id: str, erased_at: datetime) -> None:
    """Clear what names the student, at any depth."""
    name = message.DESCRIPTOR.name
    owner, personal = _PERSONAL.get(name, ("", ()))
    if owner and getattr(message, owner) == student_id:
        for field in personal:
            message.ClearField(field)
        if name == "Student":
            message.full_name = ERASED_NAME
            message.erase_time.CopyFrom(stamp(erased_at))
    for field, value in message.ListFields():
        if field.message_type is not None:
            for each in value if field.is_repeated else [value]:
                _erase(each, student_id, erased_at)


@cache
def _answers() -> dict[str, type[Message]]:
    """Full name of a request -> the message that answers it."""
    return {
        method.input_type.full_name: GetMessageClass(method.output_type)
        for module in (booking_pb2, directory_pb2)
        for service in module.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }
