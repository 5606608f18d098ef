"""TrackingService: one method per RPC. Decode, one transaction, encode."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any

from driveflow.tracking.v1 import tracking_pb2 as pb
from driveflow.tracking.v1 import tracking_pb2_grpc
from libs import audit, calls, errors, idempotency, masks, pages
from libs.idempotency import SQL as SHARED
from libs.interceptors import Context
from libs.messages import optional_id, time
from libs.orgs import Orgs
from libs.pages import Pages
from services.tracking import drive, messages, model, rejected, store
from services.tracking.ingest import session
from services.tracking.ingest.known import Known
from services.tracking.ingest.writer import Writer
from services.tracking.lessons import Lessons
from services.tracking.model import MICROSECOND, Trip
from services.tracking.partitions import Dropped, Partitions
from services.tracking.summaries import Summaries, read_points

EXPORT_POINTS = 1_000
WATCH_EVERY_S = 1.0


class TrackingServicer(tracking_pb2_grpc.TrackingServiceServicer):
    """Trips and their points."""

    def __init__(
        self,
        orgs: Orgs,
        writer: Writer,
        known: Known,
        summaries: Summaries,
        partitions: Partitions,
        lessons: Lessons,
        page_tokens: Pages,
        *,
        retention_months: int,
        clock: Callable[[], datetime],
    ) -> None:
        self._orgs = orgs
        self._writer = writer
        self._known = known
        self._summaries = summaries
        self._partitions = partitions
        self._lessons = lessons
        self._pages = page_tokens
        self._retention_months = retention_months
        self._clock = clock

    # --- trips ---

    async def StartTrip(self, request: pb.StartTripRequest, context: Context) -> pb.Trip:
        caller = calls.caller()
        started_at = time(request, "start_time") or self._clock()
        may_import = "tracking:import" in caller.scopes
        model.check_start(started_at, self._clock(), self._retention_months, may_import)
        await self._ensure_months(started_at)
        lesson_id = optional_id(request.lesson_id)
        exists = None if lesson_id is None else await self._lessons.exists(caller.org, lesson_id)
        async with self._orgs.write(caller.org) as conn:
            answer = await idempotency.recall(conn, caller.org, request, pb.Trip)
            if answer is not None:
                return answer
            if exists is False:
                raise errors.not_found("lesson", lesson_id)
            await conn.send(SHARED.add_tenant, {"org_id": caller.org})
            trip = await store.start_trip(
                conn,
                caller.org,
                lesson_id=lesson_id,
                lesson_verified=exists is True,
                instructor_id=optional_id(request.instructor_id),
                vehicle_id=optional_id(request.vehicle_id),
                started_at=started_at,
            )
            answer = messages.trip(trip)
            await idempotency.remember(conn, caller.org, request, answer)
        return answer

    async def EndTrip(self, request: pb.EndTripRequest, context: Context) -> pb.Trip:
        org_id = calls.org()
        trip_id = uuid.UUID(request.trip_id)
        wanted = time(request, "end_time")
        async with self._orgs.write(org_id) as conn:
            answer = await idempotency.recall(conn, org_id, request, pb.Trip)
            if answer is not None:
                return await self._with_summary(org_id, trip_id)
            trip = _found(await store.lock_trip(conn, org_id, trip_id), trip_id)
            if trip.ended_at is None:
                ended_at = wanted or max(self._clock(), trip.started_at)
                model.check_end(trip, ended_at, self._clock())
                trip = await store.end_trip(conn, org_id, trip_id, ended_at)
            elif wanted not in (None, trip.ended_at):
                raise model.already_ended()
            await idempotency.remember(conn, org_id, request, messages.trip(trip))
        return await self._with_summary(org_id, trip_id)

    async def _with_summary(self, org_id: uuid.UUID, trip_id: uuid.UUID) -> pb.Trip:
        return messages.trip(await self._summaries.compute(org_id, trip_id))

    async def _ensure_months(self, started_at: datetime) -> None:
        """The months of a trip that starts now are made; those of an old one must be there."""
        first = started_at - model.CLOCK_SLACK
        known = await self._known.months()
        wanted = model.months(first, model.next_month(started_at))
        if all(month in known for month in wanted):
            return
        if started_at >= model.next_month(self._clock(), -1):
            await self._partitions.ensure(first, model.next_month(started_at))
            await self._known.reread_months()
            return
        known = await self._known.reread_months()
        if started_at not in known:
            raise model.no_partition(started_at)

    async def GetTrip(self, request: pb.GetTripRequest, context: Context) -> pb.Trip:
        org_id = calls.org()
        trip_id = uuid.UUID(request.trip_id)
        paths = masks.paths(request.read_mask, store.TRIP_FIELDS, store.TRIP_PATHS)
        trip = await store.get_trip(self._orgs.reader(org_id), org_id, trip_id, paths)
        message = messages.trip(_found(trip, trip_id))
        return masks.kept(message, paths) if request.read_mask.paths else message

    async def ListTrips(
        self, request: pb.ListTripsRequest, context: Context
    ) -> pb.ListTripsResponse:
        org_id = calls.org()
        paths = masks.paths(request.read_mask, store.TRIP_FIELDS, store.TRIP_LIST_PATHS)
        limit = pages.size(request)
        started_to = time(request, "start_time_to") or store.FOREVER
        first = [started_to.isoformat(), str(uuid.UUID(int=0))]
        last_start, last_id = self._pages.start(request, org_id, first)
        arguments: dict[str, Any] = {
            "before": (datetime.fromisoformat(last_start), uuid.UUID(last_id)),
            "started_from": time(request, "start_time_from") or model.EPOCH,
            "limit": limit + 1,
            "paths": paths,
        }
        reader = self._orgs.reader(org_id)
        if request.lesson_id:
            lesson_id = uuid.UUID(request.lesson_id)
            trips = await store.list_trips_of_lesson(reader, org_id, lesson_id, **arguments)
        else:
            trips = await store.list_trips(reader, org_id, **arguments)
        told = [messages.trip(trip) for trip in trips[:limit]]
        if request.read_mask.paths:
            told = [masks.kept(trip, paths) for trip in told]
        response = pb.ListTripsResponse(trips=told)
        if len(trips) > limit:
            last = trips[limit - 1]
            response.next_page_token = self._pages.token(
                request, org_id, [last.started_at.isoformat(), str(last.id)]
            )
        return response

    async def SetLegalHold(self, request: pb.SetLegalHoldRequest, context: Context) -> pb.Trip:
        org_id = calls.org()
        trip_id = uuid.UUID(request.trip_id)
        async with self._orgs.write(org_id) as conn:
            before = _found(await store.lock_trip(conn, org_id, trip_id), trip_id)
            trip = before
            if before.legal_hold != request.hold:
                trip = _found(
                    await store.set_legal_hold(conn, org_id, trip_id, request.hold), trip_id
                )
                await store.erase_released_trip(conn, org_id, trip_id)
                await audit.record(
                    conn,
                    org_id,
                    "trip",
                    trip_id,
                    "set_legal_hold",
                    before={"legal_hold": before.legal_hold},
                    after={"legal_hold": trip.legal_hold},
                )
        return messages.trip(trip)

    # --- points in ---

    async def StreamTripPoints(  # type: ignore[override] # writes by context, not by yield
        self, request_iterator: object, context: Context
    ) -> None:
        await session.Session(self._orgs, self._writer, context).run()

    async def UploadTripPoints(
        self, request: pb.UploadTripPointsRequest, context: Context
    ) -> pb.UploadTripPointsResponse:
        ack = await session.upload_at_once(self._orgs, self._writer, request)
        return pb.UploadTripPointsResponse(ack=ack)

    async def GetUploadStatus(
        self, request: pb.GetUploadStatusRequest, context: Context
    ) -> pb.UploadStatus:
        caller = calls.caller()
        upload_id = uuid.UUID(request.upload_id)
        async with self._orgs.read(caller.org) as conn:
            upload = await store.get_upload(conn, caller.org, caller.subject, upload_id)
        if upload is None:
            raise errors.not_found("upload", upload_id)
        return messages.upload_status(str(upload_id), upload)

    async def ListRejectedPoints(
        self, request: pb.ListRejectedPointsRequest, context: Context
    ) -> pb.ListRejectedPointsResponse:
        org_id = calls.org()
        paths = masks.paths(request.read_mask, store.REJECTED_FIELDS, store.REJECTED_PATHS)
        limit = pages.size(request)
        (before_id,) = self._pages.start(request, org_id, [str(store.UUID_MAX)])
        async with self._orgs.read(org_id) as conn:
            points = await store.list_rejected_points(
                conn,
                org_id,
                before_id=uuid.UUID(before_id),
                reason=messages.reason_name(request.reason),
                upload_id=optional_id(request.upload_id),
                limit=limit + 1,
                paths=paths,
            )
        response = pb.ListRejectedPointsResponse(
            rejected_points=[messages.rejected_point(point) for point in points[:limit]]
        )
        if len(points) > limit:
            last = str(points[limit - 1].id)
            response.next_page_token = self._pages.token(request, org_id, [last])
        return response

    async def ReplayRejectedPoints(
        self, request: pb.ReplayRejectedPointsRequest, context: Context
    ) -> pb.ReplayRejectedPointsResponse:
        org_id = calls.org()
        months = await self._known.reread_months()
        async with self._orgs.write(org_id) as conn:
            outcome = await rejected.replay(
                conn,
                org_id,
                reason=messages.reason_name(request.reason),
                upload_id=optional_id(request.upload_id),
                months=months,
                now=self._clock(),
            )
        for trip_id in outcome.trips:
            self._summaries.touch(org_id, trip_id)
        return pb.ReplayRejectedPointsResponse(
            stored=outcome.stored,
            duplicates=outcome.duplicates,
            rejected=outcome.rejected,
            remaining=outcome.remaining,
        )

    # --- points out ---

    async def ListTripPoints(
        self, request: pb.ListTripPointsRequest, context: Context
    ) -> pb.ListTripPointsResponse:
        org_id = calls.org()
        trip_id = uuid.UUID(request.trip_id)
        paths = masks.paths(request.read_mask, store.POINT_FIELDS, store.POINT_PATHS)
        limit = pages.size(request)
        time_from = time(request, "time_from")
        time_to = time(request, "time_to")
        async with self._orgs.read(org_id) as conn:
            trip = _found(await store.get_trip(conn, org_id, trip_id, ()), trip_id)
            within = trip.window(self._clock()).narrowed(time_from, time_to)
            first = [(within.start - MICROSECOND).isoformat()]
            (after,) = self._pages.start(request, org_id, first)
            points = await store.list_points(
                conn,
                org_id,
                trip_id,
                after=datetime.fromisoformat(after),
                before=within.end,
                limit=limit + 1,
                paths=paths,
            )
        response = pb.ListTripPointsResponse(
            points=[_masked_point(point, paths) for point in points[:limit]]
        )
        if len(points) > limit:
            last = points[limit - 1].ts
            response.next_page_token = self._pages.token(
                request, org_id, [last.isoformat() if last else ""]
            )
        return response

    async def ExportTripPoints(
        self, request: pb.ExportTripPointsRequest, context: Context
    ) -> AsyncIterator[pb.ExportTripPointsResponse]:
        org_id = calls.org()
        trip_id = uuid.UUID(request.trip_id)
        trip = await self._trip(org_id, trip_id)
        after = trip.window(self._clock()).start - MICROSECOND
        while True:
            points = await self._points_after(org_id, trip, after)
            if points:
                yield pb.ExportTripPointsResponse(points=[messages.point(p) for p in points])
            if len(points) < EXPORT_POINTS:
                return
            after = _time(points[-1])

    async def GetTripRoute(self, request: pb.GetTripRouteRequest, context: Context) -> pb.TripRoute:
        org_id = calls.org()
        trip_id = uuid.UUID(request.trip_id)
        async with self._orgs.read(org_id) as conn:
            trip = _found(await store.get_trip(conn, org_id, trip_id), trip_id)
            points = await read_points(conn, org_id, trip_id, trip.window(self._clock()))
        if not len(points) and trip.route:
            points = drive.decode_route(trip.route)
        kept = await asyncio.to_thread(drive.simplify, points, request.tolerance_meters)
        return pb.TripRoute(
            trip_id=str(trip_id),
            polyline=drive.encode_route(points, kept),
            point_count=len(kept),
            source_point_count=len(points),
        )

    async def GetLatestPosition(
        self, request: pb.GetLatestPositionRequest, context: Context
    ) -> pb.TripPoint:
        org_id = calls.org()
        trip_id = uuid.UUID(request.trip_id)
        async with self._orgs.read(org_id) as conn:
            trip = _found(await store.get_trip(conn, org_id, trip_id, ()), trip_id)
            point = await store.latest_point(conn, org_id, trip_id, trip.window(self._clock()))
        if point is None:
            raise errors.NotFound(
                "NO_POINTS", "The trip has no points yet.", resource=("trip", str(trip_id))
            )
        return messages.point(point)

    async def WatchTrip(
        self, request: pb.WatchTripRequest, context: Context
    ) -> AsyncIterator[pb.WatchTripResponse]:
        org_id = calls.org()
        trip_id = uuid.UUID(request.trip_id)
        trip = await self._trip(org_id, trip_id)
        start = trip.window(self._clock()).start - MICROSECOND
        after = max(start, time(request, "after") or start)
        while True:
            points = await self._points_after(org_id, trip, after)
            if points:
                yield pb.WatchTripResponse(points=[messages.point(p) for p in points])
                after = _time(points[-1])
            if len(points) == EXPORT_POINTS:
                continue
            if trip.ended_at is not None:
                yield pb.WatchTripResponse(trip=messages.trip(trip))
                return
            await asyncio.sleep(WATCH_EVERY_S)
            # Read before the points: an end seen here is followed by one more look at them.
            trip = await self._trip(org_id, trip_id)

    async def ListDrivingEvents(
        self, request: pb.ListDrivingEventsRequest, context: Context
    ) -> pb.ListDrivingEventsResponse:
        org_id = calls.org()
        trip_id = uuid.UUID(request.trip_id)
        paths = masks.paths(request.read_mask, store.EVENT_FIELDS)
        limit = pages.size(request)
        first = [datetime.min.replace(tzinfo=UTC).isoformat(), ""]
        ts, kind = self._pages.start(request, org_id, first)
        async with self._orgs.read(org_id) as conn:
            _found(await store.get_trip(conn, org_id, trip_id, ()), trip_id)
            events = await store.list_driving_events(
                conn,
                org_id,
                trip_id,
                after=(datetime.fromisoformat(ts), kind),
                limit=limit + 1,
                paths=paths,
            )
        response = pb.ListDrivingEventsResponse(
            driving_events=map(masks.reader(pb.DrivingEvent, paths), events[:limit])
        )
        if len(events) > limit:
            last_ts, last_kind = events[limit - 1][-2:]
            response.next_page_token = self._pages.token(
                request, org_id, [last_ts.isoformat(), last_kind]
            )
        return response

    # --- months ---

    async def ListPartitions(
        self, request: pb.ListPartitionsRequest, context: Context
    ) -> pb.ListPartitionsResponse:
        found = await self._partitions.all()
        return pb.ListPartitionsResponse(partitions=[messages.partition(p) for p in found])

    async def EnsurePartitions(
        self, request: pb.EnsurePartitionsRequest, context: Context
    ) -> pb.EnsurePartitionsResponse:
        now = self._clock()
        start = time(request, "from_month") or now
        model.check_partition_start(start, now)
        end = model.next_month(now, request.months_ahead)
        created = await self._partitions.ensure(start, end, dry_run=request.dry_run)
        await self._known.reread_months()
        if created and not request.dry_run:
            await self._record_platform("ensure_partitions", {"created": created})
        return pb.EnsurePartitionsResponse(created=created, dry_run=request.dry_run)

    async def ApplyRetention(
        self, request: pb.ApplyRetentionRequest, context: Context
    ) -> pb.ApplyRetentionResponse:
        before = time(request, "before") or model.EPOCH
        dropped = await self._partitions.drop_before(before, dry_run=request.dry_run)
        await self._known.reread_months()
        if dropped and not request.dry_run:
            names = [month.partition.name for month in dropped]
            await self._record_platform("apply_retention", {"dropped": names})
        return pb.ApplyRetentionResponse(
            partitions=[_dropped(month) for month in dropped], dry_run=request.dry_run
        )

    async def _record_platform(self, action: str, after: dict[str, Any]) -> None:
        async with self._orgs.write(audit.PLATFORM) as conn:
            await audit.record(conn, audit.PLATFORM, "partition", "TripPoint", action, after=after)

    # --- reads that streams repeat ---

    async def _trip(self, org_id: uuid.UUID, trip_id: uuid.UUID) -> Trip:
        async with self._orgs.read(org_id) as conn:
            return _found(await store.get_trip(conn, org_id, trip_id), trip_id)

    async def _points_after(
        self, org_id: uuid.UUID, trip: Trip, after: datetime
    ) -> list[model.Point]:
        async with self._orgs.read(org_id) as conn:
            return await store.list_points(
                conn,
                org_id,
                trip.id,
                after=after,
                before=trip.window(self._clock()).end,
                limit=EXPORT_POINTS,
            )


def _found(trip: Trip | None, trip_id: uuid.UUID) -> Trip:
    if trip is None:
        raise errors.not_found("trip", trip_id)
    return trip


def _time(point: model.Point) -> datetime:
    return point.ts or model.EPOCH


def _masked_point(point: model.Point, paths: tuple[str, ...]) -> pb.TripPoint:
    message = messages.point(point)
    if "time" not in paths:
        message.ClearField("time")
    return message


def _dropped(month: Dropped) -> pb.DroppedPartition:
    return pb.DroppedPartition(
        name=month.partition.name,
        trips=month.trips,
        points=month.points,
        held_points=month.held_points,
        size_bytes=month.partition.size_bytes,
    )
