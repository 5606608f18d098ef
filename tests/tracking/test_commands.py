"""The tracking commands against the real service."""

from __future__ import annotations

import gzip
import uuid
import xml.etree.ElementTree as ET
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tests import commands
from tests.commands import Done
from tests.drives import recorded_drives, recorded_drives_dir
from tests.tracking.conftest import Tracking

SCHOOL_SCOPES = ("tracking:read", "tracking:write", "tracking:import")
OPS_SCOPES = ("ops:write",)
Trip = dict[str, Any]


Driveflow = Callable[..., Awaitable[Done]]


@pytest.fixture
def driveflow(tracking: Tracking) -> Driveflow:
    """Runs the command with the environment of a school that nobody else has."""
    school = {
        "DRIVEFLOW_TRACKING_ADDR": tracking.address,
        "DRIVEFLOW_TOKEN": tracking.token(org_id=uuid.uuid4(), scopes=SCHOOL_SCOPES),
    }

    async def run(*arguments: object, **environment: str) -> Done:
        return await commands.driveflow({**school, **environment}, *arguments)

    return run


@pytest.fixture
def ops(tracking: Tracking) -> dict[str, str]:
    """The environment that also has an operator's token."""
    return {"DRIVEFLOW_OPS_TOKEN": tracking.token(org_id=None, scopes=OPS_SCOPES)}


@pytest.fixture
def old_drive(tmp_path: Path) -> Path:
    """A drive of May 2019: two points of ten can't be stored, one is there twice."""
    points = [point(second, 47 + second / 1e4) for second in range(7)]
    odd = [point(7, 91), '<trkpt lat="47" lon="8.5"/>', point(6, 47.0006)]
    path = tmp_path / "old.gpx"
    path.write_text(
        '<gpx version="1.1" xmlns="http://www.topografix.com/GPX/1/1"><trk><trkseg>'
        + "".join([*points, *odd])
        + "</trkseg></trk></gpx>"
    )
    return path


def point(second: int, lat: float) -> str:
    return f'<trkpt lat="{lat}" lon="8.5"><time>2019-05-01T10:00:0{second}Z</time></trkpt>'


async def test_a_month_without_partition_is_said_with_what_to_run(
    driveflow: Driveflow, old_drive: Path
) -> None:
    done = await driveflow("import-gpx", old_drive)
    assert "NO_PARTITION: there is no partition for 2019-05" in done.stderr
    assert "EnsurePartitions" in done.stderr
    assert done.code == 1


async def test_an_operators_token_that_is_refused_is_told_from_the_schools(
    driveflow: Driveflow, old_drive: Path
) -> None:
    done = await driveflow("import-gpx", old_drive, DRIVEFLOW_OPS_TOKEN="bad")
    assert "the partition of 2019-05 can't be made: TOKEN_INVALID" in done.stderr
    assert "check --ops-token or DRIVEFLOW_OPS_TOKEN" in done.stderr
    assert done.code == 1


async def test_an_imported_drive_keeps_its_times_and_names_its_rejected_points(
    driveflow: Driveflow, ops: dict[str, str], old_drive: Path
) -> None:
    (drive,) = (await driveflow("import-gpx", old_drive, "--json", **ops)).json()
    assert (drive["points"], drive["stored"], drive["duplicates"]) == (10, 7, 1)
    assert drive["reasons"] == {"LAT_OUT_OF_RANGE": 1, "TIME_INVALID": 1}
    shown = (await driveflow("trip", drive["trip_id"], "--json")).json()
    assert shown["trip"]["start_time"] == "2019-05-01T10:00:00Z"
    assert shown["trip"]["end_time"] == "2019-05-01T10:00:07Z"
    assert shown["trip"]["summary"]["point_count"] == "7"


async def test_importing_again_stores_nothing_twice_unless_it_is_asked_for(
    driveflow: Driveflow, ops: dict[str, str], old_drive: Path
) -> None:
    (first,) = (await driveflow("import-gpx", old_drive, "--json", **ops)).json()
    (second,) = (await driveflow("import-gpx", old_drive, "--json", **ops)).json()
    (third,) = (await driveflow("import-gpx", old_drive, "--json", "--again", **ops)).json()
    assert second["trip_id"] == first["trip_id"] != third["trip_id"]
    assert (second["stored"], second["duplicates"]) == (0, 8)
    assert third["stored"] == 7


async def test_the_table_of_an_import_has_a_row_for_each_drive_and_a_total(
    driveflow: Driveflow, ops: dict[str, str], old_drive: Path
) -> None:
    done = await driveflow("import-gpx", old_drive, **ops)
    assert "old.gpx" in done.stdout
    assert "total" in done.stdout
    assert "2 (" in done.stdout
    assert "1 LAT_OUT_OF_RANGE" in done.stdout


async def test_recorded_drives_arrive_whole(driveflow: Driveflow, ops: dict[str, str]) -> None:
    folder = recorded_drives_dir()
    if folder is None:
        pytest.skip("the recorded drives are not beside the repository")
    drives = recorded_drives(folder)
    imported = await driveflow("import-gpx", *(each.path for each in drives), "--json", **ops)
    for drive, row in zip(drives, imported.json(), strict=True):
        assert row["stored"] + row["duplicates"] == drive.point_count
        assert row["distance_meters"] / 1000 == pytest.approx(drive.km, abs=0.06)


@pytest.mark.parametrize("speed", [0, 1000])
async def test_a_fleet_drives_again_as_one_trip_a_vehicle(
    driveflow: Driveflow, tmp_path: Path, speed: int
) -> None:
    rows = [
        f"car-{car},2019-09-30T23:5{second // 60}:{second % 60:02}Z,8.5,{47 + second / 1e4},9"
        for second in range(300)
        for car in range(3)
    ]
    path = tmp_path / "fleet.csv.gz"
    path.write_bytes(
        gzip.compress("\n".join(["vehicle_id,time,lon,lat,speed_kmh", *rows]).encode())
    )
    played = (await driveflow("replay-fleet", path, "--speed", speed, "--json")).json()
    assert (played["stored"], played["rejected"]) == (900, 0)
    assert [trip["point_count"] for trip in played["trips"]] == [300, 300, 300]
    assert [trip["duration_seconds"] for trip in played["trips"]] == [299, 299, 299]


async def test_a_simulated_lesson_can_be_shown_and_drawn(
    driveflow: Driveflow, tmp_path: Path
) -> None:
    played = (await driveflow("simulate", "--cars", 2, "--minutes", 20, "--json")).json()
    trip: Trip = played["trips"][0]
    drawing = tmp_path / "route.svg"
    shown = await driveflow("trip", trip["trip_id"], "--svg", drawing)
    assert f"{trip['distance_meters'] / 1000:.2f} km" in shown.stdout
    assert "harsh brake" in shown.stdout
    assert "S" in shown.stdout
    assert ET.parse(drawing).getroot().tag == "{http://www.w3.org/2000/svg}svg"  # noqa: S314


async def test_another_schools_trip_is_not_there(tracking: Tracking, driveflow: Driveflow) -> None:
    played = (await driveflow("simulate", "--cars", 1, "--minutes", 1, "--json")).json()
    other = tracking.token(org_id=uuid.uuid4(), scopes=SCHOOL_SCOPES)
    done = await driveflow("trip", played["trips"][0]["trip_id"], DRIVEFLOW_TOKEN=other)
    assert done.stderr.startswith("driveflow: TRIP_NOT_FOUND: ")
    assert done.code == 1


async def test_a_token_without_the_scope_says_which_is_missing(
    tracking: Tracking, driveflow: Driveflow
) -> None:
    poor = tracking.token(org_id=uuid.uuid4(), scopes=("tracking:read",))
    done = await driveflow("simulate", "--cars", 1, DRIVEFLOW_TOKEN=poor)
    assert "use a token that has the scope tracking:write" in done.stderr
    assert done.code == 1
