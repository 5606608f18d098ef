"""Commands that send drives to tracking and show them."""

from __future__ import annotations

import typer

from libs.cli.tracking.gpx import import_gpx
from libs.cli.tracking.replay import replay_fleet
from libs.cli.tracking.show import trip
from libs.cli.tracking.simulate import simulate

app = typer.Typer()
app.command("import-gpx")(import_gpx)
app.command("replay-fleet")(replay_fleet)
app.command("simulate")(simulate)
app.command("trip")(trip)
