"""`driveflow trip`: what is known of a trip, and its picture."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import polyline
import typer
from google.protobuf.json_format import MessageToDict
from rich.table import Table

from driveflow.tracking.v1 import tracking_pb2 as pb
from driveflow.tracking.v1.tracking_pb2_grpc import TrackingServiceStub
from libs.cli import picture, session
from libs.cli.tracking.trips import Address
from libs.client import Connection

EVENTS_MAX = 1_000
EXPORT_TIMEOUT_S = 60.0
UNITS = {
    pb.DRIVING_EVENT_KIND_HARSH_BRAKE: "m/s²",
    pb.DRIVING_EVENT_KIND_HARSH_ACCELERATION: "m/s²",
    pb.DRIVING_EVENT_KIND_OVERSPEED: "km/h",
    pb.DRIVING_EVENT_KIND_STOP: "s",
}


@dataclass(frozen=True, slots=True)
class Story:
    """All that is shown of a trip."""

    trip: pb.Trip
    events: list[pb.DrivingEvent]
    spots: list[picture.Spot]


def trip(
    trip_id: Annotated[str, typer.Argument(help="UUID of the trip.")],
    address: Address,
    token: session.Token,
    svg: Annotated[Path | None, typer.Option(help="Also draw the route into this file.")] = None,
    as_json: session.Json = False,
) -> None:
    """Show a trip: its summary, its driving events, and the route coloured by speed."""
    session.run(_show(trip_id, address, token, svg, as_json=as_json))


async def _show(trip_id: str, address: str, token: str, svg: Path | None, *, as_json: bool) -> None:
    async with Connection(address, token) as connection:
        story = await _fetch(connection.tracking, trip_id)
    if svg is not None:
        _write(svg, picture.svg(story.spots, title=_title(story.trip)))
    if as_json:
        typer.echo(json.dumps(_as_json(story), indent=2))
        return
    console = session.output()
    console.print(_summary(story))
    if story.events:
        console.print(_events(story.events))
    if story.spots:
        console.print(picture.terminal(story.spots))
        console.print(picture.legend())
    if svg is not None:
        console.print(f"drawn into {svg}")


def _write(path: Path, drawing: str) -> None:
    try:
        path.write_text(drawing, encoding="utf-8")
    except OSError as error:
        raise session.CommandFailed(f"{path}: it can't be written: {error.strerror}") from error


async def _fetch(stub: TrackingServiceStub, trip_id: str) -> Story:
    trip = await stub.GetTrip(pb.GetTripRequest(trip_id=trip_id))
    request = pb.ListDrivingEventsRequest(trip_id=trip_id, page_size=EVENTS_MAX)
    events = await stub.ListDrivingEvents(request)
    return Story(trip, list(events.driving_events), await _spots(stub, trip))


async def _spots(stub: TrackingServiceStub, trip: pb.Trip) -> list[picture.Spot]:
    """The points; of a trip whose points were dropped, the line that is kept in its summary."""
    spots: list[picture.Spot] = []
    export = stub.ExportTripPoints(
        pb.ExportTripPointsRequest(trip_id=trip.id), timeout=EXPORT_TIMEOUT_S
    )
    try:
        async for part in export:
            spots += map(_spot, part.points)
    finally:
        export.cancel()
    return spots or [picture.Spot(*at) for at in polyline.decode(trip.summary.route, 6)]


def _spot(point: pb.TripPoint) -> picture.Spot:
    speed_kph = point.speed_kph if point.HasField("speed_kph") else None
    return picture.Spot(point.lat, point.lng, speed_kph)


def _title(trip: pb.Trip) -> str:
    return f"Trip {trip.id}, {session.local(trip.start_time)}"


def _summary(story: Story) -> Table:
    trip, summary = story.trip, story.trip.summary
    table = Table(show_header=False)
    table.add_row("trip", trip.id)
    table.add_row("status", _status(trip))
    table.add_row("start", session.local(trip.start_time))
    if trip.HasField("end_time"):
        table.add_row("end", session.local(trip.end_time))
    if not trip.HasField("summary"):
        table.add_row("points", f"{len(story.spots):,} so far")
        return table
    table.add_row("points", f"{summary.point_count:,}")
    table.add_row("distance", f"{summary.distance_meters / 1000:.2f} km")
    table.add_row("duration", session.duration(summary.duration_seconds))
    table.add_row("moving", session.duration(summary.moving_seconds))
    table.add_row("mean speed", f"{summary.avg_speed_kph:.1f} km/h")
    table.add_row("top speed", f"{summary.max_speed_kph:.1f} km/h")
    return table


def _status(trip: pb.Trip) -> str:
    status = pb.TripStatus.Name(trip.status).removeprefix("TRIP_STATUS_").lower()
    return f"{status}, on legal hold" if trip.legal_hold else status


def _events(events: list[pb.DrivingEvent]) -> Table:
    table = Table("time", "driving event")
    table.add_column("value", justify="right")
    for event in events:
        name = pb.DrivingEventKind.Name(event.kind).removeprefix("DRIVING_EVENT_KIND_")
        value = f"{event.value:.1f} {UNITS.get(event.kind, '')}".strip()
        table.add_row(session.local(event.time), name.lower().replace("_", " "), value)
    return table


def _as_json(story: Story) -> dict[str, object]:
    return {
        "trip": MessageToDict(story.trip, preserving_proto_field_name=True),
        "driving_events": [
            MessageToDict(event, preserving_proto_field_name=True) for event in story.events
        ],
    }
