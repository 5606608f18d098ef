"""`driveflow replay-fleet`: a recorded fleet drives again."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import Progress, TaskID
from rich.table import Table

from libs.cli import session
from libs.cli.tracking.fleet import Fleet, Playback, live_shift_us, read_fleet
from libs.cli.tracking.trips import Address, OpsToken, Trips, rejected
from libs.client import Connection
from libs.gateway import Totals

REFRESH_S = 0.2


def replay_fleet(
    file: Annotated[Path, typer.Argument(help="CSV (.gz): vehicle_id,time,lon,lat,speed_kmh.")],
    address: Address,
    token: session.Token,
    speed: Annotated[
        float, typer.Option(min=0, help="Times as fast as driven; 0 = as fast as possible.")
    ] = 1.0,
    vehicles: Annotated[int, typer.Option(min=0, help="Only the first so many; 0 = all.")] = 0,
    keep_times: Annotated[
        bool, typer.Option("--keep-times", help="Do not shift the times so that it happens now.")
    ] = False,
    ops_token: OpsToken = "",
    as_json: session.Json = False,
) -> None:
    """Play a recorded fleet into one stream, all vehicles interleaved."""
    session.run(_replay(file, address, token, ops_token, speed, vehicles, keep_times, as_json))


async def _replay(
    file: Path,
    address: str,
    token: str,
    ops_token: str,
    speed: float,
    vehicles: int,
    keep_times: bool,
    as_json: bool,
) -> None:
    fleet = read_fleet(file)
    if vehicles:
        fleet = fleet.of_first(vehicles)
    if not keep_times:
        fleet = fleet.shifted(live_shift_us(fleet, speed, time.time_ns() // 1_000))
    await play(fleet, address, token, ops_token, speed=speed, as_json=as_json)


async def play(
    fleet: Fleet, address: str, token: str, ops_token: str, *, speed: float, as_json: bool
) -> None:
    """Play a fleet with live progress, then say what became of every vehicle's points."""
    async with Connection(address, token) as connection:
        trips = Trips(connection, address=address, ops_token=ops_token)
        playback = Playback(fleet, connection, trips)
        started_s = time.monotonic()
        await _with_progress(playback, speed)
        seconds = time.monotonic() - started_s
    if as_json:
        typer.echo(json.dumps(_as_json(playback, seconds), indent=2))
        return
    console = session.output()
    console.print(_table(playback))
    console.print(_sentence(playback.gateway.totals, seconds))


async def _with_progress(playback: Playback, speed: float) -> None:
    columns = ("{task.fields[rate]:,.0f} points/s", "{task.fields[cars]} driving")
    with session.progress(*columns) as progress:
        bar = progress.add_task("acknowledged", total=len(playback.fleet), rate=0, cars=0)
        playing = asyncio.create_task(playback.play(speed))
        try:
            while not playing.done():
                await asyncio.wait({playing}, timeout=REFRESH_S)
                _refresh(progress, bar, playback)
            await playing
        finally:
            playing.cancel()
            await asyncio.gather(playing, return_exceptions=True)


def _refresh(progress: Progress, bar: TaskID, playback: Playback) -> None:
    points = playback.gateway.totals.points
    elapsed_s = progress.tasks[bar].elapsed or 0
    rate = points / elapsed_s if elapsed_s else 0
    progress.update(bar, completed=points, rate=rate, cars=playback.under_way())


def _table(playback: Playback) -> Table:
    table = Table("vehicle", "trip")
    for name in ("stored", "km", "duration", "max km/h"):
        table.add_column(name, justify="right")
    for vehicle, trip in sorted(playback.trips.items()):
        table.add_row(
            playback.fleet.names[vehicle],
            trip.id,
            f"{trip.summary.point_count:,}",
            f"{trip.summary.distance_meters / 1000:.1f}",
            session.duration(trip.summary.duration_seconds),
            f"{trip.summary.max_speed_kph:.0f}",
        )
    table.columns[1].no_wrap = True
    return table


def _sentence(totals: Totals, seconds: float) -> str:
    unsure = f", {totals.unreported:,} stored or duplicate" if totals.unreported else ""
    reopened = f", stream opened again {totals.reopened} times" if totals.reopened else ""
    return (
        f"{totals.points:,} points in {seconds:.1f} s ({totals.points / max(seconds, 1e-9):,.0f} "
        f"a second): {totals.stored:,} stored, {totals.duplicates:,} duplicates{unsure}, "
        f"{rejected(totals)} rejected{reopened}"
    )


def _as_json(playback: Playback, seconds: float) -> dict[str, Any]:
    totals = playback.gateway.totals
    return {
        "points": totals.points,
        "stored": totals.stored,
        "duplicates": totals.duplicates,
        "unreported": totals.unreported,
        "rejected": totals.rejected,
        "reasons": dict(totals.reasons),
        "reopened": totals.reopened,
        "seconds": round(seconds, 3),
        "trips": [
            {
                "vehicle": playback.fleet.names[vehicle],
                "trip_id": trip.id,
                "point_count": trip.summary.point_count,
                "distance_meters": trip.summary.distance_meters,
                "duration_seconds": trip.summary.duration_seconds,
            }
            for vehicle, trip in sorted(playback.trips.items())
        ],
    }
