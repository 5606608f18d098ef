"""Statements: what is asked about them, and of what time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import ClassVar

SLOW_MS = 100.0
"""The guide's."""
WINDOW_S = 3_600
SERIES_WINDOW_S = 86_400
MERGED_AFTER = timedelta(days=1)
"""Older snapshots are one an hour."""
KEPT = timedelta(days=14)


class Order(StrEnum):
    """By what statements are ordered, greatest first."""

    MEAN = "mean"
    TOTAL = "total"
    CALLS = "calls"


@dataclass(frozen=True, slots=True)
class Window:
    """From a capture until now."""

    start_at: datetime
    end_at: datetime
    evicted: int = 0
    """Statements that PostgreSQL dropped meanwhile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which statements a list has, and from where on."""

    FIRST: ClassVar = (math.inf, 0, "")
    """Before this row lie all."""

    order: Order
    min_calls: int = 1
    min_mean_ms: float = 0.0
    before: tuple[float, int, str] = FIRST
    """Figure, number and role of the row behind which it goes on."""


@dataclass(frozen=True, slots=True)
class Point:
    """What a statement added between two captures."""

    start_at: datetime
    end_at: datetime
    calls: int
    total_ms: float
    rows: int
