"""When things run out: a straight line through snapshots, carried on to a limit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

DAY_S = 86_400.0
TRANSACTION_IDS = 2.0**31
"""A row that is older than so many transactions and not frozen would be lost."""


@dataclass(frozen=True, slots=True)
class Line:
    """The least-squares line through points in time."""

    per_day: float
    r_squared: float
    """1: every point lies on it, 0: it explains nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """One thing, how much there is of it, and how fast it goes."""

    resource: str
    unit: str
    used: float
    limit: float | None
    line: Line | None
    """None with fewer than two snapshots."""
    snapshots: int

    @property
    def days_left(self) -> float | None:
        """Until the limit; None when there is none, or it does not come nearer."""
        if self.limit is None:
            return None
        if self.used >= self.limit:
            return 0.0
        if self.line is None or self.line.per_day <= 0:
            return None
        return (self.limit - self.used) / self.line.per_day


Points = Sequence[tuple[datetime, float]]


def fitted(points: Points) -> Line | None:
    """The line through points at two times at least, else None."""
    if len(points) < 2:
        return None
    # From the first point on, so that no digits are lost on what all have in common.
    days = [(at - points[0][0]).total_seconds() / DAY_S for at, _ in points]
    values = [value - points[0][1] for _, value in points]
    mean_day, mean = sum(days) / len(days), sum(values) / len(values)
    spread = sum((day - mean_day) ** 2 for day in days)
    if not spread:
        return None
    together = sum(
        (day - mean_day) * (value - mean) for day, value in zip(days, values, strict=True)
    )
    variance = sum((value - mean) ** 2 for value in values)
    per_day = together / spread
    return Line(per_day, min(1.0, per_day * together / variance) if variance else 1.0)


def soonest_first(forecasts: Sequence[Forecast]) -> list[Forecast]:
    """Ordered by the days that are left; what does not run out comes last."""
    last = float("inf")
    return sorted(
        forecasts,
        key=lambda each: (last if each.days_left is None else each.days_left, each.resource),
    )
