"""Waitlist entries. No I/O."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime

OPEN = ("waiting", "offered")
"""Statuses from which a student may leave."""


@dataclass(frozen=True, slots=True)
class WaitlistEntry:
    """A student who waits for a slot that starts within [start_at, end_at)."""

    id: uuid.UUID
    student_id: uuid.UUID
    service_id: uuid.UUID
    instructor_id: uuid.UUID | None
    start_at: datetime
    end_at: datetime
    status: str
    booking_id: uuid.UUID | None
    version: int
    created_at: datetime
