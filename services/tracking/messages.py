"""Between the model and the messages of driveflow.tracking.v1."""

from __future__ import annotations

from driveflow.tracking.v1 import tracking_pb2 as pb
from libs.messages import stamp, text
from services.tracking.model import Partition, Point, RejectedPoint, Trip, Upload

STATUSES = {"open": pb.TRIP_STATUS_OPEN, "ended": pb.TRIP_STATUS_ENDED}


def trip(row: Trip) -> pb.Trip:
    """A trip; the summary is unset while the trip is open."""
    message = pb.Trip(
        id=str(row.id),
        lesson_id=text(row.lesson_id),
        lesson_verified=row.lesson_verified,
        instructor_id=text(row.instructor_id),
        vehicle_id=text(row.vehicle_id),
        start_time=stamp(row.started_at),
        end_time=stamp(row.ended_at),
        status=STATUSES[row.status],
        version=row.version,
        legal_hold=row.legal_hold,
        create_time=stamp(row.created_at),
    )
    if row.point_count is not None:
        _put_summary(message.summary, row)
    return message


def _put_summary(summary: pb.TripSummary, row: Trip) -> None:
    summary.point_count = row.point_count or 0
    summary.distance_meters = row.distance_meters or 0
    summary.duration_seconds = row.duration_seconds or 0
    summary.moving_seconds = row.moving_seconds or 0
    summary.max_speed_kph = row.max_speed_kph or 0
    summary.avg_speed_kph = row.avg_speed_kph or 0
    summary.route = row.route or ""
    summary.points_hash = row.points_hash.hex() if row.points_hash else ""
    edges = (row.min_lat, row.min_lng, row.max_lat, row.max_lng)
    if any(edge is not None for edge in edges):
        min_lat, min_lng, max_lat, max_lng = (edge or 0 for edge in edges)
        summary.bounding_box.CopyFrom(
            pb.BoundingBox(min_lat=min_lat, min_lng=min_lng, max_lat=max_lat, max_lng=max_lng)
        )


def point(row: Point) -> pb.TripPoint:
    """A stored point; fields that were not fetched stay unset."""
    return pb.TripPoint(
        time=stamp(row.ts), lat=row.lat or 0, lng=row.lng or 0, speed_kph=row.speed_kph
    )


def rejection(row: RejectedPoint) -> pb.Rejection:
    """A rejected point as an acknowledgement names it."""
    return pb.Rejection(
        sequence=row.sequence or 0,
        trip_id=row.trip_id or "",
        index=row.index or 0,
        reason=rejection_reason(row.reason),
    )


def rejected_point(row: RejectedPoint) -> pb.RejectedPoint:
    """A rejected point as it was received; fields that were not fetched stay unset."""
    message = pb.RejectedPoint(
        upload_id=text(row.upload_id),
        sequence=row.sequence or 0,
        index=row.index or 0,
        trip_id=row.trip_id or "",
        reason=rejection_reason(row.reason),
        receive_time=stamp(row.created_at),
    )
    if row.lat is not None:
        message.point.CopyFrom(pb.TripPoint(lat=row.lat, lng=row.lng or 0, speed_kph=row.speed_kph))
    if row.time_seconds is not None:
        message.point.time.seconds = row.time_seconds
        message.point.time.nanos = row.time_nanos or 0
    return message


def rejection_reason(reason: str | None) -> pb.RejectionReason.ValueType:
    """LAT_OUT_OF_RANGE is REJECTION_REASON_LAT_OUT_OF_RANGE."""
    return pb.RejectionReason.Value(f"REJECTION_REASON_{reason or 'UNSPECIFIED'}")


def reason_name(reason: pb.RejectionReason.ValueType) -> str | None:
    """The other way; None for UNSPECIFIED, which filters nothing."""
    if reason == pb.REJECTION_REASON_UNSPECIFIED:
        return None
    return pb.RejectionReason.Name(reason).removeprefix("REJECTION_REASON_")


def upload_status(upload_id: str, row: Upload) -> pb.UploadStatus:
    """How far an upload is stored."""
    return pb.UploadStatus(
        upload_id=upload_id,
        gateway=row.gateway,
        epoch=row.epoch,
        durable_through=row.durable_through,
        update_time=stamp(row.updated_at),
    )


def partition(row: Partition) -> pb.Partition:
    """A month of points."""
    return pb.Partition(
        name=row.name,
        start_time=stamp(row.start),
        end_time=stamp(row.end),
        row_estimate=row.row_estimate,
        size_bytes=row.size_bytes,
    )
