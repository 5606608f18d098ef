"""All questions of CheckHealth, each with the function that measures its figure."""

from __future__ import annotations

from services.monitor.checks import indexes, queries, server, services, sessions, tables
from services.monitor.checks.asked import Asked, Measure

ALL: tuple[Asked, ...] = (
    *queries.ASKED,
    *sessions.ASKED,
    *indexes.ASKED,
    *tables.ASKED,
    *services.ASKED,
    *server.ASKED,
)

__all__ = ["ALL", "Asked", "Measure"]
