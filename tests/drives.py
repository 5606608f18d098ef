"""Recorded drives: real GPS recordings that live outside the repository."""

import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import gpxpy
import numpy as np
from gpxpy.gpx import GPXTrackPoint

from services.tracking.drive import Points

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MPS_TO_CKPH = 360


@dataclass(frozen=True, slots=True)
class DriveFile:
    """A drive as the table in the recordings' README describes it."""

    path: Path
    point_count: int
    km: float


def recorded_drives_dir() -> Path | None:
    """Where the recordings are: DRIVEFLOW_GPS_DATA, or beside the repository; None if absent."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data" / "gps"
    directory = Path(os.environ.get("DRIVEFLOW_GPS_DATA") or beside)
    return directory if (directory / "README.md").is_file() else None


def recorded_drives(directory: Path) -> list[DriveFile]:
    """The drives that the README's table lists, in its order."""
    lines = (directory / "README.md").read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    header = next(row for row in rows if {"file", "points", "km"} <= set(row))
    points, km = header.index("points"), header.index("km")
    return [
        DriveFile(directory / row[0], int(row[points]), float(row[km]))
        for row in rows
        if row[0].endswith(".gpx") and len(row) == len(header)
    ]


def read_drive(path: Path) -> Points:
    """The points of a GPX file in its order, rounded as they are stored."""
    with path.open(encoding="utf-8") as file:
        fixes = list(gpxpy.parse(file).walk(only_points=True))
    return Points(
        np.array([_time_us(fix) for fix in fixes], np.int64),
        np.array([round(fix.latitude * 1e6) for fix in fixes], np.int64),
        np.array([round(fix.longitude * 1e6) for fix in fixes], np.int64),
        np.array([_speed_ckph(fix) for fix in fixes], np.int64),
    )


def _time_us(fix: GPXTrackPoint) -> int:
    if fix.time is None:
        raise ValueError("a recorded point has a time")
    return (fix.time - EPOCH) // timedelta(microseconds=1)


def _speed_ckph(fix: GPXTrackPoint) -> int:
    texts = [element.text for element in fix.extensions if element.tag.endswith("speed")]
    return round(float(texts[0]) * MPS_TO_CKPH) if texts else -1
