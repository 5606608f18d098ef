"""The protocol of a stream of points: open, batches, acknowledgements, and every way it can end."""

from __future__ import annotations

import asyncio
import uuid
from functools import partial
from typing import Any

import grpc

from driveflow.tracking.v1 import tracking_pb2 as pb
from libs import calls, errors, interceptors, validation
from libs.errors import DomainError, InvalidArgument, OutOfRange
from libs.orgs import Orgs
from services.tracking import messages, store
from services.tracking.ingest import decoding
from services.tracking.ingest.uploads import OpenedUpload
from services.tracking.ingest.writer import Writer

BATCH_POINTS_MAX = 10_000
ACK_EVERY_S = 0.5
"""Longest wait of a stream that goes on sending: an acknowledgement costs more than ten points."""
ACK_LINGER_S = 0.1
"""So long a stream that does not wait for acknowledgements is given to send more before one."""
ACK_LINGER_WAITING_S = 0.02
"""And so long one that may be waiting for it."""
SETTLE_S = 4.0
"""Longest wait for the last acknowledgement of a stream that ends."""


async def open_upload(orgs: Orgs, writer: Writer, upload_id: str, gateway: str) -> OpenedUpload:
    """Open the caller's upload; whoever had it open can store nothing more."""
    caller = calls.caller()
    key = uuid.UUID(upload_id)
    async with writer.opening, orgs.write(caller.org) as conn:
        epoch, through = await store.open_upload(conn, caller.org, caller.subject, key, gateway)
        await store.forget_unacknowledged_rejections(conn, caller.org, caller.subject, key, through)
    upload = OpenedUpload(caller.org, caller.subject, key, epoch, through, through)
    writer.opened(upload)
    if upload.failure is not None:
        raise upload.failure
    return upload


async def take(writer: Writer, upload: OpenedUpload, batch: pb.PointBatch) -> None:
    """Queue a batch, if it is the next; one that came before counts as duplicates."""
    expected = upload.received_through + 1
    # A gateway that counts from 0 must not hear that its first points were there already.
    if batch.sequence > expected or batch.sequence < 1:
        raise OutOfRange(
            "SEQUENCE_GAP",
            f"Expected batch {expected}, got {batch.sequence}.",
            metadata={"expected_sequence": str(expected)},
        )
    if batch.sequence < expected:
        upload.duplicates += decoding.count_points(batch)
        upload.wake()
        return
    decoded = decoding.decode(upload, batch)
    if decoded.count > BATCH_POINTS_MAX:
        raise InvalidArgument(
            "BATCH_TOO_LARGE", f"A batch has at most {BATCH_POINTS_MAX:,} points."
        )
    upload.received_through = batch.sequence
    await writer.submit(decoded)


def acknowledge(writer: Writer, upload: OpenedUpload) -> pb.UploadAck:
    """What has become durable and what was counted since the acknowledgement before."""
    interval_ms, batch_points = writer.pace()
    ack = pb.UploadAck(
        durable_through=upload.durable_through,
        stored=upload.stored,
        duplicates=upload.duplicates,
        rejected=[messages.rejection(point) for point in upload.rejected],
        rejected_count=upload.rejected_count,
        pace=pb.Pace(interval_ms=interval_ms, batch_points=batch_points),
    )
    upload.stored = upload.duplicates = upload.rejected_count = 0
    upload.rejected = []
    return ack


class Session:
    """One StreamTripPoints call."""

    def __init__(self, orgs: Orgs, writer: Writer, context: interceptors.Context) -> None:
        self._orgs = orgs
        self._writer = writer
        self._context = context
        self._wake = asyncio.Event()
        self._told_at = float("-inf")
        self._told = 0
        self._goes_on = False
        """Whether it has sent a batch before the one before was acknowledged."""
        self._later: asyncio.TimerHandle | None = None

    async def run(self) -> None:
        """Serve the stream to its end; raises why it ended unless the gateway half-closed."""
        stream = calls.stream()
        upload = await self._open()
        self._told = upload.durable_through
        stream.ends_itself = True
        upload.wake = partial(self._progress, upload)
        stream.ending.add_done_callback(lambda _: self._wake.set())
        reader = asyncio.ensure_future(self._read(upload))
        reader.add_done_callback(lambda _: self._wake.set())
        try:
            await self._context.write(
                pb.StreamTripPointsResponse(
                    opened=pb.UploadOpened(durable_through=upload.durable_through)
                )
            )
            await self._acknowledge_until_end(upload, reader, stream)
        finally:
            reader.cancel()
            self._writer.closed(upload)
            if self._later is not None:
                self._later.cancel()

    async def _open(self) -> OpenedUpload:
        first = await self._context.read()
        if first is grpc.aio.EOF or first.WhichOneof("message") != "open":
            raise InvalidArgument("OPEN_EXPECTED", "The first message of a stream is `open`.")
        validation.validate(first.open)
        return await open_upload(self._orgs, self._writer, first.open.upload_id, first.open.gateway)

    async def _read(self, upload: OpenedUpload) -> None:
        """Take batches until the gateway half-closes; raises what a batch does wrong."""
        read = self._context.read
        while True:
            message: Any = await read()
            if message is grpc.aio.EOF:
                return
            kind = message.WhichOneof("message")
            if kind == "open":
                raise InvalidArgument("OPEN_REPEATED", "The stream is open already.")
            if kind == "batch":
                self._goes_on = self._goes_on or upload.received_through > self._told
                await take(self._writer, upload, message.batch)

    def _progress(self, upload: OpenedUpload) -> None:
        """Wake when it is time for a word: a message costs more than the ten points it may tell of.

        That is at once when the last one is long ago or something is wrong.
        """
        loop = asyncio.get_running_loop()
        due = self._told_at + ACK_EVERY_S
        if upload.failure is not None or loop.time() >= due:
            self._wake.set()
            return
        if upload.durable_through >= upload.received_through:
            linger = ACK_LINGER_S if self._goes_on else ACK_LINGER_WAITING_S
            due = min(due, loop.time() + linger)
        if self._later is not None:
            self._later.cancel()
        self._later = loop.call_at(due, self._progress_or_wake, upload)

    def _progress_or_wake(self, upload: OpenedUpload) -> None:
        """Time is up; but if more came meanwhile, it is told together with that."""
        if upload.durable_through >= upload.received_through:
            self._wake.set()
        else:
            self._progress(upload)

    async def _acknowledge_until_end(
        self, upload: OpenedUpload, reader: asyncio.Future[None], stream: calls.Stream
    ) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            await self._write_ack(upload)
            if upload.failure is not None:
                raise upload.failure
            if stream.ending.done() or reader.done():
                reader.cancel()
                await self._settle(upload)
                if reader.done() and not reader.cancelled():
                    reader.result()
                if stream.ending.done():
                    raise stream.ending.result()
                return

    async def _settle(self, upload: OpenedUpload) -> None:
        """Whatever was received is stored and acknowledged before the stream ends."""
        upload.wake = self._wake.set
        try:
            async with asyncio.timeout(SETTLE_S):
                await settled(upload, self._wake)
        except TimeoutError:
            raise errors.Unavailable(
                "DATABASE_BUSY", "The points are not stored yet.", retry_after_s=1
            ) from None
        finally:
            await self._write_ack(upload)

    async def _write_ack(self, upload: OpenedUpload) -> None:
        """Tell what is new, if anything is."""
        if upload.durable_through == self._told and not upload.duplicates:
            return
        self._told = upload.durable_through
        self._told_at = asyncio.get_running_loop().time()
        if self._later is not None:
            self._later.cancel()
            self._later = None
        await self._context.write(
            pb.StreamTripPointsResponse(ack=acknowledge(self._writer, upload))
        )


async def settled(upload: OpenedUpload, wake: asyncio.Event) -> None:
    """Wait until everything received is durable; raises the upload's failure."""
    while upload.durable_through < upload.received_through:
        if upload.failure is not None:
            raise upload.failure
        await wake.wait()
        wake.clear()
    if upload.failure is not None:
        raise upload.failure


async def upload_at_once(
    orgs: Orgs, writer: Writer, request: pb.UploadTripPointsRequest
) -> pb.UploadAck:
    """UploadTripPoints: the same in one call."""
    if sum(decoding.count_points(batch) for batch in request.batches) > BATCH_POINTS_MAX:
        raise InvalidArgument("BATCH_TOO_LARGE", f"A call has at most {BATCH_POINTS_MAX:,} points.")
    upload = await open_upload(orgs, writer, request.upload_id, request.gateway)
    wake = asyncio.Event()
    upload.wake = wake.set
    try:
        failure: DomainError | None = None
        try:
            for batch in request.batches:
                await take(writer, upload, batch)
        except DomainError as error:
            failure = error
        await settled(upload, wake)
        if failure is not None:
            raise failure
        return acknowledge(writer, upload)
    finally:
        writer.closed(upload)
