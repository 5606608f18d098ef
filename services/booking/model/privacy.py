"""What is left of a student after erasure. No I/O."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from libs.errors import FailedPrecondition

EXPORTED_MAX = 5_000
"""Of each kind in an export."""
LESSONS_PER_EVENT = 200
AUDIT_BATCH = 1_000
ERASED = "erased"
# Whatever else a value's name is, it goes: a new field is personal until it is named here.
_KEPT = re.compile(
    r"(\w+_)?(ids?|time|cents|minutes?|min|count|meters|percent|hours|version|status|currency)"
    r"|active|rating|guardians|bookings|lessons|waitlist_entries"
)


def without_person(values: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Values of an audit entry: ids, times and figures stay, texts and places are `erased`."""
    if values is None:
        return None
    return {name: _without_person(name, value) for name, value in values.items()}


def _without_person(name: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        return without_person(value)
    if isinstance(value, list):
        return [_without_person(name, each) for each in value]
    if value is None or value == "" or _KEPT.fullmatch(name):
        return value
    return ERASED


def student_has_bookings() -> FailedPrecondition:
    return FailedPrecondition(
        "STUDENT_HAS_BOOKINGS", "The student has live bookings: cancel or finish them first."
    )
