"""An upload as one stream has it open: how far it is, and what its gateway is still to be told."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field

from libs.errors import Aborted, DomainError
from services.tracking.model import RejectedPoint

Key = tuple[uuid.UUID, str, uuid.UUID]


@dataclass(slots=True, eq=False)
class OpenedUpload:
    """An upload as one stream has it open."""

    org_id: uuid.UUID
    subject: str
    upload_id: uuid.UUID
    epoch: int
    durable_through: int
    received_through: int
    wake: Callable[[], None] = field(default=lambda: None)
    """Called when the fields below have changed."""
    stored: int = 0
    duplicates: int = 0
    rejected: list[RejectedPoint] = field(default_factory=list)
    rejected_count: int = 0
    failure: DomainError | None = None
    queued: int = 0
    lane: int = 0
    """Which fast lane stores it."""
    slow: bool = False
    """Or whether the slow lane does."""
    clean_flushes: int = 0

    @property
    def key(self) -> Key:
        return (self.org_id, self.subject, self.upload_id)

    def fail(self, why: DomainError) -> None:
        """Nothing more of this stream can be stored."""
        if self.failure is None:
            self.failure = why
            self.wake()


def superseded() -> DomainError:
    """Answer to a stream whose upload was opened elsewhere."""
    return Aborted("STREAM_SUPERSEDED", "The upload was opened again by another stream.")
