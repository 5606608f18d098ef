"""Alert rules: when a check's figure is bad, and for how long before somebody is told."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from libs.errors import InvalidArgument
from services.monitor.model.checks import Direction, Thresholds


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """That of one check."""

    name: str
    unit: str
    enabled: bool
    thresholds: Thresholds
    muted_until: datetime | None
    version: int
    updated_at: datetime
    updated_by: str
    """Empty while it is as it came."""


def check_thresholds(thresholds: Thresholds) -> None:
    """Raise InvalidArgument unless critical lies behind warning, and clear before it."""
    sign = 1.0 if thresholds.direction is Direction.ABOVE else -1.0
    warning, critical, clear = (
        None if at is None else sign * at
        for at in (thresholds.warning_at, thresholds.critical_at, thresholds.clear_at)
    )
    if warning is not None and critical is not None and critical < warning:
        raise disordered("critical_at", "is passed before warning_at")
    first = critical if warning is None else warning
    if clear is not None and first is not None and clear > first:
        raise disordered("clear_at", "is on the bad side of the threshold")


def disordered(field: str, wrong: str) -> InvalidArgument:
    """The answer for thresholds that contradict each other."""
    path = f"alert_rule.{field}"
    return InvalidArgument("THRESHOLDS_DISORDERED", f"{path} {wrong}.", fields=[(path, wrong)])
