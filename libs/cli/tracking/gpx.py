"""`driveflow import-gpx`: recorded drives become trips, with the times they were recorded at."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import gpxpy
import grpc
import typer
from gpxpy.gpx import GPXException, GPXTrack, GPXTrackPoint
from rich.progress import Progress
from rich.table import Table

from driveflow.tracking.v1 import tracking_pb2 as pb
from libs.cli import session
from libs.cli.tracking.trips import Address, OpsToken, Trips, rejected
from libs.client import Connection
from libs.gateway import Fix, Gateway, Totals, track

NAMESPACE = uuid.UUID("6f1d7c1e-3f0e-5d5c-9a52-0a4d8f6b7c11")
BATCH_POINTS = 500
KPH_PER_MPS = 3.6
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# The service says no to this drive; the next one may still be welcome.
REFUSALS_OF_ONE = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION)


class GpxRefused(Exception):
    """The file can't become trips; the message says why."""


@dataclass(frozen=True, slots=True)
class Drive:
    """One <trk> of a file."""

    path: Path
    fixes: list[Fix]
    identity: uuid.UUID
    """The same for the same points, so that importing them twice can be recognised."""

    def times_us(self) -> list[int]:
        """The times that its points have; one at least."""
        return [fix.time_us for fix in self.fixes if fix.time_us is not None]

    def request_id(self, step: str) -> str:
        """The same at each import of this drive."""
        return str(uuid.uuid5(self.identity, step))


@dataclass(frozen=True, slots=True)
class Imported:
    """What became of a drive."""

    drive: Drive
    trip: pb.Trip
    totals: Totals


def import_gpx(
    files: Annotated[list[Path], typer.Argument(help="GPX files; each <trk> becomes a trip.")],
    address: Address,
    token: session.Token,
    ops_token: OpsToken = "",
    again: Annotated[
        bool, typer.Option("--again", help="Make new trips even of drives imported before.")
    ] = False,
    as_json: session.Json = False,
) -> None:
    """Import recorded drives, keeping their times. Needs the scope tracking:import.

    Importing the same drive again within 24 hours goes on with the same trip and stores nothing
    twice.
    """
    session.run(_import(files, address, token, ops_token, again=again, as_json=as_json))


async def _import(
    files: list[Path], address: str, token: str, ops_token: str, *, again: bool, as_json: bool
) -> None:
    drives, refused = _read_all(files, again=again)
    imported: list[Imported] = []
    try:
        async with Connection(address, token) as connection:
            trips = Trips(connection, address=address, ops_token=ops_token)
            with session.progress() as progress:
                for drive in drives:
                    try:
                        imported.append(await import_drive(connection, trips, drive, progress))
                    except (session.CommandFailed, grpc.aio.AioRpcError) as error:
                        refused.append(_refused(drive, error))
    finally:
        _print(imported, as_json=as_json)
        for complaint in refused:
            session.complain(complaint)
    if refused:
        raise typer.Exit(1)


def _print(imported: list[Imported], *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps([_as_json(each) for each in imported], indent=2))
    elif imported:
        session.output().print(_table(imported))


def _refused(drive: Drive, error: session.CommandFailed | grpc.aio.AioRpcError) -> str:
    if isinstance(error, grpc.aio.AioRpcError) and error.code() not in REFUSALS_OF_ONE:
        raise error
    return f"{drive.path}: {session.complaint(error)}"


async def import_drive(
    connection: Connection, trips: Trips, drive: Drive, progress: Progress
) -> Imported:
    """Start the trip, stream the points in their order, end the trip."""
    times_us = drive.times_us()
    trip = await trips.start(min(times_us), request_id=drive.request_id("start"))
    bar = progress.add_task(drive.path.name, total=len(drive.fixes))
    upload_id = drive.request_id("upload")
    async with Gateway(connection.tracking, upload_id, gateway="import-gpx") as gateway:
        for fixes in _chunks(drive.fixes, min(gateway.batch_points, BATCH_POINTS)):
            await gateway.send([track(trip.id, fixes)])
            progress.update(bar, completed=gateway.totals.points)
    progress.update(bar, completed=gateway.totals.points)
    ended = await trips.end(trip.id, max(times_us), request_id=drive.request_id("end"))
    return Imported(drive, ended, gateway.totals)


def _chunks(fixes: list[Fix], size: int) -> Iterator[list[Fix]]:
    for first in range(0, len(fixes), size):
        yield fixes[first : first + size]


def _read_all(files: Iterable[Path], *, again: bool) -> tuple[list[Drive], list[str]]:
    drives, refused = [], []
    for path in files:
        try:
            drives += read_drives(path, again=again)
        except GpxRefused as error:
            refused.append(f"{path}: {error}")
    return drives, refused


def read_drives(path: Path, *, again: bool = False) -> list[Drive]:
    """The drives of a GPX file, points in the file's order; raises GpxRefused.

    `again` gives them identities of their own.
    """
    tracks = [list(_fixes(each)) for each in _parse(path).tracks]
    found = [fixes for fixes in tracks if fixes]
    if not found:
        raise GpxRefused("there is no track point (<trkpt>) in it")
    for fixes in found:
        if all(fix.time_us is None for fix in fixes):
            raise GpxRefused("its points have no times; a drive can't be placed without them")
    return [
        Drive(path, fixes, uuid.uuid4() if again else _identity(number, fixes))
        for number, fixes in enumerate(found)
    ]


def _parse(path: Path) -> gpxpy.gpx.GPX:
    try:
        text = path.read_bytes()
        if not text.strip():
            raise GpxRefused("the file is empty")
        return gpxpy.parse(text)
    except OSError as error:
        raise GpxRefused(f"it can't be read: {error.strerror}") from error
    except (GPXException, ValueError) as error:
        raise GpxRefused(f"it is not GPX: {error}") from error


def _fixes(track: GPXTrack) -> Iterator[Fix]:
    for segment in track.segments:
        for point in segment.points:
            yield Fix(_time_us(point), point.latitude, point.longitude, _speed_kph(point))


def _time_us(point: GPXTrackPoint) -> int | None:
    if point.time is None:
        return None
    time = point.time if point.time.tzinfo else point.time.replace(tzinfo=UTC)
    return (time - EPOCH) // timedelta(microseconds=1)


def _speed_kph(point: GPXTrackPoint) -> float | None:
    """GPX 1.0 has <speed>; 1.1 has it in <extensions>, plain or in Garmin's. All are m/s."""
    if point.speed is not None:
        return point.speed * KPH_PER_MPS
    for extension in point.extensions:
        for element in extension.iter():
            if element.tag.rpartition("}")[2] == "speed" and element.text:
                return _number(element.text) * KPH_PER_MPS
    return None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise GpxRefused(f"a speed is not a number: {text.strip()[:40]!r}") from None


def _identity(number: int, fixes: list[Fix]) -> uuid.UUID:
    digest = hashlib.sha256()
    for fix in fixes:
        digest.update(f"{fix.time_us},{fix.lat!r},{fix.lng!r},{fix.speed_kph!r}\n".encode())
    return uuid.uuid5(NAMESPACE, f"{number}:{digest.hexdigest()}")


def _table(imported: list[Imported]) -> Table:
    table = Table("file", "trip", show_footer=True)
    for name in ("points", "stored", "duplicates", "rejected", "km", "duration"):
        table.add_column(name, justify="right")
    for each in imported:
        table.add_row(each.drive.path.name, each.trip.id, *_figures([each]))
    for column, figure in zip(table.columns, ("total", "", *_figures(imported)), strict=True):
        column.footer = figure
    table.columns[1].no_wrap = True
    return table


def _figures(imported: list[Imported]) -> tuple[str, ...]:
    totals = _sum(each.totals for each in imported)
    return (
        f"{totals.points:,}",
        f"{totals.stored:,}" + (f" + {totals.unreported:,} unsure" if totals.unreported else ""),
        f"{totals.duplicates:,}",
        rejected(totals),
        f"{sum(each.trip.summary.distance_meters for each in imported) / 1000:.1f}",
        session.duration(sum(each.trip.summary.duration_seconds for each in imported)),
    )


def _sum(each: Iterable[Totals]) -> Totals:
    total = Totals()
    for totals in each:
        total.points += totals.points
        total.stored += totals.stored
        total.duplicates += totals.duplicates
        total.rejected += totals.rejected
        total.unreported += totals.unreported
        total.reasons += totals.reasons
    return total


def _as_json(each: Imported) -> dict[str, Any]:
    return {
        "file": str(each.drive.path),
        "trip_id": each.trip.id,
        "points": each.totals.points,
        "stored": each.totals.stored,
        "duplicates": each.totals.duplicates,
        "unreported": each.totals.unreported,
        "rejected": each.totals.rejected,
        "reasons": dict(each.totals.reasons),
        "distance_meters": each.trip.summary.distance_meters,
        "duration_seconds": each.trip.summary.duration_seconds,
    }
