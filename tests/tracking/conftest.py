"""What tests of the tracking service use; the fixture `tracking` is every test's."""

from __future__ import annotations

from tests.serving import (
    OTHER_SCHOOL,
    SCHOOL,
    Clock,
    Tracking,
    at,
    points,
    settings,
    until_serving,
)

__all__ = [
    "OTHER_SCHOOL",
    "SCHOOL",
    "Clock",
    "Tracking",
    "at",
    "points",
    "settings",
    "until_serving",
]
