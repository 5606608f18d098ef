"""What the tracking commands do before and after they call the service, and how they fail."""

from __future__ import annotations

import gzip
import json
import math
import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from libs.cli import picture
from libs.cli.tracking.fleet import Fleet, FleetRefused, live_shift_us, read_fleet
from libs.cli.tracking.gpx import GpxRefused, read_drives
from libs.cli.tracking.lessons import CITY, METERS_PER_DEGREE, school_day
from libs.gateway import point_count
from tests.drives import recorded_drives_dir

SVG = "{http://www.w3.org/2000/svg}"
SPEED = "<extensions><speed>{}</speed></extensions>"
NOBODY = "127.0.0.1:1"
HEADER = "vehicle_id,time,lon,lat,speed_kmh\n"


def gpx(body: str, version: str = "1.1") -> str:
    space = f"http://www.topografix.com/GPX/{version.replace('.', '/')}"
    return f'<?xml version="1.0"?><gpx version="{version}" xmlns="{space}">{body}</gpx>'


def point(second: int, inside: str = "") -> str:
    time = f"<time>2024-05-01T10:00:{second:02}Z</time>"
    return f'<trkpt lat="47.{second:02}" lon="8.5">{time}{inside}</trkpt>'


def write(folder: Path, text: str, name: str = "drive.gpx") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def driveflow(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    bare = {key: value for key, value in os.environ.items() if not key.startswith("DRIVEFLOW_")}
    return subprocess.run(
        [sys.executable, "-c", "from libs.cli import main; main()", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**bare, **environment},
    )


def test_each_track_of_a_file_is_a_drive_and_its_segments_are_joined(tmp_path: Path) -> None:
    first = f"<trk><trkseg>{point(1)}</trkseg><trkseg>{point(2)}</trkseg></trk>"
    second = f"<trk><trkseg>{point(3)}</trkseg></trk>"
    drives = read_drives(write(tmp_path, gpx(first + second)))
    assert [[fix.lat for fix in drive.fixes] for drive in drives] == [[47.01, 47.02], [47.03]]


def test_points_keep_the_order_of_the_file(tmp_path: Path) -> None:
    body = f"<trk><trkseg>{point(9)}{point(3)}{point(5)}</trkseg></trk>"
    (drive,) = read_drives(write(tmp_path, gpx(body)))
    assert [fix.lat for fix in drive.fixes] == [47.09, 47.03, 47.05]


@pytest.mark.parametrize(
    ("version", "inside"),
    [
        ("1.0", "<speed>10</speed>"),
        ("1.1", SPEED.format("10")),
        (
            "1.1",
            '<extensions><g:TrackPointExtension xmlns:g="http://www.garmin.com/v2">'
            "<g:speed>10</g:speed></g:TrackPointExtension></extensions>",
        ),
    ],
)
def test_speed_is_read_in_metres_a_second(tmp_path: Path, version: str, inside: str) -> None:
    body = f"<trk><trkseg>{point(1, inside)}</trkseg></trk>"
    (drive,) = read_drives(write(tmp_path, gpx(body, version)))
    assert drive.fixes[0].speed_kph == pytest.approx(36)


def test_a_point_without_a_time_is_kept_for_the_service_to_reject(tmp_path: Path) -> None:
    body = f'<trk><trkseg>{point(1)}<trkpt lat="47" lon="8"/></trkseg></trk>'
    (drive,) = read_drives(write(tmp_path, gpx(body)))
    assert [fix.time_us for fix in drive.fixes] == [1714557601000000, None]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "the file is empty"),
        (" \n", "the file is empty"),
        ("<gpx", "it is not GPX"),
        ("not xml at all", "it is not GPX"),
        (gpx(""), "there is no track point"),
        (gpx("<trk><trkseg/></trk>"), "there is no track point"),
        (gpx('<trk><trkseg><trkpt lat="1" lon="2"/></trkseg></trk>'), "its points have no times"),
        (gpx('<trk><trkseg><trkpt lat="x" lon="2"/></trkseg></trk>'), "it is not GPX"),
        (
            gpx("<trk><trkseg>" + point(1, SPEED.format("?")) + "</trkseg></trk>"),
            "a speed is not a number: '\\?'",
        ),
    ],
)
def test_a_file_that_is_no_drive_is_refused_with_the_reason(
    tmp_path: Path, text: str, reason: str
) -> None:
    with pytest.raises(GpxRefused, match=reason):
        read_drives(write(tmp_path, text))


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GpxRefused, match="it can't be read: No such file"):
        read_drives(tmp_path / "absent.gpx")


def test_the_same_points_have_the_same_identity_wherever_they_lie(tmp_path: Path) -> None:
    text = gpx(f"<trk><trkseg>{point(1)}</trkseg></trk>")
    (one,) = read_drives(write(tmp_path, text, "a.gpx"))
    (other,) = read_drives(write(tmp_path, text.replace("><", ">\n<"), "b.gpx"))
    (again,) = read_drives(write(tmp_path, text, "a.gpx"), again=True)
    assert one.request_id("start") == other.request_id("start") != again.request_id("start")
    assert one.request_id("start") != one.request_id("end")


def test_twice_the_same_track_in_one_file_is_two_drives(tmp_path: Path) -> None:
    body = f"<trk><trkseg>{point(1)}</trkseg></trk>" * 2
    one, other = read_drives(write(tmp_path, gpx(body)))
    assert one.identity != other.identity


def test_recorded_drives_are_read_whole() -> None:
    folder = recorded_drives_dir()
    if folder is None:
        pytest.skip("the recorded drives are not beside the repository")
    (drive,) = read_drives(folder / "us-omaha-drive04.gpx")
    assert len(drive.fixes) == 322
    assert drive.fixes[0].speed_kph == pytest.approx(10.7313 * 3.6)


def test_a_fleet_is_read_in_the_order_of_its_times(tmp_path: Path) -> None:
    path = tmp_path / "fleet.csv.gz"
    rows = "b,2024-01-01T00:00:02Z,8,47,\na,2024-01-01T00:00:01Z,9,48,12.5\n"
    path.write_bytes(gzip.compress((HEADER + rows).encode()))
    fleet = read_fleet(path)
    assert [fleet.names[vehicle] for vehicle in fleet.vehicle] == ["a", "b"]
    assert fleet.speed_kph[0] == 12.5
    assert math.isnan(fleet.speed_kph[1])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "it lacks the columns lat, lon, speed_kmh, time, vehicle_id"),
        ("vehicle_id,time\n", "it lacks the columns lat, lon, speed_kmh"),
        (HEADER, "there are no fixes in it"),
        (HEADER + "a,yesterday,8,47,1\n", "line 2: "),
        (HEADER + "a,2024-01-01T00:00:01Z,8,47,1\na,2024-01-01T00:00:01Z,8\n", "line 3: "),
    ],
)
def test_a_file_that_is_no_fleet_is_refused_with_the_reason(
    tmp_path: Path, text: str, reason: str
) -> None:
    with pytest.raises(FleetRefused, match=reason):
        read_fleet(write(tmp_path, text, "fleet.csv"))


def test_a_file_that_only_claims_to_be_gzip_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FleetRefused, match="it can't be read"):
        read_fleet(write(tmp_path, HEADER, "fleet.csv.gz"))


def test_the_tracks_of_a_stretch_hold_each_of_its_fixes_once() -> None:
    day = school_day(cars=3, minutes=2, seed=4)
    tracks = list(day.tracks(50, 250, {0: "a", 1: "b", 2: "c"}))
    assert sum(map(point_count, tracks)) == 200


def fleet_of(*seconds: int) -> Fleet:
    count = len(seconds)
    zeros = np.zeros(count)
    return Fleet(("a",), zeros.astype(np.int64), np.array(seconds) * 1_000_000, zeros, zeros, zeros)


@pytest.mark.parametrize(
    ("speed", "first_s", "last_s"),
    [(0.0, 900, 1000), (1.0, 1000, 1100), (2.0, 950, 1050), (0.5, 1000, 1100)],
)
def test_shifted_to_now_no_fix_is_ahead_of_the_clock_when_it_is_sent(
    speed: float, first_s: int, last_s: int
) -> None:
    fleet = fleet_of(0, 40, 100)
    shifted = fleet.shifted(live_shift_us(fleet, speed, now_us=1_000_000_000))
    assert (shifted.time_us[[0, -1]] / 1_000_000).tolist() == [first_s, last_s]


def test_a_seed_always_makes_the_same_day() -> None:
    one, other, third = (school_day(2, 5, seed) for seed in (7, 7, 8))
    assert np.array_equal(one.lat, other.lat)
    assert np.array_equal(one.time_us, other.time_us)
    assert not np.array_equal(one.lat, third.lat)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_lesson_is_driven_as_a_car_can_drive(seed: int) -> None:
    day = school_day(cars=1, minutes=45, seed=seed)
    assert np.diff(day.time_us).tolist() == [1_000_000] * 2_700
    assert 0 <= day.speed_kph.min() <= day.speed_kph.max() <= 60
    change = np.diff(day.speed_kph) / 3.6
    assert change.max() < 1.7
    assert -6.1 < change.min() < -3.5, "one emergency stop belongs to a lesson"
    assert (change < -2).sum() <= 4


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_lesson_moves_as_its_speeds_say_and_stays_in_town(seed: int) -> None:
    day = school_day(cars=1, minutes=45, seed=seed)
    narrow = math.cos(math.radians(CITY[0]))
    north = np.diff(day.lat) * METERS_PER_DEGREE
    east = np.diff(day.lng) * METERS_PER_DEGREE * narrow
    driven_m = np.hypot(north, east).sum()
    assert driven_m == pytest.approx(day.speed_kph.sum() / 3.6, rel=0.03)
    assert np.abs(day.lat - CITY[0]).max() < 0.015


def test_a_lesson_stands_at_the_kerb_for_more_than_two_minutes() -> None:
    speeds = school_day(cars=1, minutes=45, seed=1).speed_kph
    moving = np.flatnonzero(speeds > 0.5)
    assert np.diff(moving).max() > 120


SPOTS = [
    picture.Spot(47.0, 8.0, 10),
    picture.Spot(47.0, 8.1, 40),
    picture.Spot(47.1, 8.1, 40),
    picture.Spot(47.1, 8.2, None),
]


def test_the_drawing_is_a_standalone_svg_with_start_end_and_scale() -> None:
    drawing = ET.fromstring(picture.svg(SPOTS, title="A <drive> & more"))  # noqa: S314
    assert drawing.tag == f"{SVG}svg"
    assert drawing.findtext(f"{SVG}title") == "A <drive> & more"
    texts = [text.text for text in drawing.iter(f"{SVG}text")]
    assert {"start", "end", "2 km", "km/h"} <= set(texts)


def test_the_drawing_keeps_the_proportions_of_the_land() -> None:
    box = [(47.0, 8.0), (47.0, 8.1), (47.1, 8.1)]
    drawing = ET.fromstring(picture.svg([picture.Spot(*at) for at in box], title=""))  # noqa: S314
    line = drawing.find(f"{SVG}polyline")
    assert line is not None
    (x0, y0), (x1, _), (_, y2) = (map(float, at.split(",")) for at in line.attrib["points"].split())
    assert (x1 - x0) / (y0 - y2) == pytest.approx(math.cos(math.radians(47.05)), rel=0.01)


def test_each_stretch_has_the_colour_of_its_speed() -> None:
    stretches = [(first, last) for first, last, _ in picture.runs(SPOTS)]
    colours = [paint for _, _, paint in picture.runs(SPOTS)]
    assert stretches == [(0, 2), (2, 3)]
    assert colours == [picture.colour(40), picture.NO_SPEED]


@pytest.mark.parametrize("count", [0, 1])
def test_hardly_any_points_can_be_drawn_too(count: int) -> None:
    ET.fromstring(picture.svg(SPOTS[:count], title=""))  # noqa: S314
    assert picture.terminal(SPOTS[:count]).plain.strip("\n S") == ""


def test_a_drive_over_the_antimeridian_stays_in_one_piece() -> None:
    spots = [picture.Spot(0, 179.99), picture.Spot(0, -179.99)]
    assert picture.flatten(spots).width_m == pytest.approx(0.02 * picture.METERS_PER_DEGREE)


def test_the_terminal_shows_start_and_end_within_its_columns() -> None:
    lines = picture.terminal(SPOTS, columns=40, rows=10).plain.splitlines()
    assert len(lines) <= 10
    assert max(map(len, lines)) <= 40
    assert lines[0].rstrip().endswith("E")
    assert lines[-1].startswith("S")


def test_the_picture_has_colours_on_a_terminal_alone() -> None:
    drawn = picture.terminal(SPOTS)
    with (plain := Console(width=100)).capture() as bare:
        plain.print(drawn)
    with (bright := Console(width=100, force_terminal=True)).capture() as coloured:
        bright.print(drawn)
    assert "\x1b[" not in bare.get()
    assert "\x1b[" in coloured.get()


@pytest.mark.parametrize(
    ("at_most", "expected"), [(1, 1), (4.9, 2), (5, 5), (999, 500), (1000, 1000), (7_300, 5_000)]
)
def test_a_scale_bar_has_a_round_length(at_most: float, expected: float) -> None:
    assert picture.round_length(at_most) == expected


def test_a_service_that_is_not_there_is_said_in_one_line(tmp_path: Path) -> None:
    trip_id = "0199a000-0000-7000-8000-000000000001"
    done = driveflow("trip", trip_id, "--address", NOBODY, "--token", "t")
    (line,) = done.stderr.splitlines()
    assert line.startswith("driveflow: UNAVAILABLE: ")
    assert "./dev up starts one" in line
    assert done.returncode == 1


def test_a_bad_file_is_named_with_its_reason_and_no_traceback(tmp_path: Path) -> None:
    path = write(tmp_path, "<gpx")
    done = driveflow("import-gpx", path, "--address", NOBODY, "--token", "t", "--json")
    assert f"driveflow: {path}: it is not GPX" in done.stderr
    assert "Traceback" not in done.stderr
    assert json.loads(done.stdout) == []
    assert done.returncode == 1


def test_a_missing_address_names_the_variable_that_gives_it() -> None:
    done = driveflow("simulate", "--token", "t")
    assert "DRIVEFLOW_TRACKING_ADDR" in done.stderr
    assert done.returncode != 0


def test_nowhere_does_help_show_a_token() -> None:
    for command in ("import-gpx", "replay-fleet", "simulate", "trip"):
        done = driveflow(command, "--help", DRIVEFLOW_TOKEN="secret-value")
        assert "secret-value" not in done.stdout
        assert done.returncode == 0
