"""Questions about indexes."""

from __future__ import annotations

from services.monitor.checks.asked import Asked

ASKED: tuple[Asked, ...] = ()
