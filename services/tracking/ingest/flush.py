"""What one transaction is to store: rows in the order of the key, each point once."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from services.tracking.ingest import copying, decoding
from services.tracking.ingest.decoding import Batch
from services.tracking.ingest.judging import REASONS, Rows, TripState
from services.tracking.ingest.uploads import Key, OpenedUpload
from services.tracking.model import RejectedPoint


@dataclass(slots=True)
class Flush:
    """Rows that can be stored, sorted and without duplicates among themselves."""

    batches: Sequence[Batch]
    rows: Rows
    trips: list[TripState]
    orgs: list[uuid.UUID]
    """Whose each trip is."""
    duplicates: dict[OpenedUpload, int]
    rejected: dict[OpenedUpload, list[RejectedPoint]]

    def of(self, uploads: Sequence[OpenedUpload]) -> Rows:
        wanted = set(uploads)
        chosen = np.array([batch.upload in wanted for batch in self.batches], np.bool_)
        return self.rows if chosen.all() else self.rows.take(chosen[self.rows.batch])

    def encode(self, rows: Rows) -> bytes:
        """Some of the rows for COPY; nothing without rows."""
        if not len(rows):
            return b""
        org_ids = [batch.upload.org_id.bytes for batch in self.batches]
        return copying.encode(rows, org_ids, [state.id for state in self.trips])

    def marks(self, uploads: Sequence[OpenedUpload]) -> list[tuple[Key, int]]:
        through = {batch.upload: batch.sequence for batch in self.batches}
        return [(upload.key, through[upload]) for upload in uploads]

    def values(self, rows: Rows) -> dict[str, Any]:
        """Some of the rows as arrays for INSERT … SELECT unnest."""
        ids = [uuid.UUID(bytes=state.id) for state in self.trips]
        return copying.columns(rows) | {"trip_ids": [ids[trip] for trip in rows.trip.tolist()]}


def uploads_of(batches: Iterable[Batch]) -> list[OpenedUpload]:
    return list(dict.fromkeys(batch.upload for batch in batches))


def rejected_of(
    batches: Sequence[Batch], rows: Rows, verdicts: np.ndarray[tuple[int], np.dtype[np.uint8]]
) -> dict[OpenedUpload, list[RejectedPoint]]:
    reasons: dict[int, dict[int, str]] = {}
    for row in np.flatnonzero(verdicts).tolist():
        place, index = int(rows.batch[row]), int(rows.index[row])
        reasons.setdefault(place, {})[index] = REASONS[int(verdicts[row])]
    rejected: dict[OpenedUpload, list[RejectedPoint]] = {}
    for place in sorted(reasons):
        points = decoding.rejected_points(batches[place], reasons[place])
        rejected.setdefault(batches[place].upload, []).extend(points)
    return rejected


def without_duplicates(
    batches: Sequence[Batch], rows: Rows, states: Sequence[TripState]
) -> tuple[Rows, dict[OpenedUpload, int]]:
    """The rows by trip and time, the first of each, and how many went by upload."""
    if not len(rows):
        return rows, {}
    # One trip may be named in two spellings.
    first: dict[bytes, int] = {}
    places = [first.setdefault(state.id, place) for place, state in enumerate(states)]
    rows.trip = np.array(places, np.int64)[rows.trip]
    # In the order of the key, as every writer has it: two that meet the same points never wait
    # for each other in a circle.
    order = np.empty(len(states), np.int64)
    order[sorted(range(len(states)), key=lambda place: states[place].id)] = range(len(states))
    trip_order = order[rows.trip]
    in_order = rows.take(np.lexsort((rows.time_us, trip_order)))
    again = (np.diff(in_order.trip) == 0) & (np.diff(in_order.time_us) == 0)
    if not again.any():
        return in_order, {}
    # Of equal points the first of the upload stays that is stored first, should the flush be split:
    # the others are acknowledged after it.
    ranks = {upload: rank for rank, upload in enumerate(uploads_of(batches))}
    rank = np.array([ranks[batch.upload] for batch in batches], np.int64)[rows.batch]
    rows = rows.take(np.lexsort((rows.index, rows.batch, rank, rows.time_us, trip_order)))
    duplicate = np.concatenate([[False], again])
    counts = np.bincount(rows.batch[duplicate], minlength=len(batches))
    gone: dict[OpenedUpload, int] = {}
    for batch, count in zip(batches, counts.tolist(), strict=True):
        gone[batch.upload] = gone.get(batch.upload, 0) + count
    return rows.take(~duplicate), gone
