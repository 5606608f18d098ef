"""One transaction for whatever waits: the writer behind all streams of a process.

Each upload belongs to one of two fast lanes. While a lane writes a flush, the next one gathers, so
there is no timer: a quiet server stores a batch at once, a busy one 10,000 rows at a time. A flush
locks the marks of its uploads, copies the points, moves the marks, commits; only then are the
streams told.

An upload whose points collide with stored ones (a gateway that lost its memory) leaves its fast
lane: the slow lane stores its points one upload at a time with ON CONFLICT DO NOTHING, and rests
while others are being served.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
import uuid
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import numpy as np
import psycopg
from psycopg import errors as pg

from libs import errors, telemetry
from libs.orgs import Orgs
from libs.pooling import Connection, Pool, connection
from services.tracking import store
from services.tracking.ingest import judging
from services.tracking.ingest.decoding import Batch
from services.tracking.ingest.flush import Flush, rejected_of, uploads_of, without_duplicates
from services.tracking.ingest.judging import CODE, Rows, Trips
from services.tracking.ingest.known import Known
from services.tracking.ingest.uploads import Key, OpenedUpload, superseded
from services.tracking.model import REJECTED_PER_DAY_MAX, RejectedPoint
from services.tracking.summaries import Summaries

log = logging.getLogger(__name__)

FAST_LANES = 2
"""While one waits for the database, the other makes its rows ready."""
FLUSH_ROWS_MAX = 10_000
SLOW_FLUSH_ROWS_MAX = 2_000
QUEUE_ROWS_MAX = 50_000
UPLOAD_ROWS_MAX = 20_000
"""Rows of one upload that may wait; then its stream is not read on, and HTTP/2 holds it back."""
SLOW_REST_FACTOR = 9.0
"""While others are being served, the slow lane rests so many times as long as it worked."""
SLOW_REST_MAX_S = 1.0
"""But no longer: a flush that waited for a database that was gone says nothing about its cost."""
CLEAN_FLUSHES_TO_LEAVE = 10
REJECTIONS_TOLD_MAX = 1_000
FLUSH_TRIES = 3
OPENING_MAX = 10
_BUSY = (errors.Aborted, errors.DeadlineExceeded, errors.ResourceExhausted)


@dataclass(slots=True)
class _Lane:
    """What waits to be stored the fast way."""

    waiting: deque[Batch] = field(default_factory=deque)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)


class _Stale(Exception):
    """Uploads of a flush turned out to be superseded; the others are flushed again."""

    def __init__(self, uploads: Sequence[OpenedUpload]) -> None:
        self.uploads = uploads


class Writer:
    """Stores the batches of all streams of this process."""

    def __init__(
        self,
        tenants: Orgs,
        ingest_pool: Pool,
        known: Known,
        summaries: Summaries,
    ) -> None:
        self._orgs = tenants
        self._pool = ingest_pool
        self._known = known
        self._summaries = summaries
        self._fast = [_Lane() for _ in range(FAST_LANES)]
        self._turns = itertools.cycle(range(FAST_LANES))
        self._slow: deque[Batch] = deque()
        self._slow_arrived = asyncio.Event()
        self._room = asyncio.Event()
        self._queued = 0
        self._rows_per_s = 50_000.0
        self._open: dict[Key, OpenedUpload] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self.opening = asyncio.Semaphore(OPENING_MAX)
        """Held while an upload is being opened: a fleet that comes back takes turns."""
        self._points = telemetry.counter(
            "driveflow.ingest.points", "{point}", "Points received, by what became of them"
        )
        self._duration = telemetry.histogram(
            "driveflow.ingest.flush.duration", "s", "Duration of flushes by lane"
        )

    def start(self) -> None:
        """Begin to store what is submitted."""
        lanes = [self._fast_lane(lane) for lane in self._fast]
        self._tasks = [asyncio.create_task(work) for work in (*lanes, self._slow_lane())]

    async def stop(self) -> None:
        """End the lanes. Streams have ended before; what waits was never acknowledged."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def opened(self, upload: OpenedUpload) -> None:
        """Take note of an open upload; a stream of this process that had it open is told."""
        before = self._open.get(upload.key)
        if before is not None and before.epoch > upload.epoch:
            # Of two that open at once the later one may be heard of first.
            upload.fail(superseded())
            return
        if before is not None:
            before.fail(superseded())
        self._open[upload.key] = upload
        upload.lane = next(self._turns)

    def closed(self, upload: OpenedUpload) -> None:
        """The upload's stream has ended."""
        if self._open.get(upload.key) is upload:
            del self._open[upload.key]

    async def submit(self, batch: Batch) -> None:
        """Queue a batch; waits while too much waits already."""
        upload = batch.upload
        while self._queued >= QUEUE_ROWS_MAX or upload.queued >= UPLOAD_ROWS_MAX:
            await self._room.wait()
            if upload.failure is not None:
                return
        self._hold(batch)
        lane = self._fast[upload.lane]
        lane.waiting.append(batch)
        lane.arrived.set()

    def pace(self) -> tuple[int, int]:
        """Interval (ms) and points per batch that would suit this server now."""
        waiting_s = self._queued / self._rows_per_s
        if waiting_s < 0.5:
            return 0, 100
        return min(30_000, int(waiting_s * 1_000)), 1_000 if waiting_s > 2 else 500

    # --- the lanes ---

    async def _fast_lane(self, lane: _Lane) -> None:
        while True:
            batches = await self._gather(lane)
            started = time.perf_counter()
            await self._flush_or_fail(batches, self._store_fast)
            self._measured("fast", batches, time.perf_counter() - started)

    async def _slow_lane(self) -> None:
        while True:
            batches = await self._gather_slow()
            started = time.perf_counter()
            await self._flush_or_fail(batches, self._store_slow)
            seconds = time.perf_counter() - started
            self._measured("slow", batches, seconds)
            if len(self._open) > 1:
                await asyncio.sleep(min(seconds * SLOW_REST_FACTOR, SLOW_REST_MAX_S))

    async def _gather(self, lane: _Lane) -> list[Batch]:
        """Wait for something; whatever waits then, up to the rows of a flush."""
        while True:
            batches = self._take(lane)
            if batches:
                return batches
            lane.arrived.clear()
            await lane.arrived.wait()

    def _take(self, lane: _Lane) -> list[Batch]:
        """What waits in a fast lane, up to the rows of a flush; slow uploads change lanes."""
        taken: list[Batch] = []
        waiting = lane.waiting
        rows = 0
        while waiting and (not taken or rows + waiting[0].count <= FLUSH_ROWS_MAX):
            batch = waiting.popleft()
            if batch.upload.slow and batch.upload.failure is None:
                self._to_slow(batch)
                continue
            self._release(batch)
            if batch.upload.failure is None:
                taken.append(batch)
                rows += batch.count
        self._make_room()
        return taken

    def _to_slow(self, batch: Batch) -> None:
        self._slow.append(batch)
        self._slow_arrived.set()

    async def _gather_slow(self) -> list[Batch]:
        """What waits of the upload that waits longest, up to the rows of a slow flush."""
        while not self._slow:
            self._slow_arrived.clear()
            await self._slow_arrived.wait()
        upload = self._slow[0].upload
        batches: list[Batch] = []
        others: deque[Batch] = deque()
        rows = 0
        for batch in self._slow:
            fits = not batches or rows + batch.count <= SLOW_FLUSH_ROWS_MAX
            if batch.upload is upload and fits:
                batches.append(batch)
                rows += batch.count
            else:
                others.append(batch)
                # What follows of this upload must follow in order.
                rows += SLOW_FLUSH_ROWS_MAX if batch.upload is upload else 0
        self._slow = others
        for batch in batches:
            self._release(batch)
        self._make_room()
        return batches

    async def _flush_or_fail(
        self,
        batches: Sequence[Batch],
        store_flush: Callable[[Flush, Sequence[OpenedUpload]], Awaitable[None]],
    ) -> None:
        """Flush; on a failure end the streams concerned: their gateways resume from the marks."""
        left: Sequence[Batch] = batches
        try:
            for _ in range(FLUSH_TRIES):
                left = [batch for batch in left if batch.upload.failure is None]
                if not left:
                    return
                try:
                    await store_flush(await self._prepare(left), uploads_of(left))
                    return
                except _Stale as stale:
                    for upload in stale.uploads:
                        upload.fail(superseded())
                except pg.CheckViolation:
                    # A month went between the judging and the copying.
                    await self._known.reread_months()
                left = [b for b in left if b.sequence > b.upload.durable_through]
            raise errors.Unavailable("DATABASE_BUSY", "The flush did not settle.", retry_after_s=1)
        except Exception as error:  # noqa: BLE001 (the lane must live; the streams are told)
            meaning = errors.translate(error)
            if isinstance(meaning, _BUSY):
                # A stream knows no deadline and no conflict: its gateway opens again and goes on.
                meaning = errors.Unavailable(
                    "DATABASE_BUSY", "The database is busy.", retry_after_s=1
                )
            if isinstance(meaning, errors.Internal):
                telemetry.log_fault(log, "flush failed", error, error_id=meaning.error_id)
            else:
                log.warning("flush failed", extra={"reason": meaning.reason})
            for upload in uploads_of(left):
                upload.fail(meaning)

    def _hold(self, batch: Batch) -> None:
        """It waits: count it against what may wait."""
        weight = max(1, batch.count)
        self._queued += weight
        batch.upload.queued += weight

    def _release(self, batch: Batch) -> None:
        """It waits no longer."""
        weight = max(1, batch.count)
        self._queued -= weight
        batch.upload.queued -= weight

    def _make_room(self) -> None:
        """Let those submit who wait for room."""
        self._room.set()
        self._room = asyncio.Event()

    def _measured(self, lane: str, batches: Sequence[Batch], seconds: float) -> None:
        self._duration.record(seconds, {"lane": lane})
        rows = sum(batch.count for batch in batches)
        if lane == "fast" and rows > 1_000:
            self._rows_per_s += 0.2 * (rows / max(seconds, 1e-6) - self._rows_per_s)

    # --- one flush ---

    async def _prepare(self, batches: Sequence[Batch]) -> Flush:
        """Judge the points, keep the rejected ones, put the others in order."""
        trips = Trips.of(batches)
        states = await self._known.trips(trips)
        rows = judging.assemble(batches, trips)
        verdicts = judging.judge(rows, states, await self._known.months())
        if verdicts is not None and (verdicts == CODE["NO_PARTITION"]).any():
            verdicts = judging.judge(rows, states, await self._known.months_of_late())
        rejected: dict[OpenedUpload, list[RejectedPoint]] = {}
        if verdicts is not None:
            rejected = rejected_of(batches, rows, verdicts)
            await self._keep_rejected(rejected)
            rows = rows.take(verdicts == 0)
        rows, duplicates = without_duplicates(batches, rows, states)
        orgs = [org_id for org_id, _ in trips.keys]
        flush = Flush(batches, rows, states, orgs, duplicates, rejected)
        await self._unsettle(flush)
        return flush

    async def _unsettle(self, flush: Flush) -> None:
        """Late points: should this process die after storing them, the sweep finds their trips."""
        late: dict[uuid.UUID, list[uuid.UUID]] = {}
        for trip in np.unique(flush.rows.trip).tolist():
            if flush.trips[trip].ended:
                trip_id = uuid.UUID(bytes=flush.trips[trip].id)
                late.setdefault(flush.orgs[trip], []).append(trip_id)
        for org_id, trip_ids in late.items():
            async with self._orgs.write(org_id) as conn:
                await store.unsettle_trips(conn, org_id, trip_ids)

    async def _store_fast(self, flush: Flush, uploads: Sequence[OpenedUpload]) -> None:
        """COPY; where stored points are in the way, find out whose by halving."""
        try:
            await self._copy(flush, uploads)
        except pg.UniqueViolation:
            if len(uploads) == 1:
                await self._store_slow(flush, uploads)
                # Not before it is stored: what follows of it may then go the slow way at once.
                uploads[0].slow = True
                return
            middle = len(uploads) // 2
            await self._store_fast(flush, uploads[:middle])
            await self._store_fast(flush, uploads[middle:])

    async def _copy(self, flush: Flush, uploads: Sequence[OpenedUpload]) -> None:
        rows = flush.of(uploads)
        data = flush.encode(rows)
        with telemetry.span("tracking.flush", rows=len(rows), uploads=len(uploads)):
            async with connection(self._pool) as conn, _rolled_back_on_error(conn):
                # Each wait costs a turn of the loop: milliseconds, on a busy server.
                async with conn.pipeline():
                    await conn.execute(b"BEGIN")
                    await self._lock(conn, uploads)
                if data:
                    await store.copy_points(conn, data)
                async with conn.pipeline():
                    await store.move_marks(conn, flush.marks(uploads))
                    await conn.execute(b"COMMIT")
        self._finished(flush, uploads, rows, None)

    async def _lock(self, conn: Connection, uploads: Sequence[OpenedUpload]) -> None:
        """Lock the uploads' marks; raise _Stale with those that are open elsewhere."""
        locked = await store.lock_uploads(conn, [upload.key for upload in uploads])
        epochs = {row.key: row.epoch for row in locked}
        stale = [upload for upload in uploads if epochs.get(upload.key) != upload.epoch]
        if stale:
            raise _Stale(stale)

    async def _store_slow(self, flush: Flush, uploads: Sequence[OpenedUpload]) -> None:
        """Insert what is new of one upload, as the role that row-level security holds."""
        (upload,) = uploads
        rows = flush.of(uploads)
        async with self._orgs.write(upload.org_id) as conn:
            mark = await store.lock_upload(conn, upload.key)
            if mark is None or mark[0] != upload.epoch:
                raise _Stale(uploads)
            new = 0
            if len(rows):
                new = await store.add_new_points(conn, upload.org_id, **flush.values(rows))
            ((_, through),) = flush.marks(uploads)
            await store.move_mark(conn, upload.key, through)
        self._finished(flush, uploads, rows, new)
        upload.clean_flushes = upload.clean_flushes + 1 if new == len(rows) else 0
        if upload.clean_flushes >= CLEAN_FLUSHES_TO_LEAVE and not self._waits_slow(upload):
            upload.slow = False

    def _waits_slow(self, upload: OpenedUpload) -> bool:
        return any(batch.upload is upload for batch in self._slow)

    def _finished(
        self, flush: Flush, uploads: Sequence[OpenedUpload], rows: Rows, new: int | None
    ) -> None:
        """It is committed: count, tell the streams, have ended trips summarised anew."""
        counts = np.bincount(rows.batch, minlength=len(flush.batches))
        stored = dict.fromkeys(uploads, 0)
        for place, batch in enumerate(flush.batches):
            if batch.upload in stored:
                stored[batch.upload] += int(counts[place])
                batch.upload.durable_through = batch.sequence
        outcomes = Counter[str]()
        for upload in uploads:
            already = 0 if new is None else stored[upload] - new
            rejected = flush.rejected.get(upload, [])
            outcomes["stored"] += stored[upload] - already
            outcomes["duplicate"] += flush.duplicates.get(upload, 0) + already
            outcomes["rejected"] += len(rejected)
            upload.stored += stored[upload] - already
            upload.duplicates += flush.duplicates.get(upload, 0) + already
            upload.rejected_count += len(rejected)
            upload.rejected += rejected[: REJECTIONS_TOLD_MAX - len(upload.rejected)]
            upload.wake()
        for outcome, count in outcomes.items():
            self._points.add(count, {"outcome": outcome})
        self._touch(flush, rows)

    def _touch(self, flush: Flush, rows: Rows) -> None:
        for trip in np.unique(rows.trip).tolist():
            self._summaries.touch(flush.orgs[trip], uuid.UUID(bytes=flush.trips[trip].id))

    async def _keep_rejected(self, rejected: dict[OpenedUpload, list[RejectedPoint]]) -> None:
        """Keep them before the marks move: a crash between the two loses nothing."""
        for upload, points in rejected.items():
            async with self._orgs.write(upload.org_id) as conn:
                mark = await store.lock_upload(conn, upload.key)
                if mark is None or mark[0] != upload.epoch:
                    raise _Stale([upload])
                kept = await store.count_rejected(
                    conn, upload.org_id, len(points), REJECTED_PER_DAY_MAX
                )
                if kept:
                    await store.reject_points(conn, upload.key, points[:kept])


@asynccontextmanager
async def _rolled_back_on_error(conn: Connection) -> AsyncIterator[None]:
    try:
        yield
    except BaseException:
        with suppress(psycopg.Error):
            await conn.rollback()
        raise
