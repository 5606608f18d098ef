"""Questions about tables and what they stand on."""

from __future__ import annotations

from services.monitor.checks.asked import Asked

ASKED: tuple[Asked, ...] = ()
