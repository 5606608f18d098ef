"""`driveflow simulate`: a school's lessons that nobody drove."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from libs.cli import session
from libs.cli.tracking.fleet import live_shift_us
from libs.cli.tracking.lessons import school_day
from libs.cli.tracking.replay import play
from libs.cli.tracking.trips import Address


def simulate(
    address: Address,
    token: session.Token,
    cars: Annotated[int, typer.Option(min=1, max=10_000, help="One lesson each.")] = 6,
    minutes: Annotated[float, typer.Option(min=1, max=600, help="Length of a lesson.")] = 45,
    seed: Annotated[int, typer.Option(min=0, help="The same seed drives the same way.")] = 1,
    speed: Annotated[
        float,
        typer.Option(min=0, help="Times as fast as real; 0 = at once, as lessons just over."),
    ] = 0,
    as_json: session.Json = False,
) -> None:
    """Stream synthetic driving lessons of several cars, one trip each."""
    fleet = school_day(cars, minutes, seed)
    fleet = fleet.shifted(live_shift_us(fleet, speed, time.time_ns() // 1_000))
    session.run(play(fleet, address, token, "", speed=speed, as_json=as_json))
